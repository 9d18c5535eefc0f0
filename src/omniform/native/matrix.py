"""Packed matrices: the layout that the kernels read, and products with them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.native import abi
from omniform.native.abi import Flag, Kind
from omniform.native.library import Library, NativeError, OutOfRangeError, library

KINDS: dict[torch.dtype, Kind] = {
    torch.float32: Kind.F32,
    torch.bfloat16: Kind.BF16,
    torch.float16: Kind.F16,
}
"""Floats that rows and matrices are made of."""

PACKED: dict[torch.dtype, Kind] = {**KINDS, torch.float8_e4m3fn: Kind.F8_E4M3, torch.float8_e5m2: Kind.F8_E5M2}
"""Floats that matrices are made of."""

CODES: dict[torch.dtype, Kind] = {torch.int8: Kind.I8, torch.uint8: Kind.N4}
"""Integers that matrices are made of: bytes, or four bits, which come as a byte each."""

ANY = {**PACKED, **CODES}

EVEN = tuple(float(n) for n in range(-8, 8))
"""What the codes of a symmetric matrix of four bits mean."""

PLAIN = Flag(0)

LANES = 16
"""Outputs of a panel."""

ALIGNED = 64
"""Bytes at whose multiples codes begin: a line of the cache, and the widest register."""


def rows_of(x: Tensor) -> abi.Rows:
    """Rows as the library takes them. Shape: [rows, width], neighbours within a row side by side."""
    assert x.dim() == 2 and (x.stride(1) == 1 or x.shape[1] < 2), "rows lie side by side"
    return abi.Rows(x.data_ptr(), x.shape[0], x.shape[1], x.stride(0), ANY[x.dtype], 0)


LARGE = 2**21
"""Bytes of a large page, at whose multiples what is as big begins."""


def aligned(size: int) -> Tensor:
    """So many bytes, of which the first lies at a multiple of :data:`ALIGNED`; much of it in large pages.

    Memory that is written for the first time comes a page at a time: of 4 KB that takes longer than to fill it.
    """
    unit = LARGE if size >= LARGE else ALIGNED
    whole = torch.empty(size + unit, dtype=torch.uint8, device="cpu")
    skip = -whole.data_ptr() % unit
    made = whole[skip : skip + size]
    by = library()
    if unit == LARGE and by is not None:
        by.c.of_in_large_pages(made.data_ptr(), size)
    return made


def _library() -> Library:
    by = library()
    if by is None:
        raise NativeError("there are no native kernels here")
    return by


def _side_by_side(x: Tensor) -> Tensor:
    """With neighbours within a row side by side."""
    x = x.detach()
    return x if x.stride(1) == 1 else x.contiguous()


def _checked(group: int, ins: int) -> int:
    """A group as kernels take it: of all inputs where it holds as many or more."""
    if group >= ins:
        return -(-ins // 8) * 8
    assert group % 8 == 0 and (group % 256 == 0 or 256 % group == 0), f"groups of {group} inputs"
    return group


def _scale_count(outs: int, ins: int, group: int) -> int:
    """Scales of a matrix whose outputs are padded to sixteen."""
    return -(-outs // 16) * 16 * -(-ins // group)


def _table(means: Sequence[float]) -> Tensor:
    made = aligned(64)
    made.view(torch.float32).copy_(torch.tensor(means))
    return made


AT_ONCE = 2**23
"""Bytes of a matrix of floats that are packed before their memory may be let go of."""


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """What the blocks of a file become.

    Attributes:
        type: the number that files have for them.
        bits: 4 or 8, of a code.
        group: numbers that share a scale.
        scales: float16 where they are the file's own, else float32.
        minima: whether groups have a minimum too.
        table: what codes of four bits mean; None for themselves.
    """

    type: int
    bits: int
    group: int
    scales: torch.dtype
    minima: bool
    table: tuple[float, ...] | None


Done = Callable[[Tensor], None]
"""Told which rows of a matrix have been packed."""


def _kept(rows: Tensor) -> None:
    """Nothing is let go of."""


def _nothing(first: int, last: int) -> None:
    """Likewise."""


def _parts(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some rows at a time, whole panels, and which is the first."""
    if weight.stride(1) != 1:  # all its pages are read for any of its rows
        return iter([(0, weight)])
    rows = max(LANES, AT_ONCE // max(1, weight.shape[1] * weight.itemsize) // LANES * LANES)
    return ((first, weight[first : first + rows]) for first in range(0, weight.shape[0], rows))


def _packed(rows: Tensor, kind: Kind, by: Library, done: Done = _kept) -> Tensor:
    outs, ins = rows.shape
    codes = aligned(by.c.of_packed_bytes(kind, outs, ins))
    for first, part in _parts(rows):
        given = _side_by_side(part)
        at = codes.data_ptr() + by.c.of_packed_bytes(kind, first, ins)
        by.call("of_pack", ctypes.byref(rows_of(given)), kind, at)
        done(part)
    return codes


def _packed_scales(scales: Tensor, by: Library) -> Tensor:
    packed = aligned(_scale_count(scales.shape[0], scales.shape[1], 1) * scales.itemsize)
    by.call("of_pack_scales", ctypes.byref(rows_of(scales)), packed.data_ptr())
    return packed


def _struct(
    kind: Kind,
    size: tuple[int, int, int],
    codes: Tensor,
    meaning: tuple[Tensor | None, Tensor | None, Tensor | None],
    scale_kind: Kind,
) -> abi.PackedMatrix:
    """A matrix of ``(outs, ins, group)`` with its ``(scales, minima, table)``."""
    scales, minima, table = (None if x is None else x.data_ptr() for x in meaning)
    return abi.PackedMatrix(codes.data_ptr(), scales, minima, table, *size, kind, scale_kind)


def _panels_of(c: abi.PackedMatrix, first: int, outs: int, by: Library, scale_bytes: int) -> abi.PackedMatrix:
    """Some of a matrix's outputs, from the beginning of a panel on."""
    skipped = _scale_count(first, c.ins, c.group) * scale_bytes
    scales, minima = (None if x is None else x + skipped for x in (c.scales, c.minima))
    codes = c.codes + by.c.of_packed_bytes(c.kind, first, c.ins)
    return abi.PackedMatrix(codes, scales, minima, c.table, outs, c.ins, c.group, c.kind, c.scale_kind)


class Matrix:
    """A matrix in panels of sixteen outputs; immutable.

    Attributes:
        outs: how many outputs it has.
        ins: how many inputs.
        kind: its layout.
        c: what the library is given.
    """

    __slots__ = ("_kept", "_library", "c", "ins", "kind", "outs")

    def __init__(self, c: abi.PackedMatrix, kept: tuple[Tensor, ...], by: Library) -> None:
        self.c, self._kept, self._library = c, kept, by
        self.outs, self.ins, self.kind = int(c.outs), int(c.ins), Kind(c.kind)

    @classmethod
    def pack(cls, weight: Tensor, done: Done = _kept) -> Matrix:
        """Pack a matrix of floats, every number as it is. Shape: [outs, ins].

        Args:
            done: called with some rows at a time, once they are packed and are not read again.

        Raises:
            NativeError: there is no library, or no memory.
        """
        by, kind, weight = _library(), PACKED[weight.dtype], weight.detach()
        codes = _packed(weight, kind, by, done)
        outs, ins = weight.shape
        return cls(abi.PackedMatrix(codes.data_ptr(), None, None, None, outs, ins, ins, kind, 0), (codes,), by)

    @classmethod
    def quantize(
        cls, weight: Tensor, *, bits: int = 8, group: int = 32, minima: bool = False, done: Done = _kept
    ) -> Matrix:
        """Make integers of a matrix of floats, with a scale for every group of inputs. Shape: [outs, ins].

        Scales are float16 where that holds them, else float32. A group that holds an infinity or NaN is NaN.

        Args:
            weight: float32, bfloat16 or float16.
            bits: 8 or 4.
            group: inputs that share a scale: a multiple of 8 that divides 256, a multiple of 256, or all of them.
            minima: whether groups of four bits have a minimum too, instead of codes of -8 to 7.
            done: called with some rows at a time, once they have been read.

        Raises:
            NativeError: there is no library, or no memory.
        """
        assert bits in (4, 8) and not (minima and bits == 8), (bits, minima)
        by, weight = _library(), weight.detach()
        outs, ins = weight.shape
        group = _checked(group, ins)
        kind = Kind.I8 if bits == 8 else Kind.N4
        codes = aligned(by.c.of_packed_bytes(kind, outs, ins))
        table = _table(EVEN) if bits == 4 and not minima else None
        for dtype in (torch.float16, torch.float32):
            scales, lows = (
                aligned(_scale_count(outs, ins, group) * dtype.itemsize) if wanted else None
                for wanted in (True, minima)
            )
            c = _struct(kind, (outs, ins, group), codes, (scales, lows, table), KINDS[dtype])
            try:
                for first, part in _parts(weight):
                    given, own = _side_by_side(part), _panels_of(c, first, len(part), by, dtype.itemsize)
                    by.call("of_quantize", ctypes.byref(rows_of(given)), ctypes.byref(own))
                    done(part)
            except OutOfRangeError:
                continue
            return cls(c, tuple(x for x in (codes, scales, lows, table) if x is not None), by)
        raise AssertionError("float32 holds every scale")

    @classmethod
    def quantized(
        cls,
        codes: Tensor,
        scales: Tensor,
        *,
        group: int,
        minima: Tensor | None = None,
        table: Sequence[float] | None = None,
    ) -> Matrix:
        """Pack codes that a file brings: numbers are ``scale * code + minimum``, or ``scale * table[code] + minimum``.

        Args:
            codes: int8, or uint8 below 16. Shape: [outs, ins].
            scales: float16 or float32. Shape: [outs, groups].
            group: inputs that share a scale; see :meth:`quantize`.
            minima: as scales.
            table: what each of the sixteen codes of four bits means.

        Raises:
            NativeError: there is no library, or no memory.
        """
        by, kind, codes = _library(), CODES[codes.dtype], _side_by_side(codes)
        outs, ins = codes.shape
        group = _checked(group, ins)
        shape = (outs, -(-ins // group))
        assert scales.shape == shape and (minima is None or minima.shape == shape), (scales.shape, shape)
        assert minima is None or minima.dtype == scales.dtype, "scales and minima are of one dtype"
        assert table is None or (kind is Kind.N4 and len(table) == 16), "a table is for four bits"
        packed = _packed(codes, kind, by)
        means = None if table is None else _table(table)
        held = [None if x is None else _packed_scales(_side_by_side(x), by) for x in (scales, minima)]
        c = _struct(kind, (outs, ins, group), packed, (held[0], held[1], means), KINDS[scales.dtype])
        return cls(c, tuple(x for x in (packed, *held, means) if x is not None), by)

    @classmethod
    def scaled(cls, codes: Tensor, scales: Tensor, *, group: int) -> Matrix:
        """Pack floats of eight bits with scales: numbers are ``scale * code``, rounded once.

        Args:
            codes: float8_e4m3fn or float8_e5m2. Shape: [outs, ins].
            scales: float32. Shape: [outs, groups].
            group: inputs that share a scale; see :meth:`quantize`.

        Raises:
            NativeError: there is no library, or no memory.
        """
        by, kind, codes = _library(), PACKED[codes.dtype], _side_by_side(codes)
        outs, ins = codes.shape
        group = _checked(group, ins)
        assert kind in (Kind.F8_E4M3, Kind.F8_E5M2) and scales.dtype is torch.float32, (kind, scales.dtype)
        assert scales.shape == (outs, -(-ins // group)), (scales.shape, group)
        packed, held = _packed(codes, kind, by), _packed_scales(_side_by_side(scales), by)
        return cls(_struct(kind, (outs, ins, group), packed, (held, None, None), Kind.F32), (packed, held), by)

    @classmethod
    def of_blocks(
        cls, rows: Tensor, ins: int, layout: BlockLayout, done: Callable[[int, int], None] = _nothing
    ) -> Matrix:
        """Pack the blocks of a file, each number exactly what its block says.

        Args:
            rows: the addresses of the rows' bytes, in the order of the outputs. Shape: [outs]; int64.
            ins: numbers of a row.
            layout: what the blocks become.
            done: called with some rows at a time, the first and one past the last, once they are not read again.

        Raises:
            NativeError: there is no library, or no memory.
        """
        assert rows.device.type == "cpu" and rows.dtype is torch.int64 and rows.is_contiguous(), "addresses"
        by, outs, group = _library(), len(rows), _checked(layout.group, ins)
        kind = Kind.N4 if layout.bits == 4 else Kind.I8
        codes = aligned(by.c.of_packed_bytes(kind, outs, ins))
        scales, minima = (
            aligned(_scale_count(outs, ins, group) * layout.scales.itemsize) if wanted else None
            for wanted in (True, layout.minima)
        )
        table = None if layout.table is None else _table(layout.table)
        c = _struct(kind, (outs, ins, group), codes, (scales, minima, table), KINDS[layout.scales])
        some = max(LANES, AT_ONCE // ins // LANES * LANES)
        for first in range(0, outs, some):
            last = min(first + some, outs)
            own = _panels_of(c, first, last - first, by, layout.scales.itemsize)
            source = abi.Blocks(rows[first:].data_ptr(), layout.type, 0)
            by.call("of_pack_blocks", ctypes.byref(source), ctypes.byref(own))
            done(first, last)
        return cls(c, tuple(x for x in (codes, scales, minima, table) if x is not None), by)

    @classmethod
    def below_one_another(cls, outs: int, parts: Iterator[Matrix]) -> Matrix:
        """A matrix of the outputs of several, made one after another, so that only one's sources are held at a time.

        Args:
            outs: how many there are in all.
            parts: of one kind and as many inputs; all but the last have whole panels.
        """
        whole: list[Tensor] = []
        fields: list[str] = []
        ats: list[int] = []
        for part in parts:
            if not whole:
                c = abi.PackedMatrix.from_buffer_copy(part.c)
                fields = [name for name in ("codes", "scales", "minima", "table") if getattr(c, name) is not None]
                panels, rows = -(-part.outs // LANES), -(-outs // LANES)
                sizes = [
                    x.nbytes if f == "table" else x.nbytes // panels * rows
                    for x, f in zip(part.kept, fields, strict=True)
                ]
                whole, ats = [aligned(size) for size in sizes], [0] * len(fields)
            for n, (held, field) in enumerate(zip(part.kept, fields, strict=True)):
                at = 0 if field == "table" else ats[n]
                whole[n][at : at + held.nbytes] = held.view(torch.uint8)
                ats[n] += held.nbytes
        for held, field in zip(whole, fields, strict=True):
            setattr(c, field, held.data_ptr())
        c.outs = outs
        return cls(c, tuple(whole), _library())

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """What holds the memory that the library is given: codes, then scales, minima and a table where there are."""
        return self._kept

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(x.nbytes for x in self._kept)

    def unpack(self) -> Tensor:
        """What was packed: floats bit for bit, integers as the float32 they stand for. Shape: [outs, ins].

        Floats with scales are given without these.
        """
        dtype = next((dtype for dtype, kind in PACKED.items() if kind == self.kind), torch.float32)
        out = torch.empty(self.outs, self.ins, dtype=dtype, device="cpu")
        self._library.call("of_unpack", ctypes.byref(self.c), ctypes.byref(rows_of(out)))
        return out

    def multiply(
        self, x: Tensor, *, bias: Tensor | None = None, out: Tensor | None = None, flags: Flag = PLAIN
    ) -> Tensor:
        """``x @ matrix.T + bias``, each number one chain of additions in the order of the inputs.

        Args:
            x: Shape: [rows, ins], of any kind of floats.
            bias: Shape: [outs], float32.
            out: where the result goes. Shape: [rows, outs]; made, in the dtype of ``x``, by default.
            flags: see :class:`~omniform.native.abi.Flag`.
        """
        assert x.shape[-1] == self.ins, (x.shape, self.ins)
        if x.stride(1) != 1:
            x = x.contiguous()
        if out is None:
            out = torch.empty(x.shape[0], self.outs, dtype=x.dtype, device="cpu")
        assert out.shape == (x.shape[0], self.outs), (out.shape, x.shape, self.outs)
        added = None if bias is None else ctypes.cast(bias.data_ptr(), ctypes.POINTER(ctypes.c_float))
        self._library.call(
            "of_matmul", ctypes.byref(self.c), ctypes.byref(rows_of(x)), added, ctypes.byref(rows_of(out)), flags
        )
        return out
