"""Pix2Struct's processor: pictures as patches, and the beginning of an answer, or a question written above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.pix2struct import FlatImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.clip import CLIPProcessor


class Pix2StructProcessor(CLIPProcessor):
    """Pictures, with what is asked of them where the checkpoint answers questions (``is_vqa``)."""

    PICTURES: ClassVar[Mapping[str, object]] = {"max_patches": 2048}

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "decoder_attention_mask", "decoder_input_ids"]

    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn pictures and texts into the model's inputs; see :meth:`CLIPProcessor.__call__`.

        Args:
            images: one picture or several.
            text: beside pictures, what answers begin with; with ``is_vqa`` what is asked, which is written above them.
            options: as there; ``header_text``, ``font_path`` and ``font_bytes`` are of the pictures.

        Returns:
            ``flattened_patches`` and ``attention_mask``, with ``decoder_input_ids`` and ``decoder_attention_mask`` of
            texts; of texts alone what the tokenizer gives.
        """
        options.setdefault("return_token_type_ids", False)
        processor = self.image_processor
        if not isinstance(processor, FlatImageProcessor) or not processor.is_vqa:
            batch = super().__call__(images, text if images is None else None, **options)
            if images is None or text is None:
                return batch
            words = super().__call__(None, text, **options)
            return Batch({**batch, **{f"decoder_{name}": words[name] for name in sorted(words)}})
        if images is None:
            raise InputError("what is asked is written above a picture (is_vqa)", where="images", found="None")
        if text is not None:
            pictures = dict(cast("Mapping[str, object]", options.get("images_kwargs") or {}))
            if "header_text" not in options:
                options["images_kwargs"] = {"header_text": text, **pictures}
        return super().__call__(images, None, **options)
