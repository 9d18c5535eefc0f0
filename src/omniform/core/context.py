"""The step context: all that varies from one step to the next, in one immutable value.

Modules hold parameters; the context holds everything else. It resolves an attention rule into a mask, and rotary
positions into cosines and sines, once per step, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self, TypedDict, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.outputs import Noted
from omniform.core.recompute import Recompute
from omniform.core.rules import Causal, Full, Rule
from omniform.core.state import State
from omniform.core.texts import longest, place_within

T = TypeVar("T")

Backend = Literal["eager", "sdpa", "native", "flex_attention", "flash_attention_2", "flash_attention_3"]
Bias = Tensor | tuple[Tensor, ...]
"""What is added to scaled scores. Shape: [B or 1, H, T, S]; in a packed step one tensor per row."""


@dataclass(frozen=True, slots=True)
class Computed:
    """How a mixer is computed.

    Attributes:
        prompt: the kernel over a whole prompt (or a whole input, in an encoder).
        decoding: the kernel of one new token; None where there is no decoding.
        why: what decides it.
    """

    prompt: str
    decoding: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a mask says, where that is a rule over indices and padding: some kernels ask this and read no mask.

    Attributes:
        rule: which index sees which.
        past: the index of the first query.
        queries: how many there are.
        padding: which keys are real. Shape: [B, S]; None where all are.
        device: where a mask would go.
    """

    rule: Rule
    past: int
    queries: int
    padding: Tensor | None
    device: torch.device

    def allowed(self) -> Tensor:
        """The same as a mask. Shape: [B or 1, 1, T, S]."""
        query = torch.arange(self.past, self.past + self.queries, device=self.device)[None, None, :, None]
        key = torch.arange(self.past + self.queries, device=self.device)[None, None, None]
        allowed = self.rule.allows(query, key)
        return allowed if self.padding is None else allowed & self.padding[:, None, None, :]


