"""Conformers (https://arxiv.org/abs/2005.08100): layers with a convolution between attention and feed-forward."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attention import Attention
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.joint import outputs_of
from omniform.blocks.layers import Layer, Norm
from omniform.blocks.mlp import activation
from omniform.blocks.rotary import Rotary, StoredRotary
from omniform.core.context import Bias, StepContext, counted
from omniform.core.rules import Full


class GatedConv(nn.Module):
    """A gate, a convolution over neighbouring frames channel by channel, a norm and an activation, a projection.

    Args:
        dim: width of a frame.
        kernel: how many frames it looks at; odd.
        act: name of the activation.
        norm: of what enters.
        dropout: on what comes out, in training.
    """

    def __init__(self, dim: int, kernel: int, act: str, norm: nn.Module, dropout: float) -> None:
        super().__init__()
        self.layer_norm = norm
        self.pointwise_conv1 = SoundConv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = SoundConv1d(dim, dim, kernel, groups=dim, bias=False)
        self.pointwise_conv2 = SoundConv1d(dim, dim, 1, bias=False)
        self.act = act
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        read_BDT = self.read(self.layer_norm(x_BTD), ctx).transpose(1, 2)
        seen_BDT = self.depthwise_conv(F.pad(F.glu(self.pointwise_conv1(read_BDT), dim=1), self.reach))
        out: Tensor = self.pointwise_conv2(self._act(self.normed(seen_BDT)))
        return F.dropout(out, self.dropout, self.training).transpose(1, 2)

    @property
    def reach(self) -> tuple[int, int]:
        """How many frames before and after each it looks at."""
        side = self.depthwise_conv.kernel_size[0] // 2
        return side, side

    def read(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """What the convolution may see of its input. Shape: [B, T, D] in and out."""
        return x_BTD

    def normed(self, x_BDT: Tensor) -> Tensor:
        """What the activation is given. Shape: [B, D, T] in and out."""
        return x_BDT

    def extra_repr(self) -> str:
        return f"act={self.act}"


class CausalConv(GatedConv):
    """One that looks back only, and at no padding; each frame is normed for itself (w2v-BERT 2.0)."""

    def __init__(self, dim: int, kernel: int, act: str, norm: nn.Module, after: nn.Module, dropout: float) -> None:
        super().__init__(dim, kernel, act, norm, dropout)
        self.depthwise_layer_norm = after

    @property
    def reach(self) -> tuple[int, int]:
        return self.depthwise_conv.kernel_size[0] - 1, 0

    def read(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        return x_BTD if ctx.padding is None else x_BTD.masked_fill(~ctx.padding[..., None], 0)

    def normed(self, x_BDT: Tensor) -> Tensor:
        normed: Tensor = self.depthwise_layer_norm(x_BDT.transpose(1, 2)).transpose(1, 2)
        return normed


class CentredConv(GatedConv):
    """One that looks both ways; channels are normed over the batch (wav2vec 2.0 conformers)."""

    def __init__(self, dim: int, kernel: int, act: str, norm: nn.Module, dropout: float) -> None:
        super().__init__(dim, kernel, act, norm, dropout)
        self.batch_norm = nn.BatchNorm1d(dim)

    def normed(self, x_BDT: Tensor) -> Tensor:
        normed: Tensor = self.batch_norm(x_BDT)
        return normed


class ConformerLayer(Layer):
    """Half a feed-forward, attention, a convolution, the other half, and a norm.

    Args:
        dropout: on what feed-forwards give, in training.
        attention_dropout: on what attention gives.
    """

    ffn1_layer_norm: Norm
    ffn1: nn.Module
    self_attn_layer_norm: Norm
    self_attn: nn.Module
    conv_module: GatedConv
    ffn2_layer_norm: Norm
    ffn2: nn.Module
    final_layer_norm: Norm
    attention_dropout: float

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = x_BTD + self._half(self.ffn1(self.ffn1_layer_norm(x_BTD)))
        seen = self.self_attn(self.self_attn_layer_norm(x_BTD), ctx)
        x_BTD = x_BTD + F.dropout(seen, self.attention_dropout, self.training)
        x_BTD = x_BTD + self.conv_module(x_BTD, ctx)
        x_BTD = x_BTD + self._half(self.ffn2(self.ffn2_layer_norm(x_BTD)))
        normed: Tensor = self.final_layer_norm(x_BTD)
        return normed

    def _half(self, thought_BTD: Tensor) -> Tensor:
        return F.dropout(thought_BTD, self.dropout, self.training) * 0.5


class TurnedFirst(Attention):
    """Attention whose frames are turned by their places before queries and keys are made of them.

    Args:
        positions: turns them.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj"),)

    def __init__(self, dim: int, heads: int, *, positions: Rotary | StoredRotary, dropout: float) -> None:
        super().__init__(dim, heads, rule=Full(), positions=positions, dropout=dropout)

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        heads_BTHD = self.split(x_BTD)
        turned_BTHD, _ = self.positions(heads_BTHD, heads_BTHD[:, :, :0], ctx)
        q, k = outputs_of(turned_BTHD.flatten(2), self.q_proj, self.k_proj)
        return self.split(q), self.split(k), self.split(self.v_proj(x_BTD))


