"""The options of a processor call, sorted by the part of the processor that they are for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from omniform.core.errors import InputError, check_arguments

Part = Literal["text", "images", "videos", "audio"]

GROUPS: dict[str, Part] = {
    "text_kwargs": "text",
    "images_kwargs": "images",
    "videos_kwargs": "videos",
    "audio_kwargs": "audio",
}
"""Arguments that hold the options of one part."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call.

    Attributes:
        text: for the tokenizer; see :class:`~omniform.inputs.text.options.EncodeOptions`.
        images: for the image processor; see :class:`~omniform.inputs.images.options.ImageOptions`.
        videos: for the video processor; see its call.
        audio: for the feature extractor; see its call.
        own: for the processor itself.
    """

    text: dict[str, object] = field(default_factory=dict)
    images: dict[str, object] = field(default_factory=dict)
    videos: dict[str, object] = field(default_factory=dict)
    audio: dict[str, object] = field(default_factory=dict)
    own: dict[str, object] = field(default_factory=dict)

    def of(self, part: Part) -> dict[str, object]:
        """The options of one part."""
        return {"text": self.text, "images": self.images, "videos": self.videos, "audio": self.audio}[part]


def sort_options(
    callee: str, given: Mapping[str, object], known: Mapping[Part, Collection[str]], own: Collection[str] = ()
) -> CallOptions:
    """Sort keyword arguments by part.

    An option goes to every part that has it (``return_tensors`` to all of them). ``text_kwargs``, ``images_kwargs``,
    ``videos_kwargs`` and ``audio_kwargs`` address one part alone, ``common_kwargs`` all of them; what is given directly
    wins over the latter.

    Args:
        callee: whom to name in errors.
        given: the keyword arguments.
        known: the options of each part that there is.
        own: options of the processor itself.

    Raises:
        UnknownArgumentError: no part has such an option.
        InputError: an option is given twice, or a group of options is no mapping.
    """
    options = CallOptions()
    groups = [name for name, part in GROUPS.items() if part in known]
    flat = {name: value for name, value in given.items() if name not in (*groups, "common_kwargs")}
    everywhere = {name for names in known.values() for name in names}
    check_arguments(callee, flat, {*everywhere, *own, *groups, "common_kwargs"})
    common = _mapping("common_kwargs", given.get("common_kwargs"))
    check_arguments(f"{callee}: common_kwargs", common, everywhere)
    for part, names in known.items():
        options.of(part).update({name: value for name, value in {**common, **flat}.items() if name in names})
    options.own.update({name: value for name, value in flat.items() if name in own})
    for group in groups:
        part = GROUPS[group]
        inner = _mapping(group, given.get(group))
        check_arguments(f"{callee}: {group}", inner, {*known[part], *(own if part == "text" else ())})
        for name, value in inner.items():
            if name in flat:
                raise InputError("the option is given twice", where=name, found=f"directly and in {group}")
            (options.own if name in own else options.of(part))[name] = value
    return options


def _mapping(name: str, value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError("options come as a mapping", where=name, found=type(value).__name__)
    return value
