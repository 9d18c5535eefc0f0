"""The table of processor types, and the way from a checkpoint's ``preprocessor_config.json`` to a processor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Final

from omniform.core.errors import ConfigError, UnknownNameError, brief, listed, nearest
from omniform.inputs.images.options import DetrOptions, ImageOptions, changed, wrong_value
from omniform.inputs.images.processor import ImageProcessor, Kind
from omniform.inputs.images.sizes import FORMS_TEXT, EdgeRange, Exact, ShortestEdge, parse_size, size_entries
from omniform.inputs.images.steps import square_plan, standard_plan, uncropped_plan

logger = logging.getLogger("omniform")

# Statistics of the pictures that the published checkpoints were trained on, per channel.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

_BILINEAR, _BICUBIC = 2, 3

_VIT_OPTIONS: Final = ImageOptions(
    do_resize=True,
    size=Exact(224, 224),
    resample=_BILINEAR,
    do_rescale=True,
    do_normalize=True,
    image_mean=_HALF,
    image_std=_HALF,
)
_CLIP_OPTIONS: Final = replace(
    _VIT_OPTIONS,
    do_convert_rgb=True,
    size=ShortestEdge(224),
    resample=_BICUBIC,
    do_center_crop=True,
    crop_size=Exact(224, 224),
    image_mean=_CLIP_MEAN,
    image_std=_CLIP_STD,
)
_DETR_OPTIONS: Final = DetrOptions(
    do_resize=True,
    size=EdgeRange(800, 1333),
    resample=_BILINEAR,
    do_rescale=True,
    do_normalize=True,
    image_mean=_IMAGENET_MEAN,
    image_std=_IMAGENET_STD,
    do_pad=True,
)

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("CLIPImageProcessor", _CLIP_OPTIONS, square=False, plan=standard_plan),
        Kind("ViTImageProcessor", _VIT_OPTIONS, square=True, plan=standard_plan),
        Kind(
            "SiglipImageProcessor",
            replace(_VIT_OPTIONS, do_convert_rgb=True, resample=_BICUBIC),
            square=False,
            plan=standard_plan,
        ),
        Kind("LlavaImageProcessor", replace(_CLIP_OPTIONS, do_pad=False), square=False, plan=square_plan),
        Kind("DetrImageProcessor", _DETR_OPTIONS, square=False, plan=uncropped_plan),
    )
}
"""Every type of processor, by the name that files give it."""

FORMER: Final = ("use_square_size", "max_size", "pad_and_return_pixel_mask", "do_pad")
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
    ImageProcessor.__init__(made, kind, options, extra)
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
        UnknownNameError: the type is not one of :data:`KINDS`.
        ConfigError: the file names no type, or a value has a wrong type or is out of range.
    """
    if not isinstance(config, Mapping):
        raise ConfigError("the settings are an object", where=where, found=brief(config))
    kind = KINDS[_type_name(config, where, default_type)]
    given = {name: value for name, value in config.items() if name not in _FORGOTTEN}
    modernise = _MODERNISERS.get(kind.name)
    if modernise is not None:
        modernise(given, where)
    known = {field.name for field in fields(kind.defaults)}
    extra = {name: given.pop(name) for name in list(given) if name not in known}
    options = changed(kind.defaults, given, square=kind.square, where=where, error=ConfigError)
    if extra:
        logger.warning("%s: %s does not know %s", where, kind.name, listed(sorted(extra)))
    if isinstance(options, DetrOptions) and options.do_convert_annotations is None:
        normalised = options.do_normalize is None or options.do_normalize
        options = replace(options, do_convert_annotations=normalised)
    return kind, options, extra


def _type_name(config: Mapping[str, object], where: str, default_type: str | None) -> str:
    named = (config.get("image_processor_type"), config.get("feature_extractor_type"), default_type)
    name = next((one for one in named if one is not None and not (isinstance(one, str) and not one)), None)
    if name is None:
        raise ConfigError("image_processor_type is missing", where=where, expected=f"one of {', '.join(sorted(KINDS))}")
    if not isinstance(name, str):
        raise wrong_value("image_processor_type", name, "a name", where, ConfigError)
    modern = name.removesuffix("Fast")
    if modern.endswith("FeatureExtractor"):
        modern = modern.removesuffix("FeatureExtractor") + "ImageProcessor"
    if modern not in KINDS:
        raise UnknownNameError(
            f"unknown image processor {brief(name)}", where=where, remedy=nearest(modern[:80], KINDS)
        )
    return modern


def _modernise_clip(given: dict[str, object], where: str) -> None:
    if given.get("use_square_size") is True:
        del given["use_square_size"]
        given["size"] = {"height": 224, "width": 224}


def _modernise_detr(given: dict[str, object], where: str) -> None:
    masked = given.pop("pad_and_return_pixel_mask", None)
    if masked is not None:
        given.setdefault("do_pad", masked)
    size = given.get("size")
    if size is None:
        given.pop("size", None)
        return
    longest = given.pop("max_size", None)
    longest = 1333 if longest is None else longest
    if not isinstance(longest, int) or isinstance(longest, bool) or longest < 1:
        raise wrong_value("max_size", longest, "a length in pixels", where, ConfigError)
    try:
        given["size"] = size_entries(parse_size(size, square=False, longest_edge=longest))
    except (TypeError, ValueError, OverflowError):
        raise wrong_value("size", size, FORMS_TEXT, where, ConfigError) from None


_MODERNISERS: Final[Mapping[str, Callable[[dict[str, object], str], None]]] = {
    "CLIPImageProcessor": _modernise_clip,
    "DetrImageProcessor": _modernise_detr,
}
