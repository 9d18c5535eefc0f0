"""The operations that a stack of layers becomes when it is lowered: a flat list over buffers of numbers.

A buffer holds some numbers of every token of a step, float32, token by token. A :class:`Place` is some of its columns.
No operation writes where an earlier one wrote: which buffers may share memory is decided when a program is laid out
(:mod:`omniform.transforms.program`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from omniform.blocks.lowering import Attending, Gating, Routing
from omniform.blocks.scores import Scores
from omniform.core.context import StepContext
from omniform.core.rules import Rule
from omniform.core.state import StateSpec

Rows = Literal["all", "wanted"]
"""Which tokens of a step a buffer has rows for: all, or those whose output is wanted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Columns of a buffer: some heads side by side, each of some numbers.

    Attributes:
        buffer: its number.
        rows: which tokens it has rows for.
        at: the first column.
        heads: how many heads there are; 1 where numbers are not told apart by heads.
        size: how many numbers a head has: the last axis of the tensor that this stands for.
        stride: how many columns lie between the first of one head and that of the next.
    """

    buffer: int
    rows: Rows
    at: int
    heads: int
    size: int
    stride: int

    @property
    def width(self) -> int:
        """How many numbers of each token these are."""
        return self.heads * self.size

    @property
    def span(self) -> tuple[int, int]:
        """The first column, and one past the last."""
        return self.at, self.at + (self.heads - 1) * self.stride + self.size

    @property
    def is_whole(self) -> bool:
        """Whether no other column lies among these."""
        return self.heads == 1 or self.stride == self.size


@runtime_checkable
class Turning(Protocol):
    """What tells how far tokens turn in a step: rotary positions."""

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """What each channel, and the channel that it is paired with, is multiplied by before they are added.

        Shape: [B or 1, T, channels that turn] each, float32.
        """
        ...

    @property
    def by_position(self) -> bool:
        """Whether a token's turn depends on its position alone, not on how long its row is or where it was seen."""
        ...


@runtime_checkable
class ByDistance(Protocol):
    """A score bias that depends on the distance of a key from its query alone, and no more from some distance on."""

    def distances(self) -> tuple[int, Tensor]:
        """The least distance told apart, key minus query, and the biases from there on. Shape: [H, distances]."""
        ...


@runtime_checkable
class ByPlace(Protocol):
    """A score bias that depends on the place of a key in its row alone."""

    def places(self, count: int) -> Tensor:
        """The biases of the first so many keys. Shape: [H, count], float32."""
        ...


@runtime_checkable
class ByStep(Protocol):
    """A score bias that a step tells of every query and key, whatever these hold."""

    def of_step(self, ctx: StepContext) -> Tensor:
        """The bias of a padded step without state. Shape: [B or 1, H, T, T]."""
        ...


Biased = ByDistance | ByPlace | ByStep
"""Score biases that programs know."""


