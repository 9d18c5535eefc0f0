"""Arrays that hold pictures: their layouts, number types and channels, and how many pixels are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.media_access import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

Layout: TypeAlias = Literal["channels_first", "channels_last"]

_CHANNELS: Final = (1, 3, 4)

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WIDE: Final = (torch.uint32, torch.uint64)
_REAL: Final = (
    *_FLOATS, *_WIDE, torch.bool, torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip

_LAYOUT_REMEDY: Final = "Pass input_data_format='channels_first' or 'channels_last'."


def check_pixels(width: int, height: int, where: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture of no pixels, or of so many that to decode it would fill the memory.

    Raises:
        InputError: it has none, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise InputError("the picture has no pixels", where=where, found=f"{width} x {height}")
    if width * height > max_pixels:
        raise InputError(
            "the picture is too large to decode safely",
            where=where,
            expected=f"at most {max_pixels:,} pixels",
            found=f"{width} x {height} = {width * height:,}",
            remedy="Shrink it first, or pass media_access=MediaAccess(max_pixels=...) if you trust it.",
        )


def to_rgb(image: Tensor, where: str = "image") -> Tensor:
    """Three channels from one (repeated) or from four (red, green, blue, alpha, laid on white).

    Args:
        image: ``[C, H, W]`` of 0..255 or floats; floats with alpha are expected in 0..1.

    Returns:
        ``[3, H, W]`` in the same number type. Bytes are blended in float32 and truncated as torchvision's
        ``to_dtype`` does, so that the pixels are the reference's.

    Raises:
        InputError: it has another number of channels, or floats with alpha outside 0..1.
    """
    channels = image.shape[0]
    if channels == 3:
        return image
    if channels == 1:
        return image.repeat(3, 1, 1)
    if channels != 4:
        raise InputError("cannot become RGB", where=where, expected="1, 3 or 4 channels", found=channels)
    if image.is_floating_point():
        low, high = image.aminmax()
        if low < 0 or high > 1:
            raise InputError(
                "floats with alpha must lie in 0..1", where=where, found=f"{low.item():g} to {high.item():g}"
            )
        unit = image.to(torch.float32)
    else:
        image = image.to(torch.uint8)
        unit = image.to(torch.float32) * (1.0 / 255)
    colour, alpha = unit[:3], unit[3:]
    blended = colour * alpha + (1 - alpha)
    if image.is_floating_point():
        return blended.to(image.dtype)
    return (blended * (256.0 - 1e-3)).to(image.dtype)


def in_bytes(image: Tensor, where: str) -> Tensor:
    """Whole numbers on the scale of a byte, so that one picture has one brightness, however it is stored.

    Booleans are black and white, uint16 has 65535 for white and is divided by 257. The other widths are no depth that
    pictures have: they are arrays that somebody widened, and hold 0..255. They stay as they are, as floats do.

    Args:
        image: of any real type and any shape.

    Raises:
        InputError: a whole number of another width lies outside 0..255.
    """
    if image.is_floating_point() or image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    wide = image.to(torch.int64)  # torch computes with few of the unsigned types
    if image.dtype == torch.uint16:
        return ((wide + 128) // 257).to(torch.uint8)
    low, high = (int(edge) for edge in wide.aminmax()) if wide.numel() else (0, 0)
    if low < 0 or high > 255 or image.dtype == torch.int8:
        raise InputError(
            "whole numbers of this width have no full scale that pictures agree on",
            where=where,
            expected="uint8, uint16, bool, floats, or numbers from 0 to 255",
            found=f"{str(image.dtype).removeprefix('torch.')} from {low} to {high}",
            remedy="Convert it to uint8 or to uint16, whose white are 255 and 65535.",
        )
    return wide if image.dtype in _WIDE else image


def array_to_pil(image: Tensor, where: str) -> Image:
    """A Pillow RGB image from a picture of bytes, or of floats in 0..1.

    Args:
        image: ``[C, H, W]``, uint8 or floats.

    Raises:
        InputError: it has other numbers.
    """
    from PIL import Image

    if image.is_floating_point():
        low, high = image.aminmax()
        if low < 0 or high > 1:
            raise InputError(
                "floats must lie in 0..1",
                where=where,
                found=f"{low.item():g} to {high.item():g}",
                remedy="Divide them by their white, 255 for example.",
            )
    image = to_rgb(image, where)
    if image.is_floating_point():
        image = (image * 255).round()
    image = image.to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def is_array(source: object) -> bool:
    """Whether this is a numpy array."""
    import numpy as np

    return isinstance(source, np.ndarray)


def array_picture(source: object, layout: Layout | None, where: str, max_pixels: int) -> Tensor:
    """An array or tensor as a picture ``[C, H, W]`` of bytes or floats.

    Raises:
        InputError: it holds no real numbers, or NaN or infinities; it is too large, has no clear layout, or holds
            whole numbers without a scale.
    """
    image = channels_first(array_tensor(source, where), layout, where)
    check_pixels(image.shape[-1], image.shape[-2], where, max_pixels)
    return in_bytes(finite(image, where), where)


def finite(image: Tensor, where: str) -> Tensor:
    """The same picture.

    Raises:
        InputError: it holds NaN or infinities.
    """
    if image.is_floating_point() and not bool(torch.isfinite(image).all()):
        raise InputError("the picture holds NaN or infinite values", where=where)
    return image


def array_tensor(source: object, where: str) -> Tensor:
    """An array or tensor as a tensor, in its own number type.

    Raises:
        InputError: it holds no real numbers, or none at all.
    """
    if not isinstance(source, Tensor):
        return from_numpy(source, where)
    if source.layout != torch.strided or source.is_meta or source.is_quantized:
        found = "a meta tensor" if source.is_meta else "a quantized tensor" if source.is_quantized else source.layout
        raise InputError("this tensor does not hold its numbers one by one", where=where, found=found)
    if source.dtype not in _REAL:
        raise InputError("unsupported number type", where=where, expected="real numbers", found=source.dtype)
    return source.detach()


def from_numpy(source: object, where: str) -> Tensor:
    """A numpy array, of any byte order and strides, as a tensor.

    Raises:
        InputError: it holds no real numbers.
    """
    import numpy as np

    array = np.asarray(source)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise InputError("unsupported number type", where=where, expected="uint8 or floats", found=array.dtype)
    # torch takes neither foreign byte order nor negative strides.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def channels_first(image: Tensor, layout: Layout | None, where: str) -> Tensor:
    """A picture of any layout as ``[C, H, W]``; without ``layout`` the channels are looked for.

    Raises:
        InputError: it has neither two nor three dimensions, none looks like channels, or two do.
    """
    if image.ndim == 2:
        return image.unsqueeze(0)
    if image.ndim != 3:
        raise InputError(
            "this is not one picture",
            where=where,
            expected="[height, width], [height, width, channels] or [channels, height, width]",
            found=list(image.shape),
        )
    if layout is None:
        first, last = image.shape[0] in _CHANNELS, image.shape[2] in _CHANNELS
        if not first and not last:
            raise InputError(
                "no dimension looks like channels",
                where=where,
                expected="1, 3 or 4 channels, first or last",
                found=list(image.shape),
                remedy="Pass input_data_format= if it has others.",
            )
        if first and last and tuple(image.shape) != (1, 1, 1):
            raise InputError(
                "the channels may be first or last", where=where, found=list(image.shape), remedy=_LAYOUT_REMEDY
            )
        layout = "channels_first" if first else "channels_last"
    return image if layout == "channels_first" else image.permute(2, 0, 1)
