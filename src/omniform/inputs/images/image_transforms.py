"""What is done with one picture (``omniform.image_transforms``), for image processors that users write."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
from torch import Tensor, as_tensor, stack

from omniform.core.errors import InputError, brief
from omniform.inputs.images.base import BaseImageProcessor, Image
from omniform.inputs.images.image_utils import ChannelDimension, PILImageResampling, infer_channel_dimension_format

_STEPS = BaseImageProcessor()

T = TypeVar("T", Tensor, Image)

normalize = _STEPS.normalize


def rescale(
    image: Image,
    scale: float,
    data_format: str | None = None,
    dtype: npt.DTypeLike = np.float32,
    input_data_format: str | None = None,
) -> Image:
    """A picture times a factor, in another type of numbers."""
    made: Image = (image.astype(np.float64) * scale).astype(dtype)
    return made if data_format is None else to_channel_dimension_format(made, data_format, input_data_format)


def center_crop(
    image: Image,
    size: tuple[int, int],
    data_format: str | None = None,
    input_data_format: str | None = None,
) -> Image:
    """The middle of a picture, ``(height, width)``, with zeros where it is smaller."""
    height, width = size
    return _STEPS.center_crop(image, {"height": height, "width": width}, data_format, input_data_format)


class PaddingMode(StrEnum):
    """What a picture is padded with."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    SYMMETRIC = "symmetric"


def to_channel_dimension_format(image: Image, channel_dim: str, input_channel_dim: str | None = None) -> Image:
    """A picture with its channels where they are wanted."""
    now = infer_channel_dimension_format(image) if input_channel_dim is None else ChannelDimension(input_channel_dim)
    wanted = ChannelDimension(channel_dim)
    if now is wanted:
        return image
    return np.moveaxis(image, -1, -3) if wanted is ChannelDimension.FIRST else np.moveaxis(image, -3, -1)


def _is_fractions(image: Image) -> bool:
    """Whether a picture's numbers, from 0 to 1, are to be made bytes before PIL can hold them.

    Raises:
        InputError: they are of neither range.
    """
    numbers = image.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    whole = image.dtype == np.uint8 or np.allclose(numbers, numbers.astype(int))
    most = 255 if whole else 1
    if low < 0 or high > most:
        raise InputError("no pixels", where="image", expected=f"numbers from 0 to {most}", found=f"{low} to {high}")
    return not whole


def to_pil_image(
    image: Image | Tensor | PIL.Image.Image,
    do_rescale: bool | None = None,
    image_mode: str | None = None,
    input_data_format: str | None = None,
) -> PIL.Image.Image:
    """A picture as PIL's.

    Args:
        do_rescale: times 255 first; by default where numbers from 0 to 1 need it.
        image_mode: PIL's word for what channels mean.
    """
    if isinstance(image, PIL.Image.Image):
        return image
    array = to_channel_dimension_format(np.asarray(image), ChannelDimension.LAST, input_data_format)
    array = array[..., 0] if array.shape[-1] == 1 else array
    if _is_fractions(array) if do_rescale is None else do_rescale:
        array = rescale(array, 255)
    made = PIL.Image.fromarray(array.astype(np.uint8))
    return made if image_mode is None or made.mode == image_mode else made.convert(image_mode)


def resize(
    image: Image | PIL.Image.Image,
    size: tuple[int, int],
    resample: int | None = None,
    reducing_gap: float | None = None,
    data_format: str | None = None,
    return_numpy: bool = True,
    input_data_format: str | None = None,
) -> Image | PIL.Image.Image:
    """A picture of another size, by PIL.

    Args:
        size: height and width.
        resample: PIL's number of a filter; bilinear by default.
        data_format, input_data_format: where the channels are to stand, and stand.
        return_numpy: False for PIL's picture.
    """
    if len(size) != 2:
        raise InputError("no height and width", where="size", found=brief(size))
    scaled = False
    if isinstance(image, PIL.Image.Image):
        now, picture = ChannelDimension.LAST, image
    else:
        now = (
            infer_channel_dimension_format(image) if input_data_format is None else ChannelDimension(input_data_format)
        )
        scaled = _is_fractions(image)
        picture = to_pil_image(image, scaled, input_data_format=now)
    filtered = PILImageResampling.BILINEAR if resample is None else PILImageResampling(resample)
    made = picture.resize((size[1], size[0]), PIL.Image.Resampling(int(filtered)), reducing_gap=reducing_gap)
    if not return_numpy:
        return made
    array: Image = np.array(made)
    array = array[..., None] if array.ndim == 2 else array
    array = to_channel_dimension_format(array, data_format or now, ChannelDimension.LAST)
    return rescale(array, 1 / 255) if scaled else array


Sides = float | tuple[float, ...] | tuple[tuple[float, float], ...]


