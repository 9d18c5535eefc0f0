"""Conformer layers of streaming recognisers: gates with biases of their own, convolutions that look back only."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.layers import Layer, Norm
from omniform.blocks.mlp import activation
from omniform.core.context import Bias, StepContext

_FIELDS = tuple(f.name for f in fields(StepContext))


@dataclass(frozen=True, slots=True)
class BiasedContext(StepContext):
    """A step whose attentions all add the same to their scores.

    Attributes:
        added: Shape: [B or 1, H, T, T].
    """

    added: Tensor | None = None

    @classmethod
    def of(cls, ctx: StepContext, added: Tensor) -> BiasedContext:
        """``ctx`` with what is added."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS}, added=added)


@dataclass(frozen=True, slots=True)
class StepBias:
    """Adds what the step says (:class:`BiasedContext`)."""

    def __call__(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias | None:
        assert isinstance(ctx, BiasedContext) and ctx.added is not None
        return ctx.added.to(q_BTHD.dtype)


class DistanceBias(nn.Module):
    """A learned number for every head and distance; from a distance on all are alike.

    Args:
        most: so far distances are told apart.
        heads: number of heads.
        symmetric: keys before and after a query are alike.
    """

    def __init__(self, most: int, heads: int, *, symmetric: bool) -> None:
        super().__init__()
        self.bias_values = nn.Embedding(most if symmetric else 2 * most, heads)
        self.most = most
        self.symmetric = symmetric

    def forward(self, frames: int) -> Tensor:
        """The bias of every pair of so many frames. Shape: [1, H, T, T]."""
        at = torch.arange(frames, device=self.bias_values.weight.device)
        distance = (at[None, :] - at[:, None]).clamp(-self.most, self.most - 1)
        bucket = distance.abs().clamp(max=self.most - 1) if self.symmetric else distance + self.most
        bias: Tensor = self.bias_values(bucket)
        return bias.permute(2, 0, 1)[None]


class GatedMLP(nn.Module):
    """A norm, a gated feed-forward of which one matrix holds both halves, a projection.

    Args:
        dim: width of a frame.
        hidden: width within.
        act: name of the gate's activation.
        dropout: within and on what comes out, in training.
    """

    def __init__(self, dim: int, hidden: int, act: str, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.gate_up_proj = nn.Linear(dim, 2 * hidden)
        self.down_proj = nn.Linear(hidden, dim)
        self.act, self.dropout = act, dropout
        self._act = activation(act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] in and out."""
        up, gate = self.gate_up_proj(self.layer_norm(x_BTD)).chunk(2, dim=-1)
        inner = F.dropout(up * self._act(gate), self.dropout, self.training)
        return F.dropout(self.down_proj(inner), self.dropout, self.training)

    def extra_repr(self) -> str:
        return f"act={self.act}"


class PointwiseGate(nn.Module):
    """A projection of which one half opens the other, each with a bias of its own besides."""

    def __init__(self, dim: int, act: str) -> None:
        super().__init__()
        self.ext_pw_conv_1d = nn.Conv1d(dim, 2 * dim, 1)
        self.b1 = nn.Parameter(torch.zeros(1, dim, 1))
        self.b2 = nn.Parameter(torch.zeros(1, dim, 1))
        self._act = activation(act)

    def reset(self, std: float) -> None:
        """Start without a bias."""
        nn.init.zeros_(self.b1)
        nn.init.zeros_(self.b2)

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Shape: [B, D, T] in and out."""
        opened, gate = self.ext_pw_conv_1d(x_BDT).chunk(2, dim=1)
        gated: Tensor = (opened + self.b1) * self._act(gate + self.b2)
        return gated


class SeparableConv(nn.Module):
    """A convolution channel by channel, and a projection.

    Args:
        dim: width of a frame.
        times: channels that each becomes.
        kernel: how many frames it looks at, its own and those before it.
    """

    def __init__(self, dim: int, times: int, kernel: int) -> None:
        super().__init__()
        self.dw_conv = nn.Conv1d(dim, dim * times, kernel, groups=dim)
        self.pw_conv = nn.Conv1d(dim * times, dim, 1)

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Shape: [B, D, T] in and out."""
        before = self.dw_conv.kernel_size[0] - 1
        out: Tensor = self.pw_conv(self.dw_conv(F.pad(x_BDT, (before, 0))))
        return out


class StreamedConv(nn.Module):
    """A norm, a gate, a convolution that looks back only, an activation and a projection.

    Args:
        dim: width of a frame.
        times: see :class:`SeparableConv`.
        kernel: as there.
        gate: name of the gate's activation.
        act: name of the activation behind the convolution.
        dropout: on what comes out, in training.
    """

    def __init__(self, dim: int, *, times: int, kernel: int, gate: str, act: str, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.glu = PointwiseGate(dim, gate)
        self.dw_sep_conv_1d = SeparableConv(dim, times, kernel)
        self.ext_pw_conv_1d = nn.Conv1d(dim, dim, 1)
        self.act, self.dropout = act, dropout
        self._act = activation(act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] in and out."""
        gated_BDT = self.glu(self.layer_norm(x_BTD).transpose(1, 2))
        out_BDT = self.ext_pw_conv_1d(self._act(self.dw_sep_conv_1d(gated_BDT)))
        return F.dropout(out_BDT.transpose(1, 2), self.dropout, self.training)

    def extra_repr(self) -> str:
        return f"act={self.act}"


class StreamedConformerLayer(Layer):
    """Half a feed-forward, attention, a convolution, the other half, and a norm; branches norm what they read."""

    feed_forward_in: GatedMLP
    layer_norm_att: Norm
    self_attn: nn.Module
    conv: StreamedConv
    feed_forward_out: GatedMLP
    layer_norm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = x_BTD + 0.5 * self.feed_forward_in(x_BTD)
        x_BTD = x_BTD + self.self_attn(self.layer_norm_att(x_BTD), ctx)
        x_BTD = x_BTD + self.conv(x_BTD)
        x_BTD = x_BTD + 0.5 * self.feed_forward_out(x_BTD)
        normed: Tensor = self.layer_norm(x_BTD)
        return normed


class FrameNorm(nn.Module):
    """Frames less a mean, times the inverse of a deviation, both learned beforehand.

    Args:
        bands: numbers of a frame.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("global_mean", torch.zeros(bands))
        self.register_buffer("global_invstd", torch.ones(bands))
        self.global_mean: Tensor
        self.global_invstd: Tensor

    def reset(self, std: float) -> None:
        """Change nothing."""
        self.global_mean.zero_()
        self.global_invstd.fill_(1.0)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Shape: [B, T, F] in and out."""
        return (x_BTF - self.global_mean) * self.global_invstd


class HalvingConvs(nn.Module):
    """Convolutions that each halve frames and bands, and a projection of what is left (NeMo's ``dw_striding``).

    Args:
        halvings: how many of them there are.
        bands: numbers of a frame.
        channels: of the convolutions.
        dim: width of what comes out.
        act: name of the activation behind each.
    """

    def __init__(self, halvings: int, bands: int, channels: int, dim: int, act: str) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {"0": nn.Conv2d(1, channels, 3, stride=2, padding=1)}
        for at in range(2, 3 * halvings - 1, 3):
            layers[str(at)] = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
            layers[str(at + 1)] = nn.Conv2d(channels, channels, 1)
        self.conv = nn.ModuleDict(layers)
        self.out = nn.Linear(channels * -(-bands // 2**halvings), dim)
        self.act = act
        self._act = activation(act)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Shape: [B, T, F] to [B, ceil(T / 2 ** halvings), D]."""
        made_BCTF = x_BTF[:, None]
        for name, conv in self.conv.items():
            made_BCTF = conv(made_BCTF)
            if int(name) % 3 == 0:
                made_BCTF = self._act(made_BCTF)
        out: Tensor = self.out(made_BCTF.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        return f"act={self.act}"
