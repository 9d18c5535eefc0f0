// Vectors of sixteen lanes, whatever the machine: two registers of AVX2, one of AVX-512, four of NEON, or plain numbers.
//
// Kernels are written once, against what stands here. A panel of a packed matrix is sixteen outputs, so that one vector
// is one step of a panel. No function here has a loop that a caller would have to know of, and none has state.
//
// Nothing but the variant's own compiler flags decides which of the four it is.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define OF_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define OF_AVX2 1
#include <immintrin.h>
#elif defined(__aarch64__)
#define OF_NEON 1
#include <arm_neon.h>
#endif

#if defined(OF_CHECKED)  // under sanitizers: thousands of checked accesses in one function take minutes to compile
#define OF_INLINE static inline
#define OF_INLINE_METHOD inline
#define OF_INLINE_LAMBDA
#else
#define OF_INLINE static inline __attribute__((always_inline))
#define OF_INLINE_METHOD inline __attribute__((always_inline))
#define OF_INLINE_LAMBDA __attribute__((always_inline))
#endif
#define OF_APART __attribute__((noinline))

namespace of {

constexpr int LANES = 16;

// ---------------------------------------------------------------- numbers of sixteen bits, one at a time

OF_INLINE float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

OF_INLINE uint32_t to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

OF_INLINE float from_bf16(uint16_t x) { return from_bits(uint32_t(x) << 16); }

// Rounds to the nearest, ties to even; what is no number stays none.
OF_INLINE uint16_t to_bf16(float x) {
    uint32_t bits = to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

OF_INLINE float from_f16(uint16_t x) {
    uint32_t sign = uint32_t(x & 0x8000) << 16, rest = x & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000u | ((rest & 0x3ff) << 13));
    // Subnormals too: the exponent is moved by a product, which is exact.
    return from_bits(sign | to_bits(from_bits(rest << 13) * from_bits(uint32_t(254 - 15) << 23)));
}

OF_INLINE uint16_t to_f16(float x) {
    uint32_t bits = to_bits(x), sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000u) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000u) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000u) {  // subnormal: let the adder round
        float shifted = from_bits(rest) + 0.5f;
        return uint16_t(sign | (to_bits(shifted) - 0x3f000000u));
    }
    uint32_t odd = (rest >> 13) & 1;
    return uint16_t(sign | ((rest - 0x38000000u + 0xfff + odd) >> 13));
}

}  // namespace of

// The vectors.
#if OF_AVX512
#include "simd_avx512.hpp"
#elif OF_AVX2
#include "simd_avx2.hpp"
#elif OF_NEON
#include "simd_neon.hpp"
#else
#include "simd_plain.hpp"
#endif

namespace of {

// ---------------------------------------------------------------- made of the above

OF_INLINE F32& operator+=(F32& a, F32 b) { return a = a + b; }
OF_INLINE F32& operator*=(F32& a, F32 b) { return a = a * b; }

OF_INLINE F32 absolute(F32 a) { return as_float(as_int(a) & all_ints(0x7fffffff)); }

// Sixteen pairs of bf16, (k, k+1) of every output: the numbers of k and those of k + 1.
OF_INLINE void load_bf16_pairs(const uint16_t* p, F32& even, F32& odd) {
    I32 pair = load_ints(p);
    even = as_float(shift_left<16>(pair));
    odd = as_float(pair & all_ints(int32_t(0xffff0000u)));
}

#if defined(OF_PLAIN_BF16_DOTS) && !defined(OF_BF16_DOTS)
// Stands in for the instructions of others, so that what is made of them is tested here.
#define OF_BF16_DOTS 1
using Halves = I32;
OF_INLINE Halves load_halves(const void* p) { return load_ints(p); }
OF_INLINE Halves all_halves(int32_t pair) { return all_ints(pair); }
OF_INLINE F32 dots(Halves a, Halves b, F32 c) {
    const I32 high = all_ints(int32_t(0xffff0000u));
    return fma(as_float(shift_left<16>(a)), as_float(shift_left<16>(b)), fma(as_float(a & high), as_float(b & high), c));
}
#endif

// Rounded to bf16 as its bits, in the low half of every lane.
OF_INLINE I32 bf16_bits(F32 x) {
    I32 bits = as_int(x);
    I32 up = (shift_right<16>(bits) & all_ints(1)) + all_ints(0x7fff);
    I32 near = shift_right<16>(bits + up);
    I32 none = shift_right<16>(bits) | all_ints(0x40);
    F32 picked = where_number(x, as_float(near), as_float(none));
    return as_int(picked);
}

OF_INLINE void store_bf16(uint16_t* p, F32 x) {
    store_halves(p, bf16_bits(x));
}

// e to the power of x: at most 1.2 units in the last place off for results that are normal numbers; zero below -87.3,
// infinite above 88.72. Cody-Waite reduction, and a polynomial of degree six fitted by minimax (Remez) to exp on
// [-ln 2 / 2, ln 2 / 2].
OF_INLINE F32 exp(F32 x) {
    F32 inside = max(min(x, all(88.72283f)), all(-104.0f));  // of NaN some number, which is put right at the end
    F32 n = rounded(inside * all(1.44269504088896341f));
    F32 r = fma(n, all(-0.693145751953125f), inside);
    r = fma(n, all(-1.42860677e-6f), r);
    F32 p = all(1.38146e-3f);
    p = fma(p, r, all(8.36871e-3f));
    p = fma(p, r, all(4.166839e-2f));
    p = fma(p, r, all(1.6666521e-1f));
    p = fma(p, r, all(0.49999993f));
    p = fma(p, r, all(1.0f));
    p = fma(p, r, all(1.0f));
    // In two steps, so that 2^n neither overflows before the product does, nor is flushed.
    I32 whole = to_int(n);
    I32 half = to_int(rounded(n * all(0.5f)));
    F32 made = p * as_float(shift_left<23>(half + all_ints(127)));
    made = made * as_float(shift_left<23>(whole - half + all_ints(127)));
    made = where_less(all(88.72283f), x, all(INFINITY), made);
    return where_number(x, made, x);
}

}  // namespace of
