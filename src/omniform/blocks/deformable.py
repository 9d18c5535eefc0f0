"""Deformable attention over feature maps of several sizes: each head looks at a few places of its own choice.

Source: Zhu et al. 2020, "Deformable DETR" (https://arxiv.org/abs/2010.04159), section 4.1.

Whatever way places are read in, it is a weighted sum of a few rows of the memory, the four pixels around each place
among them: torch's ``embedding_bag``, which keeps none of the rows. ``grid_sample`` lays out the values of all places
first: it took 3 to 4 times as long on one core (300 queries on 8,400 places; 4,500 on as many).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.positioned import PlacedContext, placed
from omniform.core.context import StepContext
from omniform.core.errors import InputError

_FIELDS = tuple(f.name for f in fields(StepContext))

Sizes = Sequence[tuple[int, int]]
"""Height and width of each map, in the order in which their places stand in the memory, row by row."""


_FIELDS = tuple(f.name for f in fields(StepContext))


@dataclass(frozen=True, slots=True)
class MapContext(PlacedContext):
    """A step whose memory is the places of several maps.

    Attributes:
        sizes: of the maps.
        references: where each query stands on each map, or on all of them: a point (x and y), or a box (centre x and y,
            width and height), as parts of the map's size. Shape: [B or 1, Q, levels or 1, 2 or 4].
    """

    sizes: tuple[tuple[int, int], ...] = ()
    references: Tensor | None = None

    @classmethod
    def on(cls, ctx: StepContext, sizes: Sizes, references: Tensor, places: Tensor | None = None) -> MapContext:
        """``ctx`` on maps, its queries with places."""
        kept = {name: getattr(ctx, name) for name in _FIELDS}
        return cls(**kept, places=places, sizes=tuple(sizes), references=references)


class Sampling(Protocol):
    """How a value is read at a place between pixels.

    Args:
        places: x and y as parts of a map's size, Shape: [..., levels, points, 2].
        weights: of each place in the sum, Shape: [..., levels, points].
        sizes: of the maps.

    Returns:
        Which rows of the memory to read, as int32, and what each counts. Shape: [..., levels, points, n] both.
    """

    def __call__(self, places: Tensor, weights: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]: ...


def bilinear(places: Tensor, weights: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The four pixels around each place, by how near they are; outside of the map there are zeros. See `Sampling`."""
    size, starts = _layout(sizes, places)
    # Beyond one pixel outside nothing counts, so a place that is far away may as well be there.
    at = torch.minimum((places.float() * size - 0.5).clamp(min=-1), size)
    low = at.floor()
    part = at - low
    near, far = (1 - part) * ((low >= 0) & (low < size)), part * (low < size - 1)
    # As whole numbers: what is no number is a place like any other then, and its weight tells.
    last, whole = size.int() - 1, low.int()
    first, second = whole.clamp(min=0).minimum(last), (whole + 1).clamp(min=0).minimum(last)
    (x0, y0), (x1, y1) = first.unbind(-1), second.unbind(-1)
    (left, upper), (right, lower) = near.unbind(-1), far.unbind(-1)
    widths = last[..., 0] + 1
    above, below = y0 * widths + starts, y1 * widths + starts
    upper, lower = weights * upper, weights * lower
    rows = torch.stack((above + x0, above + x1, below + x0, below + x1), dim=-1)
    return rows, torch.stack((upper * left, upper * right, lower * left, lower * right), dim=-1)


def nearest(places: Tensor, weights: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The pixel whose corner is nearest; on the border for places outside (RT-DETR v2: ``discrete``)."""
    size, starts = _layout(sizes, places)
    at = (places * size.to(places.dtype) + 0.5).clamp(min=0).minimum(size.to(places.dtype)).int()
    x, y = at.clamp(min=0).minimum(size.int() - 1).unbind(-1)
    return (y * size[..., 0].int() + x + starts)[..., None], weights[..., None]


def _layout(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height, Shape: [levels, 1, 2], and the first row of each map in the memory, Shape: [levels, 1]."""
    starts = list(accumulate((height * width for height, width in sizes), initial=0))[:-1]
    size = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32, device=like.device)
    return size[:, None], torch.tensor(starts, dtype=torch.int32, device=like.device)[:, None]


