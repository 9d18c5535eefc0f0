"""CLIP's processor: texts and pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor, image_options, read_texts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import Part
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer


class CLIPProcessor(Processor):
    """Texts and pictures, independent of one another: any number of each.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        chat_template: the template for conversations; by default the tokenizer's.

    Attributes:
        PICTURES: options of the image processor that hold unless a call says otherwise, whatever its file says.
        TEXTS: options of the tokenizer likewise, unless its file says otherwise.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    PICTURES: ClassVar[Mapping[str, object]] = {}
    TEXTS: ClassVar[Mapping[str, object]] = {}

    def __init__(
        self, image_processor: ImageProcessor, tokenizer: Tokenizer, *, chat_template: ChatTemplates = None
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_processor = image_processor

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        return cls(parts.image_processor, parts.tokenizer, chat_template=parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn texts, pictures or both into the model's inputs.

        Args:
            images: one picture or several.
            text: a text or several.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``, ``pixel_values [N, C, H, W]``: what there is input for.

        Raises:
            InputError: there is neither text nor a picture, or one of them cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options)
        pictures, _ = image_rows(images)
        if text is None and not pictures:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        batch = Batch()
        if text is not None:
            texts = text if isinstance(text, str) else read_texts(text)
            batch = self.tokenizer(texts, **cast(EncodeOptions, {**self.TEXTS, **asked.text}))
        if pictures:
            how = {**self.PICTURES, **asked.images}
            batch.update(self.image_processor(cast(ImageInput, pictures), **how))  # type: ignore[arg-type]
        return batch

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "images": image_options(self.image_processor)}


class SiglipProcessor(CLIPProcessor):
    """Texts and pictures likewise; SigLIP was taught with texts of one length (``padding="max_length"``)."""


class Siglip2Processor(CLIPProcessor):
    """Texts and pictures likewise; SigLIP 2 was taught with texts of 64 tokens, and reads patches."""

    PICTURES: ClassVar[Mapping[str, object]] = {"max_num_patches": 256, "patch_size": 16}
    TEXTS: ClassVar[Mapping[str, object]] = {"padding": "max_length", "truncation": True, "max_length": 64}


class ChineseCLIPProcessor(CLIPProcessor):
    """Texts and pictures likewise."""


class AltCLIPProcessor(CLIPProcessor):
    """Texts and pictures likewise."""
