"""Paged state: what every row of an engine remembers, in a few long tensors, and where a step writes into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from omniform.blocks.small import fused_write
from omniform.core.coded import Coding, Floats
from omniform.core.host import sent
from omniform.core.packed import SlotRange
from omniform.core.state import RowIndex, StateSpec
from omniform.engine.reserved import reserved

MEMORY = "memory"
"""The pool of what cross-attention reads."""

ROWS = "rows"
"""The pool of states of fixed size: a block holds one row's, whatever its length."""

Pool = int | None | str
"""Which blocks a mixer keeps its state in: by its window, None for all tokens; or :data:`MEMORY` or :data:`ROWS`."""


def pool_of(spec: StateSpec) -> Pool:
    """The pool that a mixer's state lies in."""
    return {"token": spec.reach, "memory": MEMORY, "row": ROWS}[spec.kept]


def unit_bytes(specs: Mapping[int, StateSpec], dtype: torch.dtype, coding: Coding | None = None) -> dict[Pool, int]:
    """Bytes that one token takes in each pool, and one row in :data:`ROWS`.

    Args:
        coding: how tokens are kept; as the model's dtype has it, without.
    """
    sizes: dict[Pool, int] = {}
    for spec in specs.values():
        pool = pool_of(spec)
        if coding is None or spec.kept != "token":
            own = spec.nbytes(dtype)
        else:
            own = sum(heads * coding.nbytes(width) for heads, width in spec.shapes)
        sizes[pool] = sizes.get(pool, 0) + own
    return sizes


def kept_as(sizes: Mapping[Pool, int], dtype: torch.dtype, coding: Coding | None) -> str:
    """How state is kept, in words: that of tokens, and what has another form beside it.

    Args:
        sizes: see :func:`unit_bytes`.
    """
    own = Floats(dtype).name
    names = {MEMORY: f"what cross-attention reads in {own}", ROWS: "states of fixed size in their own dtypes"}
    told = [] if coding is None else [words for pool, words in names.items() if pool in sizes]
    tokens = own if coding is None else coding.name
    return ", ".join((tokens, *told))


class SlotMapping:
    """Where the present step writes, in one pool, and which slots its rows have.

    Attributes:
        slots: where its tokens go.
        held: the slots of all tokens of its rows, its own included.
    """

    __slots__ = ("_held", "slots")

    def __init__(self) -> None:
        self.slots: tuple[int, int] | Tensor = (0, 0)  # neighbours as the first and how many
        self._held: Callable[[], Sequence[SlotRange]] | Sequence[SlotRange] = ()

    @property
    def held(self) -> Sequence[SlotRange]:
        if callable(self._held):
            self._held = self._held()
        return self._held

    @held.setter
    def held(self, found: Callable[[], Sequence[SlotRange]]) -> None:
        self._held = found  # asked for only where somebody reads what is kept in few bits


class Benches:
    """Where numbers lie that were kept in few bits while one layer looks at them; all layers take turns.

    Args:
        dtype: that they are computed with.
        device: where.
    """

    __slots__ = ("_device", "_dtype", "_made")

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._made: dict[tuple[int, ...], Tensor] = {}

    def numbers(self, kept: PagedTokens, number: int) -> Tensor:
        """A mixer's vectors of one kind as floats, in the slots of the step's rows. Shape: [1, G, slots, D]."""
        parts, width = kept.parts[number], kept.widths[number]
        shape = (number, *parts[0].shape[:3], width)
        bench = self._made.get(shape)
        if bench is None:
            # Memory of a CPU is taken when it is written to. What nobody reads must be numbers all the same.
            made = reserved if self._device.type == "cpu" else torch.zeros
            bench = self._made[shape] = made(*shape[1:], dtype=self._dtype, device=self._device)
        for first, stop in kept.mapping.held:
            some = [part[:, :, first:stop] for part in parts]
            bench[:, :, first:stop] = kept.coding.decode(some, width, self._dtype)
        return bench


