"""Multi-head latent attention (https://arxiv.org/abs/2405.04434, section 2.1): one vector per token is kept.

A token leaves a *latent*, of which every head makes its key and its value, and one rotated key that all heads share.
Keys and values can be had in two ways, which are equal but for rounding:

- *expanded*: a matmul makes them of the latents, and attention is that of many heads;
- *absorbed*: that matrix is applied to the queries, and to what the heads saw, instead. Attention is then that of many
  query heads to one wide key head, which is the latents themselves: nothing is made of what is kept.

A new token looks at a whole row, so it is cheaper to change the token; a prompt brings as many queries as keys, which
are narrower expanded. What a step does follows from its sizes (:meth:`LatentAttention.absorbs`). With DeepSeek's widths
and 16 heads, one core took 3.3 ms for a token that looks at 2048 others absorbed and 246 expanded, and 1.7 s for a
prompt of 2048 absorbed and 0.8 expanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attend import attend, computed_under
from omniform.blocks.attention import MindsLength, Positions
from omniform.blocks.joint import outputs_of
from omniform.blocks.lowering import Attending, CannotLower, Value
from omniform.blocks.norms import RMSNorm
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Computed, Mask, StepContext
from omniform.core.host import is_traced
from omniform.core.packed import PackedMask
from omniform.core.ranks import Ranks
from omniform.core.rules import Rule, both_ways
from omniform.core.state import Latent, LengthRegimes, StatefulModule
from omniform.weights.links import Axis

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

EPS = 1e-6
"""Of the norms of latents, whatever the config says of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentHeads:
    """How a latent attention is cut into heads.

    Attributes:
        count: number of heads.
        rank: width of the latent that keys and values are made of.
        turned: channels of a query and of the shared key that turn with their positions.
        plain: channels of a query and a key that do not.
        value: width of a value.
    """

    count: int
    rank: int
    turned: int
    plain: int
    value: int


