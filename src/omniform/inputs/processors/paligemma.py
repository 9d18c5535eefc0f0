"""PaliGemma's processor: pictures in front of a question, and the answer that it is to be trained on behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Self, cast

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts, read_texts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

IMAGE: Final = "<image>"
_OF_PICTURES: Final = [*(f"<loc{i:04}>" for i in range(1024)), *(f"<seg{i:03}>" for i in range(128))]
_SUFFIX: Final = "suffix"
_IGNORED: Final = -100


class PaliGemmaProcessor(PlacedProcessor):
    """Texts with pictures in front of them, for PaliGemma.

    Args:
        image_processor: of the pictures; it says how many tokens stand for one (``image_seq_length``).
        tokenizer: of the texts; what it lacks of tokens for pictures, places and masks is added to it.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the image processor does not say how many tokens stand for a picture.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")

    def __init__(
        self, image_processor: ImageProcessor, tokenizer: Tokenizer, chat_template: ChatTemplates = None
    ) -> None:
        length = image_processor.options.image_seq_length
        if length is None:
            raise ConfigError(
                "the image processor does not say how many tokens stand for a picture",
                where="preprocessor_config.json: image_seq_length",
                remedy="image_seq_length=256 says so, where pictures have 224 pixels and patches 14.",
            )
        token = tokenizer.named_token("image_token")
        if token is None:
            tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
        tokenizer.add_tokens(_OF_PICTURES)
        super().__init__(tokenizer, [Slot("image", IMAGE, token or IMAGE)], chat_template=chat_template)
        self.image_processor = image_processor
        self.image_seq_length = length
        self.image_token = token or IMAGE
        self.placeholder = IMAGE
        self.image_token_id = self._ids["image"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None
        return cls(parts.image_processor, parts.tokenizer, parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        suffix: str | Sequence[str] | None = None,
        **options: object,
    ) -> Batch:
        """Turn questions about pictures into the model's inputs.

        Args:
            images: one picture for each text, one list for each text, or the pictures of all markers in reading order.
            text: a question or several. ``<image>`` stands for a picture; where no text has any, each begins with its
                pictures.
            suffix: the answer to each, which the model is to learn.
            options: of the tokenizer and of the image processor, flat or as ``text_kwargs`` and ``images_kwargs``.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids [B, T]``, 0 for what is read in both directions and
            1 for the answer; ``labels [B, T]``, the answer's tokens; ``pixel_values [N, C, H, W]``.

        Raises:
            InputError: there are no pictures, or not as many as are named; not one answer for each text.
        """
        if images is None:
            raise InputError("there are no pictures", where="images", expected="one or more for each text")
        rows = None if text is None else self._begun(read_texts(text), images)
        text_options = options.pop("text_kwargs", None)
        inner = dict(cast("dict[str, object]", text_options or {}))
        answers = suffix if suffix is not None else inner.pop("suffix", None)
        if answers is not None:
            answers = [f"{one}{self.tokenizer.eos_token}" for one in read_texts(answers)]
            if rows is None or len(answers) != len(rows):
                found = len(answers)
                raise InputError("each text has one answer", where="suffix", expected=len(rows or ()), found=found)
        if inner:
            options["text_kwargs"] = inner
        return self._placed(rows, {"image": images}, {**options, _SUFFIX: answers}, (_SUFFIX,))

    def _begun(self, rows: list[str], images: object) -> list[str]:
        """Texts as the model has learned them: pictures, the first token, the question, a new line."""
        start = self.tokenizer.bos_token or ""
        if any(IMAGE in row for row in rows):
            # A row without a picture begins anew behind six characters, as in the ecosystem.
            ends = [row.rfind(IMAGE) + len(IMAGE) for row in rows]
            return [f"{row[:end]}{start}{row[end:]}\n" for row, end in zip(rows, ends, strict=True)]
        flat, nested = image_rows(images)
        single = nested is None and not isinstance(images, (list, tuple))
        counts = nested if nested is not None else [1] * (len(rows) if single else len(flat))
        if len(counts) != len(rows):
            raise InputError(
                "each text has its pictures",
                where="images",
                expected=f"{len(rows)} pictures, or lists of them",
                found=len(counts),
                remedy="Write <image> in the texts, once for each picture.",
            )
        return [f"{IMAGE * count}{start}{row}\n" for row, count in zip(rows, counts, strict=True)]

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        pixels = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
        return Taken(pixels, [self.image_token * self.image_seq_length] * len(media))

    def _encoded(self, texts: Sequence[str], asked: CallOptions) -> BatchEncoding:
        told = {**asked.text, "add_special_tokens": False, "return_token_type_ids": True}
        return self.tokenizer(list(texts), cast("list[str] | None", asked.own[_SUFFIX]), **told)  # type: ignore[arg-type]

    def _finished(self, batch: BatchEncoding) -> BatchEncoding:
        ids, types = (cast("list[list[int]]", batch[name]) for name in ("input_ids", "token_type_ids"))
        batch["labels"] = [
            [token if kind else _IGNORED for token, kind in zip(row, own, strict=True)]
            for row, own in zip(ids, types, strict=True)
        ]
        return batch

    def marked(self, text: str, kinds: Sequence[Modality]) -> str:
        return IMAGE * (kinds.count("image") - text.count(IMAGE)) + text

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "token_type_ids", "labels"]

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}
