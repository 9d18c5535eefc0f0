"""Pictures and sounds with what is learned of them: texts, transcripts, classes, objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.detr import DetectingImageProcessor
from omniform.inputs.processors import CLIPProcessor, WhisperProcessor
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.ctc import SpeechTokenizer
from omniform.inputs.text.whisper import WhisperTokenizer
from omniform.train.collators.faults import column_fault
from omniform.train.collators.mixin import Example, Kind, as_kind
from omniform.train.collators.multimodal import Lengths, Reads, Task, read_column
from omniform.train.collators.padding import fill_rows, read_row


def _wrong(processor: Reads, expected: str) -> InputError:
    return InputError(
        "the task is for another kind of processor",
        where="processor",
        expected=expected,
        found=type(processor).__name__,
    )


@dataclass(frozen=True, slots=True)
class ImageTextPairs(Task):
    """Pictures and their captions, for models that tell which belong together (CLIP): ``return_loss`` is set.

    Attributes:
        image: the column of pictures.
        text: the column of captions; of a list of captions, the first is taken.
    """

    image: str = "image"
    text: str = "text"

    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        if not isinstance(processor, CLIPProcessor):
            raise _wrong(processor, "one of pictures and texts (CLIPProcessor)")
        texts = [value[0] if isinstance(value, (list, tuple)) and value else value
                 for value in read_column(self.text, examples)]  # fmt: skip
        options = {"truncation": True, **lengths.options()}
        images = read_column(self.image, examples)
        batch = processor(images=images, text=texts, return_tensors=kind, **options)  # type: ignore[arg-type]
        batch["return_loss"] = True
        return batch


@runtime_checkable
class _Samples(Protocol):
    data: Tensor
    sample_rate: int


@runtime_checkable
class _Decoder(Protocol):
    """A sound that ``datasets`` has not decoded yet (torchcodec's ``AudioDecoder``)."""

    def get_all_samples(self) -> _Samples: ...


@dataclass(frozen=True, slots=True)
class Transcripts(Task):
    """Sounds and what is said in them, for models that write transcripts (Whisper, Moonshine, SpeechT5) or spell them
    step by step (CTC: Wav2Vec2 and its kin).

    The labels are the transcript's tokens, -100 in the padding; of models that write, without the token that the
    decoder starts with, which the model puts before them itself.

    Attributes:
        audio: the column of sounds.
        text: the column of transcripts.
    """

    audio: str = "audio"
    text: str = "text"

    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        if not isinstance(processor, SpeechProcessor):
            raise _wrong(processor, "one of sounds and transcripts (WhisperProcessor, Wav2Vec2Processor)")
        sounds = [_sound(value) for value in read_column(self.audio, examples)]
        # Whisper's sounds all fill a window; what is as long as its sounds is padded to the longest.
        filled: dict[str, object] = {} if isinstance(processor, WhisperProcessor) else {"padding": True}
        batch = processor(audio=sounds, return_tensors=kind, **filled)  # type: ignore[arg-type]
        texts = read_column(self.text, examples)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                where = f"column {self.text!r}, example {index} of the batch"
                raise InputError("a transcript is text", where=where, found=brief(text))
        cut = {} if lengths.max_length is None else {"truncation": True, "max_length": lengths.max_length}
        rows = [
            read_row(ids, f"column {self.text!r}, example {index} of the batch")
            for index, ids in enumerate(cast("list[object]", processor.tokenizer(texts, **cut)["input_ids"]))  # type: ignore[arg-type]
        ]
        start = _start_token(processor)
        if start is not None and all(len(row) and row[0] == start for row in rows):
            rows = [row[1:] for row in rows]
        longest = max(len(row) for row in rows)
        if lengths.fixed and lengths.max_length is not None:
            longest = lengths.max_length
        if lengths.pad_to_multiple_of is not None:
            longest = -(-longest // lengths.pad_to_multiple_of) * lengths.pad_to_multiple_of
        batch["labels"] = as_kind(fill_rows(rows, longest, "right", -100), kind)
        return batch


def _start_token(processor: SpeechProcessor) -> int | None:
    tokenizer = processor.tokenizer
    if isinstance(tokenizer, SpeechTokenizer):
        return None  # nothing is written token by token
    return tokenizer.prefix_tokens[0] if isinstance(tokenizer, WhisperTokenizer) else tokenizer.bos_token_id


def _sound(value: object) -> object:
    if isinstance(value, _Decoder):
        samples = value.get_all_samples()
        return samples.data.mean(0), samples.sample_rate
    if isinstance(value, Mapping) and value.get("array") is not None and value.get("sampling_rate") is not None:
        return np.asarray(value["array"]), value["sampling_rate"]
    return value


@dataclass(frozen=True, slots=True)
class ImageClasses(Task):
    """Pictures and their classes.

    Attributes:
        image: the column of pictures.
        label: the column of classes, as numbers, or as names with ``label2id``; examples without one are not labelled.
        label2id: the numbers of names.
    """

    image: str = "image"
    label: str = "label"
    label2id: Mapping[str, int] | None = None

    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        if not isinstance(processor, ImageProcessor):
            raise _wrong(processor, "an image processor")
        batch = processor(read_column(self.image, examples), return_tensors=kind)  # type: ignore[arg-type]
        if self.label in examples[0]:
            given = read_column(self.label, examples)
            named = [self._number(value) for value in given]
            try:
                batch["labels"] = as_kind(read_row(named, f"column {self.label!r}"), kind)
            except InputError as error:
                raise column_fault(self.label, given, str(error)) from error
        return batch

    def _number(self, value: object) -> object:
        if isinstance(value, str) and self.label2id is not None:
            return self.label2id.get(value, value)
        return value.item() if isinstance(value, (Tensor, np.ndarray)) else value


@dataclass(frozen=True, slots=True)
class ImageObjects(Task):
    """Pictures and the objects in them, as boxes or segments (DETR).

    Annotations are those of COCO: for each picture ``{"image_id": ..., "annotations": [{"bbox", "category_id", "area",
    "iscrowd", "segmentation"}, ...]}``, or for panoptic segments ``segments_info``; or objects by columns, as
    ``datasets`` has them: ``{"bbox": [...], "category": [...], "area": [...]}``.

    Attributes:
        image: the column of pictures.
        annotations: the column of annotations.
        image_id: the column of the pictures' numbers, where annotations do not hold them; else they are counted.
        masks_path: the folder of the pictures that code panoptic segments.
        masks: put masks into the labels; by default for panoptic annotations only.
    """

    image: str = "image"
    annotations: str = "objects"
    image_id: str = "image_id"
    masks_path: Path | None = None
    masks: bool | None = None

    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        if not isinstance(processor, DetectingImageProcessor):
            raise _wrong(processor, "one of pictures and their objects (DetrImageProcessor)")
        given = read_column(self.annotations, examples)
        targets = [
            _annotation(value, example.get(self.image_id, index), f"column {self.annotations!r}, example {index}")
            for index, (value, example) in enumerate(zip(given, examples, strict=True))
        ]
        return processor(
            read_column(self.image, examples),  # type: ignore[arg-type]
            annotations=targets,  # type: ignore[arg-type]
            return_segmentation_masks=self.masks,
            masks_path=self.masks_path,
            return_tensors=kind,
        )


def _annotation(value: object, image_id: object, where: str) -> object:
    """A picture's objects as COCO has them."""
    if isinstance(value, (list, tuple)):
        return {"image_id": image_id, "annotations": list(value)}
    if not isinstance(value, Mapping):
        raise InputError("these are no annotations", where=where, expected="a mapping or a list", found=brief(value))
    if "annotations" in value or "segments_info" in value:
        return value if "image_id" in value else {"image_id": image_id, **value}
    boxes, classes = value.get("bbox"), value.get("category", value.get("category_id"))
    if not isinstance(boxes, (list, tuple)) or not isinstance(classes, (list, tuple)) or len(boxes) != len(classes):
        raise InputError(
            "the objects of a picture are lists of equal length",
            where=where,
            expected="bbox and category",
            found=brief(value),
        )
    areas = value.get("area") or [box[2] * box[3] for box in boxes]
    crowds = value.get("iscrowd") or [0] * len(boxes)
    objects = zip(boxes, classes, areas, crowds, strict=True)
    return {
        "image_id": image_id,
        "annotations": [
            {"bbox": box, "category_id": kind, "area": area, "iscrowd": crowd} for box, kind, area, crowd in objects
        ],
    }
