"""Multi-head attention over the row itself and over an encoder's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from omniform.blocks.attend import attend
from omniform.blocks.joint import outputs_of
from omniform.core.context import Memory, StepContext
from omniform.core.rules import Rule
from omniform.core.state import KV, CrossKV, State, StatefulModule


class Positions(Protocol):
    """How an attention learns where its queries and keys stand (rotary, or not at all)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class NoPositions:
    """Queries and keys stay as they are: the positions came in with the embeddings or a score bias."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        return q_BTHD, k_BTHD


class _Projections(StatefulModule):
    """The four projections of an attention.

    Args:
        dim: width of the residual stream.
        heads: number of query heads.
        kv_heads: number of key and value heads; divides ``heads``. As many as heads by default.
        head_dim: width of a head; ``dim // heads`` by default.
        memory_dim: width of what keys and values are made of; ``dim`` by default.
        bias: which projections have a bias: any of the letters of ``"qkvo"``.
        scale: factor on the scores; ``head_dim ** -0.5`` by default.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        memory_dim: int | None = None,
        bias: str = "qkvo",
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.dropout = dropout
        source = dim if memory_dim is None else memory_dim
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias="q" in bias)
        self.k_proj = nn.Linear(source, self.kv_heads * self.head_dim, bias="k" in bias)
        self.v_proj = nn.Linear(source, self.kv_heads * self.head_dim, bias="v" in bias)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias="o" in bias)

    def _split(self, x_BTE: Tensor) -> Tensor:
        return x_BTE.view(*x_BTE.shape[:-1], -1, self.head_dim)


class Attention(_Projections):
    """Self-attention: a row looks at itself, under a rule.

    Args:
        rule: which tokens may see which.
        positions: how queries and keys learn their places.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rule: Rule,
        positions: Positions | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "qkvo",
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, heads, kv_heads=kv_heads, head_dim=head_dim, bias=bias, scale=scale, dropout=dropout)
        self.rule = rule
        self.positions: Positions = NoPositions() if positions is None else positions

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim, self.rule.reach)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Attend within the row.

        Args:
            x_BTD: Shape: [B, T, D].

        Returns:
            Shape: [B, T, D].
        """
        q, k, v = self._queries_keys_values(x_BTD, ctx)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if ctx.state is not None:
            k, v = ctx.state.kv(self.slot).extend(k, v)
        mixed = attend(
            ctx.kept(q),
            k,
            v,
            ctx.mask(self.rule, x_BTD.shape[1], x_BTD.device),
            scale=self.scale,
            backend=ctx.backend,
            bias=ctx.score_bias,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out

    def _queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = map(self._split, outputs_of(x_BTD, self.q_proj, self.k_proj, self.v_proj))
        return *self.positions(q, k, ctx), v

    def extra_repr(self) -> str:
        return f"rule={self.rule}, positions={self.positions}"


class CrossAttention(_Projections):
    """Cross-attention: a row looks at an encoder's output, whose keys and values are computed once and kept."""

    def state_spec(self) -> CrossKV:
        return CrossKV(self.kv_heads, self.head_dim, self.head_dim)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Attend to ``ctx.memory``.

        Args:
            x_BTD: Shape: [B, T, D].

        Returns:
            Shape: [B, T, D].
        """
        k, v = self._keys_values(ctx)
        mixed = attend(
            self._split(self.q_proj(x_BTD)),
            k,
            v,
            ctx.memory_mask(x_BTD.shape[1]),
            scale=self.scale,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.cross_attentions if ctx.taps.wants_attentions else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out

    def _keys_values(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        kept = None if ctx.state is None else ctx.state.cross(self.slot)
        if kept is not None:
            return kept
        assert ctx.memory is not None, "cross-attention without memory: the model's forward must supply it"
        k, v = self.of_memory(ctx.memory)
        if ctx.state is not None:
            ctx.state.set_cross(self.slot, k, v)
        return k, v

    def remember(self, memory: Memory, state: State) -> None:
        state.set_cross(self.slot, *self.of_memory(memory))

    def of_memory(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """The memory's keys and values. Shape: [B, H, S, D] each."""
        k, v = self._split(self.k_proj(memory.hidden)), self._split(self.v_proj(memory.hidden))
        return k.transpose(1, 2), v.transpose(1, 2)
