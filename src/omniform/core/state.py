"""What a model remembers between steps.

A mixer (attention, convolution, recurrence) declares *what* it must keep, as a spec; a backend decides *how* it is
kept. The dense backend here keeps the rows of one padded batch; others (paged, quantized) supply the same views.

=============  ==========================================  ==============================
spec           what is kept                                view of a state
=============  ==========================================  ==============================
``KV``         a key and a value per token and head        ``kv(slot).extend(k, v)``
``Latent``     one vector per token, for all heads         ``latent(slot).extend(c)``
``CrossKV``    keys and values of an encoder's output      ``cross(slot)``, ``set_cross``
``Conv``       a row's last inputs of a convolution        ``fixed(slot).read``, ``write``
``Recurrent``  a state of fixed size per row               ``fixed(slot).read``, ``write``
=============  ==========================================  ==============================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn

from omniform.core.dense import DenseFixed, DenseKV, DenseLatent, DenseTokens
from omniform.core.dense import RowIndex as RowIndex
from omniform.core.errors import InputError
from omniform.core.stores import Grown, TokenStore
from omniform.core.trees import Tree, register_tree

if TYPE_CHECKING:
    from omniform.core.context import Backend, Computed, Memory
    from omniform.core.layouts import Layout

Kept = Literal["token", "memory", "row"]
"""What a piece of state is kept for: each of a row's tokens, each token of an encoder's output, or the whole row."""


class StateSpec(ABC):
    """What one mixer keeps.

    Attributes:
        kept: what there is one of it for.
    """

    __slots__ = ()
    kept: ClassVar[Kept] = "token"

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The tensors that are kept of each token, or of each row."""

    @property
    def reach(self) -> int | None:
        """How many of the last tokens are ever looked at again; None for all."""
        return None

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of one token, or of one row, in a model of this dtype."""
        return sum(map(prod, self.shapes)) * self.stored_as(dtype).itemsize

    def stored_as(self, dtype: torch.dtype) -> torch.dtype:
        """What it is kept as in a model of this dtype."""
        return dtype


@dataclass(frozen=True, slots=True)
class KV(StateSpec):
    """Keys and values of the tokens so far: heads, width of a key, width of a value.

    ``window`` says how many of the last tokens are ever looked at again; None for all.
    """

    heads: int
    dk: int
    dv: int
    window: int | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.heads, self.dk), (self.heads, self.dv)

    @property
    def reach(self) -> int | None:
        return self.window


@dataclass(frozen=True, slots=True)
class Latent(StateSpec):
    """One vector per token, which all heads make their keys and values of (https://arxiv.org/abs/2405.04434, 2.1).

    Args:
        width: of the whole vector: what keys and values are made of, and the rotated part of the keys.
        window: how many of the last tokens are ever looked at again; None for all.
    """

    width: int
    window: int | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, self.width),)

    @property
    def reach(self) -> int | None:
        return self.window


@dataclass(frozen=True, slots=True)
class CrossKV(StateSpec):
    """Keys and values of an encoder's output, computed once per request."""

    kept: ClassVar[Kept] = "memory"
    heads: int
    dk: int
    dv: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.heads, self.dk), (self.heads, self.dv)


@dataclass(frozen=True, slots=True)
class Conv(StateSpec):
    """The last ``width - 1`` inputs of a causal convolution over ``width`` tokens."""

    kept: ClassVar[Kept] = "row"
    channels: int
    width: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.width - 1, self.channels),)


@dataclass(frozen=True, slots=True)
class Recurrent(StateSpec):
    """A state of fixed size for each row, such as a matrix per head, zero before the first token.

    Args:
        shape: of one row's state.
        dtype: what it is kept and computed in, whatever the model's own dtype.
    """

    kept: ClassVar[Kept] = "row"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape,)

    def stored_as(self, dtype: torch.dtype) -> torch.dtype:
        return self.dtype


class KVView(Protocol):
    """One mixer's keys and values."""

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor, /) -> tuple[Tensor, Tensor]:
        """Append this step's keys and values; returns all so far. Shape: [B, H, S, D] each."""
        ...


class LatentView(Protocol):
    """One mixer's vectors, one per token."""

    def extend(self, c_B1TW: Tensor, /) -> Tensor:
        """Append this step's vectors; returns all so far. Shape: [B, 1, S, W]."""
        ...


class FixedView(Protocol):
    """One mixer's state of fixed size, row by row."""

    def read(self, rows: RowIndex) -> Tensor | None:
        """The states of some rows of the step, Shape: [R, ...]; None where all of them begin here, at zero."""
        ...

    def write(self, rows: RowIndex, state: Tensor) -> None:
        """Replace them."""
        ...


