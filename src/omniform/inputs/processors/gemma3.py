"""Gemma 3's processor: each picture becomes its tokens between two marks, and so do crops of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, cast

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

# What a call means that does not say, whatever the image processor's file says.
USUAL: Final[Mapping[str, object]] = {
    "do_convert_rgb": True, "do_pan_and_scan": False, "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4, "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip


class Gemma3Processor(PlacedProcessor):
    """Texts with pictures in them, for Gemma 3.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it must name its tokens for pictures (``image_token``, ``boi_token``, ``eoi_token``).
        chat_template: the template for conversations; by default the tokenizer's.
        image_seq_length: how many tokens stand for a picture.

    Raises:
        ConfigError: the tokenizer does not name a token for pictures.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = ("image_seq_length",)
    marks_media: ClassVar[bool] = True

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        chat_template: ChatTemplates = None,
        image_seq_length: int = 256,
    ) -> None:
        begin, token, end = (_token(tokenizer, name) for name in ("boi_token", "image_token", "eoi_token"))
        super().__init__(tokenizer, [Slot("image", begin, token)], chat_template=chat_template)
        self.image_processor = image_processor
        self.image_seq_length = image_seq_length
        self.boi_token = self.image_token = self.placeholder = begin
        self.image_token_id = tokenizer.backend.token_to_id(begin)
        self.full_image_sequence = f"\n\n{begin}{token * image_seq_length}{end}\n\n"

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        length = r.integer("image_seq_length", 256)
        return cls(parts.image_processor, parts.tokenizer, parts.chat_template, length)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<start_of_image>`` stands for a picture. Without it each row is its pictures.
            options: of the tokenizer and of the image processor, flat or as ``text_kwargs`` and ``images_kwargs``
                (``do_pan_and_scan`` adds crops of long pictures).

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids [B, T]``, 1 for the tokens of pictures;
            ``pixel_values [pictures and crops, C, H, W]``.

        Raises:
            InputError: a row has more or fewer placeholders than pictures, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        if not text and images is not None:
            flat, nested = image_rows(images)
            text = [" ".join([self.boi_token] * count) for count in nested or [len(flat)]]
        batch = self._placed(text, {"image": images}, options)
        if "mm_token_type_ids" in batch:
            batch["token_type_ids"] = batch.pop("mm_token_type_ids")
        return batch

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        made = self.image_processor(cast(ImageInput, media), **{**USUAL, **asked.images})  # type: ignore[arg-type]
        counts = [int(count) for count in cast("Sequence[int]", made.pop("num_crops"))]
        return Taken(made, [self._expansion(count) for count in counts])

    def _expansion(self, crops: int) -> str:
        """What stands for a picture with so many crops."""
        whole = self.full_image_sequence
        if not crops:
            return whole
        seen = " ".join([whole] * crops)
        return f"Here is the original image {whole} and here are some crops to help you see better {seen}"

    @property
    def model_input_names(self) -> list[str]:
        return [name for name in (*super().model_input_names, "token_type_ids") if name != "num_crops"]

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "image_seq_length": self.image_seq_length}


def _token(tokenizer: Tokenizer, name: str) -> str:
    found = tokenizer.named_token(name)
    if found is None:
        raise ConfigError(
            "the tokenizer names no such token for pictures",
            where=f"{tokenizer.name_or_path}: {name}",
            remedy="extra_special_tokens of tokenizer_config.json name them.",
        )
    return found
