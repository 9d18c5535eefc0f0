"""Convolutions whose weights are learned as directions and lengths (weight norm, https://arxiv.org/abs/1602.07868).

The two parts lie where torch's own parametrization keeps them, so that today's checkpoints need no key map; keys of
before that (``weight_g``, ``weight_v``) are among the old spellings that every checkpoint is read in. The modules are
ordinary ones, which torch's are not: they can be pickled and copied.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormedWeight(nn.Module):
    """A weight as lengths and directions.

    Args:
        shape: of the weight.
        along: the axis along which each entry has a length of its own.
    """

    def __init__(self, shape: tuple[int, ...], along: int = 0) -> None:
        super().__init__()
        self.along = along
        self.original0 = nn.Parameter(torch.empty([n if i == along else 1 for i, n in enumerate(shape)]))
        self.original1 = nn.Parameter(torch.empty(shape))

    def reset(self, std: float) -> None:
        """Drawn, and the lengths are those of what was drawn."""
        self.hold(self.drawn(torch.empty_like(self.original1), std))

    def drawn(self, weight: Tensor, std: float) -> Tensor:
        """A fresh weight, written into ``weight``: as torch's convolutions begin."""
        return nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    @torch.no_grad()
    def hold(self, weight: Tensor) -> None:
        """Take on a weight."""
        axes = [axis for axis in range(weight.dim()) if axis != self.along]
        self.original0.copy_(torch.linalg.vector_norm(weight, dim=axes, keepdim=True))
        self.original1.copy_(weight)

    def forward(self) -> Tensor:
        """The weight."""
        return torch._weight_norm(self.original1, self.original0, self.along)


class Parametrizations(nn.Module):
    """Where torch's parametrizations of a module lie: by the names of what they compute."""

    def __init__(self, shape: tuple[int, ...], along: int) -> None:
        super().__init__()
        self.weight = NormedWeight(shape, along)


class NormedConv1d(nn.Module):
    """A convolution over time with weight norm.

    Args:
        inside: channels read.
        outside: channels written.
        kernel: how many steps each output looks at.
        stride: steps from one output to the next.
        padding: zeros at either end.
        dilation: steps between those looked at.
        groups: into how many groups channels are cut, each for itself.
        along: the weight's axis of lengths: 0 for one per output channel, 2 for one per step of the kernel.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        along: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.parametrizations = Parametrizations((outside, inside // groups, kernel), along)
        self.bias = nn.Parameter(torch.empty(outside))

    @property
    def weight(self) -> Tensor:
        """What it is multiplied with. Shape: [outside, inside / groups, kernel]."""
        made: Tensor = self.parametrizations.weight()
        return made

    def reset(self, std: float) -> None:
        """The bias as torch's convolutions begin."""
        reach = math.prod(self.parametrizations.weight.original1.shape[1:]) ** -0.5
        nn.init.uniform_(self.bias, -reach, reach)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, inside, T] to [B, outside, T']."""
        weight = self.parametrizations.weight()
        return F.conv1d(x_BCT, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormedConvTranspose1d(nn.Module):
    """A transposed convolution with weight norm, one length per input channel as torch's has it.

    Args:
        inside: channels read.
        outside: channels written.
        kernel: how many steps each input writes to.
        stride: steps from one input's first to the next one's.
    """

    def __init__(self, inside: int, outside: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.parametrizations = Parametrizations((inside, outside, kernel), 0)
        self.bias = nn.Parameter(torch.empty(outside))

    @property
    def weight(self) -> Tensor:
        """What it is multiplied with. Shape: [inside, outside, kernel]."""
        made: Tensor = self.parametrizations.weight()
        return made

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, inside, T] to [B, outside, T']."""
        return F.conv_transpose1d(x_BCT, self.parametrizations.weight(), self.bias, self.stride)
