"""Donut's pages: turned as the model reads them, made to fit, and put into the middle of a page of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.inputs.images import ops
from omniform.inputs.images import options as of
from omniform.inputs.images.backends import PILLOW, Backend
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.plans import cropping, resizing, valuing
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.sizes import Exact, ShortestEdge, exact
from omniform.inputs.images.steps import Plan, Resize, Step

_BICUBIC = 3


@dataclass(frozen=True, slots=True)
class Upright:
    """A quarter of a turn clockwise, for a picture that lies where ``size`` stands, or the other way round."""

    size: Exact

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if (height - width) * (self.size.height - self.size.width) < 0:
            return torch.rot90(image, 3, dims=(-2, -1))
        return image


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The size in which a picture fits into a frame; small ones stay as they are."""

    frame: Exact

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        tall, wide = min(height, self.frame.height), min(width, self.frame.width)
        if (tall, wide) == (height, width):
            return height, width
        if height > width:
            return tall, int(width * tall / height)
        if width > height:
            return int(height * wide / width), wide
        return tall, wide


@dataclass(frozen=True, slots=True)
class Centred:
    """Zeros on all sides up to a size, the odd pixel right and below; what is larger is cut."""

    size: Exact

    def __call__(self, image: Tensor) -> Tensor:
        ops.check_area(self.size.height, self.size.width, "padding")
        missing_y, missing_x = self.size.height - image.shape[-2], self.size.width - image.shape[-1]
        top, left = missing_y // 2, missing_x // 2
        return F.pad(image, (left, missing_x - left, top, missing_y - top))


def donut(o: ImageOptions, b: Backend) -> Plan:
    """Donut's: turned, the shorter edge to that of ``size``, fitted into it, padded to it, normalised."""
    d = cast(of.ThumbnailOptions, o)
    shaping: list[Step] = []
    if d.do_align_long_axis:
        shaping.append(Upright(exact(o.size, "size")))
    shaping.extend(resizing(o, b, lambda size: _shorter(exact(size, "size"))))
    if d.do_thumbnail:
        # Pillow's class takes the nearest pixel's filter, whose number is 0, for none.
        resample = o.resample or (_BICUBIC if b == PILLOW or o.resample is None else o.resample)
        shaping.append(Resize(Thumbnail(exact(o.size, "size")), resample, b))
    if o.do_pad:
        shaping.append(Centred(exact(o.size, "size")))
    return Plan((*shaping, *cropping(o, b)), valuing(o, b), None)


def _shorter(size: Exact) -> ShortestEdge:
    return ShortestEdge(min(size.height, size.width))


def width_first(given: dict[str, object], where: str) -> None:
    """A pair as size is a width and a height, as Donut's first files wrote it."""
    size = given.get("size")
    if isinstance(size, (list, tuple)):
        given["size"] = [*reversed(size)]


class DonutImageProcessor(ImageProcessor):
    """Donut's."""

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> ImageOptions:
        given = dict(overrides)
        width_first(given, "")
        return super()._changed(return_tensors, given)
