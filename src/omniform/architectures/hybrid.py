"""The encoder of RT-DETR: attention within the coarse maps, convolutions from map to map.

Source: Zhao et al. 2023, "DETRs Beat YOLOs on Real-time Object Detection" (https://arxiv.org/abs/2304.08069), 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.layers import PostNorm, passed
from omniform.blocks.mlp import activation
from omniform.blocks.positioned import PlacedContext
from omniform.core.context import StepContext


class ConvNorm(nn.Module):
    """A convolution without bias, a batch norm and an activation; it keeps the size of a map, up to its stride.

    Args:
        act: name of the activation.
        eps: of the batch norm.
    """

    def __init__(self, inner: int, outer: int, size: int, *, eps: float, act: str = "linear", stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outer, eps)
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        return self._act(self.norm(self.conv(x_BCHW)))


class RepBlock(nn.Module):
    """The activated sum of convolutions of 3x3 and 1x1 (RepVGG, https://arxiv.org/abs/2101.03697)."""

    def __init__(self, channels: int, *, act: str, eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, eps=eps)
        self.conv2 = ConvNorm(channels, channels, 1, eps=eps)
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        return self._act(self.conv1(x_BCHW) + self.conv2(x_BCHW))


class FusionBlock(nn.Module):
    """Two ways through a map, one of them deep, and their sum (CSPNet, https://arxiv.org/abs/1911.11929).

    Args:
        inner: channels of what comes in.
        outer: of what goes out.
        hidden: of both ways.
    """

    def __init__(self, inner: int, outer: int, hidden: int, *, act: str, eps: float, depth: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inner, hidden, 1, act=act, eps=eps)
        self.conv2 = ConvNorm(inner, hidden, 1, act=act, eps=eps)
        self.bottlenecks = nn.Sequential(*(RepBlock(hidden, act=act, eps=eps) for _ in range(depth)))
        self.conv3 = nn.Identity() if hidden == outer else ConvNorm(hidden, outer, 1, act=act, eps=eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H, W]."""
        out: Tensor = self.conv3(self.bottlenecks(self.conv1(x_BCHW)) + self.conv2(x_BCHW))
        return out


@dataclass(frozen=True)
class GridPlaces:
    """Sines and cosines of a pixel's row, then of its column, counted in pixels.

    Attributes:
        dim: width of a position vector; a multiple of 4.
        temperature: the longest wavelength, in turns of 2 pi pixels.
    """

    dim: int
    temperature: float

    def __call__(self, size: tuple[int, int], like: Tensor, *, training: bool) -> Tensor | None:
        """Position vectors of a map, row by row. Shape: [1, H * W, D]; None where there are to be none."""
        height, width = size
        quarter = self.dim // 4
        # Twice as exact as what follows, as the reference has it; Apple's devices have no such numbers.
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        speeds = self.temperature ** (-torch.arange(quarter, dtype=exact, device=like.device) / quarter)
        rows = torch.arange(height, dtype=exact, device=like.device)[:, None, None] * speeds
        columns = torch.arange(width, dtype=exact, device=like.device)[None, :, None] * speeds
        waves = [w.expand(height, width, -1) for w in (rows.sin(), rows.cos(), columns.sin(), columns.cos())]
        return torch.cat(waves, dim=-1).to(like.dtype).flatten(0, 1)[None]


class TrainedGridPlaces(GridPlaces):
    """The same in training only; otherwise there are none (``eval_size``)."""

    def __call__(self, size: tuple[int, int], like: Tensor, *, training: bool) -> Tensor | None:
        return super().__call__(size, like, training=training) if training else None


class RenormedLayer(PostNorm):
    """Norms before each branch, of which the second norms what is added to as well (``normalize_before``)."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.self_attn(self.self_attn_layer_norm(x_BTD), ctx), ctx)
        x_BTD = self.final_layer_norm(x_BTD)
        return self.add(x_BTD, self.mlp(x_BTD), ctx)


class MapEncoder(Composed):
    """Layers of attention over the places of one map."""

    layers: nn.ModuleList
    places: GridPlaces

    def forward(self, x_BCHW: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        x = x_BCHW.flatten(2).transpose(1, 2)
        here = PlacedContext.of(ctx, self.places(size, x, training=self.training))
        for number, layer in enumerate(self.layers):
            x = passed(layer, number, x, here)
        # In rows again: convolutions round otherwise, and are no faster, where channels lie side by side.
        return x.transpose(1, 2).reshape(x_BCHW.shape).contiguous()


class HybridEncoder(Composed):
    """Attention within some maps, then from coarse to fine and back again.

    Args:
        aifi: attention over the maps that ``indices`` names.
        lateral_convs: the coarser map, before it is enlarged to the finer one.
        fpn_blocks: both of them, from coarse to fine.
        downsample_convs: the finer map to the coarser one's size.
        pan_blocks: both of them, from fine to coarse.
    """

    aifi: nn.ModuleList
    indices: tuple[int, ...]
    lateral_convs: nn.ModuleList
    fpn_blocks: nn.ModuleList
    downsample_convs: nn.ModuleList
    pan_blocks: nn.ModuleList

    def forward(self, maps: Sequence[Tensor], ctx: StepContext) -> list[Tensor]:
        """Maps from fine to coarse. Shape: [B, C, H, W] each, in and out."""
        maps = list(maps)
        for encoder, index in zip(self.aifi, self.indices, strict=True):
            if len(cast(MapEncoder, encoder).layers):
                if not ctx.taps.hidden_states:
                    ctx.taps.hidden(maps[index])
                maps[index] = encoder(maps[index], ctx)
                ctx.taps.hidden(maps[index])
        up = [maps[-1]]
        for lateral, block, finer in zip(self.lateral_convs, self.fpn_blocks, maps[-2::-1], strict=True):
            up[-1] = lateral(up[-1])
            # Twice as large; by size, so that maps of odd sizes meet as well.
            enlarged = F.interpolate(up[-1], size=finer.shape[-2:], mode="nearest")
            up.append(block(torch.cat((enlarged, finer), dim=1)))
        down = [up[-1]]
        for smaller, block, coarser in zip(self.downsample_convs, self.pan_blocks, up[-2::-1], strict=True):
            down.append(block(torch.cat((smaller(down[-1]), coarser), dim=1)))
        return down
