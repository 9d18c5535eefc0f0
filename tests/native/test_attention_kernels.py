"""Attention over pages: beside float64, and a query's numbers bit for bit alike in whatever step it is computed."""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from omniform.native.abi import Attention, Kind, Range, Segment, State
from omniform.native.library import library
from omniform.native.matrix import rows_of

FOUND = library()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no native kernels here")

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
KINDS = {
    torch.float32: Kind.F32, torch.bfloat16: Kind.BF16, torch.float16: Kind.F16, torch.int8: Kind.I8,
    torch.uint8: Kind.N4,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row: all of its queries, what each sees, its keys and values as float32 in order.

    Attributes:
        q: Shape: [T, H, D].
        k: Shape: [S, G, D].
        v: Shape: [S, G, Dv].
        low: the first key that a query sees. Shape: [T].
        high: one past the last. Shape: [T].
        places: the queries' own numbers. Shape: [T].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    low: Tensor
    high: Tensor
    places: Tensor

    def part(self, first: int, stop: int) -> Row:
        return replace(self, **{n: getattr(self, n)[first:stop] for n in ("q", "low", "high", "places")})


@dataclass(frozen=True)
class How:
    """What is said once for all rows."""

    dtype: torch.dtype = torch.float32
    scale: float = 0.3
    cap: float = 0.0
    sinks: Tensor | None = None
    bias: Tensor | None = None
    offset: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)


def made_row(
    length: int, keys: int, *, heads: int = 4, groups: int = 2, width: int = 16, out: int | None = None, window: int = 0
) -> Row:
    """A row whose queries are its last tokens and see what came before them, and themselves."""
    places = torch.arange(keys - length, keys, dtype=torch.int32)
    low = (places + 1 - window).clamp(min=0) if window else torch.zeros_like(places)
    return Row(
        torch.randn(length, heads, width),
        torch.randn(keys, groups, width),
        torch.randn(keys, groups, out or width),
        low.int(),
        places + 1,
        places,
    )


