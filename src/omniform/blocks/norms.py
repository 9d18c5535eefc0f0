"""Normalisations. ``LayerNorm`` is torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.lowering import Value
from omniform.blocks.small import fused_norm
from omniform.core.host import kept_unless_traced

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder


class RMSNorm(nn.Module):
    """Root mean square normalisation (https://arxiv.org/abs/1910.07467), computed in float32.

    Args:
        dim: width of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        helped = fused_norm(x, self.weight, self.eps, self.weight.dtype, rounded=True)
        if helped is not None:
            return helped
        wide = x.float()
        if torch.is_grad_enabled() or wide is x or x.device.type != "cpu":
            # torch's own without a weight: the weight is applied in its dtype, after the result was rounded to it.
            normed = F.rms_norm(wide, self.weight.shape, None, self.eps).to(self.weight.dtype)
            return self.weight * normed if torch.is_grad_enabled() else normed.mul_(self.weight)
        # On a CPU torch's own is a dozen small operations. These are half as many, and the copy takes the result.
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(_on_cpu(self.eps), size, size, value=1 / x.shape[-1]).rsqrt_()
        return wide.mul_(scale).to(self.weight.dtype).mul_(self.weight)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.rms(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


@kept_unless_traced(16)
def _on_cpu(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float32, device="cpu")


class ZeroCentredRMSNorm(RMSNorm):
    """A root mean square norm whose weights are what is added to one, all of it in float32 (Gemma, Qwen3-Next)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps)
        self.reset(0.0)

    def reset(self, std: float) -> None:
        """Fresh weights: no change of scale."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        helped = fused_norm(x, self.weight, self.eps, x.dtype, plus=1.0)
        if helped is not None:
            return helped
        return F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.rms(x, 1.0 + self.weight.detach().float(), self.eps)


class WideRMSNorm(RMSNorm):
    """A root mean square norm whose weight is applied in float32 too, before the result is rounded (OLMo 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        helped = fused_norm(x, self.weight, self.eps, x.dtype)
        if helped is not None:
            return helped
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.rms(x, self.weight, self.eps)


class AllHeadsNorm(WideRMSNorm):
    """One norm over all heads of a token together: of its queries, or of its keys."""

    def forward(self, x_BTHD: Tensor) -> Tensor:
        """Shape: [B, T, H, D] in and out."""
        return super().forward(x_BTHD.flatten(-2)).view_as(x_BTHD)

    def lower(self, b: Builder, x: Value) -> Value:
        return super().lower(b, x.flatten(-2)).view_as(x)


class GatedRMSNorm(RMSNorm):
    """A root mean square norm, then a gate (https://arxiv.org/abs/2312.00752's SiLU), in float32."""

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """Shape: [..., D] each."""
        normed: Tensor = self(x)
        return (normed * F.silu(gate.float())).to(x.dtype)

    def lower_gated(self, b: Builder, x: Value, gate: Value) -> Value:
        """The same of values."""
        b.sure(self, "lower_gated")
        return b.gate("silu", gate, b.rms(x, self.weight, self.eps))


class PlainRMSNorm(nn.Module):
    """A root mean square norm that learns nothing, computed in float32.

    Args:
        eps: added to the mean square.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.rms(x, None, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class SiLUGate(nn.Module):
    """A gate (https://arxiv.org/abs/2312.00752's SiLU) and no norm, in float32."""

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """Shape: [..., D] each."""
        return (x.float() * F.silu(gate.float())).to(x.dtype)

    def lower_gated(self, b: Builder, x: Value, gate: Value) -> Value:
        """The same of values."""
        b.sure(self, "lower_gated")
        return b.gate("silu", gate, x)


class GateFirstRMSNorm(RMSNorm):
    """A gate, then a root mean square norm over each of some groups of channels, in float32 (Mamba 2).

    Args:
        dim: width of the last axis.
        eps: added to the mean squares.
        groups: how many groups there are.
    """

    def __init__(self, dim: int, eps: float, groups: int) -> None:
        super().__init__(dim, eps)
        self.groups = groups

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """Shape: [..., D] each."""
        open_ = (x.float() * F.silu(gate.float())).view(*x.shape[:-1], self.groups, -1)
        return self.weight * F.rms_norm(open_, open_.shape[-1:], None, self.eps).view_as(x).to(x.dtype)

    def lower_gated(self, b: Builder, x: Value, gate: Value) -> Value:
        """The same of values."""
        b.sure(self, "lower_gated")
        return self._grouped(b, b.gate("silu", gate, x))

    def _grouped(self, b: Builder, x: Value) -> Value:
        return b.rms(x.in_heads(x.place.width // self.groups), self.weight, self.eps).flatten(-2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class GateLastRMSNorm(GateFirstRMSNorm):
    """A root mean square norm over each of some groups of channels, then a gate, in float32 (Falcon-H1)."""

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """Shape: [..., D] each."""
        grouped = x.float().view(*x.shape[:-1], self.groups, -1)
        normed = F.rms_norm(grouped, grouped.shape[-1:], None, self.eps).view_as(x) * self.weight.float()
        return (normed * F.silu(gate.float())).to(x.dtype)

    def lower_gated(self, b: Builder, x: Value, gate: Value) -> Value:
        b.sure(self, "lower_gated")
        return b.gate("silu", gate, self._grouped(b, x))


class WideLayerNorm(nn.Module):
    """A layer norm without a bias, computed in float32, its weight applied there too (Cohere).

    Args:
        shape: of the weight; the last axis is normed. ``(heads, width)`` weighs every head by itself.
        eps: added to the variance.
    """

    def __init__(self, shape: int | tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.eps = eps

    def reset(self, std: float) -> None:
        """A fresh norm changes nothing."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=self.eps)
        return (self.weight.float() * normed).to(x.dtype)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.layer_norm(x, self.weight, None, self.eps)

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.weight.shape))}, eps={self.eps}"


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises its last axis; its parameters are scales and shifts, which do not decay."""
    return isinstance(module, nn.LayerNorm | nn.RMSNorm | RMSNorm | WideLayerNorm)
