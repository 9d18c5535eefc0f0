"""Feed-forward blocks and the activations they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.joint import outputs_of
from omniform.blocks.lowering import Value
from omniform.blocks.small import fused_gate
from omniform.core.errors import ConfigError, nearest
from omniform.core.ranks import Ranks
from omniform.weights.links import Axis

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU (https://github.com/hendrycks/GELUs)."""
    return x * torch.sigmoid(1.702 * x)


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (https://arxiv.org/abs/2109.08668)."""
    return F.relu(x).square()


def gelu_10(x: Tensor) -> Tensor:
    """GELU clipped to [-10, 10] (https://arxiv.org/abs/2004.09602)."""
    return F.gelu(x).clamp(-10, 10)


def laplace(x: Tensor, mu: float = 0.707107, sigma: float = 0.282095) -> Tensor:
    """The Laplace activation of MEGA (https://arxiv.org/abs/2209.10655)."""
    return 0.5 * (1.0 + torch.erf((x - mu) / (sigma * 2.0**0.5)))


def linear(x: Tensor) -> Tensor:
    """Nothing."""
    return x


gelu_tanh: Activation = partial(F.gelu, approximate="tanh")

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": F.gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "hardswish": F.hardswish,
    "laplace": laplace,
    "leaky_relu": F.leaky_relu,
    "linear": linear,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu2,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""Activations by the names that configs use. Different names for one function are history."""


def activation(name: str) -> Activation:
    """The function that a config calls ``name``.

    Raises:
        ConfigError: there is no such activation.
    """
    if name not in ACTIVATIONS:
        raise ConfigError("no such activation", found=repr(name), remedy=nearest(name, ACTIVATIONS))
    return ACTIVATIONS[name]


class WideLinear(nn.Linear):
    """A projection whose results overflow float16, so that there it is computed, and handed on, in float32."""

    IS_MATRIX: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        if x.dtype is torch.float16:
            return F.linear(x.float(), self.weight.float())
        return super().forward(x)


class MLP(nn.Module):
    """Two projections with an activation between them.

    Args:
        dim: width of the residual stream.
        hidden: width between the projections.
        act: name of the activation.
        bias: whether the projections have biases.
        dropout: probability of dropping a hidden value in training.
    """

    SHARDS: ClassVar[Mapping[str, Axis]] = {"fc1": "out", "fc2": "in"}

    def __init__(self, dim: int, hidden: int, act: str, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)
        self.act = act
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] in and out."""
        h = F.dropout(self._act(self.fc1(x)), self.dropout, self.training)
        out: Tensor = self.fc2(h)
        return out

    def shard(self, ranks: Ranks) -> Mapping[str, range]:
        """See :class:`~omniform.blocks.shards.Shards`."""
        return dict.fromkeys(("fc1", "fc2"), ranks.of(self.fc1.out_features, "hidden channels", grains=True))

    def lower(self, b: Builder, x: Value) -> Value:
        return b.of(self.fc2, b.act(self.act, b.of(self.fc1, x)))

    def extra_repr(self) -> str:
        return f"act={self.act}"


class GatedMLP(nn.Module):
    """A gated linear unit (https://arxiv.org/abs/2002.05202): ``down(act(gate(x)) * up(x))``.

    Args:
        dim: width of the residual stream.
        hidden: width of gate and up.
        act: name of the gate's activation.
        bias: whether the projections have biases.
        dropout: probability of dropping a hidden value in training.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("gate_proj", "up_proj"),)
    SHARDS: ClassVar[Mapping[str, Axis]] = {"gate_proj": "out", "up_proj": "out", "down_proj": "in"}

    def __init__(self, dim: int, hidden: int, act: str, *, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self.act = act
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] in and out."""
        gate, up = outputs_of(x, self.gate_proj, self.up_proj)
        helped = fused_gate(self.act, gate, up)
        h = F.dropout(self._act(gate) * up, self.dropout, self.training) if helped is None else helped
        out: Tensor = self.down_proj(h)
        return out

    def shard(self, ranks: Ranks) -> Mapping[str, range]:
        """See :class:`~omniform.blocks.shards.Shards`."""
        return dict.fromkeys(self.SHARDS, ranks.of(self.gate_proj.out_features, "hidden channels", grains=True))

    def lower(self, b: Builder, x: Value) -> Value:
        return b.of(self.down_proj, b.gate(self.act, *b.linear(x, self.gate_proj, self.up_proj)))

    def extra_repr(self) -> str:
        return f"act={self.act}"
