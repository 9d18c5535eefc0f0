"""Pixtral's processor: each ``[IMG]`` of a text becomes rows of tokens with a mark at the end of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import KINDS, PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

IMAGE, BREAK, END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"


class PixtralProcessor(PlacedProcessor):
    """Texts with pictures in them, for Pixtral and Mistral 3.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it must know ``image_token``.
        patch_size: edge of the vision tower's patches, in pixels.
        spatial_merge_size: rows and columns of patches that the model makes one vector of.
        chat_template: the template for conversations; by default the tokenizer's.
        image_token: what stands for a picture in a text, and then for each of its vectors.
        image_break_token: what ends a row of them.
        image_end_token: what ends the last.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = (
        "patch_size", "spatial_merge_size", "image_token", "image_break_token", "image_end_token",
    )  # fmt: skip

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: ChatTemplates = None,
        image_token: str = IMAGE,
        image_break_token: str = BREAK,
        image_end_token: str = END,
    ) -> None:
        super().__init__(tokenizer, [Slot("image", image_token, image_token)], chat_template=chat_template)
        self.image_processor = image_processor
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_break_token, self.image_end_token = image_token, image_break_token, image_end_token
        self.placeholder = image_token
        self.image_token_id = self._ids["image"]
        self.image_break_token_id, self.image_end_token_id = (
            tokenizer.backend.token_to_id(token) for token in (image_break_token, image_end_token)
        )

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None
        settings = {name: value for name, value in parts.settings.items() if value is not None}
        r = ConfigReader(settings, where=f"{parts.where}: processor_config.json")
        return cls(
            parts.image_processor,
            parts.tokenizer,
            patch_size=r.integer("patch_size", 16),
            spatial_merge_size=r.integer("spatial_merge_size", 1),
            chat_template=parts.chat_template,
            image_token=r.text("image_token", IMAGE),
            image_break_token=r.text("image_break_token", BREAK),
            image_end_token=r.text("image_end_token", END),
        )

    @property
    def image_token_ids(self) -> list[int | None]:
        """The tokens that stand for a picture."""
        return [self.image_token_id, self.image_break_token_id, self.image_end_token_id]

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures in them into the model's inputs, as tensors if nothing else is said.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``[IMG]`` stands for a picture.
            options: of the tokenizer and of the image processor, flat or as ``text_kwargs`` and ``images_kwargs``;
                ``return_mm_token_type_ids`` for ``mm_token_type_ids``, 1 at every token of a picture.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]`` if there is text; ``pixel_values [N, C, H, W]`` and
            ``image_sizes [N, 2]`` if there are pictures, with a :class:`~omniform.core.batch.Span` for each of their
            rows in ``spans``.

        Raises:
            InputError: a row has more or fewer placeholders than pictures, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        return self._placed(text, {"image": images}, options)

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        for part in (asked.text, asked.images):
            part.setdefault("return_tensors", "pt")
        return asked

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        step = self.patch_size * self.spatial_merge_size
        wished = {**asked.images, "patch_size": step}
        pixels = self.image_processor(cast(ImageInput, media), **wished)  # type: ignore[arg-type]
        sizes = pixels["image_sizes"]
        numbers = sizes.tolist() if isinstance(sizes, Tensor) else cast("Sequence[Sequence[int]]", sizes)
        return Taken(pixels, [self._expansion(height // step, width // step) for height, width in numbers])

    def _kinds_of(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        kinds = dict.fromkeys(self.image_token_ids, KINDS["image"])  # the marks of rows are of the picture, too
        return [[kinds.get(token, 0) for token in row] for row in ids]

    def _expansion(self, rows: int, columns: int) -> str:
        """What stands for a picture of so many rows and columns of vectors."""
        row = self.image_token * columns
        return self.image_break_token.join([row] * rows) + self.image_end_token

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def to_dict(self) -> dict[str, object]:
        own = {
            "patch_size": self.patch_size,
            "spatial_merge_size": self.spatial_merge_size,
            "image_token": self.image_token,
            "image_break_token": self.image_break_token,
            "image_end_token": self.image_end_token,
        }
        return {**super().to_dict(), **own}