@dataclass(frozen=True, slots=True)
class Mask:
    """A resolved rule.

    Attributes:
        allowed: Shape: [B or 1, H or 1, T, S], True where attention is allowed; None allows everything (or, with
            ``causal``, what the kernel's own causal flag allows; or what ``seen`` says). A query that may see nothing
            (padding, before or beyond what it could look at) gets zeros from ``sdpa`` and the mean of all values from
            ``eager``, as the reference's does.
        causal: the kernel's causal flag stands for the mask; only where queries and keys are the same tokens.
        seen: the same in words, where they suffice.
    """

    allowed: Tensor | None = None
    causal: bool = False
    seen: Seen | None = None
    _made: dict[Hashable, object] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What a kernel makes of the mask, once for all layers; a mask of a step's own, not :data:`EVERYTHING`."""
        if key not in self._made:
            self._made[key] = make()
        return cast(T, self._made[key])

    def materialised(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask as a tensor, for backends that have no causal flag."""
        if self.causal:
            return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
        return self.allowed


EVERYTHING = Mask()


class Worded(Mask):
    """A rule in words, for kernels that are asked for by name; the mask is made when somebody asks for it after all."""

    __slots__ = ()

    def __init__(self, seen: Seen) -> None:
        made: dict[Hashable, object] = {}
        for name, value in {"causal": False, "seen": seen, "_made": made}.items():
            object.__setattr__(self, name, value)

    @property
    def allowed(self) -> Tensor | None:
        """See :class:`Mask`."""
        assert self.seen is not None
        return self.once("allowed", self.seen.allowed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worded) and self.seen == other.seen

    __hash__ = None  # type: ignore[assignment]


def counted(number: int) -> Hashable:
    """A size as part of a key: while a model is traced, one that may be any has no hash, but a name."""
    return number if isinstance(number, int) else str(number)


@dataclass(frozen=True, slots=True)
class Memory:
    """An encoder's output, as a decoder's cross-attention reads it.

    Attributes:
        hidden: Shape: [B, S, D].
        padding: Shape: [B, S], True for real tokens; None where all are.
    """

    hidden: Tensor
    padding: Tensor | None = None


class Tapped(TypedDict, total=False):
    """What a caller may ask to see on the way.

    Attributes:
        output_hidden_states: whether to return the embeddings and each layer's output.
        output_attentions: whether to return each layer's attention weights.
    """

    output_hidden_states: bool | None
    output_attentions: bool | None


class Taps:
    """Collects what a caller asked to see on the way: hidden states, attention weights."""

    __slots__ = (
        "attentions", "cross_attentions", "hidden_states", "routers", "wants_attentions", "wants_hidden",
        "wants_routers",
    )  # fmt: skip

    def __init__(self, asked: Tapped | None = None) -> None:
        asked = asked or {}
        self.wants_hidden = bool(asked.get("output_hidden_states"))
        self.wants_attentions = bool(asked.get("output_attentions"))
        self.wants_routers = False
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []
        self.cross_attentions: list[Tensor] = []
        self.routers: list[Tensor] = []

    @property
    def wants_something(self) -> bool:
        """Whether anybody looks at what layers do on the way."""
        return self.wants_hidden or self.wants_attentions or self.wants_routers

    def hidden(self, x_BTD: Tensor) -> None:
        """Note the hidden states at this point, if they were asked for."""
        if self.wants_hidden:
            self.hidden_states.append(x_BTD)

    def collected(self, which: list[Tensor], wanted: bool) -> tuple[Tensor, ...] | None:
        return tuple(which) if wanted else None

    @property
    def hidden_or_none(self) -> tuple[Tensor, ...] | None:
        """The hidden states, or None if they were not asked for."""
        return self.collected(self.hidden_states, self.wants_hidden)

    @property
    def attentions_or_none(self) -> tuple[Tensor, ...] | None:
        """The self-attention weights, or None if they were not asked for."""
        return self.collected(self.attentions, self.wants_attentions)

    @property
    def cross_or_none(self) -> tuple[Tensor, ...] | None:
        """The cross-attention weights, or None if they were not asked for."""
        return self.collected(self.cross_attentions, self.wants_attentions)

    def noted(self) -> Noted:
        """What an output tells of it."""
        return {"hidden_states": self.hidden_or_none, "attentions": self.attentions_or_none}


@dataclass(frozen=True, slots=True)
class StepContext:
    """One step over a padded batch: every row brings the same number of indices, some of which may be padding.

    Attributes:
        positions: Shape: [B or 1, T], position ids of this step's tokens.
        past: how many key indices came before this step.
        padding: Shape: [B, past + T], True for real tokens; None where all are.
        allowed: Shape: [B, 1, T, past + T], what the caller says is seen, whatever the rules say; None where they do.
        bidirectional: which of this step's tokens see one another in both directions: those with the same number, 0 for
            none. Shape: [B, T]; None where the rule says all. A stretch of such tokens is read whole in one step.
        texts: which text of its row each token belongs to, in steps that read rows from their beginnings; tokens see
            their own text only, counted from where it begins. Shape: [B or 1, T]; None where every row is one.
        state: where keys and values are kept; None for a single forward.
        memory: what cross-attention reads.
        backend: how attention is computed.
        taps: what the caller wants to see on the way.
        recompute: how layers that keep their inputs only are computed once more for their gradients; None: none does.
    """

    positions: Tensor
    past: int = 0
    padding: Tensor | None = None
    allowed: Tensor | None = None
    bidirectional: Tensor | None = None
    texts: Tensor | None = None
    state: State | None = None
    memory: Memory | None = None
    backend: Backend = "sdpa"
    taps: Taps = field(default_factory=Taps)
    recompute: Recompute | None = None
    _memo: dict[Hashable, object] = field(default_factory=dict, repr=False)

    def with_(self, **changes: object) -> Self:
        """A copy with some fields changed; what was resolved so far is kept only if it still holds."""
        return replace(self, **changes, _memo={})  # type: ignore[arg-type]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` the first time this step asks for ``key``; what it gave every later time."""
        if key not in self._memo:
            self._memo[key] = compute()
        return cast(T, self._memo[key])

    def mask(self, rule: Rule, queries: int, device: torch.device) -> Mask:
        """What self-attention under ``rule`` may see in this step."""
        return self.once((rule, counted(queries)), lambda: self._resolve(rule, queries, device))

    def memory_mask(self, queries: int) -> Mask:
        """What cross-attention may see: the memory's real tokens."""
        if self.memory is None or self.memory.padding is None:
            return EVERYTHING
        padding = self.memory.padding
        if self.backend not in ("sdpa", "eager"):
            seen = Seen(Full(), 0, queries, padding, padding.device)
            return self.once(("memory", counted(queries)), lambda: Mask(padding[:, None, None, :], seen=seen))
        return self.once(("memory", counted(queries)), lambda: Mask(padding[:, None, None, :]))

    def last_layer(self) -> StepContext:
        """The context of a stack's last layer, which need not compute what nobody asks for."""
        return self

    def only_wanted(self, x: Tensor) -> Tensor:
        """Of what stands for this step's tokens, that which the layer's output is wanted for. Shape: [B, T, ...]."""
        return x

    def like(self, x: Tensor, branch: Tensor) -> Tensor:
        """Of what stands for this step's tokens, that which ``branch`` gave back too. Shape: [B, T, ...] each."""
        return x

    def spread(self, bias: Callable[[Tensor, Tensor], Tensor], device: torch.device, queries: int) -> Bias:
        """A score bias that depends on the indices of query and key, for every pair of this step.

        Args:
            bias: called with the indices of queries and of keys, Shape: [T] and [S]; returns Shape: [1, H, T, S].
            queries: how many new tokens each row has, T.
        """
        keys = torch.arange(self.past + queries, device=device)
        return bias(keys[self.past :], keys)

    @property
    def lengths_seen(self) -> Tensor:
        """How long each token's row was when it was first read, for positions that depend on it. Scalar or [B, T]."""
        whole = self.texts is None or self.positions.dim() > 2  # on several axes no text begins anew
        return self.positions.max() + 1 if whole or self.texts is None else longest(self.positions, self.texts)

    def place(self) -> Tensor | None:
        """How many tokens of its own text come before each token. Shape: [B or 1, T]; None where rows are one text."""
        texts = self.texts
        return None if texts is None else self.once("place", lambda: place_within(texts))

    def _resolve(self, rule: Rule, queries: int, device: torch.device) -> Mask:
        if self.allowed is None and self.bidirectional is None and self.texts is None:
            if self.padding is None and (isinstance(rule, Full) or (isinstance(rule, Causal) and queries == 1)):
                return EVERYTHING
            if self.padding is None and isinstance(rule, Causal) and self.past == 0:
                return Mask(causal=True)
            if self.backend not in ("sdpa", "eager"):
                return Worded(Seen(rule, self.past, queries, self.padding, device))
        if self.allowed is not None:
            return Mask(self.allowed if self.padding is None else self.allowed & self.padding[:, None, None, :])
        allowed = self._by_rule(rule, queries, device)
        if self.texts is not None:
            allowed = allowed & (self.texts[:, None, :, None] == self.texts[:, None, None, :])
        if self.padding is not None:
            allowed = allowed & self.padding[:, None, None, :]
        return Mask(allowed)

    def _by_rule(self, rule: Rule, queries: int, device: torch.device) -> Tensor:
        """What a rule says of every query and key. Shape: [B or 1, 1, T, S]."""
        place = self.place()
        if place is not None:
            query, key = place[:, None, :, None], place[:, None, None, :]
        else:
            query = torch.arange(self.past, self.past + queries, device=device)[None, None, :, None]
            key = torch.arange(self.past + queries, device=device)[None, None, None]
        if self.bidirectional is None:
            return rule.allows(query, key)
        number = F.pad(self.bidirectional, (self.past, 0))
        joined = (self.bidirectional[:, None, :, None] == number[:, None, None]) & (number > 0)[:, None, None]
        return rule.widened(query, key, joined)


@dataclass(frozen=True, slots=True)
class FirstContext(StepContext):
    """A step whose rows are told from their first tokens alone: its last layer computes keys and values of the others.

    Attributes:
        ends: whether this is the last layer's.
    """

    ends: bool = False

    @classmethod
    def of(cls, ctx: StepContext) -> FirstContext:
        """The same step, of which no more is wanted."""
        return cls(**{f.name: getattr(ctx, f.name) for f in fields(StepContext) if f.name != "_memo"})

    def last_layer(self) -> StepContext:
        return self.with_(ends=True)

    def only_wanted(self, x: Tensor) -> Tensor:
        return x[:, :1] if self.ends else x

    def like(self, x: Tensor, branch: Tensor) -> Tensor:
        return x if x.shape[1] == branch.shape[1] else self.only_wanted(x)

    def mask(self, rule: Rule, queries: int, device: torch.device) -> Mask:
        whole = StepContext.mask(self, rule, queries, device)
        allowed = whole.materialised(queries, queries, device) if self.ends else None
        return whole if allowed is None else Mask(allowed[..., :1, :])

    def spread(self, bias: Callable[[Tensor, Tensor], Tensor], device: torch.device, queries: int) -> Bias:
        whole = StepContext.spread(self, bias, device, self.positions.shape[-1])
        assert isinstance(whole, Tensor), "of padded rows there is one bias"
        return whole[..., :queries, :]