class ClippedDistances(nn.Module):
    """A vector for every distance, which queries are compared with (https://arxiv.org/abs/1803.02155).

    Args:
        before: from how far before a query on all keys are alike.
        after: from how far after it.
        head_dim: width of a head.
    """

    def __init__(self, before: int, after: int, head_dim: int) -> None:
        super().__init__()
        self.before = before
        self.after = after
        self.distance_embedding = nn.Embedding(before + after + 1, head_dim)

    def forward(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias:
        """The bias. Shape: [B, H, T, S]."""
        queries, keys = q_BTHD.shape[1], k.shape[2]
        places = ctx.once(
            ("clipped", self.before, self.after, counted(queries), counted(keys)),
            lambda: self._places(queries, keys, k),
        )
        vectors_RD = self.distance_embedding.weight.to(q_BTHD.dtype) * q_BTHD.shape[-1] ** -0.5
        by_distance_BHTR = (q_BTHD @ vectors_RD.t()).transpose(1, 2)
        bias: Tensor = by_distance_BHTR.gather(-1, places.expand(*by_distance_BHTR.shape[:2], -1, -1))
        return bias

    def _places(self, queries: int, keys: int, like: Tensor) -> Tensor:
        every = torch.arange(max(queries, keys), device=like.device)
        return (every[None, :keys] - every[:queries, None]).clamp(-self.before, self.after) + self.before


class SineDistances(nn.Module):
    """Sines of every distance, projected, which queries are compared with (https://arxiv.org/abs/1901.02860).

    Args:
        dim: width of the residual stream.
        heads: number of heads.

    Attributes:
        pos_bias_u: what is added to queries that are compared with keys. Shape: [H, D].
        pos_bias_v: what is added to those that are compared with distances.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, dim // heads))

    def reset(self, std: float) -> None:
        """Evenly, so that the variance is kept both ways."""
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias:
        """The bias, of queries that :attr:`pos_bias_u` has been added to. Shape: [B, H, T, T]."""
        frames, (heads, head_dim) = q_BTHD.shape[1], self.pos_bias_u.shape
        dim = heads * head_dim
        told = ctx.once(("sines", counted(frames), dim, q_BTHD.dtype), lambda: _sines(frames, dim, q_BTHD))
        projected_HDR = self.linear_pos(told).view(-1, heads, head_dim).permute(1, 2, 0)
        asking_BHTD = (q_BTHD + (self.pos_bias_v - self.pos_bias_u)).transpose(1, 2) * head_dim**-0.5
        by_distance_BHTR = asking_BHTD @ projected_HDR
        # A row holds distances T - 1 to 1 - T, of which T are its own, each row's one further back than the last's.
        # With a number more in front of each row, and T fewer in front of all, rows of 2 T - 1 begin with them.
        rows = F.pad(by_distance_BHTR, (1, 0)).flatten(2)[..., frames:]
        return rows.reshape(*by_distance_BHTR.shape)[..., :frames]


def _sines(frames: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of distances, from the farthest before to the farthest after. Shape: [2 T - 1, D]."""
    distances = torch.arange(frames - 1, -frames, -1, device=like.device).float()
    speeds = torch.exp(torch.arange(0, dim, 2, device=like.device).float() * -(math.log(10000.0) / dim))
    angles = distances[:, None] * speeds
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :dim].to(like.dtype)


class DistantAttention(Attention):
    """Attention that compares queries with keys and with the sines of their distances."""

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        super().__init__(dim, heads, rule=Full(), bias=SineDistances(dim, heads), dropout=dropout)

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().queries_keys_values(x_BTD, ctx)
        assert isinstance(self.bias, SineDistances)
        return q + self.bias.pos_bias_u, k, v
