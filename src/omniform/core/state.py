"""What a model remembers between steps.

A mixer (attention, convolution, recurrence) declares *what* it must keep, as a spec; a backend decides *how* it is
kept. The dense backend here holds one growing tensor per mixer; others (paged, quantized) supply the same views.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class KV:
    """Keys and values of the tokens so far: heads, width of a key, width of a value.

    ``window`` says how many of the last tokens are ever looked at again; None for all.
    """

    heads: int
    dk: int
    dv: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class CrossKV:
    """Keys and values of an encoder's output, computed once per request."""

    heads: int
    dk: int
    dv: int


StateSpec = KV | CrossKV


class KVView(Protocol):
    """One mixer's keys and values."""

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append this step's keys and values; returns all so far. Shape: [B, H, S, D] each."""
        ...


class State(Protocol):
    """The state of one batch of rows, one view per slot."""

    @property
    def length(self) -> int:
        """How many key indices every row has used up, padding included."""
        ...

    def kv(self, slot: int) -> KVView: ...

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None: ...

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None: ...

    def advance(self, tokens: int) -> None:
        """Close a step in which every row took ``tokens`` tokens."""
        ...


class DenseKV:
    """Keys and values in one tensor each, grown by doubling, so that a step appends in place."""

    __slots__ = ("_k", "_length", "_room", "_v")

    def __init__(self, room: int = 0) -> None:
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._length = 0
        self._room = room

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        new = k_BHTD.shape[2]
        end = self._length + new
        if self._k is None or self._v is None:
            if self._room <= new:
                # A single forward: keep what was computed, copy nothing.
                self._k, self._v, self._length = k_BHTD, v_BHTD, end
                return k_BHTD, v_BHTD
            self._k, self._v = _grown(k_BHTD, 0, self._room), _grown(v_BHTD, 0, self._room)
        elif end > self._k.shape[2]:
            room = max(end, self._room, 2 * self._length)
            self._k, self._v = _grown(self._k, self._length, room), _grown(self._v, self._length, room)
        self._k[:, :, self._length : end] = k_BHTD
        self._v[:, :, self._length : end] = v_BHTD
        self._length = end
        return self._k[:, :, :end], self._v[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch."""
        if self._k is not None and self._v is not None:
            self._k, self._v = self._k.index_select(0, rows), self._v.index_select(0, rows)

    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """The keys and values so far, Shape: [B, H, S, D] each, or None before the first step."""
        if self._k is None or self._v is None:
            return None
        return self._k[:, :, : self._length], self._v[:, :, : self._length]


def _grown(x_BHSD: Tensor, length: int, room: int) -> Tensor:
    bigger = x_BHSD.new_empty((*x_BHSD.shape[:2], room, x_BHSD.shape[3]))
    bigger[:, :, :length] = x_BHSD[:, :, :length]
    return bigger


class DenseState:
    """State of a padded batch: every row advances by the same number of indices.

    Args:
        room: how many indices to allocate at once; 0 grows with use.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._length = 0
        self._kv: dict[int, DenseKV] = {}
        self._cross: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        return self._length

    def get_seq_length(self) -> int:
        """The ecosystem's name for :attr:`length`."""
        return self._length

    def kv(self, slot: int) -> DenseKV:
        view = self._kv.get(slot)
        if view is None:
            view = self._kv[slot] = DenseKV(self._room)
        return view

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None:
        return self._cross.get(slot)

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None:
        self._cross[slot] = (k_BHSD, v_BHSD)

    def advance(self, tokens: int) -> None:
        self._length += tokens

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch, by index."""
        for view in self._kv.values():
            view.select(rows)
        self._cross = {slot: (k[rows], v[rows]) for slot, (k, v) in self._cross.items()}

    def nbytes(self) -> int:
        """Bytes held by keys and values."""
        pairs: Iterable[tuple[Tensor, Tensor] | None] = [
            *(v.tensors() for v in self._kv.values()),
            *self._cross.values(),
        ]
        return sum(t.numel() * t.element_size() for pair in pairs if pair for t in pair)


def number_mixers(model: nn.Module) -> None:
    """Give every mixer of a model its slot, in the order of the modules."""
    slot = 0
    for module in model.modules():
        if isinstance(module, StatefulModule):
            module.slot = slot
            slot += 1


class StatefulModule(nn.Module, ABC):
    """Base of the modules that keep state between steps; ``slot`` is a module's index among all of a model's."""

    slot: int = -1

    @abstractmethod
    def state_spec(self) -> StateSpec:
        """What must be kept."""


def state_specs(model: nn.Module) -> dict[int, StateSpec]:
    """What a model keeps between steps, by slot."""
    return {m.slot: m.state_spec() for m in model.modules() if isinstance(m, StatefulModule)}
