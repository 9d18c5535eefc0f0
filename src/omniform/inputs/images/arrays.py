"""Arrays that hold pictures: their layouts, number types and channels, and how many pixels are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Layout: TypeAlias = Literal["channels_first", "channels_last"]

MAX_PIXELS: Final = 89_478_485
"""The largest picture that is decoded: as many pixels as fill 256 MiB in RGB, where Pillow begins to warn."""

_CHANNELS: Final = (1, 3, 4)


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
            remedy="Shrink it first, or pass max_pixels= to load_image if you trust it.",
        )


def to_rgb(image: Tensor, where: str = "image") -> Tensor:
    """Three channels from one (repeated) or from four (red, green, blue, alpha, laid on white).

    Args:
        image: ``[C, H, W]``; floats with alpha are expected in 0..1.

    Returns:
        ``[3, H, W]`` in the same number type. Integers are blended in float32 and truncated as torchvision's
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
    elif image.dtype in (torch.uint8, torch.int8, torch.int16, torch.uint16):
        unit = image.to(torch.float32) * (1.0 / torch.iinfo(image.dtype).max)
    else:
        raise InputError("cannot blend alpha in this number type", where=where, expected="uint8", found=image.dtype)
    colour, alpha = unit[:3], unit[3:]
    blended = colour * alpha + (1 - alpha)
    if image.is_floating_point():
        return blended.to(image.dtype)
    return (blended * (torch.iinfo(image.dtype).max + 1.0 - 1e-3)).to(image.dtype)


def array_to_pil(source: object, where: str) -> Image:
    """A Pillow RGB image from an array of uint8, or of floats in 0..1.

    Raises:
        InputError: it is no array, or one with another layout or other numbers.
    """
    from PIL import Image

    if not isinstance(source, Tensor) and not is_array(source):
        raise InputError(
            "this is not a picture",
            where=where,
            expected="a path, a URL, base64, bytes, an open file, a Pillow image, an array or a tensor",
            found=type(source).__name__,
        )
    image = to_rgb(channels_first(array_tensor(source, where), None, where), where)
    if image.is_floating_point():
        low, high = image.aminmax()
        if low < 0 or high > 1:
            raise InputError("floats must lie in 0..1", where=where, found=f"{low.item():g} to {high.item():g}")
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise InputError("unsupported number type", where=where, expected="uint8, or floats in 0..1", found=image.dtype)
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def is_array(source: object) -> bool:
    """Whether this is a numpy array."""
    import numpy as np

    return isinstance(source, np.ndarray)


def array_tensor(source: object, where: str) -> Tensor:
    """An array or tensor as a tensor, in its own number type.

    Raises:
        InputError: it holds no real numbers, or NaN or infinities.
    """
    if isinstance(source, Tensor):
        tensor = source.detach()
        if tensor.is_complex():
            raise InputError("unsupported number type", where=where, expected="real numbers", found=tensor.dtype)
    else:
        tensor = from_numpy(source, where)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError("the picture holds NaN or infinite values", where=where)
    return tensor


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
    """A picture of any layout as ``[C, H, W]``; without ``layout`` the channels are looked for, first in front.

    Raises:
        InputError: it has neither two nor three dimensions, or none looks like channels.
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
        layout = "channels_first" if image.shape[0] in _CHANNELS else "channels_last"
        if layout == "channels_last" and image.shape[2] not in _CHANNELS:
            raise InputError(
                "no dimension looks like channels",
                where=where,
                expected="1, 3 or 4 channels, first or last",
                found=list(image.shape),
                remedy="Pass input_data_format= if it has others.",
            )
    return image if layout == "channels_first" else image.permute(2, 0, 1)
