"""The options of image processors: what ``preprocessor_config.json`` states and what a call may change, typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Final, TypeAlias, TypeVar, cast

from omniform.core.errors import ConfigError, InputError, brief
from omniform.core.numbers import is_finite
from omniform.inputs.images.sizes import FORMS_TEXT, MAX_EDGE, Size, parse_size, size_entries

MAX_LABEL: Final = 2**31 - 1
"""The largest number of a class or a segment."""
_LONGEST_TEXT: Final = 4096
_MOST_RESOLUTIONS: Final = 1024


Parser: TypeAlias = tuple[Callable[[object], object], str]
"""What makes a value of what a file or a caller gives, and what it may be, for error messages."""


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
        PARSERS: how options are read that other kinds read in another way.
    """

    PARSERS: ClassVar[Mapping[str, Parser]] = {}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TileOptions(ImageOptions):
    """Phi-4-multimodal's.

    Attributes:
        patch_size: pixels of a patch of the model.
        dynamic_hd: how many tiles a picture is cut into at most.
    """

    patch_size: int | None = None
    dynamic_hd: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions(ImageOptions):
    """Idefics3's and SmolVLM's.

    Attributes:
        do_image_splitting: cut pictures into squares.
        max_image_size: the edge of a square.
        return_row_col_info: tell how many rows and columns of squares each picture has.
    """

    do_image_splitting: bool | None = None
    max_image_size: Size | None = None
    return_row_col_info: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanOptions(ImageOptions):
    """Gemma 3's.

    Attributes:
        do_pan_and_scan: add crops of pictures that are much longer than wide, or wider than long.
        pan_and_scan_min_crop_size: the shortest side of a crop, in pixels.
        pan_and_scan_max_num_crops: how many crops a picture may have.
        pan_and_scan_min_ratio_to_activate: of a picture's sides, from which on it has crops.
    """

    do_pan_and_scan: bool | None = None
    pan_and_scan_min_crop_size: int | None = None
    pan_and_scan_max_num_crops: int | None = None
    pan_and_scan_min_ratio_to_activate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions(ImageOptions):
    """The options of processors that take segmentation maps.

    Attributes:
        do_reduce_labels: classes count from 1 in the maps; 0, the background, becomes 255.
    """

    do_reduce_labels: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOptions(ImageOptions):
    """ConvNeXt's and PoolFormer's.

    Attributes:
        crop_pct: the share of the resized picture's edge that the crop leaves.
    """

    crop_pct: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetOptions(ImageOptions):
    """EfficientNet's.

    Attributes:
        rescale_offset: subtract 1 once rescaled.
        include_top: divide by the deviation once more, as classifiers were trained.
    """

    rescale_offset: bool | None = None
    include_top: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipOptions(LabelOptions):
    """MobileViT's.

    Attributes:
        do_flip_channel_order: blue first.
    """

    do_flip_channel_order: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DivisorOptions(ImageOptions):
    """GLPN's.

    Attributes:
        size_divisor: height and width become multiples of it.
    """

    size_divisor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthOptions(ImageOptions):
    """ZoeDepth's.

    Attributes:
        keep_aspect_ratio: scale both edges alike.
        ensure_multiple_of: height and width become multiples of it.
    """

    keep_aspect_ratio: bool | None = None
    ensure_multiple_of: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DPTOptions(DepthOptions):
    """DPT's: as ZoeDepth's, and maps.

    Attributes:
        size_divisor: with ``do_pad`` a border makes height and width multiples of it.
        do_reduce_labels: see :class:`LabelOptions`.
    """

    size_divisor: int | None = None
    do_reduce_labels: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFormerOptions(ImageOptions):
    """MaskFormer's and Mask2Former's.

    Attributes:
        ignore_index: the number of pixels that belong to nothing; what masks are padded with.
        do_reduce_labels: see :class:`LabelOptions`; 0 becomes ``ignore_index``.
        num_labels: inert.
        size_divisor: height and width become multiples of it.
    """

    ignore_index: int | None = None
    do_reduce_labels: bool | None = None
    num_labels: int | None = None
    size_divisor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OneFormerOptions(ImageOptions):
    """OneFormer's.

    Attributes:
        repo_path, class_info_file: where the names of classes are, and which of them are things.
        metadata: what was read there.
        num_text: how many texts a picture has when training.
        num_labels: inert.
        ignore_index, do_reduce_labels: as MaskFormer's.
    """

    repo_path: str | None = None
    class_info_file: str | None = None
    metadata: Mapping[str, object] | None = None
    num_text: int | None = None
    num_labels: int | None = None
    ignore_index: int | None = None
    do_reduce_labels: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamOptions(ImageOptions):
    """SAM's.

    Attributes:
        mask_size, mask_pad_size: as ``size`` and ``pad_size``, for maps.
    """

    mask_size: Size | None = None
    mask_pad_size: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledOptions(ImageOptions):
    """LLaVA-NeXT's and LLaVA-OneVision's.

    Attributes:
        image_grid_pinpoints: the resolutions that pictures are fitted into before they are cut, heights and widths.
    """

    image_grid_pinpoints: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrOptions(ImageOptions):
    """LayoutLMv3's.

    Attributes:
        apply_ocr: read the words off the page, by tesseract.
        ocr_lang: its language.
        tesseract_config: its further settings.
    """

    apply_ocr: bool | None = None
    ocr_lang: str | None = None
    tesseract_config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailOptions(ImageOptions):
    """Donut's.

    Attributes:
        do_thumbnail: make what is larger than ``size`` fit into it.
        do_align_long_axis: turn pages that lie where ``size`` stands, or stand where it lies.
    """

    do_thumbnail: bool | None = None
    do_align_long_axis: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatOptions(ImageOptions):
    """Pix2Struct's.

    Attributes:
        patch_size: height and width of a patch.
        max_patches: how many a picture is cut into at most.
        is_vqa: whether what is asked is written above the picture.
    """

    PARSERS: ClassVar[Mapping[str, Parser]] = {"patch_size": (lambda value: parse_size(value, square=True), FORMS_TEXT)}

    patch_size: Size | None = None
    max_patches: int | None = None
    is_vqa: bool | None = None


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
        parse, expected = options.PARSERS.get(name) or _PARSERS[name]
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


