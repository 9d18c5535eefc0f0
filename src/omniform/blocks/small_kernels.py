"""Triton's kernels for what stands between a layer's matmuls: norms, turns, gates, and writing keys.

On a GPU each of torch's operations is a kernel that reads and writes everything once more, and in a step of single
tokens none has work for longer than its start takes. Each function here stands for three to five of them. Results are
theirs but for the last bit: the order of a sum of squares is another, and the compiler leaves out some of the roundings
between operations, though they are written here.

Imported where there is Triton only.
"""

# mypy: ignore-errors
# What stands here is no Python to a type checker: Triton reads it.

import triton
import triton.language as tl


@triton.jit
def norm_rows(
    x, weight, out, x_row, eps, plus,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WEIGHED: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    """A root mean square norm of one row; ``ROUNDED``: to the weight's dtype before it is weighed."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    value = tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    if WEIGHED:
        scale = tl.load(weight + at, mask=inside, other=0.0)
        if ROUNDED:
            value = value.to(scale.dtype).to(tl.float32)
        value = value * (scale.to(tl.float32) + plus)
    tl.store(out + row * WIDTH + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def turn_heads(
    x, cos, sin, out, x_token, x_head, heads, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The first ``DIM`` channels of one head of one token turned by halves; the others as they are."""
    place = tl.program_id(0).to(tl.int64)
    token, head = place // heads, place % heads
    at = tl.arange(0, BLOCK)
    turns = at < DIM
    other = tl.where(at < DIM // 2, at + DIM // 2, at - DIM // 2)
    base = x + token * x_token + head * x_head
    value = tl.load(base + at, mask=at < WIDTH, other=0.0)
    across = tl.load(base + other, mask=turns, other=0.0)
    c = tl.load(cos + token * DIM + at, mask=turns, other=0.0)
    s = tl.load(sin + token * DIM + at, mask=turns, other=0.0)
    first = (value.to(tl.float32) * c.to(tl.float32)).to(value.dtype).to(tl.float32)
    second = (across.to(tl.float32) * s.to(tl.float32)).to(value.dtype).to(tl.float32)
    turned = tl.where(turns, (first + second).to(value.dtype), value)
    tl.store(out + place * WIDTH + at, turned, mask=at < WIDTH)


@triton.jit
def gate_values(gate, up, out, count, gate_row, up_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """``silu(gate) * up``, a stretch of one row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    g = tl.load(gate + row * gate_row + at, mask=inside, other=0.0)
    u = tl.load(up + row * up_row + at, mask=inside, other=0.0)
    wide = g.to(tl.float32)
    opened = (wide * tl.sigmoid(wide)).to(g.dtype).to(tl.float32)
    tl.store(out + row * WIDTH + at, (opened * u.to(tl.float32)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def write_slots(
    k, v, kept_k, kept_v, slots, groups, k_token, k_group, v_token, v_group,
    kept_k_group, kept_k_slot, kept_v_group, kept_v_slot,
    KEY: tl.constexpr, VALUE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token's key and value of one group into its slot."""
    place = tl.program_id(0).to(tl.int64)
    token, group = place // groups, place % groups
    slot = tl.load(slots + token)
    at = tl.arange(0, BLOCK)
    key = tl.load(k + token * k_token + group * k_group + at, mask=at < KEY)
    tl.store(kept_k + group * kept_k_group + slot * kept_k_slot + at, key, mask=at < KEY)
    value = tl.load(v + token * v_token + group * v_group + at, mask=at < VALUE)
    tl.store(kept_v + group * kept_v_group + slot * kept_v_slot + at, value, mask=at < VALUE)
