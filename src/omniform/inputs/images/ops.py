"""Operations on pictures ``[C, H, W]`` (or ``[..., C, H, W]``), on torch alone, with torchvision's pixels.

torch's antialiased ``interpolate`` works on uint8 with Pillow's fixed-point weights; torchvision, which the reference
uses, calls that same kernel. Where torch has no uint8 kernel, both compute in float32 and round.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.media_access import MAX_PIXELS

FILTERS: Final = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a resampling filter (``PIL.Image.Resampling``) and torch's name for it. Box (4) and Hamming (5)
have no torch kernel; the reference refuses them too."""

# So many numbers are computed at a time: 512 KiB, which is less than a processor's cache.
_PART: Final = 1 << 17

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
    work = _laid(image) if native else image.to(torch.float32).contiguous()
    if mode == "lanczos" and image.device.type != "cpu":
        # torch has this filter on the CPU only.
        work = work.cpu()
    batch = alone(work) if work.dim() == 3 else work.reshape(-1, *work.shape[-3:])
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
    batch = batch[:, : image.shape[-3]]
    return batch.to(device=image.device, dtype=image.dtype).reshape(*image.shape[:-2], height, width)


def alone(image: Tensor) -> Tensor:
    """A batch of this picture ``[C, H, W]`` alone, nothing moved.

    Where channels lie last, ``image[None]`` has a stride by which torch does not see that: it takes twice as long for
    bytes, and seven times for maps of 150 labels.
    """
    if image.stride(0) == 1:
        return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return image[None]


def _laid(image: Tensor) -> Tensor:
    """The picture as its kernel reads it fastest.

    Bytes stay as Pillow lays them, channels last, and three of four bytes take the fourth along. Floats would be summed
    in another order then.
    """
    if image.dtype != torch.uint8:
        return image.contiguous()
    if image.ndim == 3 and image.shape[0] == 3 and image.stride() == (1, 4 * image.shape[2], 4):
        ends = image.storage_offset() + 4 * image.shape[1] * image.shape[2]
        if ends <= image.untyped_storage().nbytes():
            return image.as_strided((4, *image.shape[1:]), image.stride())
    return image


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


@dataclass(slots=True)
class Gatherer:
    """One tensor that pictures go into, with zeros below and to the right of those that are smaller.

    Attributes:
        count: how many pictures there are.
        size: height and width of all; those of the first by default.
    """

    count: int
    size: tuple[int, int] | None
    batch: Tensor | None = None

    def add(self, number: int, image: Tensor) -> None:
        """Put a picture ``[C, H, W]`` in; the first one says how many channels there are, and of which type.

        Raises:
            InputError: it is larger than the others, or has other channels or another type.
        """
        place = self.place(number, image.shape, image.dtype, image.device)
        place.copy_(image)

    def place(self, number: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Where a picture of a shape ``[C, H, W]`` goes.

        Raises:
            InputError: as for :meth:`add`.
        """
        channels, rows, columns = shape
        height, width = (rows, columns) if self.size is None else self.size
        if self.batch is None:
            check_area(height, width, "padding")
            self.batch = torch.empty(self.count, channels, height, width, dtype=dtype, device=device)
        height, width = self.batch.shape[-2:]
        if rows > height or columns > width:
            raise InputError(
                "the picture is larger than the size it is to be padded to",
                where="pad_size",
                expected=f"at least {rows} x {columns} (height x width)",
                found=f"{height} x {width}",
            )
        if channels != self.batch.shape[1] or dtype != self.batch.dtype:
            raise InputError(
                "pictures of different kinds do not make one batch",
                where=f"images[{number}]",
                expected=f"{self.batch.shape[1]} channels of {self.batch.dtype}",
                found=f"{channels} of {dtype}",
                remedy="Pass do_convert_rgb=True, and do_rescale or do_normalize.",
            )
        own = self.batch[number]
        own[:, rows:] = 0
        own[:, :rows, columns:] = 0
        return own[:, :rows, :columns]


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
    centre, spread = _folded(mean, std, rescale_factor, image.device)
    image = matching(image, centre, spread)
    out = torch.empty(image.shape, dtype=torch.float32, device=image.device)
    _normalize_into(out, image, centre, spread)
    return out


def normalize_into(
    out: Tensor,
    image: Tensor,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    rescale_factor: float | None = None,
) -> None:
    """As :func:`normalize`, into a float32 tensor of the result's shape.

    Raises:
        InputError: there are not as many values as channels.
    """
    centre, spread = _folded(mean, std, rescale_factor, image.device)
    _normalize_into(out, matching(image, centre, spread), centre, spread)


def _normalize_into(out: Tensor, image: Tensor, centre: Tensor, spread: Tensor) -> None:
    # Row by row while a part is in the processor's cache: memory is written once.
    rows = max(_PART // max(image[..., :1, :].numel(), 1), 1)
    for top in range(0, image.shape[-2], rows):
        part = out[..., top : top + rows, :]
        part.copy_(image[..., top : top + rows, :]).sub_(centre).div_(spread)


def _folded(
    mean: float | Sequence[float], std: float | Sequence[float], rescale_factor: float | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    scale = 1.0 if rescale_factor is None else 1.0 / rescale_factor
    centre, spread = (torch.tensor(values, dtype=torch.float32, device=device) * scale for values in (mean, std))
    return centre.reshape(-1, 1, 1), spread.reshape(-1, 1, 1)


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