class PagedTokens:
    """What one mixer keeps of every token, of all rows.

    Args:
        parts: of each kind (keys, values; or latents), what stands for its vectors. Shape: [1, G, slots, ...] each.
        widths: of the vectors.
        coding: how they are kept.
        mapping: where a step writes.
        benches: where they become numbers; None where they are numbers as they are.

    Attributes:
        whole: numbers, or what stands for them. Shape: [1, G, slots, D or bytes] each; they never move.
        scales: theirs, where these have a place of their own. Shape: [1, G, slots, 1] each.
    """

    __slots__ = ("_benches", "coding", "mapping", "parts", "scales", "whole", "widths")

    def __init__(
        self,
        parts: tuple[tuple[Tensor, ...], ...],
        widths: tuple[int, ...],
        coding: Coding,
        mapping: SlotMapping,
        benches: Benches | None,
    ) -> None:
        self.parts, self.widths, self.coding = parts, widths, coding
        self.mapping = mapping
        self._benches = benches
        self.whole = tuple(part[0] for part in parts)
        self.scales = tuple(part[1] if len(part) > 1 else None for part in parts)

    def write(self, *new: Tensor) -> None:
        """Write this step's, Shape: [1, G, N, D] each."""
        at = self.mapping.slots
        if self._benches is not None:
            for parts, x in zip(self.parts, new, strict=True):
                for part, coded in zip(parts, self.coding.encode(x), strict=True):
                    _put(part, at, coded)
            return
        if isinstance(at, Tensor) and len(new) == 2 and fused_write(self.whole, new, at):
            return
        for whole, x in zip(self.whole, new, strict=True):
            _put(whole, at, x)

    def numbers(self) -> tuple[Tensor, ...]:
        """Vectors to compute with, in the slots of the step's rows. Shape: [1, G, slots, D] each."""
        benches = self._benches
        return self.whole if benches is None else tuple(benches.numbers(self, n) for n in range(len(self.parts)))

    def put(self, first: int, stop: int, *vectors: Tensor) -> None:
        """Write some slots. Shape: [G, stop - first, D] each."""
        for parts, x in zip(self.parts, vectors, strict=True):
            for part, coded in zip(parts, self.coding.encode(x), strict=True):
                part[0, :, first:stop] = coded

    def taken(self, ranges: Sequence[SlotRange], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A copy of the vectors in some slots, one after another. Shape: [G, n, D] each."""
        found = []
        for parts, width in zip(self.parts, self.widths, strict=True):
            some = [[part[0, :, first:stop] for part in parts] for first, stop in ranges]
            decoded = [self.coding.decode(each, width, dtype) for each in some]
            found.append(
                torch.cat(decoded, dim=1).clone()
                if decoded
                else parts[0].new_empty(parts[0].shape[1], 0, width, dtype=dtype)
            )
        return tuple(found)

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy one block of ``size`` tokens."""
        for x in chain.from_iterable(self.parts):
            x[:, :, target * size : (target + 1) * size] = x[:, :, source * size : (source + 1) * size]


def _put(whole: Tensor, at: tuple[int, int] | Tensor, x: Tensor) -> None:
    if isinstance(at, tuple):
        whole.narrow(2, *at).copy_(x)
    else:
        whole[0].index_copy_(1, at, x[0])  # with three axes it takes a quarter less than with four


class PagedKV(PagedTokens):
    """Keys and values."""

    __slots__ = ()

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor, /) -> tuple[Tensor, Tensor]:
        """Write this step's keys and values, Shape: [1, G, N, D]; returns those of every slot, [1, G, slots, D]."""
        self.write(k_BHTD, v_BHTD)
        k, v = self.numbers()
        return k, v


class PagedLatent(PagedTokens):
    """Latent vectors."""

    __slots__ = ()

    def extend(self, c_B1TW: Tensor, /) -> Tensor:
        """Write this step's vectors, Shape: [1, 1, N, W]; returns those of every slot, [1, 1, slots, W]."""
        self.write(c_B1TW)
        return self.numbers()[0]


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
        coding: how tokens are kept; in the model's dtype, without. Memories and states of fixed size are in their own.
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
        coding: Coding | None = None,
        spare: bool = False,
    ) -> None:
        self._mappings = {pool: SlotMapping() for pool in blocks}
        self._kv: dict[int, PagedKV] = {}
        self._latent: dict[int, PagedLatent] = {}
        self._fixed: dict[int, PagedFixed] = {}
        self._pools: dict[Pool, list[PagedTokens | PagedFixed]] = {pool: [] for pool in blocks}
        self._size = block_size
        self._device, self.dtype = device, dtype
        benches = Benches(dtype, device)
        self._spare = dict(blocks)
        blocks = {pool: count + spare for pool, count in blocks.items()}
        for slot, spec in specs.items():
            pool = pool_of(spec)
            mapping, stored = self._mappings[pool], spec.stored_as(dtype)
            # Uninitialised memory costs nothing until a block is written; it may hold NaN, so no slot is ever read
            # that was not written. On an accelerator rows are filled up with slots that were not.
            made = reserved if device.type == "cpu" else torch.zeros
            if spec.kept == "row":
                whole = made(blocks[pool], *spec.shapes[0], dtype=stored, device=device)
                self._fixed[slot] = PagedFixed(whole, mapping)
                self._pools[pool].append(self._fixed[slot])
                continue
            slots = blocks[pool] * block_size
            how = Floats(stored) if coding is None or spec.kept == "memory" else coding
            parts = tuple(how.room((1, g, slots), d, device, made) for g, d in spec.shapes)
            widths = tuple(d for _, d in spec.shapes)
            kept = parts, widths, how, mapping, None if how.as_it_is(dtype) else benches
            if len(parts) == 1:
                self._latent[slot] = PagedLatent(*kept)
                self._pools[pool].append(self._latent[slot])
            else:
                self._kv[slot] = PagedKV(*kept)
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

    def hold(self, pool: Pool, ranges: Callable[[], Sequence[SlotRange]]) -> None:
        """Say which slots the next step's rows have, its own tokens included; asked where that is needed."""
        self._mappings[pool].held = ranges

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