def sampled(
    values_BSHD: Tensor, places_BQHLP2: Tensor, weights_BQHLP: Tensor, sizes: Sizes, sampling: Sampling = bilinear
) -> Tensor:
    """Weighted sums of values at places of several maps.

    Args:
        values_BSHD: by head, of all maps' places one after another, Shape: [B, S, H, D].
        places_BQHLP2: x and y as parts of a map's size, Shape: [B, Q, H, levels, points, 2].
        weights_BQHLP: Shape: [B, Q, H, levels, points].
        sizes: of the maps.
        sampling: how a value is read between pixels.

    Returns:
        Shape: [B, Q, H * D].
    """
    batch, places, heads, width = values_BSHD.shape
    rows, weights = sampling(places_BQHLP2, weights_BQHLP, sizes)
    queries = rows.shape[1]
    numbers = torch.arange(batch * heads, dtype=torch.int32, device=rows.device).view(batch, 1, heads, 1, 1, 1)
    # The memory's rows are numbered by picture, place and head.
    bags = rows * heads + numbers + numbers.div(heads, rounding_mode="floor") * ((places - 1) * heads)
    mixed = F.embedding_bag(
        bags.flatten(3).flatten(0, 2),
        values_BSHD.flatten(0, 2),
        per_sample_weights=weights.flatten(3).flatten(0, 2).to(values_BSHD.dtype),
        mode="sum",
    )
    return mixed.view(batch, queries, heads * width)


class OffsetLinear(nn.Linear):
    """Where the heads look from a query's place: at first each in a direction of its own, one step further per point.

    Args:
        heads: by which its outputs are cut first; then by map, by point, and into x and y.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__(dim, heads * levels * points * 2)
        self.cut = (heads, levels, points, 2)

    def reset(self, std: float) -> None:
        """The beginning that the paper's authors use: no learned part, only the fixed directions."""
        heads, _, points, _ = self.cut
        angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float32)
        grid = directions[:, None, None] * steps[:, None]
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.bias.copy_(grid.expand(self.cut).flatten())


