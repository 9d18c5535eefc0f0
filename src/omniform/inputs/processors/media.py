"""Pictures and sounds of a call, brought into rows; and those that the messages of a conversation hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

from omniform.core.batch import Modality
from omniform.core.errors import InputError

_IMAGE_KEYS = ("image", "url", "path", "base64")
_AUDIO_KEYS = ("audio", "url", "path", "base64")
_VIDEO_KEYS = ("video", "url", "path", "base64")


@dataclass(frozen=True, slots=True)
class Media:
    """What the messages of one conversation hold besides text, in reading order.

    Attributes:
        images: the pictures.
        audio: the sounds.
        videos: the videos.
        order: what each item is, of all of them.
    """

    images: list[object] = field(default_factory=list)
    audio: list[object] = field(default_factory=list)
    videos: list[object] = field(default_factory=list)
    order: list[Modality] = field(default_factory=list)


def image_rows(images: object) -> tuple[list[object], list[int] | None]:
    """The pictures of a call in reading order, and how many each row has, where lists of lists say so.

    Raises:
        InputError: a row's pictures are no list.
    """
    if images is None:
        return [], None
    if not isinstance(images, (list, tuple)):
        return _of_array(images), None
    if not any(isinstance(row, (list, tuple)) for row in images):
        return [one for image in images for one in _of_array(image)], None
    flat: list[object] = []
    counts: list[int] = []
    for index, row in enumerate(images):
        if not isinstance(row, (list, tuple)):
            raise InputError(
                "pictures are a flat list, or one list for each row",
                where=f"images[{index}]",
                expected="a list of pictures, as the other rows have",
                found=type(row).__name__,
            )
        pictures = [one for image in row for one in _of_array(image)]
        flat += pictures
        counts.append(len(pictures))
    return flat, counts


def _of_array(image: object) -> list[object]:
    """The pictures of an array ``[N, ...]`` of four dimensions; the picture itself otherwise."""
    from numpy import ndarray
    from torch import Tensor

    return list(image) if isinstance(image, (Tensor, ndarray)) and image.ndim == 4 else [image]


def sounds(audio: object) -> list[object]:
    """The sounds of a call: one each for a list or an array of waves, files or ``(samples, rate)`` pairs."""
    from numpy import ndarray
    from torch import Tensor

    if isinstance(audio, (Tensor, ndarray)):
        return list(audio) if audio.ndim == 2 else [audio]
    if isinstance(audio, (list, tuple)) and audio and not isinstance(audio[0], Real) and not is_rated(audio):
        return list(audio)
    return [audio]


def films(videos: object) -> list[object]:
    """The videos of a call, one by one: files, arrays of frames, lists of pictures."""
    from omniform.inputs.videos.processor import films_of

    return films_of(videos)


def is_rated(sound: object) -> bool:
    """Whether a sound is a pair ``(samples, rate)``."""
    from numpy import ndarray
    from torch import Tensor

    if not isinstance(sound, tuple) or len(sound) != 2 or isinstance(sound[0], Real):
        return False
    rate = sound[1]
    return isinstance(rate, Real) or (isinstance(rate, (Tensor, ndarray)) and rate.ndim == 0)


def is_encoded(sound: object) -> bool:
    """Whether a sound says its own sampling rate: a file, bytes, an address, a mapping, a ``(samples, rate)`` pair."""
    from omniform.inputs.audio.source import Readable, SoundDecoder

    kinds = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Readable, SoundDecoder)
    return isinstance(sound, kinds) or is_rated(sound)


def take_media(conversation: Sequence[object]) -> tuple[list[object], Media]:
    """The messages of one conversation as a template is to see them, and the pictures, sounds and videos they hold.

    OpenAI's ``image_url``, ``video_url`` and ``input_audio`` parts become ``image``, ``video`` and ``audio`` parts. A
    part without a source is a mere placeholder.
    """
    media = Media()
    messages: list[object] = []
    for message in conversation:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(message, Mapping) and isinstance(content, (list, tuple)):
            parts = [_modern(part) for part in content]
            for part in parts:
                _take(part, media)
            message = {**message, "content": parts}
        messages.append(message)
    return messages, media


def _modern(part: object) -> object:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str) or kind not in part:
        return part
    told = part[kind]
    if kind in ("image_url", "video_url", "audio_url"):
        return {"type": kind.removesuffix("_url"), "url": told.get("url", "") if isinstance(told, Mapping) else told}
    if kind == "input_audio":
        return {"type": "audio", "base64": told.get("data", "") if isinstance(told, Mapping) else told}
    return part


def _take(part: object, media: Media) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str) or kind == "text":
        return
    places: tuple[tuple[Modality, tuple[str, ...], list[object]], ...] = (
        ("image", _IMAGE_KEYS, media.images),
        ("audio", _AUDIO_KEYS, media.audio),
        ("video", _VIDEO_KEYS, media.videos),
    )
    for modality, keys, found in places:
        if kind == modality:
            items = _first(part, keys)
            found += items
            media.order.extend([modality] * len(items))


def _first(part: Mapping[str, object], keys: tuple[str, ...]) -> list[object]:
    key = next((key for key in keys if part.get(key) is not None), None)
    if key is None:
        return []
    source = part[key]
    if key == "base64" and keys is not _IMAGE_KEYS and isinstance(source, str) and source[:5].lower() != "data:":
        source = f"data:application/octet-stream;base64,{source}"  # a door for text takes paths and addresses
    return [source]
