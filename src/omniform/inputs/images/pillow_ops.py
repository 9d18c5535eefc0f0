"""Operations on pictures ``[C, H, W]`` as the reference's slow classes compute them: with Pillow, and in numpy's order.

Pillow resizes bytes. Fractions become bytes before, truncated, and fractions again after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.images import ops
from omniform.inputs.images.arrays import to_rgb as torch_rgb

_FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def to_rgb(image: Tensor, where: str = "image") -> Tensor:
    """Three channels from one (repeated) or from four (laid on white, rounded to the nearest byte).

    Raises:
        InputError: as :func:`omniform.inputs.images.arrays.to_rgb`.
    """
    if image.shape[0] != 4:
        return torch_rgb(image, where)
    if image.is_floating_point():
        torch_rgb(image, where)  # for its checks
        return image[3:] * image[:3] + (1 - image[3:])
    colour, alpha = image[:3].double(), image[3:].double() / 255
    return (alpha * colour + (1 - alpha) * 255).round_().to(image.dtype)


def resize(image: Tensor, height: int, width: int, *, resample: int = 2) -> Tensor:
    """Resize with Pillow.

    Args:
        image: ``[C, H, W]`` of bytes, of whole numbers from 0 to 255, or of floats in 0..1.
        height, width: the new size in pixels.
        resample: Pillow's number of the filter.

    Returns:
        Bytes, or float32 from floats in 0..1.

    Raises:
        InputError: the filter is unknown, the new size is empty or too large, or the numbers are of another scale.
    """
    from PIL import Image

    if resample not in _FILTERS:
        names = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise InputError("unsupported resampling filter", where="resample", expected=names, found=resample)
    ops.check_area(height, width, f"resizing {image.shape[-2]} x {image.shape[-1]}")
    if not 1 <= image.shape[0] <= 4:
        raise InputError(
            "Pillow has no pictures of so many channels", where="image", expected="1 to 4", found=image.shape[0]
        )
    if resample == 0 and _is_wide(image):
        return ops.resize(image, height, width, resample=0)  # maps of classes beyond a byte
    data, fractions = _as_bytes(image)
    if data.shape[-2:] != (height, width):
        grey = data.shape[0] == 1
        array = data[0].numpy() if grey else data.permute(1, 2, 0).contiguous().numpy()
        resized = np.array(Image.fromarray(array).resize((width, height), Image.Resampling(resample)))
        data = torch.from_numpy(resized)
        data = data.unsqueeze(0) if grey else data.permute(2, 0, 1)
    return rescale(data, 1 / 255) if fractions else data


def _is_wide(image: Tensor) -> bool:
    return not image.is_floating_point() and image.dtype != torch.uint8 and int(image.max()) > 255


def _as_bytes(image: Tensor) -> tuple[Tensor, bool]:
    """A picture in bytes, and whether it was in 0..1."""
    if image.dtype == torch.uint8:
        return image, False
    low, high = (float(edge) for edge in image.aminmax())
    whole = not image.is_floating_point() or np.allclose(image.numpy(), image.trunc().numpy())
    if low < 0 or high > (255 if whole else 1):
        raise InputError(
            "Pillow cannot resize such numbers",
            where="image",
            expected="bytes, whole numbers from 0 to 255, or floats from 0 to 1",
            found=f"{low:g} to {high:g}",
            remedy="Use the fast class of this processor (the name without Pil).",
        )
    return (image if whole else rescale(image, 255)).to(torch.uint8), not whole


def center_crop(image: Tensor, height: int, width: int) -> Tensor:
    """Cut the middle out; a picture that is smaller is padded with zeros, the odd pixel left and above.

    Args:
        image: ``[..., C, H, W]``.
        height, width: the size of the result in pixels.
    """
    ops.check_area(height, width, "cropping")
    missing_y, missing_x = max(height - image.shape[-2], 0), max(width - image.shape[-1], 0)
    if missing_y or missing_x:
        left, top = -(-missing_x // 2), -(-missing_y // 2)
        image = F.pad(image, (left, missing_x - left, top, missing_y - top))
    top = (image.shape[-2] - height) // 2
    left = (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def rescale(image: Tensor, factor: float) -> Tensor:
    """Multiply every value in double precision, and round to float32."""
    return (image.to(torch.float64) * factor).to(torch.float32)


def normalize(
    image: Tensor, mean: float | Sequence[float], std: float | Sequence[float], *, rescale_factor: float | None = None
) -> Tensor:
    """``(image * rescale_factor - mean) / std``, one after the other, in the picture's precision.

    Raises:
        InputError: there are not as many values as channels.
    """
    if rescale_factor is not None:
        image = rescale(image, rescale_factor)
    work = image if image.is_floating_point() else image.to(torch.float32)
    centre, spread = (torch.tensor(values, dtype=work.dtype).reshape(-1, 1, 1) for values in (mean, std))
    return (ops.matching(work, centre, spread) - centre).div_(spread)