class LatentAttention(StatefulModule):
    """Attention whose keys and values are made of one latent per token.

    Args:
        dim: width of the residual stream.
        heads: how it is cut into heads.
        rule: which tokens may see which.
        positions: how the turning channels learn their places.
        scores: how queries and keys are compared.
        bias: whether what reads and writes the residual stream has biases, apart from :attr:`q_proj`.
        dropout: probability of dropping an attention weight in training.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "kv_a_proj_with_mqa"),)
    READ: ClassVar[frozenset[str]] = frozenset({"read", "add_queries"})
    SHARDS: ClassVar[Mapping[str, Axis]] = {"q_proj": "out", "kv_b_proj": "out", "o_proj": "in"}

    def __init__(
        self,
        dim: int,
        heads: LatentHeads,
        *,
        rule: Rule,
        positions: Positions,
        scores: Scores,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.rule, self.positions, self.scores, self.dropout = heads, rule, positions, scores, dropout
        self.add_queries(dim, bias)
        self.kv_a_proj_with_mqa = nn.Linear(dim, heads.rank + heads.turned, bias=bias)
        self.kv_a_layernorm = RMSNorm(heads.rank, EPS)
        self.kv_b_proj = nn.Linear(heads.rank, heads.count * (heads.plain + heads.value), bias=False)
        self.o_proj = nn.Linear(heads.count * heads.value, dim, bias=bias)

    def add_queries(self, dim: int, bias: bool) -> None:
        """Add what makes the queries."""
        self.q_proj = nn.Linear(dim, self.heads.count * (self.heads.plain + self.heads.turned), bias=False)

    def shard(self, ranks: Ranks) -> Mapping[str, range]:
        """See :class:`~omniform.blocks.shards.Shards`: heads are divided, latents are every rank's."""
        h = self.heads
        own = ranks.of(h.count, "attention heads")
        self.heads = replace(h, count=len(own))
        widths = {"out": h.plain + h.turned, "kv_b_proj": h.plain + h.value, "o_proj": h.value}
        each = {name: widths.get(name, widths["out"]) for name in self.SHARDS}
        return {name: range(own.start * width, own.stop * width) for name, width in each.items()}

    def read(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, all heads side by side, and latents with the shared key, none of them in their places."""
        queries, latents = outputs_of(x_BTD, self.q_proj, self.kv_a_proj_with_mqa)
        return queries, latents

    def state_spec(self) -> Latent:
        return Latent(self.heads.rank + self.heads.turned, self.rule.reach)

    def regimes(self) -> tuple[LengthRegimes, ...]:
        return self.positions.regimes() if isinstance(self.positions, MindsLength) else ()

    def looks_ahead(self) -> bool:
        return self.rule.ahead

    def look_both_ways(self) -> None:
        self.rule = both_ways(self.rule)

    def computed(self, backend: Backend) -> Computed:
        return computed_under(self.rule, backend, self.scores, biased=False, sinks=False)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in; out of the tokens that are wanted."""
        h = self.heads
        queries, latents = self.read(x_BTD)
        q_BTHP, q_BTHR = torch.split(self._heads(queries), [h.plain, h.turned], dim=-1)
        latent, shared = torch.split(latents, [h.rank, h.turned], dim=-1)
        q_BTHR, shared = self.positions(q_BTHR, shared[:, :, None], ctx)
        c_B1SW = torch.cat([self.kv_a_layernorm(latent), shared[:, :, 0]], dim=-1)[:, None]
        if ctx.state is not None:
            c_B1SW = ctx.state.latent(self.slot).extend(c_B1SW)
        q = ctx.only_wanted(q_BTHP), ctx.only_wanted(q_BTHR)
        mask = ctx.mask(self.rule, x_BTD.shape[1], x_BTD.device)
        if isinstance(mask, PackedMask):
            mixed = self._packed(*q, c_B1SW, mask, ctx)
        elif not is_traced() and self.absorbs(q[0].shape[1], c_B1SW.shape[2]):
            mixed = self._absorbed(*q, c_B1SW, mask, ctx)
        else:
            mixed = self._expanded(*q, c_B1SW, mask, ctx)
        out: Tensor = self.o_proj(mixed)
        return out

    def lower(self, b: Builder, x: Value) -> Value:
        # Absorbed, whatever the step's sizes: a token's numbers must not depend on what it is read with.
        h = self.heads
        queries, latents = b.read(self.read, x)
        plain, turned = queries.in_heads(h.plain + h.turned).split([h.plain, h.turned])
        latent, shared = latents.split([h.rank, h.turned])
        turned, shared = b.turn(self.positions, turned, shared.in_heads(h.turned))
        kept = b.join(b.of(self.kv_a_layernorm, latent), shared)
        if not isinstance(self.kv_b_proj, nn.Linear):
            raise CannotLower(self.kv_b_proj, "is no matrix of plain numbers")
        matrices = self.kv_b_proj.weight.view(h.count, -1, h.rank)
        to_keys, to_values = torch.split(matrices, [h.plain, h.value], dim=1)
        asked = b.join(b.by_head(plain, self.kv_b_proj, to_keys.transpose(1, 2)), turned)
        seen = b.attend_latent(asked, kept, h.rank, Attending(self.slot, self.rule, self.scores))
        return b.of(self.o_proj, b.by_head(seen.in_heads(h.rank), self.kv_b_proj, to_values).flatten(-2))

    def absorbs(self, queries: int, keys: int) -> bool:
        """Whether so many queries of a row and so many keys are compared absorbed: it takes fewer multiplications.

        Always False where :attr:`kv_b_proj` is more than a matrix of numbers (quantized, with an adapter): only the
        layer itself knows then what it does to a latent.
        """
        h, layer = self.heads, self.kv_b_proj
        plain = isinstance(layer, nn.Linear) and "weight" in layer._parameters  # to ask for others' makes it anew
        if not plain or layer.weight.dtype != self.kv_a_layernorm.weight.dtype:
            return False
        through, wider = h.rank * (h.plain + h.value), 2 * h.rank - h.plain - h.value
        return queries * (through + keys * wider) < keys * through

    def _expanded(
        self, q_BTHP: Tensor, q_BTHR: Tensor, c_B1SW: Tensor, mask: Mask | PackedMask, ctx: StepContext
    ) -> Tensor:
        """Shape: [B, T, H * V]."""
        h = self.heads
        latent, shared = torch.split(c_B1SW[:, 0], [h.rank, h.turned], dim=-1)
        made = self._heads(self.kv_b_proj(latent)).transpose(1, 2)
        k, v = torch.split(made, [h.plain, h.value], dim=-1)
        k = torch.cat([k, shared[:, None].expand(-1, h.count, -1, -1)], dim=-1)
        # Fused kernels take values as wide as their keys: with zeros behind, 2048 tokens take half the time.
        v = F.pad(v, (0, max(k.shape[-1] - h.value, 0)))
        seen = self._attend(torch.cat([q_BTHP, q_BTHR], dim=-1), k, v, mask, ctx)
        return self._heads(seen)[..., : h.value].flatten(2)

    def _absorbed(
        self, q_BTHP: Tensor, q_BTHR: Tensor, c_B1SW: Tensor, mask: Mask | PackedMask, ctx: StepContext
    ) -> Tensor:
        """Shape: [B, T, H * V]."""
        h, batch = self.heads, q_BTHP.shape[0]
        assert isinstance(self.kv_b_proj, nn.Linear)
        matrices = self.kv_b_proj.weight.view(h.count, -1, h.rank)
        to_keys, to_values = torch.split(matrices, [h.plain, h.value], dim=1)
        # Neither half is turned around: a CPU multiplies by a batch of turned bfloat16 matrices ten times slower.
        q = (q_BTHP.flatten(0, 1).transpose(0, 1) @ to_keys).transpose(0, 1).reshape(batch, -1, h.count, h.rank)
        q = torch.cat([q, q_BTHR], dim=-1)
        # The latents whole: kernels are made for values as wide as their keys.
        seen = self._attend(q, c_B1SW, c_B1SW, mask, ctx).view(-1, h.count, h.rank + h.turned)[..., : h.rank]
        mixed_HVN = to_values @ seen.permute(1, 2, 0)
        return mixed_HVN.permute(2, 0, 1).reshape(batch, -1, h.count * h.value)

    def _heads(self, x_BTE: Tensor) -> Tensor:
        """Shape: [B, T, H * D] to [B, T, H, D]."""
        return x_BTE.view(*x_BTE.shape[:-1], self.heads.count, -1)

    def _attend(self, q_BTHD: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, ctx: StepContext) -> Tensor:
        return attend(
            q_BTHD,
            k,
            v,
            mask,
            scores=self.scores,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )

    def _packed(self, q_1NHP: Tensor, q_1NHR: Tensor, c_11SW: Tensor, mask: PackedMask, ctx: StepContext) -> Tensor:
        """Rows that absorb together, the others with their latents gathered. Shape: [1, N, H * V]."""
        absorbing, others = mask.parted(self.absorbs)
        if others is None:
            return self._absorbed(q_1NHP, q_1NHR, c_11SW, mask, ctx)
        tokens, seen = others
        slots, gathered = seen.gathered()
        parts = [c_11SW[:, :, first:stop] for first, stop in slots]
        c = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        made = self._expanded(q_1NHP[:, tokens], q_1NHR[:, tokens], c, gathered, ctx)
        if absorbing is None:
            return made
        mixed = made.new_empty(1, q_1NHP.shape[1], made.shape[2])
        mixed[:, tokens] = made
        tokens, seen = absorbing
        mixed[:, tokens] = self._absorbed(q_1NHP[:, tokens], q_1NHR[:, tokens], c_11SW, seen, ctx)
        return mixed

    def extra_repr(self) -> str:
        return f"{self.heads}, rule={self.rule}, positions={self.positions}"


class LowRankLatentAttention(LatentAttention):
    """Latent attention whose queries are made of a small vector too.

    Args:
        query_rank: its width.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_a_proj", "kv_a_proj_with_mqa"),)
    SHARDS: ClassVar[Mapping[str, Axis]] = {"q_b_proj": "out", "kv_b_proj": "out", "o_proj": "in"}

    def __init__(self, dim: int, heads: LatentHeads, query_rank: int, **how: object) -> None:
        self._query_rank = query_rank
        super().__init__(dim, heads, **how)  # type: ignore[arg-type]

    def add_queries(self, dim: int, bias: bool) -> None:
        h, rank = self.heads, self._query_rank
        self.q_a_proj = nn.Linear(dim, rank, bias=bias)
        self.q_a_layernorm = RMSNorm(rank, EPS)
        self.q_b_proj = nn.Linear(rank, h.count * (h.plain + h.turned), bias=False)

    def read(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        small, latents = outputs_of(x_BTD, self.q_a_proj, self.kv_a_proj_with_mqa)
        return self.q_b_proj(self.q_a_layernorm(small)), latents
