"""Grounding DINO's processor: pictures, and for each a text of phrases that end with a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.checks import fraction
from omniform.inputs.images.open_detection import corners_of, scaled
from omniform.inputs.images.postprocess import TargetSizes, outputs_of
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import read_texts
from omniform.inputs.processors.clip import CLIPProcessor
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.text.options import EncodeOptions


class GroundedOutput(Protocol):
    """What the model returns: ``logits [B, Q, longest text]``, ``pred_boxes [B, Q, 4]`` and ``input_ids [B, T]``."""

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def pred_boxes(self) -> Tensor | None: ...

    @property
    def input_ids(self) -> Tensor | None: ...


def is_labels(text: object) -> bool:
    """Whether something is a list of single phrases, none of them a text of several."""
    return isinstance(text, (list, tuple)) and all(isinstance(one, str) and "." not in one for one in text)


def as_text(labels: Sequence[str]) -> str:
    """Phrases as the model reads them: small letters, a dot behind each."""
    return ". ".join(one.strip().lower() for one in labels) + "."


class GroundingDinoProcessor(CLIPProcessor):
    """Pictures and what is to be found in each.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    def __call__(  # type: ignore[override] # phrases may be listed
        self,
        images: ImageInput | None = None,
        text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and phrases into the model's inputs.

        Args:
            images: one picture or several.
            text: phrases with a dot behind each (``"a cat. a remote control."``), one text or one for each picture; or
                phrases in a list, or in a list for each picture.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``.

        Returns:
            ``input_ids``, ``token_type_ids`` and ``attention_mask [B, T]``, ``pixel_values [B, C, H, W]`` and
            ``pixel_mask [B, H, W]``: what there is input for.

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
            if is_labels(text):
                text = as_text(cast("Sequence[str]", text))
            elif isinstance(text, (list, tuple)) and all(map(is_labels, text)):
                text = [as_text(cast("Sequence[str]", one)) for one in text]
            texts = text if isinstance(text, str) else read_texts(text)
            batch = self.tokenizer(texts, **cast(EncodeOptions, asked.text))
        if pictures:
            batch.update(self.image_processor(cast(ImageInput, pictures), **asked.images))  # type: ignore[arg-type]
        return batch

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        asked.text.setdefault("return_token_type_ids", True)
        return asked

    def post_process_grounded_object_detection(
        self,
        outputs: GroundedOutput,
        input_ids: Tensor | None = None,
        threshold: float = 0.25,
        text_threshold: float = 0.25,
        target_sizes: TargetSizes | None = None,
        text_labels: Sequence[Sequence[str]] | None = None,
    ) -> list[dict[str, object]]:
        """What was found in each picture: ``scores``, ``boxes``, ``text_labels`` and the same as ``labels``.

        Args:
            outputs: the model's.
            input_ids: the words, where the outputs do not hold them. Shape: [B, T].
            threshold: a probability, of a box's likeliest word.
            text_threshold: a probability, of the words that a box is called by.
            target_sizes: the pictures' sizes ``(height, width)``; boxes are in their pixels, and without them in
                fractions.
            text_labels: not read; words are found in ``input_ids``.

        Raises:
            InputError: the outputs lack boxes or words, or there are not as many sizes as pictures.
        """
        logits, boxes = outputs_of(lambda: (outputs.logits, outputs.pred_boxes), ("logits", 3), ("pred_boxes", 3))
        words = outputs.input_ids if input_ids is None else torch.as_tensor(input_ids)
        if not isinstance(words, Tensor) or len(words) != len(logits):
            raise InputError("nobody says which words were read", where="input_ids", expected=f"{len(logits)} rows")
        least, least_word = fraction("threshold", threshold), fraction("text_threshold", text_threshold)
        found: list[dict[str, object]] = []
        corners = scaled(corners_of(boxes), target_sizes)
        for likely, box, row in zip(logits.sigmoid(), corners, words, strict=True):
            best = likely.amax(-1)
            keep = best > least
            marks = likely[keep] > least_word
            # The first place is the text's beginning, the last one that of the longest text's end.
            marks[:, :1] = marks[:, -1:] = False
            ids = [[int(row[place]) for place in one.nonzero()[:, 0].tolist()] for one in marks]
            labels = self.batch_decode(ids)
            found.append({"scores": best[keep], "boxes": box[keep], "text_labels": labels, "labels": labels})
        return found