def _per_side(values: Sides) -> tuple[tuple[float, float], ...]:
    """``(before, after)`` for height and width, from any of the ways to say it."""
    if isinstance(values, (int, float)):
        return ((values, values), (values, values))
    if isinstance(values, Sequence) and len(values) == 1:
        (one,) = values
        pair = cast("tuple[float, float]", tuple(one) if isinstance(one, Sequence) else (one, one))
        return (pair, pair)
    if isinstance(values, Sequence) and len(values) == 2:
        one, other = values
        if isinstance(one, Sequence) and isinstance(other, Sequence):
            return (one[0], one[1]), (other[0], other[1])
        pair = cast("tuple[float, float]", (one, other))
        return (pair, pair)
    raise InputError("no widths of a border", where="padding", found=brief(values))


def pad(
    image: Image,
    padding: Sides,
    mode: PaddingMode | str = PaddingMode.CONSTANT,
    constant_values: Sides = 0.0,
    data_format: str | None = None,
    input_data_format: str | None = None,
) -> Image:
    """A picture with a border.

    Args:
        padding: the border's width; or ``(before, after)``; or that for height and for width.
        mode: what it is made of.
        constant_values: its colour, said as widths are.
    """
    now = infer_channel_dimension_format(image) if input_data_format is None else ChannelDimension(input_data_format)
    how = PaddingMode(mode)

    def for_axes(values: Sides) -> list[tuple[float, float]]:
        inner = [(0, 0), *_per_side(values)] if now is ChannelDimension.FIRST else [*_per_side(values), (0, 0)]
        return [(0, 0)] * (image.ndim - 3) + inner

    widths = [(int(before), int(after)) for before, after in for_axes(padding)]
    if how is PaddingMode.CONSTANT:
        made = np.pad(image, widths, constant_values=for_axes(constant_values))
    elif how is PaddingMode.REPLICATE:
        made = np.pad(image, widths, mode="edge")
    elif how is PaddingMode.REFLECT:
        made = np.pad(image, widths, mode="reflect")
    else:
        made = np.pad(image, widths, mode="symmetric")
    return made if data_format is None else to_channel_dimension_format(made, data_format, now)


def convert_to_rgb(image: object) -> object:
    """PIL's picture in RGB; anything else as it is."""
    return image.convert("RGB") if isinstance(image, PIL.Image.Image) else image


def flip_channel_order(image: Image, data_format: str | None = None, input_data_format: str | None = None) -> Image:
    """Blue, green, red for red, green, blue, and the other way round."""
    now = infer_channel_dimension_format(image) if input_data_format is None else ChannelDimension(input_data_format)
    made = image[..., ::-1, :, :] if now is ChannelDimension.FIRST else image[..., ::-1]
    return made if data_format is None else to_channel_dimension_format(made, data_format, now)


def get_resize_output_image_size(
    input_image: Image,
    size: int | tuple[int, ...] | list[int],
    default_to_square: bool = True,
    max_size: int | None = None,
    input_data_format: str | None = None,
) -> tuple[int, int]:
    """Height and width of a picture that is resized to a size, which may be that of its shorter side.

    Args:
        size: both, or one for a square; with ``default_to_square=False`` one is the shorter side's.
        max_size: the longer side's bound; above ``size``.
    """
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return size[0], size[1]
    short = size[0] if isinstance(size, (tuple, list)) else size
    if default_to_square:
        return short, short
    first = (
        infer_channel_dimension_format(input_image)
        if input_data_format is None
        else ChannelDimension(input_data_format)
    )
    height, width = input_image.shape[-2:] if first is ChannelDimension.FIRST else input_image.shape[-3:-1]
    long = int(short * max(height, width) / min(height, width))
    if max_size is not None and long > max_size:
        if max_size <= short:
            raise InputError("the bound is below the size", where="max_size", expected=f"> {short}", found=max_size)
        short, long = int(max_size * short / long), max_size
    return (long, short) if width <= height else (short, long)


def center_to_corners_format(bboxes_center: T) -> T:
    """Boxes ``(centre x, centre y, width, height)`` as ``(left, top, right, bottom)``. Shape: [..., 4]."""
    boxes = as_tensor(bboxes_center)
    x, y, w, h = boxes.unbind(-1)
    corners = stack((x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h), dim=-1)
    return corners if isinstance(bboxes_center, Tensor) else corners.numpy()


def corners_to_center_format(bboxes_corners: T) -> T:
    """The reverse of :func:`center_to_corners_format`."""
    boxes = as_tensor(bboxes_corners)
    left, top, right, bottom = boxes.unbind(-1)
    centred = stack(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), dim=-1)
    return centred if isinstance(bboxes_corners, Tensor) else centred.numpy()


__all__ = [
    "PaddingMode",
    "center_crop",
    "center_to_corners_format",
    "convert_to_rgb",
    "corners_to_center_format",
    "flip_channel_order",
    "get_resize_output_image_size",
    "normalize",
    "pad",
    "rescale",
    "resize",
    "to_channel_dimension_format",
    "to_pil_image",
]
