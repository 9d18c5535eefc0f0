"""Mixtures of experts: a router sends every token to a few of many feed-forwards (https://arxiv.org/abs/2101.03961)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.layers import PreNorm
from omniform.blocks.lowering import CannotLower, Gating, Routing, Value
from omniform.blocks.mlp import activation
from omniform.core.context import StepContext
from omniform.core.host import counts_of, is_readable, is_traced
from omniform.core.ranks import Ranks
from omniform.weights.links import Axis

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

_GROUPED = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 10)
"""Whether torch multiplies groups of rows by matrices of their own."""

RUN = 512
"""On a CPU so many rows at least go through their experts at a time: a long prompt's are not all held at once."""


COPIED = 1 << 31
"""On a GPU rows are multiplied by copies of their experts' matrices of so many bytes at most, where no kernel takes
these as they are: it takes memory, and waits for nothing."""


class Stacked(nn.Module):
    """The same projection of every expert.

    Attributes:
        weight: Shape: [E, out, in].
        bias: Shape: [E, out], or None.
    """

    def __init__(self, experts: int, dim: int, out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out, dim))
        self.bias = nn.Parameter(torch.empty(experts, out)) if bias else None

    def forward(self, x_ND: Tensor, *where: Sequence[tuple[int, int]] | Tensor) -> Tensor:
        """Tokens through the projections of their experts; called as a module, so that what is put around it counts.

        Args:
            x_ND: the tokens in the order of their experts.
            where: as :meth:`each` or :meth:`unread` takes it.
        """
        sent = where[0]
        if isinstance(sent, Tensor):
            assert isinstance(where[1], Tensor)
            return self.unread(x_ND, sent, where[1])
        return self.each(x_ND, sent)

    def each(self, x_ND: Tensor, sent: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens through the projections of their experts, a matmul for every expert that has some.

        Args:
            x_ND: the tokens in the order of their experts.
            sent: experts, and how many tokens each has.
        """
        # Taking one of a stack has a gradient as large as the stack; of taking it apart there is one for all.
        weights = self.weight.unbind() if torch.is_grad_enabled() else self.weight
        biases = (None,) * len(weights) if self.bias is None else self.bias
        parts = torch.split(x_ND, [count for _, count in sent])
        return torch.cat([F.linear(x, weights[n], biases[n]) for x, (n, _) in zip(parts, sent, strict=True)])

    def unread(self, x_ND: Tensor, expert_N: Tensor, ends_E: Tensor) -> Tensor:
        """Each token through the projection of its expert, without reading on the host which that is.

        Args:
            x_ND: the tokens in the order of their experts.
            expert_N: each token's expert.
            ends_E: where each expert's tokens end.
        """
        if x_ND.is_cuda and not is_traced() and self._is_grouped(x_ND):
            y = F.grouped_mm(x_ND, self.weight.transpose(1, 2), offs=ends_E)
        else:
            y = (self.weight[expert_N] @ x_ND[..., None])[..., 0]
        return y if self.bias is None else y + self.bias[expert_N]

    def _is_grouped(self, x_ND: Tensor) -> bool:
        """Whether torch's kernel for groups of rows is the way on a GPU."""
        if not _GROUPED or any(n * x_ND.element_size() % 16 for n in self.weight.shape[1:]):  # what it asks for
            return False
        # It is for bfloat16; of other numbers it reads on the host where each expert's end.
        copied = len(x_ND) * self.weight[0].nbytes
        return x_ND.dtype is torch.bfloat16 or (x_ND.dtype is not torch.float64 and copied > COPIED)

    def extra_repr(self) -> str:
        experts, out, dim = self.weight.shape
        return f"experts={experts}, {dim}, {out}, bias={self.bias is not None}"


class Experts(nn.Module):
    """Gated feed-forwards, of which each token goes through a few.

    Args:
        experts: how many there are.
        dim: width of the residual stream.
        hidden: width within each.
        act: name of the gates' activation.
        bias: whether the projections have biases.

    Attributes:
        held: the experts that are here, where others are elsewhere and do their part there; None for all.
    """

    SHARDS: ClassVar[Mapping[str, Axis]] = {"gate_up_proj": 0, "down_proj": 0}
    SUMS: ClassVar[bool] = True

    def __init__(self, experts: int, dim: int, hidden: int, act: str, *, bias: bool = False) -> None:
        super().__init__()
        self.experts = experts
        self.held: range | None = None
        self.act = act
        self.gate_up_proj = Stacked(experts, dim, 2 * hidden, bias=bias)
        self.down_proj = Stacked(experts, hidden, dim, bias=bias)
        self._act = activation(act)

    def gated(self, gate_up_NH: Tensor) -> Tensor:
        """Gates, and what they let through, side by side. Shape: [N, 2 * hidden] to [N, hidden]."""
        gate, up = gate_up_NH.chunk(2, dim=-1)
        return self._act(gate) * up

    def forward(self, x_ND: Tensor, chosen_NK: Tensor, shares_NK: Tensor) -> Tensor:
        """Shape: [N, D] in and out.

        Args:
            chosen_NK: each token's experts.
            shares_NK: how much each of them counts.
        """
        if self.held is not None:
            chosen_NK = self._numbered_here(chosen_NK, self.held)
        counts = counts_of(chosen_NK, self.experts) if is_readable(x_ND) else None
        if counts is not None:
            return self._in_runs(x_ND, chosen_NK, shares_NK, counts[: self.experts])
        tokens, each = chosen_NK.shape
        order = chosen_NK.flatten().argsort(stable=True)
        expert = chosen_NK.flatten()[order]
        ends = (expert[:, None] == torch.arange(self.experts, device=x_ND.device)).sum(0).cumsum(0).int()
        here = expert < self.experts
        if self.held is not None:
            expert = expert.clamp(max=self.experts - 1)
        x = self.gated(self.gate_up_proj(x_ND[order // each], expert, ends))
        made = self.down_proj(x, expert, ends) * shares_NK.flatten()[order, None].to(x.dtype)
        if self.held is not None:  # behind the last expert's tokens a kernel may leave anything
            made = torch.where(here[:, None], made, 0)
        back = torch.zeros_like(made).index_copy(0, order, made)
        return back.view(tokens, each, x_ND.shape[-1]).sum(1)

    def _numbered_here(self, chosen_NK: Tensor, held: range) -> Tensor:
        """Experts by their places among those that are here; all others are one behind the last."""
        own = chosen_NK - held.start
        return torch.where((own >= 0) & (own < len(held)), own, len(held))

    def shard(self, ranks: Ranks) -> Mapping[str, range]:
        """See :class:`~omniform.blocks.shards.Shards`: each rank has some of the experts."""
        self.held = ranks.of(self.experts, "experts")
        self.experts = len(self.held)
        return dict.fromkeys(self.SHARDS, self.held)

    def gating(self) -> Gating:
        """What :meth:`gated` does, in a few words."""
        return Gating(self.act)

    def lower_chosen(self, b: Builder, x: Value, chosen: Value, shares: Value) -> Value:
        """What the chosen experts make of a value."""
        return b.experts(x, chosen, shares, (self.gate_up_proj, self.down_proj), self.gating())

    def _in_runs(self, x_ND: Tensor, chosen_NK: Tensor, shares_NK: Tensor, counts: Sequence[int]) -> Tensor:
        """The same where the host knows how many tokens each expert has."""
        order = chosen_NK.flatten().argsort(stable=True)
        token, shares_N = order // chosen_NK.shape[1], shares_NK.flatten()
        out = torch.zeros_like(x_ND, dtype=torch.promote_types(x_ND.dtype, torch.float32))
        begin = 0
        for sent in _runs(counts):
            end = begin + sum(count for _, count in sent)
            rows, to = order[begin:end], token[begin:end]
            made = self.down_proj(self.gated(self.gate_up_proj(x_ND[to], sent)), sent)
            out.index_add_(0, to, (made * shares_N[rows, None].to(made.dtype)).to(out.dtype))
            begin = end
        return out.to(x_ND.dtype)

    def extra_repr(self) -> str:
        return f"act={self.act}"


def _runs(counts: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Experts that have tokens, each with how many: some at a time, of :data:`RUN` tokens or more together."""
    run: list[tuple[int, int]] = []
    rows = 0
    for expert, count in enumerate(counts):
        if count:
            run.append((expert, count))
            rows += count
        if rows >= RUN:
            yield run
            run, rows = [], 0
    if run:
        yield run


class ClampedExperts(Experts):
    """Experts whose gates and values are bounded before a swish of another slope, each gate beside its value (gpt-oss).

    Args:
        limit: bound of gates, from above, and of values, from either side.
        alpha: slope of the swish.
    """

    SHARDS: ClassVar[Mapping[str, Axis]] = Experts.SHARDS

    def __init__(self, experts: int, dim: int, hidden: int, *, limit: float, alpha: float) -> None:
        super().__init__(experts, dim, hidden, "silu", bias=True)
        self.limit, self.alpha = limit, alpha

    def gated(self, gate_up_NH: Tensor) -> Tensor:
        gate, up = gate_up_NH[..., ::2].clamp(max=self.limit), gate_up_NH[..., 1::2].clamp(-self.limit, self.limit)
        return (up + 1) * gate * torch.sigmoid(gate * self.alpha)

    def gating(self) -> Gating:
        return Gating("clamped", beside=True, limit=self.limit, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"limit={self.limit}, alpha={self.alpha}"


class Choice(Protocol):
    """Which experts a token goes through, and how much each counts, from the router's scores."""

    def __call__(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """The shares and the numbers of the chosen experts. Shape: [N, E] to [N, K] each."""
        ...


@runtime_checkable
class Told(Protocol):
    """A choice that can be told in a few words; others are made by themselves alone."""

    def routing(self) -> Routing: ...


@dataclass(frozen=True, slots=True)
class SoftmaxTop:
    """The most likely experts, in float32 (Mixtral, Qwen2-MoE, OLMoE).

    Attributes:
        top: how many experts a token goes through.
        normed: whether their shares sum to one.
    """

    top: int
    normed: bool = True

    def __call__(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        shares, chosen = scores_NE.softmax(-1, dtype=torch.float32).topk(self.top, dim=-1)
        return shares / shares.sum(-1, keepdim=True) if self.normed else shares, chosen

    def routing(self) -> Routing:
        return Routing(top=self.top, likely="softmax", normed=self.normed)


@dataclass(frozen=True, slots=True)
class TopSoftmax:
    """The experts of the highest scores, which alone share (gpt-oss, Granite).

    Attributes:
        top: how many experts a token goes through.
    """

    top: int

    def __call__(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        best, chosen = scores_NE.topk(self.top, dim=-1)
        return best.softmax(-1, dtype=torch.float32), chosen

    def routing(self) -> Routing:
        return Routing(top=self.top, likely="chosen")


class SigmoidGroups(nn.Module):
    """Sigmoids, with a bias that counts in the choice alone; groups are chosen first (https://arxiv.org/abs/2412.19437).

    A group is as good as the sum of its two best.

    Args:
        experts: how many there are.
        top: how many experts a token goes through.
        groups: how many groups the experts are in, one after another; 1 for none.
        top_groups: from how many of them a token's experts are.
        normed: whether their shares sum to one.
        scale: factor on the shares.
    """

    KEPT: ClassVar[frozenset[str]] = frozenset({"e_score_correction_bias"})

    def __init__(
        self, experts: int, top: int, *, groups: int = 1, top_groups: int = 1, normed: bool = True, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.top, self.groups, self.top_groups, self.normed, self.scale = top, groups, top_groups, normed, scale
        self.register_buffer("e_score_correction_bias", torch.zeros(experts, dtype=torch.float32))

    e_score_correction_bias: Tensor

    def reset(self, std: float) -> None:
        """No expert is favoured."""
        self.e_score_correction_bias.zero_()

    def forward(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Choice`."""
        likely = scores_NE.float().sigmoid()
        grouped = (likely + self.e_score_correction_bias).unflatten(-1, (self.groups, -1))  # type: ignore[no-untyped-call]
        good = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        best = torch.zeros_like(good).scatter(-1, good.topk(self.top_groups, dim=-1).indices, 1.0) > 0
        chosen = grouped.masked_fill(~best[..., None], float("-inf")).flatten(-2).topk(self.top, dim=-1).indices
        shares = likely.gather(-1, chosen)
        if self.normed:
            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        return shares * self.scale, chosen

    def routing(self) -> Routing:
        return Routing(
            top=self.top, likely="sigmoid", bias=self.e_score_correction_bias, groups=self.groups,
            top_groups=self.top_groups, best=2, normed=self.normed, least=1e-20, scale=self.scale,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"top={self.top}, groups={self.top_groups} of {self.groups}, normed={self.normed}, scale={self.scale}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxGroups:
    """The most likely experts of the groups that hold the most likely ones (https://arxiv.org/abs/2405.04434, 2.2.2).

    Attributes:
        top: how many experts a token goes through.
        groups: how many groups the experts are in, one after another; 1 for none.
        top_groups: from how many of them a token's experts are.
        scale: factor on the shares.
    """

    top: int
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0

    def __call__(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        grouped = scores_NE.softmax(-1, dtype=torch.float32).unflatten(-1, (self.groups, -1))  # type: ignore[no-untyped-call]
        good = grouped.amax(-1)
        best = torch.zeros_like(good).scatter(-1, good.topk(self.top_groups, dim=-1).indices, 1.0)
        shares, chosen = (grouped * best[..., None]).flatten(-2).topk(self.top, dim=-1)
        return shares * self.scale, chosen

    def routing(self) -> Routing:
        return Routing(
            top=self.top, likely="softmax", groups=self.groups, top_groups=self.top_groups, scale=self.scale
        )  # fmt: skip


class WideRouter(nn.Linear):
    """A router whose scores are computed in float32 (DeepSeek-V3)."""

    IS_MATRIX: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., E]."""
        return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


@runtime_checkable
class Routes(Protocol):
    """A module that sends what it reads to some of its parts.

    Attributes:
        ROUTERS: the names of the layers that say where to; the ecosystem's are no linear layers.
    """

    ROUTERS: ClassVar[tuple[str, ...]]


class MoE(Composed):
    """A router, and experts that it chooses among (Mixtral). A step of a layer: called with its context.

    Attributes:
        gate: scores every expert. Shape: [..., D] to [..., E].
        choose: which experts these scores mean.
        experts: called with tokens, their experts and how much each counts, as :class:`Experts`.
        jitter: in training, what is read is multiplied by random numbers that are at most so far from one.
    """

    ROUTERS: ClassVar[tuple[str, ...]] = ("gate",)

    gate: nn.Linear
    choose: Choice
    experts: nn.Module
    jitter: float = 0.0

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out; the router's scores are noted in ``ctx.taps``."""
        x_ND = x_BTD.flatten(0, -2)
        if self.training and self.jitter:
            x_ND = x_ND * torch.empty_like(x_ND).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        return self.mixed(x_ND, ctx).view_as(x_BTD)

    def lower(self, b: Builder, x: Value) -> Value:
        if not isinstance(self.experts, Experts) or not isinstance(self.choose, Told):
            raise CannotLower(self, "its choice or its experts are of its own kind")
        shares, chosen = b.route(b.of(self.gate, x), self.choose.routing())
        return self.experts.lower_chosen(b, x, chosen, shares)

    def mixed(self, x_ND: Tensor, ctx: StepContext) -> Tensor:
        """What the chosen experts, and others, make of each token. Shape: [N, D] in and out."""
        scores = self.gate(x_ND)
        ctx.taps.routers.append(scores)
        shares, chosen = self.choose(scores)
        made: Tensor = self.experts(x_ND, chosen, shares)
        return made


class SharedMoE(MoE):
    """Beside the chosen experts one that every token goes through, behind a gate of its own (Qwen2-MoE)."""

    shared_expert: nn.Module
    shared_expert_gate: nn.Linear

    def mixed(self, x_ND: Tensor, ctx: StepContext) -> Tensor:
        shared: Tensor = self.shared_expert_gate(x_ND).sigmoid() * self.shared_expert(x_ND)
        return super().mixed(x_ND, ctx) + shared

    def lower(self, b: Builder, x: Value) -> Value:
        return super().lower(b, x) + b.of(self.shared_expert_gate, x).sigmoid() * b.of(self.shared_expert, x)


class OpenSharedMoE(MoE):
    """Beside the chosen experts some that every token goes through, as one feed-forward without a gate (DeepSeek)."""

    shared_experts: nn.Module

    def mixed(self, x_ND: Tensor, ctx: StepContext) -> Tensor:
        shared: Tensor = self.shared_experts(x_ND)
        return super().mixed(x_ND, ctx) + shared

    def lower(self, b: Builder, x: Value) -> Value:
        return super().lower(b, x) + b.of(self.shared_experts, x)


class RoutedPreNorm(PreNorm):
    """A pre-norm layer whose feed-forward is a mixture of experts."""

    ROUTES: ClassVar[bool] = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.self_attn(self.input_layernorm(x_BTD), ctx), ctx)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD), ctx), ctx)
