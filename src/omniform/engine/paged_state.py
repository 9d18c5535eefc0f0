"""Paged state: what every row of an engine remembers, in a few long tensors, and where a step writes into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from omniform.blocks.small import fused_write
from omniform.core.host import sent
from omniform.core.packed import SlotRange
from omniform.core.state import RowIndex, StateSpec

MEMORY = "memory"
"""The pool of what cross-attention reads."""

ROWS = "rows"
"""The pool of states of fixed size: a block holds one row's, whatever its length."""

Pool = int | None | str
"""Which blocks a mixer keeps its state in: by its window, None for all tokens; or :data:`MEMORY` or :data:`ROWS`."""


def pool_of(spec: StateSpec) -> Pool:
    """The pool that a mixer's state lies in."""
    return {"token": spec.reach, "memory": MEMORY, "row": ROWS}[spec.kept]


def unit_bytes(specs: Mapping[int, StateSpec], dtype: torch.dtype) -> dict[Pool, int]:
    """Bytes that one token takes in each pool, and one row in :data:`ROWS`."""
    sizes: dict[Pool, int] = {}
    for spec in specs.values():
        pool = pool_of(spec)
        sizes[pool] = sizes.get(pool, 0) + spec.nbytes(dtype)
    return sizes


class SlotMapping:
    """Where the present step writes, in one pool."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: tuple[int, int] | Tensor = (0, 0)  # neighbours as the first and how many


class PagedTokens:
    """What one mixer keeps of every token, of all rows. Shape: [1, G, slots, D] each."""

    __slots__ = ("mapping", "whole")

    def __init__(self, whole: tuple[Tensor, ...], mapping: SlotMapping) -> None:
        self.whole = whole
        self.mapping = mapping

    def write(self, *new: Tensor) -> None:
        """Write this step's, Shape: [1, G, N, D] each."""
        at = self.mapping.slots
        if isinstance(at, Tensor) and len(new) == 2 and fused_write(self.whole, new, at):
            return
        for whole, x in zip(self.whole, new, strict=True):
            if isinstance(at, tuple):
                whole.narrow(2, *at).copy_(x)
            else:
                whole[0].index_copy_(1, at, x[0])  # with three axes it takes a quarter less than with four

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy one block of ``size`` tokens."""
        for x in self.whole:
            x[:, :, target * size : (target + 1) * size] = x[:, :, source * size : (source + 1) * size]


class PagedKV(PagedTokens):
    """Keys and values."""

    __slots__ = ()

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor, /) -> tuple[Tensor, Tensor]:
        """Write this step's keys and values, Shape: [1, G, N, D]; returns those of every slot, [1, G, slots, D]."""
        self.write(k_BHTD, v_BHTD)
        k, v = self.whole
        return k, v


class PagedLatent(PagedTokens):
    """Latent vectors."""

    __slots__ = ()

    def extend(self, c_B1TW: Tensor, /) -> Tensor:
        """Write this step's vectors, Shape: [1, 1, N, W]; returns those of every slot, [1, 1, slots, W]."""
        self.write(c_B1TW)
        return self.whole[0]


class PagedFixed:
    """One mixer's states of fixed size, of all rows. Shape: [blocks, ...]."""

    __slots__ = ("mapping", "whole")

    def __init__(self, whole: Tensor, mapping: SlotMapping) -> None:
        self.whole = whole
        self.mapping = mapping

    def read(self, rows: RowIndex) -> Tensor:
        """The states of some rows of the step. Shape: [R, ...]."""
        at = self.mapping.slots
        assert isinstance(at, Tensor)
        return self.whole.index_select(0, at[rows])

    def write(self, rows: RowIndex, state: Tensor) -> None:
        """Replace them."""
        at = self.mapping.slots
        assert isinstance(at, Tensor)
        self.whole.index_copy_(0, at[rows], state.to(self.whole.dtype))

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy one row's state."""
        self.whole[target] = self.whole[source]


