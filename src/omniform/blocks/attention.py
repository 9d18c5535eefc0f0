"""Multi-head attention over the row itself and over an encoder's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.blocks.attend import attend, computed_across, computed_under
from omniform.blocks.joint import outputs_of
from omniform.blocks.lowering import Attending, Value
from omniform.blocks.scores import HeadsBias, ScoreBias, Scores
from omniform.blocks.shards import is_shared_out
from omniform.core.context import Backend, Computed, Mask, Memory, StepContext
from omniform.core.errors import InputError
from omniform.core.ranks import Ranks
from omniform.core.rules import Rule, both_ways
from omniform.core.state import KV, CrossKV, LengthRegimes, State, StatefulModule
from omniform.weights.links import Axis

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder


class Positions(Protocol):
    """How an attention learns where its queries and keys stand (rotary, or not at all)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class MindsLength(Protocol):
    """Positions by which a key depends on the length of its row too; those that leave this out say it does not."""

    def regimes(self) -> tuple[LengthRegimes, ...]:
        """How it depends on that."""
        ...


@dataclass(frozen=True, slots=True)
class NoPositions:
    """Queries and keys stay as they are: the positions came in with the embeddings or a score bias."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        return q_BTHD, k_BTHD

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return q, k


class Projections(StatefulModule):
    """The four projections of an attention.

    Args:
        dim: width of the residual stream.
        heads: number of query heads.
        kv_heads: number of key and value heads; divides ``heads``. As many as heads by default.
        head_dim: width of a head; ``dim // heads`` by default.
        memory_dim: width of what keys and values are made of; ``dim`` by default.
        biases: which projections have a bias: any of the letters of ``"qkvo"``.
        scores: how queries and keys are compared; dot products times ``head_dim ** -0.5`` by default.
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
        biases: str = "qkvo",
        scores: Scores | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.scores = Scores(self.head_dim**-0.5) if scores is None else scores
        self.dropout = dropout
        source = dim if memory_dim is None else memory_dim
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias="q" in biases)
        self.k_proj = nn.Linear(source, self.kv_heads * self.head_dim, bias="k" in biases)
        self.v_proj = nn.Linear(source, self.kv_heads * self.head_dim, bias="v" in biases)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias="o" in biases)

    def split(self, x_BTE: Tensor) -> Tensor:
        """A projection's outputs by head. Shape: [B, T, H * D] to [B, T, H, D]."""
        return x_BTE.view(*x_BTE.shape[:-1], -1, self.head_dim)

    def shard(self, ranks: Ranks) -> Mapping[str, range] | None:
        """See :class:`~omniform.blocks.shards.Shards`: query heads with the key head that they look at."""
        heads, kv = heads_of(ranks, self.q_proj.out_features // self.head_dim, self.kv_heads)
        self.kv_heads = len(kv)
        q, k = (range(part.start * self.head_dim, part.stop * self.head_dim) for part in (heads, kv))
        return {"q_proj": q, "k_proj": k, "v_proj": k, "o_proj": q}


CUT_BY_HEAD: Mapping[str, Axis] = {"q_proj": "out", "k_proj": "out", "v_proj": "out", "o_proj": "in"}
"""How attention is divided among ranks."""


def heads_of(ranks: Ranks, heads: int, kv_heads: int) -> tuple[range, range]:
    """A rank's query heads and key heads: all queries of a key head, or of fewer key heads than ranks a part of them.

    Raises:
        InputError: heads of several groups would have to lie on one rank.
    """
    each = heads // kv_heads
    if kv_heads >= ranks.count:
        kv = ranks.of(kv_heads, "key heads")
        return range(kv.start * each, kv.stop * each), kv
    sharers, left = divmod(ranks.count, kv_heads)
    if left or each < sharers:
        raise InputError(
            "attention heads cannot be divided among so many processes",
            where="tp_plan",
            expected=f"at most {kv_heads} processes, or a multiple of {kv_heads} up to {heads}",
            found=f"{ranks.count} processes, {heads} heads in num_key_value_heads={kv_heads} groups",
            remedy=f"Start {kv_heads} processes (torchrun --nproc-per-node={kv_heads}).",
        )
    group, member = divmod(ranks.rank, sharers)
    own = Ranks(member, sharers).of(each, "attention heads")
    return range(group * each + own.start, group * each + own.stop), range(group, group + 1)


class Attention(Projections):
    """Self-attention: a row looks at itself, under a rule.

    Args:
        rule: which tokens may see which.
        positions: how queries and keys learn their places.
        q_norm: applied to the queries before that, head by head; None for nothing.
        k_norm: applied to the keys likewise.
        bias: what is added to the scores; None for nothing. Layers may share it.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)
    READ: ClassVar[frozenset[str]] = frozenset({"output", "queries_keys_values", "split"})
    SHARDS: ClassVar[Mapping[str, Axis]] = CUT_BY_HEAD

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rule: Rule,
        positions: Positions | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        bias: ScoreBias | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        biases: str = "qkvo",
        scores: Scores | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim, heads, kv_heads=kv_heads, head_dim=head_dim, biases=biases, scores=scores, dropout=dropout
        )
        self.rule = rule
        self.positions: Positions = NoPositions() if positions is None else positions
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.bias = bias
        self.sinks: nn.Parameter | None = None

    def shard(self, ranks: Ranks) -> Mapping[str, range] | None:
        """Norms over all heads together, and what knows of heads and not of parts of them, leave attention whole."""
        norms = [norm for norm in (self.q_norm, self.k_norm) if norm is not None]
        if any(p.shape != (self.head_dim,) for norm in norms for p in norm.parameters()):
            return None
        if isinstance(self.positions, nn.Module) and any(True for _ in self.positions.parameters()):
            return None
        heads = self.q_proj.out_features // self.head_dim
        part, _ = heads_of(ranks, heads, self.kv_heads)
        if isinstance(self.bias, HeadsBias):
            self.bias = self.bias.of_heads(part)
        elif self.bias is not None and not (
            isinstance(self.bias, nn.Module) and is_shared_out(self.bias) and heads == self.kv_heads
        ):
            return None
        sinks = {} if self.sinks is None else {"sinks": part}
        return {**(super().shard(ranks) or {}), **sinks}

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim, self.rule.reach)

    def regimes(self) -> tuple[LengthRegimes, ...]:
        return self.positions.regimes() if isinstance(self.positions, MindsLength) else ()

    def looks_ahead(self) -> bool:
        return self.rule.ahead

    def look_both_ways(self) -> None:
        self.rule = both_ways(self.rule)

    def computed(self, backend: Backend) -> Computed:
        biased, sinks = self.bias is not None, self.sinks is not None
        return computed_under(self.rule, backend, self.scores, biased=biased, sinks=sinks)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Attend within the row.

        Args:
            x_BTD: Shape: [B, T, D].

        Returns:
            Shape: [B, T, D], of the tokens that are wanted.
        """
        q, k, v = self.queries_keys_values(x_BTD, ctx)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if ctx.state is not None:
            k, v = ctx.state.kv(self.slot).extend(k, v)
        q = ctx.only_wanted(q)
        mixed = attend(
            q,
            k,
            v,
            ctx.mask(self.rule, x_BTD.shape[1], x_BTD.device),
            scores=self.scores,
            backend=ctx.backend,
            bias=None if self.bias is None else self.bias(q, k, ctx),
            sinks=self.sinks,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        return self.output(mixed, x_BTD, ctx)

    def lower(self, b: Builder, x: Value) -> Value:
        q, k, v = b.read(self.queries_keys_values, x)
        how = Attending(self.slot, self.rule, self.scores, self.bias, self.sinks)  # type: ignore[arg-type]
        (out,) = b.read(self.output, b.attend(q, k, v, how), x)
        return out

    def output(self, mixed_BTE: Tensor, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """What the heads saw, side by side, onto the residual stream; of the tokens that are wanted."""
        out: Tensor = self.o_proj(mixed_BTE)
        return out

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        """By head, normed and in their places. Shape: [B, T, H, D] each."""
        q, k, v = map(self.split, outputs_of(x_BTD, self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        return *self.positions(q, k, ctx), v

    def extra_repr(self) -> str:
        bounded = "" if self.scores.cap is None else f", cap={self.scores.cap}"
        return f"rule={self.rule}, positions={self.positions}{bounded}"


class SinkAttention(Attention):
    """Attention whose heads each have a learned score to look at nothing with (https://arxiv.org/abs/2309.17453)."""

    SHARDS: ClassVar[Mapping[str, Axis]] = {**CUT_BY_HEAD, "sinks": 0}

    def __init__(self, dim: int, heads: int, *, rule: Rule, positions: Positions | None = None, **how: object) -> None:
        super().__init__(dim, heads, rule=rule, positions=positions, **how)  # type: ignore[arg-type]
        self.sinks = nn.Parameter(torch.empty(heads))

    def reset(self, std: float) -> None:
        """Fresh sinks."""
        assert self.sinks is not None
        nn.init.normal_(self.sinks, std=std)


class CrossAttention(Projections):
    """Cross-attention: a row looks at an encoder's output, whose keys and values are computed once and kept."""

    READ: ClassVar[frozenset[str]] = frozenset({"of_memory", "split"})
    SHARDS: ClassVar[Mapping[str, Axis]] = CUT_BY_HEAD

    def state_spec(self) -> CrossKV:
        return CrossKV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        return computed_across(backend, self.scores)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Attend to ``ctx.memory``.

        Args:
            x_BTD: Shape: [B, T, D].

        Returns:
            Shape: [B, T, D].
        """
        k, v = self.keys_values(ctx)
        mixed = attend(
            self.split(self.q_proj(self.asking(x_BTD, ctx))),
            k,
            v,
            self.seen(x_BTD.shape[1], ctx),
            scores=self.scores,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.cross_attentions if ctx.taps.wants_attentions else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out

    def lower(self, b: Builder, x: Value) -> Value:
        q = b.of(self.q_proj, x).in_heads(self.head_dim)
        return b.of(self.o_proj, b.look(q, self, self.head_dim))

    def asking(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """What queries are made of. Shape: [B, T, D] in and out."""
        return x_BTD

    def seen(self, queries: int, ctx: StepContext) -> Mask:
        """Which of the memory's rows so many queries may look at."""
        return ctx.memory_mask(queries)

    def keys_values(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """What they look at, kept from an earlier step where there is state. Shape: [B, H, S, D] each."""
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
        k, v = self.split(self.k_proj(memory.hidden)), self.split(self.v_proj(memory.hidden))
        return k.transpose(1, 2), v.transpose(1, 2)
