"""LayoutLMv3's processor: pages, their words and boxes, and what is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.pages import check_given
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor, image_options
from omniform.inputs.processors.options import Part
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.text.word_boxes import LayoutLMv3Tokenizer


class LayoutLMv3Processor(Processor):
    """Pages and words: given with their boxes, or read off the page by tesseract.

    Args:
        image_processor: of the pages; its ``apply_ocr`` says whether they are read.
        tokenizer: of the words.
        chat_template: not used.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")

    def __init__(
        self, image_processor: ImageProcessor, tokenizer: Tokenizer, *, chat_template: ChatTemplates = None
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        if not isinstance(tokenizer, LayoutLMv3Tokenizer):
            found, expected = type(tokenizer).__name__, "LayoutLMv3Tokenizer"
            raise InputError("words need their boxes", where="tokenizer", expected=expected, found=found)
        self.image_processor = image_processor

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        return cls(parts.image_processor, parts.tokenizer, chat_template=parts.chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        return ["input_ids", "bbox", "attention_mask", "pixel_values"]

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        text: object = None,
        text_pair: object = None,
        boxes: object = None,
        word_labels: object = None,
        media_access: MediaAccess | None = None,
        **options: object,
    ) -> Batch:
        """Turn pages and their words into the model's inputs.

        Args:
            images: one page or several.
            text: the words of each page; or what is asked about it, where the words are read or are ``text_pair``.
            text_pair: the words, where there are questions.
            boxes: of the words, on a page of 1000 by 1000.
            word_labels: of the words.
            media_access: which files and addresses may be read, and how many pixels.
            options: of the tokenizer; see :class:`~omniform.inputs.text.options.EncodeOptions`.

        Returns:
            ``input_ids``, ``attention_mask``, ``bbox``, with labels of words ``labels``, and ``pixel_values``; with
            ``return_overflowing_tokens`` a page for every row.

        Raises:
            InputError: boxes or labels are given and the page is to be read; words and boxes do not match.
            MissingPartError: the page is to be read, and tesseract is not installed.
        """
        check_arguments(type(self).__name__, options, TEXT_OPTIONS)
        check_given(self.image_processor, boxes=boxes, word_labels=word_labels)
        kind = options.get("return_tensors")
        seen = self.image_processor(images, return_tensors=kind, media_access=media_access)  # type: ignore[arg-type]
        if "words" in seen:
            if text is None:
                text = seen["words"]
            elif text_pair is None:
                text, text_pair = [text] if isinstance(text, str) else text, seen["words"]
            boxes = seen["boxes"]
        tokenizer = cast(LayoutLMv3Tokenizer, self.tokenizer)
        batch = tokenizer(text, text_pair, boxes, word_labels, **cast(EncodeOptions, options))
        pixels = seen["pixel_values"]
        if options.get("return_overflowing_tokens"):
            sources = batch["overflow_to_sample_mapping"]
            rows = sources.tolist() if isinstance(sources, Tensor) else list(cast("Sequence[int]", sources))
            pixels = [cast("Sequence[object]", pixels)[row] for row in rows]
        batch["pixel_values"] = pixels
        return batch

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "images": image_options(self.image_processor)}
