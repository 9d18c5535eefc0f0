// Functions of sixteen numbers at a time, made of simd.hpp's primitives. How far each is off is measured over all of
// float32's range in tests/native/test_elementwise_kernels.py. Polynomials are minimax fits of our own (Lawson's
// iteration over Chebyshev nodes, in float64), rounded to float32. What is no number stays none.
#pragma once

#include "simd.hpp"

namespace of {

OF_INLINE F32 negated(F32 x) { return as_float(as_int(x) + all_ints(INT32_MIN)); }
OF_INLINE F32 magnitude(F32 x) { return as_float(as_int(x) & all_ints(0x7fffffff)); }
// `x`, which has no sign, with the sign of `sign`.
OF_INLINE F32 signed_as(F32 x, F32 sign) { return as_float(as_int(x) | (as_int(sign) & all_ints(INT32_MIN))); }

// e to the power of a number that is not above zero: half the work of exp. Exactly 1 of 0, and 0 below -87.33.
OF_INLINE F32 falling(F32 x) {
    constexpr float SHIFT = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to a whole number, in its low bits
    const F32 inside = max(all(-87.33f), x);
    const F32 shifted = fma(inside, all(1.44269504088896341f), all(SHIFT));
    const F32 n = shifted - all(SHIFT);
    F32 r = fma(n, all(-0.693145751953125f), inside);
    r = fma(n, all(-1.42860677e-6f), r);
    F32 p = all(1.38146e-3f);
    p = fma(p, r, all(8.36871e-3f));
    p = fma(p, r, all(4.166839e-2f));
    p = fma(p, r, all(1.6666521e-1f));
    p = fma(p, r, all(0.49999993f));
    p = fma(p, r, all(1.0f));
    p = fma(p, r, all(1.0f));
    const F32 made = as_float(as_int(p) + shift_left<23>(as_int(shifted)));
    // Adds nothing to a number; of none, whose bits were moved about, it makes none again.
    return where_less(x, all(-87.33f), zero(), fma(inside, zero(), made));
}

// Near zero x + x^3 p(x^2); else 1 - 2 / (e^2|x| + 1), with the sign of x.
OF_INLINE F32 tanh(F32 x) {
    const F32 size = magnitude(x), square = x * x;
    F32 p = all(0.0021475369576364756f);
    p = fma(p, square, all(-0.008182673715054989f));
    p = fma(p, square, all(0.021702967584133148f));
    p = fma(p, square, all(-0.05394720286130905f));
    p = fma(p, square, all(0.13333210349082947f));
    p = fma(p, square, all(-0.3333333134651184f));
    const F32 near = fma(p * square, x, x);
    const F32 small = falling(size * all(-2.0f));
    const F32 far = signed_as((all(1.0f) - small) / (all(1.0f) + small), x);
    return where_number(x, where_less(size, all(0.625f), near, far), x);
}

OF_INLINE F32 sigmoid(F32 x) { return all(1.0f) / (all(1.0f) + exp(negated(x))); }

OF_INLINE F32 silu(F32 x) { return x / (all(1.0f) + exp(negated(x))); }

// The normal distribution's tail above |x|: e^(-x^2 / 2) times a polynomial in 1 / (1 + 0.3 |x|). The square is taken
// in two parts, or its rounding would be seen in the power.
OF_INLINE F32 normal_tail(F32 x) {
    const F32 t = min(magnitude(x), all(14.5f));
    const F32 u = all(1.0f) / fma(all(0.3f), t, all(1.0f));
    F32 p = all(-0.02001963183283806f);
    p = fma(p, u, all(0.10888972133398056f));
    p = fma(p, u, all(-0.21908672153949738f));
    p = fma(p, u, all(0.17825211584568024f));
    p = fma(p, u, all(-0.06665079295635223f));
    p = fma(p, u, all(0.08815509080886841f));
    p = fma(p, u, all(0.08175209164619446f));
    p = fma(p, u, all(0.10930144786834717f));
    p = fma(p, u, all(0.11973564326763153f));
    p = fma(p, u, all(0.1196703240275383f));
    p = fma(p, u, all(7.065311251608364e-07f));
    const F32 square = t * t, rest = fma(t, t, negated(square));
    const F32 power = falling(square * all(-0.5f));
    return where_number(x, p * fma(power, rest * all(-0.5f), power), x);
}

// x times the normal distribution's mass below x: x less its tail's share, or the tail's share of a negative number.
OF_INLINE F32 gelu(F32 x) {
    // An infinity times no tail would be no number.
    const F32 size = min(magnitude(x), all(3.4028235e38f));
    return where_number(x, fma(negated(size), normal_tail(x), max(x, zero())), x);
}

// sqrt(2 / pi) (x + 0.044715 x^3), twice over: 1 + tanh(u) = 2 sigmoid(2 u).
OF_INLINE F32 gelu_tanh(F32 x) {
    const F32 inner = x * fma(x * x, all(2.0f * 0.7978845608028654f * 0.044715f), all(2.0f * 0.7978845608028654f));
    return where_less(x, all(-1e4f), zero(), x / (all(1.0f) + exp(negated(inner))));
}

// log(1 + x) for x from 0 to 1: twice the inverse hyperbolic tangent of x / (2 + x).
OF_INLINE F32 log1p_of_part(F32 x) {
    const F32 w = x / (x + all(2.0f)), z = w * w;
    F32 p = all(0.12150469422340393f);
    p = fma(p, z, all(0.10713828355073929f));
    p = fma(p, z, all(0.14308442175388336f));
    p = fma(p, z, all(0.19999438524246216f));
    p = fma(p, z, all(0.3333333730697632f));
    const F32 twice = w + w;
    return fma(twice * z, p, twice);
}

// log(1 + e^x); x itself above 20, as torch has it.
OF_INLINE F32 softplus(F32 x) {
    const F32 found = max(x, zero()) + log1p_of_part(falling(negated(magnitude(x))));
    return where_number(x, where_less(all(20.0f), x, x, found), x);
}

// e^x - 1 of a number that is not above zero.
OF_INLINE F32 falling_less_one(F32 x) {
    F32 p = all(0.0011951884953305125f);
    p = fma(p, x, all(0.008259071968495846f));
    p = fma(p, x, all(0.04165356233716011f));
    p = fma(p, x, all(0.16666565835475922f));
    p = fma(p, x, all(0.4999999701976776f));
    return where_less(all(-0.36f), x, fma(p * x, x, x), falling(x) - all(1.0f));
}

}  // namespace of
