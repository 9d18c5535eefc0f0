"""Operations on pictures ``[C, H, W]`` (or ``[..., C, H, W]``), on torch alone, with torchvision's pixels.

torch's antialiased ``interpolate`` works on uint8 with Pillow's fixed-point weights; torchvision, which the reference
uses, calls that same kernel. Where torch has no uint8 kernel, both compute in float32 and round.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.media_access import MAX_PIXELS

FILTERS: Final = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a resampling filter (``PIL.Image.Resampling``) and torch's name for it. Box (4) and Hamming (5)
have no torch kernel; the reference refuses them too."""

_SIGNED_AND_UNSIGNED: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def resize(image: Tensor, height: int, width: int, *, resample: int = 2) -> Tensor:
    """Resize, antialiased where the filter smooths.

    Args:
        image: ``[..., C, H, W]`` of any real type; the result has the same.
        height, width: the new size in pixels.
        resample: Pillow's number of the filter, a key of :data:`FILTERS`.

    Raises:
        InputError: the filter is unknown, or the new size is empty or too large to hold.
    """
    mode = FILTERS.get(resample)
    if mode is None:
        names = ", ".join(f"{number} ({name})" for number, name in FILTERS.items())
        raise InputError("unsupported resampling filter", where="resample", expected=names, found=resample)
    old_height, old_width = image.shape[-2:]
    if (height, width) == (old_height, old_width):
        return image
    check_area(height, width, f"resizing {old_height} x {old_width}")
    # torch's uint8 kernels fail an assertion of their own where the result is a single pixel.
    native = _has_kernel(mode, image) and (image.dtype != torch.uint8 or height * width > 1)
    # Bytes are resized fastest as Pillow lays them, channels last; floats are summed in another order then.
    work = image if native else image.to(torch.float32)
    work = work if work.dtype == torch.uint8 else work.contiguous()
    if mode == "lanczos" and image.device.type != "cpu":
        # torch has this filter on the CPU only.
        work = work.cpu()
    batch = work.reshape(-1, *work.shape[-3:])
    smooth = mode != "nearest-exact"
    try:
        batch = F.interpolate(
            batch, size=(height, width), mode=mode, align_corners=False if smooth else None, antialias=smooth
        )
    except (NotImplementedError, ValueError) as error:
        raise DependencyError(f"this torch cannot resize with filter {mode!r}", remedy="Upgrade torch.") from error
    if work.dtype != image.dtype:
        if image.dtype == torch.uint8 and mode in ("bicubic", "lanczos"):
            batch = batch.clamp_(0, 255)
        if image.dtype in _SIGNED_AND_UNSIGNED:
            batch = batch.round_()
    return batch.to(device=image.device, dtype=image.dtype).reshape(*image.shape[:-2], height, width)