class EvenLinear(nn.Linear):
    """A projection that begins with zeros: all places count alike."""

    def reset(self, std: float) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class XavierLinear(nn.Linear):
    """A projection that begins so that a signal keeps its variance (https://proceedings.mlr.press/v9/glorot10a.html)."""

    def reset(self, std: float) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class DeformableAttention(nn.Module):
    """Self-attention over the places of several maps; the step is a :class:`MapContext`.

    Args:
        dim: width of the residual stream.
        heads: number of heads; divides ``dim``.
        levels: how many maps there are.
        points: how many places of each map a head looks at.
        reach: how far a point of offset 1 times the number of points lies from a box's centre, in sizes of the box.
        sampling: how a value is read between pixels.
    """

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, *, reach: float = 0.5, sampling: Sampling = bilinear
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.reach = reach
        self.sampling = sampling
        self.sampling_offsets = OffsetLinear(dim, heads, levels, points)
        self.attention_weights = EvenLinear(dim, heads * levels * points)
        self.value_proj = XavierLinear(dim, dim)
        self.output_proj = XavierLinear(dim, dim)

    def forward(self, x_BQD: Tensor, ctx: StepContext) -> Tensor:
        """Look at a few places of the maps.

        Args:
            x_BQD: Shape: [B, Q, D].

        Returns:
            Shape: [B, Q, D].

        Raises:
            InputError: the maps' sizes do not fit the memory, or are not as many as this attention looks at.
        """
        assert isinstance(ctx, MapContext) and ctx.references is not None
        memory, padding = self.memory(x_BQD, ctx)
        self._check(memory, ctx.sizes)
        values = self.value_proj(memory)
        if padding is not None:
            values = values.masked_fill(~padding[..., None], 0.0)
        here = placed(x_BQD, ctx.places)
        cut = (*x_BQD.shape[:2], self.heads, self.levels, self.points)
        weights = self.attention_weights(here).view(*cut[:3], -1).softmax(-1).view(cut)
        if ctx.taps.wants_attentions:
            self.note(weights, ctx)
        places = self.places(self.sampling_offsets(here).view(*cut, 2), ctx.references, ctx.sizes)
        mixed = sampled(values.unflatten(-1, (self.heads, -1)), places, weights, ctx.sizes, self.sampling)
        out: Tensor = self.output_proj(mixed)
        return out

    def memory(self, x_BQD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor | None]:
        """What is looked at, Shape: [B, S, D], and which places of it are real, Shape: [B, S]."""
        return x_BQD, ctx.padding

    def note(self, weights_BQHLP: Tensor, ctx: StepContext) -> None:
        """Note the weights of all places for whoever asked."""
        ctx.taps.attentions.append(weights_BQHLP)

    def places(self, offsets_BQHLP2: Tensor, references: Tensor, sizes: Sizes) -> Tensor:
        """Where to look: offsets from points are in pixels, those from boxes in parts of the box.

        Shape: [B, Q, H, levels, points, 2] in and out; for ``references`` see :class:`MapContext`.
        """
        centres = references[:, :, None, :, None, :2]
        if references.shape[-1] == 2:
            pixels = [(width, height) for height, width in sizes]
            return centres + offsets_BQHLP2 / offsets_BQHLP2.new_tensor(pixels)[:, None]
        return centres + offsets_BQHLP2 / self.points * references[:, :, None, :, None, 2:] * self.reach

    def _check(self, memory_BSD: Tensor, sizes: Sizes) -> None:
        count = sum(height * width for height, width in sizes)
        if count != memory_BSD.shape[1] or len(sizes) != self.levels:
            raise InputError(
                "the maps do not fit what is looked at",
                where="sizes",
                expected=f"{self.levels} maps of {memory_BSD.shape[1]} places altogether",
                found=f"{[*sizes]}, {count} places",
            )

    def extra_repr(self) -> str:
        return f"heads={self.heads}, levels={self.levels}, points={self.points}, reach={self.reach}"


class DeformableCrossAttention(DeformableAttention):
    """The same for queries that look at an encoder's maps."""

    def memory(self, x_BQD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor | None]:
        assert ctx.memory is not None
        return ctx.memory.hidden, ctx.memory.padding

    def note(self, weights_BQHLP: Tensor, ctx: StepContext) -> None:
        ctx.taps.cross_attentions.append(weights_BQHLP)


def centres(sizes: Sizes, ratios_BL2: Tensor) -> Tensor:
    """The middle of every pixel of every map, as parts of each map's size where the picture does not fill it.

    Args:
        sizes: of the maps.
        ratios_BL2: which part of each map's width and height the picture fills, Shape: [B, levels, 2].

    Returns:
        x and y of every place on every level, Shape: [B, S, levels, 2].
    """
    dtype, device = ratios_BL2.dtype, ratios_BL2.device
    points = []
    for level, (height, width) in enumerate(sizes):
        rows = (torch.arange(height, dtype=dtype, device=device) + 0.5)[:, None].expand(height, width)
        columns = (torch.arange(width, dtype=dtype, device=device) + 0.5).expand(height, width)
        at = torch.stack((columns, rows), dim=-1).flatten(0, 1)
        filled = ratios_BL2[:, level, None] * ratios_BL2.new_tensor((width, height))
        points.append(at / filled)
    return torch.cat(points, dim=1)[:, :, None] * ratios_BL2[:, None]


def filled(real_BHW: Tensor) -> Tensor:
    """Which part of a map's width and height the picture fills. Shape: [B, H, W], True inside it, to [B, 2]."""
    height, width = real_BHW.shape[1:]
    return torch.stack((real_BHW[:, 0].sum(1) / width, real_BHW[:, :, 0].sum(1) / height), dim=-1)
