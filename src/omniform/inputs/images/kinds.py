"""Processor types by their names, and the way from a checkpoint's ``preprocessor_config.json`` to a processor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Final

from omniform.core.errors import ConfigError, InputError, UnknownNameError, brief, listed, nearest
from omniform.inputs.images.backends import PILLOW
from omniform.inputs.images.options import DetrOptions, ImageOptions, changed, wrong_value
from omniform.inputs.images.processor import ImageProcessor, Kind
from omniform.inputs.images.table import KINDS

logger = logging.getLogger("omniform")

FORMER: Final = (
    "use_square_size", "max_size", "pad_and_return_pixel_mask", "do_pad", "reduce_labels", "size_divisibility",
    "rescale",
)  # fmt: skip
"""Options of older releases, which some kinds still read."""

# Written by older releases, and of no meaning today.
_FORGOTTEN: Final = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys"}
)


def image_processor(config: Mapping[str, object], *, where: str, default_type: str | None = None) -> ImageProcessor:
    """Build the processor that a parsed ``preprocessor_config.json`` describes; see :func:`read_options`.

    Its class is the one that the type names (``ViTImageProcessor``).
    """
    from omniform.inputs.images.classes import class_named

    kind, options, extra = read_options(config, where=where, default_type=default_type)
    named = class_named(kind.name)
    assert named is not None
    made = named.__new__(named)
    kind.processor.__init__(made, kind, options, extra)
    return made


def read_options(
    config: Mapping[str, object], *, where: str, default_type: str | None = None
) -> tuple[Kind, ImageOptions, dict[str, object]]:
    """The kind and the options that a parsed ``preprocessor_config.json`` describes, and what it holds besides.

    Files of all releases are read: ``feature_extractor_type`` and the suffix ``Fast``, lengths instead of size
    objects, DETR's ``max_size`` and ``pad_and_return_pixel_mask``, missing keys. A key that this type does not know
    is kept for saving, and named in one warning.

    Args:
        config: the file's object.
        where: the file, for error messages.
        default_type: the type of a file that names none, such as ``"CLIPImageProcessor"``.

    Raises:
        UnknownNameError: the type is not one of :data:`~omniform.inputs.images.table.KINDS`.
        ConfigError: the file names no type, or a value has a wrong type or is out of range.
    """
    if not isinstance(config, Mapping):
        raise ConfigError("the settings are an object", where=where, found=brief(config))
    kind = _kind(config, where, default_type)
    given = {name: value for name, value in config.items() if name not in _FORGOTTEN}
    kind.modernise(given, where)
    known = {field.name for field in fields(kind.defaults)}
    extra = {name: given.pop(name) for name in list(given) if name not in known}
    options = changed(kind.defaults, given, square=kind.square, where=where, error=ConfigError)
    if extra:
        logger.warning("%s: %s does not know %s", where, kind.name, listed(sorted(extra)))
    if isinstance(options, DetrOptions) and options.do_convert_annotations is None:
        normalised = options.do_normalize is None or options.do_normalize
        options = replace(options, do_convert_annotations=normalised)
    return kind, options, extra


def kind_named(name: str) -> Kind | None:
    """The kind of a name in any of its forms; None for none.

    ``ViTImageProcessor``, with ``Fast``, or as ``ViTFeatureExtractor``: the fast class, which all of these are in the
    ecosystem today. ``ViTImageProcessorPil``: the slow one, where there is one.
    """
    modern = name.removesuffix("Fast")
    pil = modern.endswith("Pil")
    modern = modern.removesuffix("Pil") if pil else modern
    if modern.endswith("FeatureExtractor"):
        modern = modern.removesuffix("FeatureExtractor") + "ImageProcessor"
    kind = KINDS.get(modern)
    if kind is None or not pil:
        return kind
    return replace(kind, name=f"{kind.name}Pil", backend=PILLOW) if kind.slow else None


def with_backend(processor: ImageProcessor, backend: object) -> ImageProcessor:
    """The same processor with its pixels computed as is asked for.

    Args:
        backend: ``"torchvision"`` or ``"pil"``; None changes nothing.

    Raises:
        InputError: there is no such backend.
    """
    if backend is None or backend == processor.backend:
        return processor
    if backend not in ("torchvision", "pil"):
        raise InputError("unknown backend", where="backend", expected="'torchvision' or 'pil'", found=brief(backend))
    name = processor.kind.name.removesuffix("Pil") + ("Pil" if backend == "pil" else "")
    if kind_named(name) is None:
        logger.warning("%s has no slow class; its pixels are the fast one's", processor.kind.name)
        return processor
    return image_processor({**processor.to_dict(), "image_processor_type": name}, where=name)


def _kind(config: Mapping[str, object], where: str, default_type: str | None) -> Kind:
    named = (config.get("image_processor_type"), config.get("feature_extractor_type"), default_type)
    name = next((one for one in named if one is not None and not (isinstance(one, str) and not one)), None)
    if name is None:
        raise ConfigError("image_processor_type is missing", where=where, expected=f"one of {listed(sorted(KINDS))}")
    if not isinstance(name, str):
        raise wrong_value("image_processor_type", name, "a name", where, ConfigError)
    kind = kind_named(name)
    if kind is None:
        raise UnknownNameError(f"unknown image processor {brief(name)}", where=where, remedy=nearest(name[:80], KINDS))
    return kind
