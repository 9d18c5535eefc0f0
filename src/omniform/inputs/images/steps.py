"""The steps of a processor, as objects: what is done to each picture, and then to the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.inputs.images import ops
from omniform.inputs.images.ahead import ahead
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.sizes import Exact
from omniform.inputs.images.targets import Target, depth_border


class Step(Protocol):
    """Turns one picture ``[C, H, W]`` into another."""

    def __call__(self, image: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Square:
    """Put the picture in the middle of a square of one colour."""

    colour: tuple[int, ...]

    def __call__(self, image: Tensor) -> Tensor:
        return ops.pad_to_square(image, self.colour)


@dataclass(frozen=True, slots=True)
class Resize:
    """Resize to what ``size`` makes of the picture's shape."""

    size: Target
    resample: int
    backend: Backend

    def __call__(self, image: Tensor) -> Tensor:
        height, width = self.size.target(image.shape[-2], image.shape[-1])
        return self.backend.resize(image, height, width, self.resample)


@dataclass(frozen=True, slots=True)
class ResizeCorners:
    """Resize so that the corners' centres stay where they are, without a filter against aliases (ZoeDepth)."""

    size: Target
    mode: str

    def __call__(self, image: Tensor) -> Tensor:
        height, width = self.size.target(image.shape[-2], image.shape[-1])
        ops.check_area(height, width, f"resizing {image.shape[-2]} x {image.shape[-1]}")
        native = image.is_floating_point() or image.dtype == torch.uint8
        work = (image if native else image.to(torch.float32)).contiguous()
        return F.interpolate(work[None], (height, width), mode=self.mode, align_corners=True)[0]


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """Cut the middle out."""

    size: Exact
    backend: Backend

    def __call__(self, image: Tensor) -> Tensor:
        return self.backend.center_crop(image, self.size.height, self.size.width)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A border that mirrors the picture, so that depths at its edges have something beyond (ZoeDepth)."""

    def __call__(self, image: Tensor) -> Tensor:
        return ops.pad_mirrored(image, *depth_border(image.shape[-2], image.shape[-1]))


@dataclass(frozen=True, slots=True)
class Divisible:
    """Zeros on all sides, so that height and width are multiples of a number (DPT)."""

    divisor: int

    def __call__(self, image: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._border(edge) for edge in image.shape[-2:])
        return F.pad(image, (left, right, top, bottom))

    def _border(self, edge: int) -> tuple[int, int]:
        missing = -edge % self.divisor
        return missing // 2, missing - missing // 2


@dataclass(frozen=True, slots=True)
class Rescale:
    """Multiply the values."""

    factor: float
    backend: Backend

    def __call__(self, image: Tensor) -> Tensor:
        return self.backend.rescale(image, self.factor)

    def into(self, out: Tensor, image: Tensor) -> None:
        """The same, into a place of the result's shape and type."""
        self.backend.rescale_into(out, image, self.factor)


@dataclass(frozen=True, slots=True)
class Shift:
    """Subtract a number."""

    by: float

    def __call__(self, image: Tensor) -> Tensor:
        return image - self.by


@dataclass(frozen=True, slots=True)
class Normalize:
    """Rescale, subtract the mean and divide by the deviation, in one."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    rescale_factor: float | None
    backend: Backend

    def __call__(self, image: Tensor) -> Tensor:
        return self.backend.normalize(image, self.mean, self.std, self.rescale_factor)

    def into(self, out: Tensor, image: Tensor) -> None:
        """The same, into a place of the result's shape and type."""
        self.backend.normalize_into(out, image, self.mean, self.std, self.rescale_factor)


@dataclass(frozen=True, slots=True)
class Flip:
    """Blue, green, red for red, green, blue; a fourth channel stays."""

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[-3] < 3:
            return image
        return torch.cat([image[..., [2, 1, 0], :, :], image[..., 3:, :, :]], dim=-3)


@dataclass(frozen=True, slots=True)
class Reverse:
    """All channels the other way round."""

    def __call__(self, image: Tensor) -> Tensor:
        return image.flip(-3)


@dataclass(frozen=True, slots=True)
class Pad:
    """Pad every picture of a batch below and to the right: to ``size``, or to the largest height and width of all."""

    size: Exact | None

    def target(self, images: Sequence[Tensor]) -> Exact:
        """The size to which these pictures are padded."""
        if self.size is not None:
            return self.size
        return Exact(max(image.shape[-2] for image in images), max(image.shape[-1] for image in images))


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is done in one call.

    Attributes:
        shaping: the steps that change a picture's size, in order.
        valuing: the steps that change its values, after them.
        pad: what brings the batch to one size, at the end.
    """

    shaping: tuple[Step, ...]
    valuing: tuple[Step, ...]
    pad: Pad | None

    def shape(self, images: Iterable[Tensor]) -> list[Tensor]:
        """Each picture, in its new size; as many at a time as torch has threads."""
        return ahead(partial(through, self.shaping), images)

    def finish(self, images: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """The shaped pictures with their new values, padded: one tensor ``[N, C, H, W]`` where they are alike."""
        size = None if self.pad is None else self.pad.target(images)
        first = images[0]
        if size is None and any(image.shape != first.shape or image.dtype != first.dtype for image in images):
            # What no step has changed may be the caller's.
            return [through(self.valuing, image).clone(memory_format=torch.contiguous_format) for image in images]
        batch = ops.Gatherer(len(images), None if size is None else (size.height, size.width))
        last = self.valuing[0] if len(self.valuing) == 1 else None
        # One by one, while each is in the processor's cache, into the batch as soon as it has its values.
        for number, image in enumerate(images):
            if isinstance(last, (Normalize, Rescale)):
                made = last(image[..., :1, :1])
                shape = (len(made), *image.shape[1:])
                last.into(batch.place(number, shape, made.dtype, made.device), image)
            else:
                batch.add(number, through(self.valuing, image))
        assert batch.batch is not None
        return batch.batch


def through(steps: Sequence[Step], image: Tensor) -> Tensor:
    """What steps, one after the other, make of a picture."""
    for step in steps:
        image = step(image)
    return image