def nearest_resize(options: Options) -> Options:
    """The options by which maps are shaped: as pictures are, but every pixel gets the number of one."""
    return replace(options, do_rescale=False, do_normalize=False, resample=0)


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
        return [as_json(one) for one in value]
    if isinstance(value, Mapping):
        return dict(value)
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
    if not is_finite(value):
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


def _positive(value: object) -> int:
    if _count(value) == 0:
        raise ValueError
    return cast(int, value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_LABEL:
        raise TypeError
    return value


def _share(value: object) -> float:
    """A number above 0; a whole one stays whole, as it is written."""
    if _number(value) <= 0:
        raise ValueError
    return cast(float, value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise TypeError
    return value


def _resolutions(value: object) -> tuple[tuple[int, int], ...]:
    """Pairs of whole numbers that make a picture no larger than any other may be made."""
    if not isinstance(value, (list, tuple)) or not value or len(value) > _MOST_RESOLUTIONS:
        raise TypeError
    pairs = [(_positive(height), _positive(width)) for height, width in value]
    if any(max(pair) > MAX_EDGE for pair in pairs):
        raise ValueError
    return tuple(pairs)


def _metadata(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    things = value["thing_ids"]
    if not isinstance(things, (list, tuple)):
        raise TypeError
    return {**value, "thing_ids": [_whole(one) for one in things]}


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
SIZE_PARSER: Final = (lambda value: parse_size(value, square=True), FORMS_TEXT)
_SIZE: Final = SIZE_PARSER
_LAYOUT: Final = (_one_of("channels_first", "channels_last"), "'channels_first' or 'channels_last'")
_PARSERS: Final[Mapping[str, Parser]] = {
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
    "do_thumbnail": _FLAG,
    "is_vqa": _FLAG,
    "max_patches": (_positive, "a positive whole number"),
    "do_align_long_axis": _FLAG,
    "pad_size": _SIZE,
    "do_center_crop": _FLAG,
    "data_format": _LAYOUT,
    "input_data_format": _LAYOUT,
    "device": (_device, "a device, such as 'cpu' or 'cuda:0'"),
    "return_tensors": (_one_of("pt", "np"), "'pt' or 'np'"),
    "disable_grouping": _FLAG,
    "image_seq_length": (_count, "a whole number"),
    "do_pan_and_scan": _FLAG,
    "pan_and_scan_min_crop_size": (_positive, "a whole number above 0"),
    "pan_and_scan_max_num_crops": (_positive, "a whole number above 0"),
    "pan_and_scan_min_ratio_to_activate": (_share, "a number above 0"),
    "do_sample_frames": _FLAG,
    "num_frames": (_positive, "a whole number above 0"),
    "fps": (_share, "a number above 0"),
    "return_metadata": _FLAG,
    "format": (_one_of("coco_detection", "coco_panoptic"), "'coco_detection' or 'coco_panoptic'"),
    "do_convert_annotations": _FLAG,
    "do_reduce_labels": _FLAG,
    "crop_pct": (_share, "a number above 0"),
    "rescale_offset": _FLAG,
    "include_top": _FLAG,
    "do_flip_channel_order": _FLAG,
    "size_divisor": (_count, "a whole number"),
    "dynamic_hd": (_positive, "a whole number above 0"),
    "max_num_patches": (_positive, "a whole number above 0"),
    "keep_aspect_ratio": _FLAG,
    "ensure_multiple_of": (_share, "a number above 0"),
    "ignore_index": (_whole, "a whole number"),
    "num_labels": (_count, "a whole number"),
    "num_text": (_count, "a whole number"),
    "image_grid_pinpoints": (_resolutions, "a list of heights and widths, at least one"),
    **dict.fromkeys(
        ("patch_size", "temporal_patch_size", "merge_size", "min_frames", "max_frames", "max_video_tokens"),
        (_positive, "a whole number above 0"),
    ),
    "cap_pixels_per_frame": _FLAG,
    "repo_path": (_text, "a text"),
    "class_info_file": (_text, "a text"),
    "metadata": (_metadata, "an object with names by numbers, thing_ids and class_names"),
    "apply_ocr": _FLAG,
    "ocr_lang": (_text, "a text"),
    "tesseract_config": (_text, "a text"),
    "mask_size": _SIZE,
    "max_image_size": _SIZE,
    "do_image_splitting": _FLAG,
    "crop_to_patches": _FLAG,
    "min_patches": (_positive, "a whole number above 0"),
    "return_row_col_info": _FLAG,
    "mask_pad_size": _SIZE,
}
