"""SEANet (https://arxiv.org/abs/2009.02095): convolutions from samples to frames and back, as neural codecs have them.

Steps beyond the ends are made so that no step is lost: a stride s makes ``ceil(T / s)`` steps of T.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.convolutions import SoundConv1d, SoundConvTranspose1d
from omniform.blocks.weight_norm import NormedConv1d, NormedConvTranspose1d
from omniform.core.errors import InputError
from omniform.core.heard import Heard

Ends = Literal["reflect", "constant", "replicate"]
"""What stands beyond the ends of a sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeaNetSpec:
    """What the convolutions of a SEANet have in common.

    Attributes:
        channels: of the samples.
        dim: of the frames.
        filters: channels at the samples' rate; every stride doubles them.
        ratios: steps that become one, from the frames on.
        residuals: residual blocks for each stride.
        growth: by how much each of these looks wider than the one before.
        compress: by how much their insides are narrower.
        kernel: of the convolution next to the samples, in an encoder; ``last`` next to the frames.
        inner: kernel of the residual blocks.
        shortcut: whether what is added to is convolved.
        causal: whether no step looks ahead.
        trimmed: which part of what a transposed convolution writes too much is cut off at the right.
        ends: what stands beyond the ends.
        norm: ``weight``, ``group`` or ``none``.
    """

    channels: int
    dim: int
    filters: int
    ratios: tuple[int, ...]
    residuals: int
    growth: int
    compress: int
    kernel: int
    last: int
    inner: int
    shortcut: bool
    causal: bool
    trimmed: float
    ends: Ends
    norm: Literal["weight", "group", "none"]

    def conv(
        self, inside: int, outside: int, kernel: int, *, stride: int = 1, dilation: int = 1, ends: Ends | None = None
    ) -> PaddedConv:
        """One convolution that loses no step."""
        conv: nn.Module
        if self.norm == "weight":
            conv = NormedConv1d(inside, outside, kernel, stride=stride, dilation=dilation)
        else:
            conv = SoundConv1d(inside, outside, kernel, stride=stride, dilation=dilation)
        return PaddedConv(
            conv=conv,
            norm=nn.GroupNorm(1, outside) if self.norm == "group" else None,
            reach=(kernel - 1) * dilation + 1,
            stride=stride,
            causal=self.causal,
            ends=self.ends if ends is None else ends,
        )

    def widening(self, inside: int, outside: int, ratio: int) -> TrimmedConv:
        """One that makes more steps of few."""
        kinds = {"weight": NormedConvTranspose1d, "group": nn.ConvTranspose1d, "none": SoundConvTranspose1d}
        conv = kinds[self.norm](inside, outside, 2 * ratio, stride=ratio)
        return self.trimming(conv, ratio, nn.GroupNorm(1, outside) if self.norm == "group" else None)

    def trimming(self, conv: nn.Module, over: int, norm: nn.GroupNorm | None = None) -> TrimmedConv:
        """A transposed convolution without the steps, ``over`` of them, that it writes beyond the ends."""
        right = math.ceil(over * self.trimmed) if self.causal else over // 2
        return TrimmedConv(conv=conv, norm=norm, left=over - right, right=right)

    def residual(self, dim: int, dilation: int) -> ResidualBlock:
        """One residual block."""
        hidden = dim // self.compress
        return ResidualBlock(
            block=nn.ModuleList(
                (
                    nn.ELU(),
                    self.conv(dim, hidden, self.inner, dilation=dilation),
                    nn.ELU(),
                    self.conv(hidden, dim, 1),
                )
            ),
            shortcut=self.conv(dim, dim, 1) if self.shortcut else nn.Identity(),
        )

    def residuals_of(self, dim: int) -> list[nn.Module]:
        """Those for one stride."""
        return [self.residual(dim, self.growth**number) for number in range(self.residuals)]

    def encoder(self, middle: Sequence[nn.Module] = ()) -> Chain:
        """Samples to frames.

        Args:
            middle: what reads the narrowest steps before they become frames.
        """
        layers: list[nn.Module] = [self.conv(self.channels, self.filters, self.kernel)]
        dim = self.filters
        for ratio in reversed(self.ratios):
            layers += [*self.residuals_of(dim), nn.ELU(), self.conv(dim, 2 * dim, 2 * ratio, stride=ratio)]
            dim *= 2
        return Chain([*layers, *middle, nn.ELU(), self.conv(dim, self.dim, self.last)])

    def decoder(self, middle: Sequence[nn.Module] = ()) -> Chain:
        """Frames to samples."""
        dim = self.width
        layers: list[nn.Module] = [self.conv(self.dim, dim, self.kernel), *middle]
        for ratio in self.ratios:
            layers += [nn.ELU(), self.widening(dim, dim // 2, ratio), *self.residuals_of(dim // 2)]
            dim //= 2
        return Chain([*layers, nn.ELU(), self.conv(dim, self.channels, self.last)])

    @property
    def width(self) -> int:
        """Channels where steps are fewest."""
        return int(self.filters * 2 ** len(self.ratios))

    @property
    def hop(self) -> int:
        """Samples that become one frame."""
        return math.prod(self.ratios)


class PaddedConv(Composed):
    """A convolution that is given steps beyond the ends.

    Args:
        conv: without padding.
        norm: of what comes out, over all steps and channels; None for nothing.
        reach: steps from the first that an output looks at to the last.
        stride: of the convolution.
        causal: whether all those steps stand before the first.
        ends: what they hold.
        slot: its number among the convolutions of a stack that hears sounds in pieces.
    """

    conv: nn.Module
    norm: nn.GroupNorm | None
    reach: int
    stride: int
    causal: bool
    ends: Ends
    slot: int = -1

    def beyond(self, length: int) -> tuple[int, int]:
        """Steps to be added before the first and behind the last of so many."""
        total, missing = self.reach - self.stride, -length % self.stride
        right = 0 if self.causal else total // 2
        return total - right, right + missing

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', ceil(T / stride)]."""
        made: Tensor = self.conv(extended(x_BCT, self.beyond(x_BCT.shape[-1]), self.ends))
        return made if self.norm is None else self.norm(made)

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] to [B, C', the steps that are complete now].

        Raises:
            InputError: outputs look ahead, or before the first stands what only later pieces will tell.
        """
        before = heard.steps.get(self.slot)
        if before is None and x_BCT.shape[-1]:
            before = x_BCT[..., :0]
            x_BCT = F.pad(x_BCT, (self.reach - self.stride, 0), self._begins())
        if before is not None:
            x_BCT = torch.cat((before, x_BCT), dim=-1)
        lacking = self.reach - x_BCT.shape[-1]
        if lacking > 0:
            used, read = 0, F.pad(x_BCT, (0, lacking))
        else:
            used = (-lacking // self.stride + 1) * self.stride
            read = x_BCT[..., : used + self.reach - self.stride]
        made: Tensor = self.conv(read)[..., : used // self.stride]
        if before is not None:
            heard.steps[self.slot] = x_BCT[..., used:]
        return made if self.norm is None else self.norm(made)

    def _begins(self) -> Ends:
        """What stands before a sound that comes in pieces."""
        if not self.causal or self.ends == "reflect":
            raise InputError(
                "this model cannot hear sounds in pieces",
                where="padding_cache",
                expected="causal convolutions (use_causal_conv), and zeros or the first step before a sound (pad_mode)",
                found=self.extra_repr(),
            )
        return self.ends

    def extra_repr(self) -> str:
        return f"causal={self.causal}, ends={self.ends}"


def extended(x_BCT: Tensor, beyond: tuple[int, int], ends: Ends) -> Tensor:
    """A sound with steps beyond its ends. One that is too short to be mirrored stands before zeros for that."""
    short = max(beyond) - x_BCT.shape[-1] + 1 if ends == "reflect" else 0
    if short <= 0:
        return F.pad(x_BCT, beyond, ends)
    longer = F.pad(F.pad(x_BCT, (0, short)), beyond, ends)
    return longer[..., : longer.shape[-1] - short]


class TrimmedConv(Composed):
    """A transposed convolution without what it writes beyond the ends.

    Args:
        conv: makes more steps of few.
        norm: of what comes out, before it is trimmed; None for nothing.
        left: steps to cut off before the first.
        right: behind the last.
    """

    conv: nn.Module
    norm: nn.GroupNorm | None
    left: int
    right: int

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', T * stride]."""
        made: Tensor = self.conv(x_BCT)
        if self.norm is not None:
            made = self.norm(made)
        return made[..., self.left : made.shape[-1] - self.right]


class ResidualBlock(Composed):
    """Convolutions around which the steps go.

    Args:
        block: one after another.
        shortcut: what the steps go through beside them.
    """

    block: nn.ModuleList
    shortcut: nn.Module

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        made = x_BCT
        for layer in self.block:
            made = layer(made)
        added: Tensor = self.shortcut(x_BCT) + made
        return added

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] in and out."""
        return _streamed((self.shortcut,), x_BCT, heard) + _streamed(self.block, x_BCT, heard)


class Chain(nn.Module):
    """Layers one after another.

    Args:
        layers: called as ``layer(x)``.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', T']."""
        for layer in self.layers:
            x_BCT = layer(x_BCT)
        return x_BCT

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] to [B, C', T']."""
        return _streamed(self.layers, x_BCT, heard)

    def convolutions(self) -> list[PaddedConv]:
        """Those that keep something of a sound that comes in pieces, in order."""
        return [module for module in self.modules() if isinstance(module, PaddedConv)]


def _streamed(layers: Iterable[nn.Module], x_BCT: Tensor, heard: Heard) -> Tensor:
    for layer in layers:
        x_BCT = layer.stream(x_BCT, heard) if isinstance(layer, PaddedConv | ResidualBlock) else layer(x_BCT)
    return x_BCT


class Memories(nn.LSTM):
    """An LSTM that begins as the ecosystem's: evenly, as wide as both its sides say, and without biases."""

    def reset(self, std: float) -> None:
        """Glorot's uniform distribution."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)


class LSTMOver(Composed):
    """An LSTM over time, added to what it reads.

    Args:
        lstm: reads ``[T, B, C]``.
    """

    lstm: Memories

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        x_TBC = x_BCT.permute(2, 0, 1)
        heard: Tensor = self.lstm(x_TBC)[0] + x_TBC
        return heard.permute(1, 2, 0)
