"""The options of image processors: what ``preprocessor_config.json`` states and what a call may change, typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, TypeVar

from omniform.core.errors import ConfigError, InputError, brief
from omniform.inputs.images.sizes import FORMS_TEXT, Size, parse_size, size_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Every option that all image processors share, under the names that the files use. None counts as not set.

    Attributes:
        do_convert_rgb: make three channels of grey, palette and transparent pictures (transparency on white).
        do_resize, size, resample: the new size and Pillow's number of the filter.
        default_to_square: whether a bare length as ``size`` means both edges.
        do_center_crop, crop_size: cut the middle out.
        do_rescale, rescale_factor: multiply, commonly by 1/255.
        do_normalize, image_mean, image_std: subtract and divide, per channel.
        do_pad, pad_size: pad to one size (to the largest of the batch without ``pad_size``).
        input_data_format: where the channels of arrays are.
        data_format: inert; the result is always channels first, as the reference's is.
        device: where the work is done.
        return_tensors: the kind of tensors when a call does not say.
        disable_grouping, image_seq_length: inert; they change no number.
    """

    do_convert_rgb: bool | None = None
    do_resize: bool | None = None
    size: Size | None = None
    default_to_square: bool | None = None
    crop_size: Size | None = None
    resample: int | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = 1 / 255
    do_normalize: bool | None = None
    image_mean: float | tuple[float, ...] | None = None
    image_std: float | tuple[float, ...] | None = None
    do_pad: bool | None = None
    pad_size: Size | None = None
    do_center_crop: bool | None = None
    data_format: str | None = None
    input_data_format: str | None = None
    device: str | None = None
    return_tensors: str | None = None
    disable_grouping: bool | None = None
    image_seq_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetrOptions(ImageOptions):
    """The options of DETR's processor.

    Attributes:
        format: the form of annotations, ``"coco_detection"`` or ``"coco_panoptic"``.
        do_convert_annotations: turn boxes into centre and extent, as fractions of the picture.
    """

    format: str | None = "coco_detection"
    do_convert_annotations: bool | None = None


Options = TypeVar("Options", bound=ImageOptions)


def changed(
    options: Options,
    given: Mapping[str, object],
    *,
    square: bool,
    where: str | None,
    error: type[ConfigError | InputError],
) -> Options:
    """The options with some of them replaced by what a file or a caller gives.

    Args:
        given: names of options and their values as JSON has them.
        square: what a bare length as ``size`` means when neither side says.
        where: the file; None for the arguments of a call.
        error: what to raise.

    Raises:
        ConfigError, InputError: a value has another type, or is out of range; the error names key and value.
    """
    values: dict[str, object] = {}
    for name, value in given.items():
        parse, expected = _PARSERS[name]
        try:
            values[name] = None if value is None else parse(value)
        except Exception:  # objects of any class come here, with errors of their own
            raise wrong_value(name, value, expected, where, error) from None
    if given.get("size") is not None:
        said = values.get("default_to_square", options.default_to_square)
        try:
            values["size"] = parse_size(given["size"], square=square if said is None else bool(said))
        except Exception:
            raise wrong_value("size", given["size"], FORMS_TEXT, where, error) from None
    return replace(options, **values)  # type: ignore[arg-type]


def wrong_value(
    name: str, value: object, expected: str, where: str | None, error: type[ConfigError | InputError]
) -> ConfigError | InputError:
    """The error for an option of a wrong type or out of range."""
    return error(f"{name} has a wrong value", where=where, expected=expected, found=brief(value))


def saved(options: ImageOptions, defaults: ImageOptions) -> dict[str, object]:
    """The options as JSON: all that are set, and null where that differs from the default."""
    result: dict[str, object] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None and getattr(defaults, field.name) is None:
            continue
        result[field.name] = as_json(value)
    return result


def as_json(value: object) -> object:
    """One option's value as JSON: sizes as objects, tuples as lists."""
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else size_entries(value)  # type: ignore[arg-type]


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _factor(value: object) -> float:
    number = _number(value)
    if number == 0:
        raise ValueError
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _statistics(value: object) -> float | tuple[float, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ValueError
        return tuple(_number(number) for number in value)
    return _number(value)


def _deviations(value: object) -> float | tuple[float, ...]:
    result = _statistics(value)
    if 0 in (result if isinstance(result, tuple) else (result,)):
        raise ValueError
    return result


def _filter(value: object) -> int:
    # An IntEnum (PIL.Image.Resampling) is an int too.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 5:
        raise TypeError
    return int(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _device(value: object) -> str:
    import torch

    if not isinstance(value, (str, torch.device)):
        raise TypeError
    try:
        return str(torch.device(value))
    except RuntimeError:
        raise ValueError from None


def _one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        # Enumerations of strings compare equal to them.
        for name in names:
            if value == name:
                return name
        raise ValueError

    return parse


_FLAG: Final = (_flag, "true, false or null")
_SIZE: Final = (lambda value: parse_size(value, square=True), FORMS_TEXT)
_LAYOUT: Final = (_one_of("channels_first", "channels_last"), "'channels_first' or 'channels_last'")
_PARSERS: Final[Mapping[str, tuple[Callable[[object], object], str]]] = {
    "do_convert_rgb": _FLAG,
    "do_resize": _FLAG,
    "size": _SIZE,
    "default_to_square": _FLAG,
    "crop_size": _SIZE,
    "resample": (_filter, "Pillow's number of a filter, 0 to 5"),
    "do_rescale": _FLAG,
    "rescale_factor": (_factor, "a number other than 0"),
    "do_normalize": _FLAG,
    "image_mean": (_statistics, "a number, or one for each channel"),
    "image_std": (_deviations, "a number other than 0, or one for each channel"),
    "do_pad": _FLAG,
    "pad_size": _SIZE,
    "do_center_crop": _FLAG,
    "data_format": _LAYOUT,
    "input_data_format": _LAYOUT,
    "device": (_device, "a device, such as 'cpu' or 'cuda:0'"),
    "return_tensors": (_one_of("pt", "np"), "'pt' or 'np'"),
    "disable_grouping": _FLAG,
    "image_seq_length": (_count, "a whole number"),
    "format": (_one_of("coco_detection", "coco_panoptic"), "'coco_detection' or 'coco_panoptic'"),
    "do_convert_annotations": _FLAG,
}