class PagedState:
    """State of all rows of an engine, in blocks; a :class:`~omniform.core.state.State`.

    Args:
        specs: what each mixer keeps, by slot.
        blocks: how many blocks each pool has.
        block_size: tokens in a block.
        dtype: of the model.
        device: where it lies.
        spare: whether there is one block more in each pool, which is nobody's: rows that fill a step up write there.
    """

    def __init__(
        self,
        specs: Mapping[int, StateSpec],
        blocks: Mapping[Pool, int],
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        spare: bool = False,
    ) -> None:
        self._mappings = {pool: SlotMapping() for pool in blocks}
        self._kv: dict[int, PagedKV] = {}
        self._latent: dict[int, PagedLatent] = {}
        self._fixed: dict[int, PagedFixed] = {}
        self._pools: dict[Pool, list[PagedTokens | PagedFixed]] = {pool: [] for pool in blocks}
        self._size = block_size
        self._device = device
        self._spare = dict(blocks)
        blocks = {pool: count + spare for pool, count in blocks.items()}
        for slot, spec in specs.items():
            pool = pool_of(spec)
            mapping, stored = self._mappings[pool], spec.stored_as(dtype)
            # Uninitialised memory costs nothing until a block is written; it may hold NaN, so no slot is ever read
            # that was not written. On an accelerator rows are filled up with slots that were not.
            made = torch.empty if device.type == "cpu" else torch.zeros
            if spec.kept == "row":
                whole = made(blocks[pool], *spec.shapes[0], dtype=stored, device=device)
                self._fixed[slot] = PagedFixed(whole, mapping)
                self._pools[pool].append(self._fixed[slot])
                continue
            slots = blocks[pool] * block_size
            parts = tuple(made(1, g, slots, d, dtype=stored, device=device) for g, d in spec.shapes)
            if len(parts) == 1:
                self._latent[slot] = PagedLatent(parts, mapping)
                self._pools[pool].append(self._latent[slot])
            else:
                self._kv[slot] = PagedKV(parts, mapping)
                self._pools[pool].append(self._kv[slot])

    @property
    def length(self) -> int:
        """Rows have lengths of their own here."""
        raise AssertionError("a packed step tells the lengths of its rows")

    def advance(self, tokens: int) -> None:
        """Rows advance each for itself; nothing to do."""

    def kv(self, slot: int) -> PagedKV:
        return self._kv[slot]

    def latent(self, slot: int) -> PagedLatent:
        return self._latent[slot]

    def fixed(self, slot: int) -> PagedFixed:
        return self._fixed[slot]

    def tokens(self, slot: int) -> PagedTokens:
        """What a mixer keeps of every token, or of a memory's."""
        return self._kv[slot] if slot in self._kv else self._latent[slot]

    def cross(self, slot: int) -> tuple[Tensor, Tensor] | None:
        k, v = self._kv[slot].whole
        return k, v

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None:
        """Write a memory's keys and values at the places of :meth:`begin`. Shape: [1, G, S, D] each."""
        self._kv[slot].write(k_BHSD, v_BHSD)

    def begin(self, pool: Pool, ranges: Sequence[SlotRange]) -> None:
        """Say where the next step's tokens go, end to end."""
        if len(ranges) == 1:
            first, stop = ranges[0]
            self._mappings[pool].slots = (first, stop - first)
            return
        slots = np.concatenate([np.arange(*held, dtype=np.int64) for held in ranges])
        self._mappings[pool].slots = sent(slots, self._device)

    def place(self, pool: Pool, slots: Tensor) -> None:
        """The same, told on the device: a slot for each token, or in :data:`ROWS` a block for each row. Shape: [N]."""
        self._mappings[pool].slots = slots

    def spare(self, pool: Pool) -> int:
        """A block that is nobody's."""
        return self._spare[pool]

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self._size

    def begin_rows(self, blocks: Sequence[int], fresh: Sequence[int]) -> None:
        """Say which blocks hold the states of the next step's rows.

        Args:
            blocks: in the order of the rows.
            fresh: those among them of rows that begin: their states begin at zero.
        """
        self._mappings[ROWS].slots = sent(np.array(blocks, np.int64), self._device)
        if fresh:
            at = sent(np.array(fresh, np.int64), self._device)
            for view in self._fixed.values():
                view.whole.index_fill_(0, at, 0)

    def copy(self, pool: Pool, source: int, target: int) -> None:
        """Copy one block of every layer."""
        for view in self._pools[pool]:
            view.copy(source, target, self._size)
