"""Convolutions over time that begin as models of sound begin theirs."""

from __future__ import annotations

import math

from torch import Tensor, nn


def _begin(weight: Tensor, bias: Tensor | None, fan: int) -> None:
    nn.init.kaiming_normal_(weight)
    if bias is not None:
        nn.init.uniform_(bias, -(fan**-0.5), fan**-0.5)


class SoundConv1d(nn.Conv1d):
    """A convolution whose weights begin as those of one before a ReLU (https://arxiv.org/abs/1502.01852)."""

    def reset(self, std: float) -> None:
        """Weights normal, biases uniform, as wide as the number of inputs says."""
        _begin(self.weight, self.bias, math.prod(self.weight.shape[1:]))


class SoundConvTranspose1d(nn.ConvTranspose1d):
    """The same the other way: one that makes more steps of few."""

    def reset(self, std: float) -> None:
        """Weights normal, biases uniform, as wide as the number of inputs says."""
        _begin(self.weight, self.bias, self.in_channels * self.kernel_size[0] // self.groups)
