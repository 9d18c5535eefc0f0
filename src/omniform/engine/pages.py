"""Paged state: the keys and values of every row in a few long tensors, and where a step writes into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omniform.core.packed import Run
from omniform.core.state import KV, StateSpec

MEMORY = "memory"
"""The pool of what cross-attention reads."""

Pool = int | None | str
"""Which blocks a layer keeps its state in: by its window, None for all tokens; or :data:`MEMORY`."""


def pool_of(spec: StateSpec) -> Pool:
    """The pool that a mixer's state lies in."""
    return spec.window if isinstance(spec, KV) else MEMORY


def token_bytes(specs: Mapping[int, StateSpec], dtype: torch.dtype) -> dict[Pool, int]:
    """Bytes that one token takes in each pool."""
    sizes: dict[Pool, int] = {}
    for spec in specs.values():
        pool = pool_of(spec)
        sizes[pool] = sizes.get(pool, 0) + spec.heads * (spec.dk + spec.dv) * dtype.itemsize
    return sizes


class PagedKV:
    """One mixer's keys and values, of all rows. Shape: [1, G, slots, D] each."""

    __slots__ = ("_places", "k", "v")

    def __init__(self, k_1GSD: Tensor, v_1GSD: Tensor, places: Places) -> None:
        self.k = k_1GSD
        self.v = v_1GSD
        self._places = places

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Write this step's keys and values, Shape: [1, G, N, D]; returns those of every slot, [1, G, slots, D]."""
        at = self._places.slots
        if isinstance(at, tuple):
            self.k.narrow(2, *at).copy_(k_BHTD)
            self.v.narrow(2, *at).copy_(v_BHTD)
        else:
            self.k[0].index_copy_(1, at, k_BHTD[0])  # with three axes it takes a quarter less than with four
            self.v[0].index_copy_(1, at, v_BHTD[0])
        return self.k, self.v


class Places:
    """Where the tokens of the present step are written, in one pool."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: tuple[int, int] | Tensor = (0, 0)  # neighbours as the first and how many


class PagedState:
    """State of all rows of an engine, in blocks; a :class:`~omniform.core.state.State`.

    Args:
        specs: what each mixer keeps, by slot.
        blocks: how many blocks each pool has.
        block_size: tokens in a block.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self,
        specs: Mapping[int, StateSpec],
        blocks: Mapping[Pool, int],
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._places = {pool: Places() for pool in blocks}
        self._views: dict[int, PagedKV] = {}
        self._pools: dict[Pool, list[PagedKV]] = {pool: [] for pool in blocks}
        self._size = block_size
        for slot, spec in specs.items():
            pool = pool_of(spec)
            slots = blocks[pool] * block_size
            # Uninitialised memory costs nothing until a block is written; it may hold NaN, so no slot is ever read
            # that was not written.
            k = torch.empty(1, spec.heads, slots, spec.dk, dtype=dtype, device=device)
            v = torch.empty(1, spec.heads, slots, spec.dv, dtype=dtype, device=device)
            view = PagedKV(k, v, self._places[pool])
            self._views[slot] = view
            self._pools[pool].append(view)

    @property
    def length(self) -> int:
        """Rows have lengths of their own here."""
        raise AssertionError("a packed step tells the lengths of its rows")

    def advance(self, tokens: int) -> None:
        """Rows advance each for itself; nothing to do."""

    def kv(self, slot: int) -> PagedKV:
        return self._views[slot]

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None:
        view = self._views[slot]
        return view.k, view.v

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None:
        """Write a memory's keys and values at the places of :meth:`begin`. Shape: [1, G, S, D] each."""
        self._views[slot].extend(k_BHSD, v_BHSD)

    def begin(self, pool: Pool, runs: Sequence[Run]) -> None:
        """Say where the next step's tokens go, end to end."""
        if len(runs) == 1:
            first, stop = runs[0]
            self._places[pool].slots = (first, stop - first)
            return
        slots = torch.cat([torch.arange(first, stop) for first, stop in runs])
        for view in self._pools[pool][:1]:
            slots = slots.to(view.k.device)
        self._places[pool].slots = slots

    def copy(self, pool: Pool, source: int, target: int) -> None:
        """Copy one block of every layer."""
        size = self._size
        for view in self._pools[pool]:
            for x in (view.k, view.v):
                x[:, :, target * size : (target + 1) * size] = x[:, :, source * size : (source + 1) * size]
