"""CLIPSeg's processor: pictures, and for each a text, or a picture, that says what to look for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import read_texts
from omniform.inputs.processors.clip import CLIPProcessor
from omniform.inputs.processors.media import image_rows
from omniform.inputs.text.options import EncodeOptions


class CLIPSegProcessor(CLIPProcessor):
    """Pictures and what is looked for in each.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    def __call__(  # type: ignore[override] # texts come first in the ecosystem
        self,
        text: str | Sequence[str] | None = None,
        images: ImageInput | None = None,
        visual_prompt: ImageInput | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and prompts into the model's inputs.

        Args:
            text: a text or several; or
            visual_prompt: a picture or several, of what is looked for.
            images: one picture or several.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``, ``pixel_values`` and ``conditional_pixel_values [N, C, H, W]``:
            what there is input for.

        Raises:
            InputError: there is nothing at all, or prompts of both kinds; or one of them cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options)
        if text is None and visual_prompt is None and images is None:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        if text is not None and visual_prompt is not None:
            raise InputError("prompts are of one kind", where="visual_prompt", expected="text or visual_prompt")
        batch = Batch()
        if text is not None:
            texts = text if isinstance(text, str) else read_texts(text)
            batch = self.tokenizer(texts, **cast(EncodeOptions, asked.text))
        for name, given in (("pixel_values", images), ("conditional_pixel_values", visual_prompt)):
            pictures, _ = image_rows(given)
            if pictures:
                made = self.image_processor(cast(ImageInput, pictures), **asked.images)  # type: ignore[arg-type]
                batch[name] = made["pixel_values"]
        return batch