@runtime_checkable
class Remembering(Protocol):
    """An attention to an encoder's output."""

    scores: Scores

    def keys_values(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """What it looks at in a step. Shape: [B, H, S, D] each; packed, [1, H, slots, D]."""
        ...


class Multiplies(Protocol):
    """A layer that is a matrix, and a bias."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Matmul:
    """Layers that read the same numbers; their outputs stand side by side."""

    x: Place
    out: Place
    layers: tuple[Multiplies, ...]


@dataclass(frozen=True, slots=True)
class HeadMatmul:
    """Each head by a matrix of its own.

    Attributes:
        weight: Shape: [H, numbers of a head that come out, numbers that go in].
    """

    x: Place
    out: Place
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Join:
    """Each head of one, and behind it that of another, or its only one."""

    x: Place
    y: Place
    out: Place


@dataclass(frozen=True, slots=True)
class Norm:
    """Each head divided by its root mean square, or by its deviation once its mean is taken away.

    Attributes:
        centred: whether the mean is taken away.
        weight: factors; of one head, for all alike, or of all heads.
        bias: added at last.
        eps: added to the mean square.
    """

    x: Place
    out: Place
    centred: bool
    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True, slots=True)
class Rotate:
    """The first channels of each head turned by the angles of a table.

    Attributes:
        table: its number among the program's.
        neighbours: whether pairs are neighbours, rather than one of each half of the channels that turn.
    """

    x: Place
    out: Place
    table: int
    neighbours: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Keys and values into the state of a slot; without values, they are the first numbers of the keys."""

    k: Place
    v: Place | None
    slot: int


@dataclass(frozen=True, slots=True)
class Attend:
    """Attention of a row to its own keys: those of the state, or without one those of the step.

    Attributes:
        how: what is seen, and how it is compared.
        sees: the number of the rule among the program's.
    """

    q: Place
    k: Place
    v: Place
    out: Place
    how: Attending
    sees: int


@dataclass(frozen=True, slots=True)
class Look:
    """Attention to an encoder's output.

    Attributes:
        source: knows where its keys and values are.
    """

    q: Place
    out: Place
    source: Remembering


@dataclass(frozen=True, slots=True)
class Act:
    """A function of each number by itself.

    Attributes:
        kind: an activation's name, or ``"scale"`` (times ``low``) or ``"clamp"`` (to between ``low`` and ``high``).
    """

    x: Place
    out: Place
    kind: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate's activation times what it lets through."""

    gate: Place
    up: Place
    out: Place
    gating: Gating


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two, the second times a factor."""

    x: Place
    y: Place
    out: Place
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Weigh:
    """Each column times a number of its own, plus another. Shape: [width] each; of one head or of all."""

    x: Place
    out: Place
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Spread:
    """All of a token's numbers times one number of the token."""

    x: Place
    factor: Place
    out: Place


@dataclass(frozen=True, slots=True)
class Pick:
    """Of all tokens those whose output is wanted."""

    x: Place
    out: Place


@dataclass(frozen=True, slots=True)
class Route:
    """Scores of experts to shares, and to the numbers of the chosen ones, which are kept as float32 too."""

    scores: Place
    shares: Place
    chosen: Place
    routing: Routing


@dataclass(frozen=True, slots=True)
class Experts:
    """Each token through its chosen experts, times their shares, summed in the order in which they were chosen.

    Attributes:
        gate_up: a stack of matrices. Shape: [E, 2 * hidden, D].
        down: Shape: [E, D, hidden].
        biases: of both, Shape: [E, out] each; None for none.
    """

    x: Place
    shares: Place
    chosen: Place
    out: Place
    gate_up: nn.Module
    down: nn.Module
    gating: Gating


@dataclass(frozen=True, slots=True)
class Convolve:
    """Each column over the last few tokens of its row: ``out[t] = sum of taps[i] x[t - width + 1 + i] + bias``.

    Attributes:
        taps: Shape: [width, taps].
        bias: Shape: [width]; None for none.
        slot: where a row's last inputs are kept, as ``spec`` has it.
    """

    x: Place
    out: Place
    taps: Tensor
    bias: Tensor | None
    slot: int
    spec: StateSpec


@dataclass(frozen=True, slots=True)
class Recur:
    """Heads that each keep a matrix S: ``S = exp(g) S;  S = S + k (beta v);  out = S' q``, token by token.

    Attributes:
        q: a row for each group of heads; ``k`` likewise.
        v: by head.
        g: a number for each head; ``beta`` likewise.
        corrects: ``v - S' k`` is added in the place of ``v``.
        slot: where S is kept of every row, as ``spec`` has it. Shape: [H, width of k, width of v].
    """

    q: Place
    k: Place
    v: Place
    g: Place
    beta: Place
    out: Place
    corrects: bool
    slot: int
    spec: StateSpec


@dataclass(frozen=True, slots=True)
class Scan:
    """Columns that each keep a vector S: ``S = exp(dt rates) S + (dt x) b;  out = S c``, token by token.

    Attributes:
        b: as many numbers as a column keeps, for all alike; ``c`` likewise.
        dt: a number for each column.
        rates: Shape: [width, size].
        slot: where S is kept of every row, as ``spec`` has it.
    """

    x: Place
    b: Place
    c: Place
    dt: Place
    out: Place
    rates: Tensor
    slot: int
    spec: StateSpec


Operation = (
    Matmul | Norm | Rotate | Store | Attend | Look | Act | Gate | Add | Weigh | Spread | Pick | Route | Experts
    | Convolve | Recur | Scan | HeadMatmul | Join
)  # fmt: skip


@dataclass(slots=True)
class Steps:
    """What a stack of layers became.

    Attributes:
        width: numbers of a token that go in.
        operations: in order.
        widths: of each buffer, how many numbers of a token it holds; the first one is what goes in.
        rows: of each buffer, which tokens it has rows for.
        tables: what tells the angles of each rotary table.
        rules: what attention sees, each with whether it is asked by wanted tokens only.
        out: what comes out.
        unpadded: whether it is for steps without padding alone.
        read: the modules whose parameters and settings all of this was made of.
    """

    width: int
    operations: list[Operation] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    tables: list[Turning] = field(default_factory=list)
    rules: list[tuple[Rule, Rows]] = field(default_factory=list)
    out: Place | None = None
    unpadded: bool = False
    read: list[nn.Module] = field(default_factory=list)
