"""OWLv2's way to make pictures smaller: blurred by as much as they shrink, then read between their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import DependencyError
from omniform.inputs.images import ops
from omniform.inputs.images import options as of
from omniform.inputs.images.backends import PILLOW, Backend
from omniform.inputs.images.plans import normalizing, rescaling
from omniform.inputs.images.sizes import Exact, exact
from omniform.inputs.images.steps import Plan, Step


@dataclass(frozen=True, slots=True)
class FilledUp:
    """Zeros below or at the right, so that the picture is a square."""

    def __call__(self, image: Tensor) -> Tensor:
        edge = max(image.shape[-2:])
        if image.shape[-2] == image.shape[-1]:
            return image
        ops.check_area(edge, edge, "padding to a square")
        return F.pad(image, (0, edge - image.shape[-1], 0, edge - image.shape[-2]))


@dataclass(frozen=True, slots=True)
class SmoothResize:
    """Blur by half of how many pixels become one, where both edges shrink; then resize without another filter."""

    size: Exact

    def __call__(self, image: Tensor) -> Tensor:
        height, width = self.size.height, self.size.width
        ops.check_area(height, width, "resizing")
        factors = torch.tensor(image.shape[-2:]) / torch.tensor((height, width))
        spreads: list[float] = ((factors - 1) / 2).clamp(min=0).tolist()
        # The reference takes what it has computed for the rows for the columns, and the other way round.
        blurred = blur(image, down=spreads[1], across=spreads[0]) if all(spreads) else image
        native = blurred.is_floating_point() or blurred.dtype == torch.uint8
        work = blurred if native else blurred.float()
        return F.interpolate(ops.alone(work), (height, width), mode="bilinear", align_corners=False)[0]


def blur(image: Tensor, *, down: float, across: float) -> Tensor:
    """A Gaussian filter, three deviations wide on either side; beyond its edges the picture is mirrored.

    Args:
        image: ``[C, H, W]``.
        down, across: deviations in pixels, along columns and along rows.
    """
    tall, wide = _kernel(down), _kernel(across)
    framed = ops.pad_mirrored(image.float(), len(tall) // 2, len(wide) // 2)
    # One kernel of both axes, which rounds as the reference's; two passes would be faster.
    kernel = (tall[:, None] * wide).expand(len(framed), 1, -1, -1)
    blurred = F.conv2d(framed[None].contiguous(), kernel, groups=len(framed))[0]
    return blurred if image.is_floating_point() else blurred.round().to(image.dtype)


def _kernel(spread: float) -> Tensor:
    reach = math.ceil(3 * spread)
    edge = torch.tensor(2 * reach) / (2 * math.sqrt(2.0))
    places = torch.linspace(-edge, edge, steps=2 * reach + 1)
    return (places / spread).square().neg().softmax(0)


@dataclass(frozen=True, slots=True)
class ZoomResize:
    """The same as scipy does it, which is how the model was trained.

    Attributes:
        size: to resize to.
        smooth: whether to blur.
    """

    size: Exact
    smooth: bool

    def __call__(self, image: Tensor) -> Tensor:
        try:
            from scipy import ndimage
        except ImportError as error:
            raise DependencyError(
                "OWLv2's pictures are resized by scipy", where="backend", remedy="pip install 'omniform[vision]'"
            ) from error
        ops.check_area(self.size.height, self.size.width, "resizing")
        pixels = image.permute(1, 2, 0).numpy()
        factors = [old / new for old, new in zip(pixels.shape, (self.size.height, self.size.width), strict=False)] + [
            1.0
        ]
        spreads = [max(0.0, (factor - 1) / 2) for factor in factors]
        blurred = ndimage.gaussian_filter(pixels, spreads, cval=0, mode="mirror") if self.smooth else pixels
        zoomed = ndimage.zoom(blurred, [1 / f for f in factors], order=1, mode="mirror", cval=0, grid_mode=True)
        return torch.from_numpy(zoomed.clip(pixels.min(), pixels.max())).permute(2, 0, 1)


def owlv2(o: of.ImageOptions, b: Backend) -> Plan:
    """OWLv2's: rescaled, filled up to a square, resized smoothly, normalised."""
    shaping: tuple[Step, ...] = rescaling(o, b)
    if o.do_pad:
        shaping = (*shaping, FilledUp())
    if o.do_resize:
        size = exact(o.size, "size")
        # Pillow's class hands its filter on as whether to blur.
        shaping = (*shaping, ZoomResize(size, bool(o.resample)) if b == PILLOW else SmoothResize(size))
    return Plan(shaping, normalizing(o, PILLOW, None), None)
