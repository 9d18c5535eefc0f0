"""Triton's kernels for attention over paged state: every query looks at a range of its own row's keys.

The same two functions serve prompts and single tokens. A *tile* is some queries of one row that follow one another, all
heads of a group folded into them; its keys are taken sixty-four at a time, counted from the row's own beginning, by an
online softmax (https://arxiv.org/abs/2205.14135). Where rows are few and long, their keys are cut into *parts*, each a
program of its own, and joined afterwards (https://pytorch.org/blog/flash-decoding/). Parts begin at multiples of a
fixed number of the row's keys, so that what a row gets does not depend on who is beside it.

Nothing about a launch follows from how long rows are, but for the number of parts that there may be; programs that find
none of their keys return at once. So a launch can be recorded, and played again for rows that have grown.

Imported where there is Triton only.
"""

# mypy: ignore-errors
# What stands here is no Python to a type checker: Triton reads it.

import triton
import triton.language as tl


@triton.jit
def attend_tiles(
    q, k, v, out, maxima, sums, slots, origin, low, high, tiles, counts, sinks, bias,
    scale, cap, chunk, parts,
    q_token, q_head, k_group, k_slot, v_group, v_slot, bias_head, bias_token,
    EACH: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    CAPPED: tl.constexpr, SUNK: tl.constexpr, BIASED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One tile of queries, one group of heads, one part of the keys.

    Args:
        q: Shape: [N, H, KEY], heads by ``q_head``, tokens by ``q_token``; channels follow one another.
        k, v: Shape: [G, slots, KEY] and [G, slots, VALUE] likewise.
        out: Shape: [N, H, VALUE]; of parts [N, H, parts, VALUE], float32, unweighted.
        maxima, sums: of parts: the highest score, and the sum of the weights relative to it. Shape: [N, H, parts].
        slots: where keys lie. A query's key ``j`` lies in ``slots[origin + j]``.
        origin, low, high: of every query; it sees the keys from ``low`` to before ``high``. Shape: [N].
        tiles, counts: of every tile its first query and how many it has.
        sinks: Shape: [H].
        bias: Shape: [H, N, S].
        chunk: keys in a part.
    """
    first = tl.load(tiles + tl.program_id(0))
    count = tl.load(counts + tl.program_id(0))
    group = tl.program_id(1)
    m = tl.arange(0, BLOCK_M)
    token = first + m // EACH
    head = group * EACH + m % EACH
    real = m < count * EACH
    lows = tl.load(low + token, mask=real, other=2147483647)
    highs = tl.load(high + token, mask=real, other=0)
    begin = tl.min(lows, axis=0)
    end = tl.max(highs, axis=0)
    if SPLIT:
        part = tl.program_id(2)
        at = (begin // chunk + part) * chunk
        begin = tl.maximum(begin, at)
        end = tl.minimum(end, at + chunk)
        if begin >= end:
            return
    channel = tl.arange(0, BLOCK_K)
    value = tl.arange(0, BLOCK_V)
    queries = tl.load(
        q + token.to(tl.int64)[:, None] * q_token + head[:, None] * q_head + channel[None, :],
        mask=real[:, None] & (channel < KEY)[None, :], other=0.0,
    )  # fmt: skip
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    seen = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    start = tl.load(origin + first)
    for j in range(begin // BLOCK_N * BLOCK_N, end, BLOCK_N):
        n = j + tl.arange(0, BLOCK_N)
        inside = (n >= begin) & (n < end)
        slot = tl.load(slots + start + n, mask=inside, other=0).to(tl.int64)
        keys = tl.load(
            k + group * k_group + slot[None, :] * k_slot + channel[:, None],
            mask=inside[None, :] & (channel < KEY)[:, None], other=0.0,
        )  # fmt: skip
        score = tl.dot(queries, keys, input_precision="ieee") * scale
        if CAPPED:
            score = cap * (2.0 * tl.sigmoid(2.0 * score / cap) - 1.0)  # the hyperbolic tangent
        allowed = real[:, None] & (n[None, :] >= lows[:, None]) & (n[None, :] < highs[:, None])
        allowed = allowed & inside[None, :]
        if BIASED:
            score += tl.load(
                bias + head[:, None] * bias_head + token[:, None] * bias_token + n[None, :], mask=allowed, other=0.0
            ).to(tl.float32)
        score = tl.where(allowed, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp(score - base[:, None])
        shrunk = tl.exp(highest - base)
        values = tl.load(
            v + group * v_group + slot[:, None] * v_slot + value[None, :],
            mask=inside[:, None] & (value < VALUE)[None, :], other=0.0,
        )  # fmt: skip
        total = total * shrunk + tl.sum(weight, axis=1)
        seen = seen * shrunk[:, None] + tl.dot(weight.to(values.dtype), values, input_precision="ieee")
        highest = higher
    heads = tl.num_programs(1) * EACH
    place = token.to(tl.int64) * heads + head
    kept = real[:, None] & (value < VALUE)[None, :]
    if SPLIT:
        place = place * parts + tl.program_id(2)
        tl.store(maxima + place, highest, mask=real)
        tl.store(sums + place, total, mask=real)
        tl.store(out + place[:, None] * VALUE + value[None, :], seen, mask=kept)
    else:
        if SUNK:
            sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32)
            higher = tl.maximum(highest, sink)
            shrunk = tl.exp(highest - higher)
            total = total * shrunk + tl.exp(sink - higher)
            seen = seen * shrunk[:, None]
        seen = seen / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out + place[:, None] * VALUE + value[None, :], seen.to(out.dtype.element_ty), mask=kept)


@triton.jit
def join_parts(
    seen, maxima, sums, out, low, high, sinks, chunk, parts, heads,
    VALUE: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_P: tl.constexpr, SUNK: tl.constexpr,
):  # fmt: skip
    """What the parts of one query's keys came to, for one head; see :func:`attend_tiles`."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(low + token) // chunk
    held = (tl.load(high + token) + chunk - 1) // chunk - first
    place = token.to(tl.int64) * heads + head
    value = tl.arange(0, BLOCK_V)
    highest = float("-inf")
    total = 0.0
    mixed = tl.zeros([BLOCK_V], tl.float32)
    for j in range(0, held, BLOCK_P):
        part = j + tl.arange(0, BLOCK_P)
        there = part < held
        own = tl.load(maxima + place * parts + part, mask=there, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(own, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        share = tl.exp(own - base)
        shrunk = tl.exp(highest - base)
        weight = tl.load(sums + place * parts + part, mask=there, other=0.0) * share
        of_part = tl.load(
            seen + (place * parts + part)[:, None] * VALUE + value[None, :],
            mask=there[:, None] & (value < VALUE)[None, :], other=0.0,
        )  # fmt: skip
        total = total * shrunk + tl.sum(weight, axis=0)
        mixed = mixed * shrunk + tl.sum(of_part * share[:, None], axis=0)
        highest = higher
    if SUNK:
        sink = tl.load(sinks + head).to(tl.float32)
        higher = tl.maximum(highest, sink)
        shrunk = tl.exp(highest - higher)
        total = total * shrunk + tl.exp(sink - higher)
        mixed = mixed * shrunk
    mixed = mixed / tl.where(total == 0.0, 1.0, total)
    tl.store(out + place * VALUE + value, mixed.to(out.dtype.element_ty), mask=value < VALUE)