def check_area(height: int, width: int, what: str) -> None:
    """Refuse a picture of no pixels, or of more than are held.

    Raises:
        InputError: as said.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"{what} would make an empty or too large picture",
            expected=f"1 to {MAX_PIXELS:,} pixels",
            found=f"{height} x {width} (height x width)",
        )


def _has_kernel(mode: str, image: Tensor) -> bool:
    if image.dtype in (torch.float32, torch.float64):
        return True
    if image.dtype != torch.uint8:
        return False
    if mode == "nearest-exact":
        return True
    if image.device.type != "cpu":
        return False
    if mode != "bilinear":
        return True
    # Without these instructions torch's uint8 bilinear kernel is slower than float32's, and torchvision avoids it.
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def center_crop(image: Tensor, height: int, width: int) -> Tensor:
    """Cut the middle out; a picture that is smaller is first padded with zeros, the odd pixel right and below.

    Args:
        image: ``[..., C, H, W]``.
        height, width: the size of the result in pixels.
    """
    check_area(height, width, "cropping")
    missing_y, missing_x = max(height - image.shape[-2], 0), max(width - image.shape[-1], 0)
    if missing_y or missing_x:
        left, top = missing_x // 2, missing_y // 2
        image = F.pad(image, (left, missing_x - left, top, missing_y - top))
    top = (image.shape[-2] - height) // 2
    left = (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def gather(images: Iterable[Tensor], count: int, size: tuple[int, int] | None) -> Tensor:
    """Gather pictures in one tensor, with zeros below and to the right of those that are smaller.

    Args:
        images: ``[C, H, W]`` each, of one number of channels and one type; taken one by one.
        count: how many there are.
        size: height and width of the result in pixels; those of the first by default.

    Returns:
        ``[N, C, height, width]``.

    Raises:
        InputError: a picture is larger than that, or they differ in channels or type.
    """
    batch: Tensor | None = None
    for number, image in enumerate(images):
        height, width = image.shape[-2:] if size is None else size
        if batch is None:
            check_area(height, width, "padding")
        else:
            height, width = batch.shape[-2:]
        if image.shape[-2] > height or image.shape[-1] > width:
            raise InputError(
                "the picture is larger than the size it is to be padded to",
                where="pad_size",
                expected=f"at least {image.shape[-2]} x {image.shape[-1]} (height x width)",
                found=f"{height} x {width}",
            )
        if batch is None:
            batch = image.new_empty(count, image.shape[0], height, width)
        if image.shape[0] != batch.shape[1] or image.dtype != batch.dtype:
            raise InputError(
                "pictures of different kinds do not make one batch",
                where=f"images[{number}]",
                expected=f"{batch.shape[1]} channels of {batch.dtype}",
                found=f"{image.shape[0]} of {image.dtype}",
                remedy="Pass do_convert_rgb=True, and do_rescale or do_normalize.",
            )
        rows, columns = image.shape[-2:]
        batch[number, :, :rows, :columns] = image
        batch[number, :, rows:] = 0
        batch[number, :, :rows, columns:] = 0
    assert batch is not None
    return batch


def pad_mirrored(image: Tensor, rows: int, columns: int) -> Tensor:
    """A border that mirrors the picture, as often as it takes; the edge itself is not repeated.

    Args:
        image: ``[C, H, W]``.
        rows, columns: how many are added on each side.
    """
    return image[:, _mirror(image.shape[-2], rows, image)][:, :, _mirror(image.shape[-1], columns, image)]


def _mirror(length: int, border: int, image: Tensor) -> Tensor:
    place = torch.arange(-border, length + border, device=image.device)
    period = max(2 * (length - 1), 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place) if length > 1 else torch.zeros_like(place)


def pad_to_square(image: Tensor, colour: Sequence[int]) -> Tensor:
    """Centre the picture on a square of one colour, as long as its longest edge.

    Args:
        image: ``[C, H, W]``.
        colour: one value for each channel.

    Raises:
        InputError: the colour has another number of channels.
    """
    channels, height, width = image.shape
    if height == width:
        return image
    if len(colour) != channels:
        raise InputError(
            "the padding colour does not fit the picture", expected=f"{channels} channels", found=list(colour)
        )
    edge = max(height, width)
    check_area(edge, edge, "padding to a square")
    square = torch.tensor(colour, dtype=image.dtype, device=image.device).view(-1, 1, 1).repeat(1, edge, edge)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[:, top : top + height, left : left + width] = image
    return square


def rescale(image: Tensor, factor: float) -> Tensor:
    """Multiply every value."""
    return image * factor


def normalize(
    image: Tensor, mean: float | Sequence[float], std: float | Sequence[float], *, rescale_factor: float | None = None
) -> Tensor:
    """``(image * rescale_factor - mean) / std``, in float32.

    Rescaling is folded into the mean and the deviation, as the reference does: the same numbers to the last bit.

    Args:
        image: ``[..., C, H, W]`` of any real type.
        mean, std: one value, or one for each channel.
        rescale_factor: None to leave the values as they are.

    Raises:
        InputError: there are not as many values as channels.
    """
    scale = 1.0 if rescale_factor is None else 1.0 / rescale_factor
    centre = (torch.tensor(mean, dtype=torch.float32, device=image.device) * scale).reshape(-1, 1, 1)
    spread = (torch.tensor(std, dtype=torch.float32, device=image.device) * scale).reshape(-1, 1, 1)
    image = matching(image, centre, spread)
    if image.is_floating_point():
        image = image.to(torch.float32)
    # Bytes become floats on the way.
    return (image - centre).div_(spread)


def matching(image: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """The picture with as many channels as there are means: grey is repeated.

    Args:
        image: ``[..., C, H, W]``.
        centre, spread: ``[C, 1, 1]``, or one for all.

    Raises:
        InputError: there are not as many values as channels.
    """
    if image.shape[-3] == 1:
        # Grey is repeated over a longer mean.
        image = image.expand(*image.shape[:-3], max(len(centre), len(spread)), *image.shape[-2:])
    for name, values in (("image_mean", centre), ("image_std", spread)):
        if len(values) not in (1, image.shape[-3]):
            raise InputError(
                "the picture has another number of channels",
                where=name,
                expected=f"{len(values)} channels",
                found=image.shape[-3],
                remedy="Pass do_convert_rgb=True.",
            )
    return image