def paged(rows: Sequence[Row], block: int, rng: random.Random) -> tuple[list[list[tuple[int, int]]], int]:
    """Slots of every row's keys in blocks of a size, anywhere; neighbours are joined. And how many slots there are."""
    counts = [-(-len(row.k) // block) for row in rows]
    free = list(range(sum(counts) + 3))
    rng.shuffle(free)
    tables = []
    for row, count in zip(rows, counts, strict=True):
        ranges: list[tuple[int, int]] = []
        for n in range(count):
            first = free.pop() * block
            stop = first + min(block, len(row.k) - n * block)
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((first, stop))
        tables.append(ranges)
    return tables, (sum(counts) + 3) * block


def stored(
    rows: Sequence[Row], tables: Sequence[list[tuple[int, int]]], slots: int, name: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Keys or values in pages by the library's own ``of_keep``, NaN elsewhere. Shape: [G, slots, D], [G, slots]."""
    _, groups, width = getattr(rows[0], name).shape
    # Four bits lie in bytes; those of no scale are no number either.
    size = -(-width // 32) * 20 if dtype is torch.uint8 else width
    whole = torch.full((groups, slots, size), {torch.int8: -77, torch.uint8: 255}.get(dtype, math.nan), dtype=dtype)
    scales = torch.full((groups, slots), math.nan) if dtype is torch.int8 else None
    state = state_of(whole, scales, width)
    for row, ranges in zip(rows, tables, strict=True):
        at = torch.cat([torch.arange(*r) for r in ranges]) if ranges else torch.empty(0, dtype=torch.long)
        flat = getattr(row, name).flatten(1)
        FOUND.call("of_keep", ctypes.byref(state), ctypes.byref(rows_of(flat)), at.data_ptr())
    return whole, scales


def state_of(whole: Tensor, scales: Tensor | None, width: int) -> State:
    groups = whole.shape[0]
    return State(
        whole.data_ptr(),
        None if scales is None else scales.data_ptr(),
        groups,
        width,
        whole.stride(0),
        whole.stride(1),
        0 if scales is None else scales.stride(0),
        KINDS[whole.dtype],
        0,
    )


def attended(
    rows: Sequence[Row], how: How, *, block: int = 16, seed: int = 0, values: torch.dtype | None = None
) -> list[Tensor]:
    """What the library makes of rows in one call. Shape: [T, H, Dv] each."""
    tables, slots = paged(rows, block, random.Random(seed))
    k, k_scales = stored(rows, tables, slots, "k", how.dtype)
    v, v_scales = stored(rows, tables, slots, "v", values or how.dtype)
    q = torch.cat([row.q for row in rows])
    # Queries within a wider row, heads with a gap between them: strides are used.
    tokens, heads, width = q.shape
    wide = torch.full((tokens, heads, width + 3), math.nan)
    wide[..., :width] = q
    out = torch.full((tokens, heads + 1, rows[0].v.shape[-1]), 7.0)
    low, high, places = (
        torch.cat([getattr(row, n) for row in rows]).int().contiguous() for n in ("low", "high", "places")
    )
    segments, ranges, start = [], [], 0
    for row, table in zip(rows, tables, strict=True):
        # Keys that none of the row's queries sees need not be in its table.
        seen = [int(a) for a, b in zip(row.low, row.high, strict=True) if a < b]
        skip = min(seen, default=0) // block * block
        mine = [(max(a, a + skip - before), b) for a, b, before in with_before(table) if before + b - a > skip]
        segments.append(Segment(start, len(row.q), len(ranges), len(mine), skip))
        ranges += mine
        start += len(row.q)
    keys, vals = state_of(k, k_scales, width), state_of(v, v_scales, rows[0].v.shape[-1])
    call = Attention(
        wide.data_ptr(), wide.stride(0), wide.stride(1), out.data_ptr(), out.stride(0), out.stride(1),
        ctypes.pointer(keys), ctypes.pointer(vals), heads, (Segment * len(segments))(*segments), len(segments),
        (Range * max(1, len(ranges)))(*[Range(a, b) for a, b in ranges]), low.data_ptr(), high.data_ptr(),
        None if how.sinks is None else how.sinks.data_ptr(), None if how.bias is None else how.bias.data_ptr(),
        places.data_ptr(), 0 if how.bias is None else how.bias.shape[1], how.offset, how.scale, how.cap,
    )  # fmt: skip
    FOUND.call("of_attend", ctypes.byref(call))
    assert (out[:, -1] == 7).all()
    return list(out[:, :-1].split([len(row.q) for row in rows]))


def with_before(table: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    found, before = [], 0
    for first, stop in table:
        found.append((first, stop, before))
        before += stop - first
    return found


def expected(row: Row, how: How, *, values: torch.dtype | None = None) -> Tensor:
    """The same in float64, of keys and values as rounded as they are kept. Shape: [T, H, Dv]."""
    k, v = (rounded(x, dtype).double() for x, dtype in ((row.k, how.dtype), (row.v, values or how.dtype)))
    each = row.q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(each, 1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", row.q.double(), k) * how.scale
    if how.cap:
        scores = torch.tanh(scores / how.cap) * how.cap
    key = torch.arange(len(k))
    if how.bias is not None:
        at = (key[None] - row.places[:, None] + how.offset).clamp(0, how.bias.shape[1] - 1)
        scores = scores + how.bias.double()[:, at]
    seen = (key[None] >= row.low[:, None]) & (key[None] < row.high[:, None])
    scores = scores.masked_fill(~seen, -math.inf)
    if how.sinks is not None:
        scores = torch.cat((scores, how.sinks.double()[:, None, None].expand(-1, len(row.q), 1)), -1)
    weights = scores.softmax(-1)[..., : len(k)].nan_to_num(nan=0.0)
    return torch.einsum("hts,shd->thd", weights, v)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype is torch.uint8:
        return in_groups(x)
    if dtype is not torch.int8:
        return x.to(dtype)
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).nan_to_num(0.0).round() * scale


def in_groups(x: Tensor) -> Tensor:
    """Numbers as 4 bits keep them: each of a group of 32 is so many steps above the least, both in bfloat16."""
    found = torch.empty_like(x)
    for at in range(0, x.shape[-1], 32):
        some = x[..., at : at + 32]
        least = some.amin(-1, keepdim=True)
        step = ((some.amax(-1, keepdim=True) - least) / 15).bfloat16().float()
        least = least.bfloat16().float()
        codes = ((some - least) / step).nan_to_num(0.0).round().clamp(0, 15)
        found[..., at : at + 32] = least + step * codes
    return found


def check(rows: Sequence[Row], how: How, *, off: float = 3e-6, values: torch.dtype | None = None) -> None:
    for row, found in zip(rows, attended(rows, how, values=values), strict=True):
        right = expected(row, how, values=values)
        bound = off * max(1.0, float(row.v.abs().max()))
        assert (found - right).abs().max() <= bound, (found - right).abs().max()


# ---------------------------------------------------------------- beside float64


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("width", (1, 2, 7, 8, 15, 16, 17, 33, 64, 80, 96, 128, 200))
def test_widths(dtype: torch.dtype, width: int) -> None:
    rows = [made_row(5, 70, width=width), made_row(1, 130, width=width), made_row(33, 33, width=width)]
    check(rows, How(dtype, scale=width**-0.5))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("heads", ((1, 1), (3, 3), (4, 2), (6, 2), (8, 2), (5, 1), (12, 2), (7, 1), (16, 1), (130, 1)))
def test_heads(dtype: torch.dtype, heads: tuple[int, int]) -> None:
    many, groups = heads
    rows = [made_row(n, 3 + 64 * n, heads=many, groups=groups) for n in (1, 2, 7)]
    check([*rows, made_row(40, 90, heads=many, groups=groups)], How(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("widths", ((48, 16), (16, 48), (24, 40), (576, 512), (40, 20)))
def test_values_of_another_width(dtype: torch.dtype, widths: tuple[int, int]) -> None:
    rows = [made_row(n, 80, heads=16, groups=1, width=widths[0], out=widths[1]) for n in (1, 9)]
    check(rows, How(dtype, scale=widths[0] ** -0.5))


@pytest.mark.parametrize("window", (1, 2, 5, 63, 64, 65, 100))
def test_windows(window: int) -> None:
    check([made_row(1, 200, window=window), made_row(150, 300, window=window)], How(torch.bfloat16))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_caps_sinks_and_biases(dtype: torch.dtype) -> None:
    rows = [made_row(1, 200), made_row(50, 80), made_row(3, 65, window=30)]
    check(rows, How(dtype, scale=9.0, cap=4.0))
    check(rows, How(dtype, sinks=torch.tensor([2.0, -3.0, 40.0, -math.inf])))
    check(rows, How(dtype, bias=torch.randn(4, 301) * 3, offset=250))
    check(rows, How(dtype, bias=torch.randn(4, 11) * 3, offset=5))
    check(rows, How(dtype, bias=torch.randn(4, 11), offset=5, cap=3.0, sinks=torch.randn(4)))


def test_an_encoder_sees_whole_rows() -> None:
    rows = []
    for length in (1, 17, 64, 100):
        row = made_row(length, length)
        rows.append(replace(row, low=torch.zeros_like(row.low), high=torch.full_like(row.high, length)))
    check(rows, How())


def test_any_ranges() -> None:
    row = made_row(60, 200)
    low = torch.randint(0, 200, (60,), dtype=torch.int32)
    check(
        [replace(row, low=low, high=low + torch.randint(-3, 90, (60,), dtype=torch.int32).clamp(max=200 - low))], How()
    )


@pytest.mark.parametrize("values", (torch.int8, torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("width", (1, 7, 32, 40, 64))
def test_keys_of_bytes(values: torch.dtype, width: int) -> None:
    rows = [made_row(1, 200, width=width), made_row(50, 80, width=width)]
    check(rows, How(torch.int8), values=values, off=2e-2)  # a half rounded the other way
    exact = [replace(r, k=whole_bytes(r.k), v=whole_bytes(r.v)) for r in rows]
    check(exact, How(torch.int8, scale=1e-4), values=values, off=3e-6)


@pytest.mark.parametrize("values", (torch.uint8, torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("width", (1, 7, 16, 32, 33, 40, 64, 80, 200))
def test_keys_of_four_bits(values: torch.dtype, width: int) -> None:
    rows = [made_row(1, 200, width=width), made_row(50, 80, width=width)]
    exact = [replace(r, k=whole_steps(r.k), v=whole_steps(r.v)) for r in rows]
    check(exact, How(torch.uint8, scale=0.01), values=values, off=3e-6)


def whole_steps(x: Tensor) -> Tensor:
    """Numbers that four bits hold exactly: whole from -8 to 7, both in every group, or one number throughout."""
    found = (x * 4).round().clamp(-8, 7)
    for at in range(0, x.shape[-1], 32):
        found[..., at] = -8
        if at + 1 < x.shape[-1]:
            found[..., at + 1] = 7
    return found


def whole_bytes(x: Tensor) -> Tensor:
    """Numbers that bytes hold exactly, of either sign, with 127 among them."""
    found = (x * 40).round().clamp(-127, 127)
    found[..., 0] = 127
    return found


# ---------------------------------------------------------------- the same numbers in every step

HOWS = {
    "plain": How(torch.bfloat16),
    "float32": How(torch.float32),
    "bytes": How(torch.int8),
    "four bits": How(torch.uint8),
    "all": How(torch.float16, cap=5.0, sinks=torch.tensor([1.0, 0.0, -1.0, 2.0]), bias=torch.randn(4, 77), offset=60),
}


@pytest.mark.parametrize("name", HOWS)
@pytest.mark.parametrize("seed", range(4))
def test_a_query_is_alike_in_every_step(name: str, seed: int) -> None:
    """Random rows computed at once, each by itself, in pieces of any size, over pages of any size, on two threads."""
    torch.manual_seed(seed)
    rng, how = random.Random(seed), HOWS[name]
    sizes = {"width": rng.choice((16, 24, 64)), "out": rng.choice((16, 32, 40))}
    rows = []
    for _ in range(5):
        keys = rng.randint(1, 300)
        rows.append(made_row(rng.randint(1, keys), keys, window=rng.choice((0, 0, 40)), **sizes))
    together = attended(rows, how, block=rng.choice((1, 16, 64)), seed=seed)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for row, whole in zip(rows, together, strict=True):
            assert same(attended([row], how, block=rng.choice((1, 7, 16, 512)), seed=rng.randrange(99))[0], whole)
        torch.set_num_threads(1)
        order = rng.sample(range(5), 5)
        shuffled = attended([rows[n] for n in order], how, block=16, seed=9)
        assert all(same(x, together[n]) for n, x in zip(order, shuffled, strict=True))
        for n in range(3):
            cut = pieces(len(rows[n].q), rng)
            parts = [rows[n].part(a, b) for a, b in cut]
            assert same(torch.cat(attended(parts, how, block=8)), together[n])
            # A piece comes before the keys of the next are written: they are no number here.
            first = parts[0]
            alone = replace(first, k=first.k[: int(first.high.max())], v=first.v[: int(first.high.max())])
            assert same(attended([alone], how, block=3)[0], together[n][: len(first.q)])
    finally:
        torch.set_num_threads(before)


def pieces(count: int, rng: random.Random) -> list[tuple[int, int]]:
    found, at = [], 0
    while at < count:
        stop = min(count, at + rng.choice((1, 1, 2, 3, 20, 200)))
        found.append((at, stop))
        at = stop
    return found


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)


# ---------------------------------------------------------------- hostile


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("odd", (math.nan, math.inf, -math.inf))
def test_what_is_not_seen_has_no_part(dtype: torch.dtype, odd: float) -> None:
    row, how = made_row(80, 80, width=32, window=50), How(dtype)
    right = attended([row], how)[0]
    for place in (0, 31, 40, 79):
        k, v = row.k.clone(), row.v.clone()
        k[place], v[place] = odd, odd
        found = attended([replace(row, k=k, v=v)], how)[0]
        blind = (row.low > place) | (row.high <= place)
        assert torch.equal(found[blind], right[blind])
        assert found[~blind].isnan().all()
        alone = attended([replace(row, k=k, v=v).part(n, n + 1) for n in range(80)], how)
        assert torch.equal(torch.cat(alone)[blind], right[blind])


@pytest.mark.parametrize("sinks", (None, torch.randn(4)), ids=("plain", "sinks"))
def test_who_sees_nothing_gets_zeros(sinks: Tensor | None) -> None:
    row, how = made_row(20, 100), How(sinks=sinks)
    right = attended([row], how)[0]
    high = row.high.clone()
    high[[0, 3, 4, 19]] = row.low[[0, 3, 4, 19]]
    high[3] -= 5
    found = attended([replace(row, high=high)], how)[0]
    assert (found[[0, 3, 4, 19]] == 0).all()
    assert torch.equal(found[5:19], right[5:19])
    nobody = replace(row, low=torch.zeros_like(row.low), high=torch.zeros_like(row.high))
    assert (attended([nobody], how)[0] == 0).all()


def test_huge_and_tiny_scores() -> None:
    row = made_row(30, 100)
    for size in (1e-20, 1e4, 1e18):
        loud = replace(row, q=row.q * size)
        found, right = attended([loud], How())[0], expected(loud, How())
        assert (found - right).abs().max() < 1e-3
    flat = replace(row, q=torch.zeros_like(row.q))
    assert (attended([flat], How())[0] - expected(flat, How())).abs().max() < 1e-6
    endless = replace(row, q=torch.full_like(row.q, 3e38))
    assert not attended([endless], How())[0].isinf().any()


def test_no_rows() -> None:
    assert attended([made_row(1, 1), replace(made_row(1, 4).part(0, 0))], How())[1].shape == (0, 4, 16)


@pytest.mark.parametrize("dtype", (*FLOATS, torch.int8), ids=str)
def test_what_is_kept(dtype: torch.dtype) -> None:
    x = torch.randn(6, 3 * 20)
    x[2, 5] = 300.0
    x[3] = 0.0
    whole, scales = torch.zeros(3, 9, 20).to(dtype), torch.zeros(3, 9) if dtype is torch.int8 else None
    slots = torch.tensor([8, 0, 3, 4, -1, 5])
    FOUND.call("of_keep", ctypes.byref(state_of(whole, scales, 20)), ctypes.byref(rows_of(x)), slots.data_ptr())
    for row, slot in enumerate(slots.tolist()):
        found = whole[:, slot].float()
        wanted = x[row].view(3, 20)
        if slot < 0:
            continue
        if scales is None:
            assert torch.equal(found, wanted.to(dtype).float())
        else:
            assert torch.equal(scales[:, slot], wanted.abs().amax(-1) / 127)
            assert ((found * scales[:, slot, None] - wanted).abs() <= scales[:, slot, None] * 0.5001).all()
    assert not whole[:, [1, 2, 6, 7]].any()