class State(Protocol):
    """The state of one batch of rows, one view per slot."""

    @property
    def length(self) -> int:
        """How many key indices every row has used up, padding included."""
        ...

    def kv(self, slot: int) -> KVView: ...

    def latent(self, slot: int) -> LatentView: ...

    def fixed(self, slot: int) -> FixedView: ...

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None: ...

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None: ...

    def advance(self, tokens: int) -> None:
        """Close a step in which every row took ``tokens`` tokens."""
        ...


class DenseState:
    """State of a padded batch: every row advances by the same number of indices.

    Args:
        room: how many indices to allocate at once; 0 grows with use.

    Attributes:
        shift: how far the positions of what follows lie beyond their indices, Shape: [B, 1]; None for not at all.
    """

    def __init__(self, room: int = 0) -> None:
        self.shift: Tensor | None = None
        self._room = room
        self._length = 0
        self._kv: dict[int, DenseKV] = {}
        self._latent: dict[int, DenseLatent] = {}
        self._fixed: dict[int, DenseFixed] = {}
        self._cross: dict[int, DenseKV] = {}

    @property
    def length(self) -> int:
        return self._length

    def get_seq_length(self) -> int:
        """The ecosystem's name for :attr:`length`."""
        return self.length

    def store(self) -> TokenStore:
        """How a mixer's tokens are kept."""
        return Grown(self._room)

    def kv(self, slot: int) -> DenseKV:
        view = self._kv.get(slot)
        if view is None:
            view = self._kv[slot] = DenseKV(self.store())
        return view

    def latent(self, slot: int) -> DenseLatent:
        view = self._latent.get(slot)
        if view is None:
            view = self._latent[slot] = DenseLatent(self.store())
        return view

    def fixed(self, slot: int) -> DenseFixed:
        return self._fixed.setdefault(slot, DenseFixed())

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None:
        view = self._cross.get(slot)
        if view is None:
            return None
        k, v = view.tensors()
        return k, v

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None:
        view = self._cross[slot] = DenseKV(Grown())
        view.extend(k_BHSD, v_BHSD)

    def advance(self, tokens: int) -> None:
        self._length += tokens

    def tensors(self, slot: int) -> tuple[Tensor, ...]:
        """What a mixer keeps of tokens or of rows; nothing before the first step."""
        view = self._kv.get(slot) or self._latent.get(slot) or self._fixed.get(slot)
        return () if view is None else view.tensors()

    def admit(self, layout: Layout, rows: int, tokens: int) -> None:
        """Look, before a step is computed, whether it can go on from here.

        Args:
            layout: of the decoder that asks.
            rows: of the step.
            tokens: that each row brings.

        Raises:
            InputError: the state is another model's or of other rows, or has no room.
        """
        found = self.rows
        if found not in (None, rows):
            raise InputError(
                "the state is of another number of rows", where="past_key_values", expected=rows, found=found
            )

    def refill(
        self,
        tokens: Mapping[int, tuple[Tensor, ...]],
        fixed: Mapping[int, Tensor],
        cross: Mapping[int, tuple[Tensor, ...]],
        length: int,
    ) -> None:
        """Hold this instead of all so far, by slot.

        Args:
            tokens: keys and values, or latents. Shape: [B, H, S, D] each.
            fixed: states of fixed size. Shape: [B, ...].
            cross: keys and values of an encoder's output. Shape: [B, H, S, D] each.
            length: S.
        """
        for slot, parts in tokens.items():
            (self.kv(slot) if len(parts) == 2 else self.latent(slot)).store.renew(*parts)
        for slot, state in fixed.items():
            self.fixed(slot).write(slice(None), state)
        for slot, (k, v) in cross.items():
            self.set_cross(slot, k, v)
        self._length, self.shift = length, None

    def note_missing(self, gone: Mapping[int, int], ends: Sequence[int]) -> None:
        """Note what :meth:`refill` left blank.

        Args:
            gone: by slot, before which index nothing is left because a window has passed it.
            ends: of each row, from which index on it was not computed, because the row had ended.
        """

    def first_missing(self, row: int) -> int:
        """From which index on a row was not computed."""
        return self.length

    @property
    def rows(self) -> int | None:
        """How many rows the batch has; None before the first step."""
        return next((len(t) for view in self._views() for t in view.parts()), None)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch, by index."""
        for view in (*self._views(), *self._cross.values()):
            view.select(rows)
        self.shift = None if self.shift is None else self.shift[rows]

    def nbytes(self) -> int:
        """Bytes held."""
        views = (*self._views(), *self._cross.values())
        return sum(t.numel() * t.element_size() for view in views for t in view.parts())

    def __init_subclass__(cls) -> None:
        register_tree(cls, _taken_apart, _put_together)

    def _put(self, name: str, part: Tensor) -> None:
        """Put back what :func:`_taken_apart` named so."""
        kind, *place = name.split(".")
        if kind == "shift":
            self.shift = part
        elif kind == "length":
            self._length = cast(int, part)
        elif kind == "room":
            self._room = cast(int, part)
        elif kind == "fixed":
            self.fixed(int(place[0])).write(slice(None), part)
        elif kind == "cross":
            self._cross.setdefault(int(place[0]), DenseKV(Grown())).store.put(part)
        else:
            store = (self.kv(int(place[0])) if kind == "kv" else self.latent(int(place[0]))).store
            store.put(part)
            self._length = store.length

    def _views(self) -> Iterator[DenseTokens | DenseFixed]:
        yield from self._kv.values()
        yield from self._latent.values()
        yield from self._fixed.values()

    @classmethod
    def _blank(cls) -> Self:
        """One without anything, before its parts are put in."""
        state = cls.__new__(cls)
        DenseState.__init__(state)
        return state

    def _made_as(self) -> str:
        """How it was made, as far as its parts do not tell; a text that :meth:`_make_as` reads."""
        return ""

    def _make_as(self, told: str) -> None:
        """Become what :meth:`_made_as` told."""


_MADE_AS = "made as:"


def _taken_apart(state: DenseState) -> Tree:
    # How many tokens there are is known from the tensors' shape: where a length is dynamic, it may not be a name.
    tables: dict[str, Mapping[int, DenseTokens | DenseFixed]]
    tables = {"kv": state._kv, "latent": state._latent, "fixed": state._fixed, "cross": state._cross}
    named: dict[str, object] = {_MADE_AS + state._made_as(): None} if state._made_as() else {}
    if state._room:
        named["room"] = state._room
    named |= {
        f"{kind}.{slot}.{part}": tensor
        for kind, table in tables.items()
        for slot, view in table.items()
        for part, tensor in enumerate(view.parts())
    }
    if state.shift is not None:
        named["shift"] = state.shift
    if not state._kv and not state._latent:
        named["length"] = state.length
    return list(named.values()), list(named)


def _put_together(kind: type[DenseState], parts: list[object], names: list[str]) -> DenseState:
    state = kind._blank()
    for name, part in zip(names, parts, strict=True):
        if name.startswith(_MADE_AS):
            state._make_as(name.removeprefix(_MADE_AS))
        else:
            state._put(name, cast(Tensor, part))
    return state


register_tree(DenseState, _taken_apart, _put_together)


class LengthRegimes(Protocol):
    """How what is kept of a token depends on the length of its row (rotary frequencies that stretch with it)."""

    def regime(self, length: int) -> Hashable:
        """Equal for lengths of a row at which tokens leave the same state: it may be shared between such rows."""
        ...

    @property
    def renews(self) -> bool:
        """Whether the state of a row that is being written is computed anew when it passes into another regime."""
        ...


class StatefulModule(nn.Module, ABC):
    """Base of the modules that keep state between steps; ``slot`` is a mixer's index among all of a decoder's."""

    slot: int = -1

    @abstractmethod
    def state_spec(self) -> StateSpec:
        """What must be kept."""

    def regimes(self) -> tuple[LengthRegimes, ...]:
        """How what is kept depends on the length of the row; most mixers' does not."""
        return ()

    def computed(self, backend: Backend) -> Computed | None:
        """How it is computed, and why; None where no kernel is chosen."""
        return None

    def looks_ahead(self) -> bool:
        """Whether tokens see what follows them."""
        return False

    def look_both_ways(self) -> None:
        """Let tokens see what follows them, if it is a rule that forbids it; most mixers have none."""

    def remember(self, memory: Memory, state: State) -> None:
        """Keep what this mixer will read of an encoder's output; most read none.

        Args:
            memory: of one request, without padding.
        """


class HasModules(Protocol):
    """A module, or what is made of some."""

    def modules(self) -> Iterator[nn.Module]: ...


def mixers(decoder: HasModules) -> list[StatefulModule]:
    """The modules of a decoder that keep state between steps, in order."""
    return [module for module in decoder.modules() if isinstance(module, StatefulModule)]


def number_mixers(decoder: HasModules) -> None:
    """Give every mixer of a decoder its slot, in the order of the modules."""
    for slot, module in enumerate(mixers(decoder)):
        module.slot = slot


def state_specs(decoder: HasModules) -> dict[int, StateSpec]:
    """What a decoder keeps between steps, by slot."""
    return {module.slot: module.state_spec() for module in mixers(decoder)}
