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

// ---------------------------------------------------------------- the vectors

#if OF_AVX512 || OF_AVX2
// fp8 e4m3 has the layout of float16 but for an exponent that is 8 smaller and no infinities: all ones are no number.
OF_INLINE __m256i e4m3_as_f16(__m128i bytes) {
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), rest = _mm256_set1_epi16(0x3f80);
    __m256i none = _mm256_cmpeq_epi16(_mm256_and_si256(v, rest), rest);
    return _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16(int16_t(0xbf80))), none);
}
#endif

#if OF_AVX512

struct F32 { __m512 v; };
struct I32 { __m512i v; };
struct Pairs { __m512i v; };  // sixteen lanes of two numbers of 16 bits

OF_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
OF_INLINE F32 all(float x) { return {_mm512_set1_ps(x)}; }
OF_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
OF_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
OF_INLINE F32 load_some(const float* p, int n) { return {_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)}; }
OF_INLINE void store_some(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x.v); }
OF_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
OF_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
OF_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
OF_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
OF_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
OF_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is no number
OF_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
OF_INLINE F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
OF_INLINE F32 rounded(F32 a) { return {_mm512_roundscale_ps(a.v, 8)}; }
OF_INLINE I32 to_int(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
OF_INLINE F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
OF_INLINE F32 as_float(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
OF_INLINE I32 as_int(F32 a) { return {_mm512_castps_si512(a.v)}; }
OF_INLINE I32 no_ints() { return {_mm512_setzero_si512()}; }
OF_INLINE I32 all_ints(int32_t x) { return {_mm512_set1_epi32(x)}; }
OF_INLINE I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
OF_INLINE I32 operator-(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
OF_INLINE I32 operator&(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
OF_INLINE I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N> OF_INLINE I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, N)}; }
template <int N> OF_INLINE I32 shift_right(I32 a) { return {_mm512_srli_epi32(a.v, N)}; }
OF_INLINE F32 where_less(F32 a, F32 b, F32 yes, F32 no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
OF_INLINE F32 where_number(F32 x, F32 yes, F32 no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, x.v, _CMP_ORD_Q), no.v, yes.v)};
}
OF_INLINE F32 load_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
OF_INLINE F32 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
OF_INLINE void store_f16(uint16_t* p, F32 x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x.v, 8)); }
OF_INLINE I32 load_ints(const void* p) { return {_mm512_loadu_si512(p)}; }
OF_INLINE void store_ints(void* p, I32 x) { _mm512_storeu_si512(p, x.v); }
OF_INLINE Pairs load_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
OF_INLINE void store_pairs(void* p, Pairs x) { _mm512_storeu_si512(p, x.v); }
OF_INLINE Pairs all_pairs(int32_t pair) { return {_mm512_set1_epi32(pair)}; }
OF_INLINE Pairs load_bytes(const int8_t* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
OF_INLINE I32 madd(Pairs a, Pairs b, I32 c) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(c.v, a.v, b.v)};
#else
    __m512i r = _mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v));
    __asm__("" : "+v"(r));  // or gcc adds the products of several steps first, and has no registers to hold them
    return {r};
#endif
}
// The J-th nibble of each of the 32 numbers of 16 bits.
template <int J> OF_INLINE Pairs nibble(Pairs v) {
    __m512i moved = J ? _mm512_srli_epi16(v.v, 4 * J) : v.v;
    return {J == 3 ? moved : _mm512_and_si512(moved, _mm512_set1_epi16(15))};
}
struct Table { __m512i v; };  // what sixteen codes mean, twice
OF_INLINE Table table_of(const int16_t* t) {
    return {_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)t))};
}
template <int J> OF_INLINE Pairs coded(Table t, Pairs v) {  // what the J-th nibbles mean
    return {_mm512_permutexvar_epi16(J ? _mm512_srli_epi16(v.v, 4 * J) : v.v, t.v)};
}
OF_INLINE F32 look_up(const float* t, I32 codes) { return {_mm512_permutexvar_ps(codes.v, _mm512_loadu_ps(t))}; }
OF_INLINE I32 max(I32 a, I32 b) { return {_mm512_max_epi32(a.v, b.v)}; }
OF_INLINE void store_shorts(int16_t* p, I32 x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(x.v)); }
OF_INLINE F32 load_e5m2(const uint8_t* p) {
    return {_mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)), 8))};
}
OF_INLINE F32 load_e4m3(const uint8_t* p) {
    return {_mm512_mul_ps(_mm512_cvtph_ps(e4m3_as_f16(_mm_loadu_si128((const __m128i*)p))), _mm512_set1_ps(256.0f))};
}
OF_INLINE float sum(F32 a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
OF_INLINE float top(F32 a) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#elif OF_AVX2

struct F32 { __m256 a, b; };
struct I32 { __m256i a, b; };
struct Pairs { __m256i a, b; };  // sixteen lanes of two numbers of 16 bits

OF_INLINE F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
OF_INLINE F32 all(float x) { __m256 v = _mm256_set1_ps(x); return {v, v}; }
OF_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
OF_INLINE void store(float* p, F32 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
OF_INLINE __m256i lanes_below(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OF_INLINE F32 load_some(const float* p, int n) {
    return {_mm256_maskload_ps(p, lanes_below(n)), _mm256_maskload_ps(p + 8, lanes_below(n - 8))};
}
OF_INLINE void store_some(float* p, F32 x, int n) {
    _mm256_maskstore_ps(p, lanes_below(n), x.a);
    _mm256_maskstore_ps(p + 8, lanes_below(n - 8), x.b);
}
OF_INLINE F32 fma(F32 x, F32 y, F32 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
OF_INLINE F32 operator+(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
OF_INLINE F32 operator-(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
OF_INLINE F32 operator*(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
OF_INLINE F32 operator/(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
OF_INLINE F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }  // y where either is no number
OF_INLINE F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
OF_INLINE F32 sqrt(F32 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
OF_INLINE F32 rounded(F32 x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
OF_INLINE I32 to_int(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
OF_INLINE F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
OF_INLINE F32 as_float(I32 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
OF_INLINE I32 as_int(F32 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
OF_INLINE I32 no_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
OF_INLINE I32 all_ints(int32_t x) { __m256i v = _mm256_set1_epi32(x); return {v, v}; }
OF_INLINE I32 operator+(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
OF_INLINE I32 operator-(I32 x, I32 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
OF_INLINE I32 operator&(I32 x, I32 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
OF_INLINE I32 operator|(I32 x, I32 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int N> OF_INLINE I32 shift_left(I32 x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N> OF_INLINE I32 shift_right(I32 x) { return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)}; }
OF_INLINE F32 where_less(F32 x, F32 y, F32 yes, F32 no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
OF_INLINE F32 where_number(F32 x, F32 yes, F32 no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, x.a, _CMP_ORD_Q)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, x.b, _CMP_ORD_Q))};
}
OF_INLINE __m256 widened_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
OF_INLINE F32 load_bf16(const uint16_t* p) { return {widened_bf16(p), widened_bf16(p + 8)}; }
OF_INLINE F32 load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
OF_INLINE void store_f16(uint16_t* p, F32 x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, 8));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, 8));
}
OF_INLINE I32 load_ints(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
OF_INLINE void store_ints(void* p, I32 x) {
    _mm256_storeu_si256((__m256i*)p, x.a);
    _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
OF_INLINE Pairs load_pairs(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
OF_INLINE void store_pairs(void* p, Pairs x) {
    _mm256_storeu_si256((__m256i*)p, x.a);
    _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
OF_INLINE Pairs all_pairs(int32_t pair) { __m256i v = _mm256_set1_epi32(pair); return {v, v}; }
OF_INLINE Pairs load_bytes(const int8_t* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}
OF_INLINE __m256i madd_half(__m256i x, __m256i y, __m256i z) {
#if defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(z, x, y);
#else
    __m256i r = _mm256_add_epi32(z, _mm256_madd_epi16(x, y));
    __asm__("" : "+x"(r));  // or gcc adds the products of several steps first, and has no registers to hold them
    return r;
#endif
}
OF_INLINE I32 madd(Pairs x, Pairs y, I32 z) { return {madd_half(x.a, y.a, z.a), madd_half(x.b, y.b, z.b)}; }
// The J-th nibble of each of the 32 numbers of 16 bits.
template <int J> OF_INLINE __m256i nibble_half(__m256i v) {
    __m256i moved = J ? _mm256_srli_epi16(v, 4 * J) : v;
    return J == 3 ? moved : _mm256_and_si256(moved, _mm256_set1_epi16(15));
}
template <int J> OF_INLINE Pairs nibble(Pairs v) { return {nibble_half<J>(v.a), nibble_half<J>(v.b)}; }
struct Table { __m256i low, high; };  // the bytes of what sixteen codes mean, in both halves of a register
OF_INLINE Table table_of(const int16_t* t) {
    __m256i v = _mm256_loadu_si256((const __m256i*)t), bytes = _mm256_set1_epi16(255);
    __m256i low = _mm256_and_si256(v, bytes), high = _mm256_srli_epi16(v, 8);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8);  // all low bytes, all high ones
    return {_mm256_permute2x128_si256(both, both, 0x00), _mm256_permute2x128_si256(both, both, 0x11)};
}
// Two nibbles of a lane lie in the low halves of its bytes at once, so that two shuffles find what both mean.
template <int J> OF_INLINE __m256i coded_half(Table t, __m256i v) {
    __m256i code = _mm256_and_si256(J % 2 ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
    __m256i low = _mm256_shuffle_epi8(t.low, code), high = _mm256_shuffle_epi8(t.high, code);
    if (J < 2) return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi16(255)), _mm256_slli_epi16(high, 8));
    return _mm256_or_si256(_mm256_srli_epi16(low, 8), _mm256_andnot_si256(_mm256_set1_epi16(255), high));
}
template <int J> OF_INLINE Pairs coded(Table t, Pairs v) { return {coded_half<J>(t, v.a), coded_half<J>(t, v.b)}; }
OF_INLINE __m256 look_up_half(const float* t, __m256i code) {
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t), code);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t + 8), code);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}
OF_INLINE F32 look_up(const float* t, I32 x) { return {look_up_half(t, x.a), look_up_half(t, x.b)}; }
OF_INLINE I32 max(I32 x, I32 y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
OF_INLINE void store_shorts(int16_t* p, I32 x) {
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8));
}
OF_INLINE F32 widened_f16(__m256i v) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
}
OF_INLINE F32 load_e5m2(const uint8_t* p) {
    return widened_f16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)), 8));
}
OF_INLINE F32 load_e4m3(const uint8_t* p) {
    F32 x = widened_f16(e4m3_as_f16(_mm_loadu_si128((const __m128i*)p)));
    __m256 scale = _mm256_set1_ps(256.0f);
    return {_mm256_mul_ps(x.a, scale), _mm256_mul_ps(x.b, scale)};
}
OF_INLINE float sum(F32 x) {
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
OF_INLINE float top(F32 x) {
    __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#else  // plain numbers: NEON's compiler makes vectors of the loops, the sanitizers see every access

struct F32 { float v[LANES]; };
struct I32 { int32_t v[LANES]; };
struct Pairs { int16_t v[2 * LANES]; };

#define OF_EACH(type, expression) type r; for (int i = 0; i < LANES; ++i) r.v[i] = (expression); return r

OF_INLINE F32 zero() { OF_EACH(F32, 0.0f); }
OF_INLINE F32 all(float x) { OF_EACH(F32, x); }
OF_INLINE F32 load(const float* p) { OF_EACH(F32, p[i]); }
OF_INLINE void store(float* p, F32 x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE F32 load_some(const float* p, int n) { OF_EACH(F32, i < n ? p[i] : 0.0f); }
OF_INLINE void store_some(float* p, F32 x, int n) { std::memcpy(p, x.v, n < LANES ? n * 4 : sizeof x.v); }
OF_INLINE F32 fma(F32 a, F32 b, F32 c) { OF_EACH(F32, __builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
OF_INLINE F32 operator+(F32 a, F32 b) { OF_EACH(F32, a.v[i] + b.v[i]); }
OF_INLINE F32 operator-(F32 a, F32 b) { OF_EACH(F32, a.v[i] - b.v[i]); }
OF_INLINE F32 operator*(F32 a, F32 b) { OF_EACH(F32, a.v[i] * b.v[i]); }
OF_INLINE F32 operator/(F32 a, F32 b) { OF_EACH(F32, a.v[i] / b.v[i]); }
OF_INLINE F32 max(F32 a, F32 b) { OF_EACH(F32, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }  // b where either is no number
OF_INLINE F32 min(F32 a, F32 b) { OF_EACH(F32, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
OF_INLINE F32 sqrt(F32 a) { OF_EACH(F32, __builtin_sqrtf(a.v[i])); }
OF_INLINE F32 rounded(F32 a) { OF_EACH(F32, __builtin_nearbyintf(a.v[i])); }
// Out of range and no number become the least of all integers, as the machines' own instruction has it.
OF_INLINE int32_t nearest(float x) { return x >= -2147483648.0f && x < 2147483648.0f ? int32_t(__builtin_nearbyintf(x)) : INT32_MIN; }
OF_INLINE I32 to_int(F32 a) { OF_EACH(I32, nearest(a.v[i])); }
OF_INLINE F32 to_float(I32 a) { OF_EACH(F32, float(a.v[i])); }
OF_INLINE F32 as_float(I32 a) { OF_EACH(F32, from_bits(uint32_t(a.v[i]))); }
OF_INLINE I32 as_int(F32 a) { OF_EACH(I32, int32_t(to_bits(a.v[i]))); }
OF_INLINE I32 no_ints() { OF_EACH(I32, 0); }
OF_INLINE I32 all_ints(int32_t x) { OF_EACH(I32, x); }
OF_INLINE I32 operator+(I32 a, I32 b) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]))); }
OF_INLINE I32 operator-(I32 a, I32 b) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]))); }
OF_INLINE I32 operator&(I32 a, I32 b) { OF_EACH(I32, a.v[i] & b.v[i]); }
OF_INLINE I32 operator|(I32 a, I32 b) { OF_EACH(I32, a.v[i] | b.v[i]); }
template <int N> OF_INLINE I32 shift_left(I32 a) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) << N)); }
template <int N> OF_INLINE I32 shift_right(I32 a) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) >> N)); }
OF_INLINE F32 where_less(F32 a, F32 b, F32 yes, F32 no) { OF_EACH(F32, a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
OF_INLINE F32 where_number(F32 x, F32 yes, F32 no) { OF_EACH(F32, x.v[i] == x.v[i] ? yes.v[i] : no.v[i]); }
OF_INLINE F32 load_bf16(const uint16_t* p) { OF_EACH(F32, from_bf16(p[i])); }
OF_INLINE F32 load_f16(const uint16_t* p) { OF_EACH(F32, from_f16(p[i])); }
OF_INLINE void store_f16(uint16_t* p, F32 x) { for (int i = 0; i < LANES; ++i) p[i] = to_f16(x.v[i]); }
OF_INLINE I32 load_ints(const void* p) { I32 r; std::memcpy(r.v, p, sizeof r.v); return r; }
OF_INLINE void store_ints(void* p, I32 x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE Pairs load_pairs(const void* p) { Pairs r; std::memcpy(r.v, p, sizeof r.v); return r; }
OF_INLINE void store_pairs(void* p, Pairs x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE Pairs all_pairs(int32_t pair) {
    Pairs r;
    for (int i = 0; i < LANES; ++i) std::memcpy(r.v + 2 * i, &pair, 4);
    return r;
}
OF_INLINE Pairs load_bytes(const int8_t* p) {
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = p[i];
    return r;
}
OF_INLINE I32 madd(Pairs a, Pairs b, I32 c) {
    OF_EACH(I32, int32_t(uint32_t(c.v[i]) + uint32_t(int32_t(a.v[2 * i]) * b.v[2 * i] + int32_t(a.v[2 * i + 1]) * b.v[2 * i + 1])));
}
// The J-th nibble of each of the 32 numbers of 16 bits.
template <int J> OF_INLINE Pairs nibble(Pairs v) {
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = int16_t(uint16_t(v.v[i]) >> (4 * J) & 15);
    return r;
}
struct Table { int16_t v[16]; };  // what sixteen codes mean
OF_INLINE Table table_of(const int16_t* t) { Table r; std::memcpy(r.v, t, sizeof r.v); return r; }
template <int J> OF_INLINE Pairs coded(Table t, Pairs v) {  // what the J-th nibbles mean
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = t.v[uint16_t(v.v[i]) >> (4 * J) & 15];
    return r;
}
OF_INLINE F32 look_up(const float* t, I32 codes) { OF_EACH(F32, t[codes.v[i]]); }
OF_INLINE I32 max(I32 a, I32 b) { OF_EACH(I32, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
OF_INLINE void store_shorts(int16_t* p, I32 x) { for (int i = 0; i < LANES; ++i) p[i] = int16_t(x.v[i]); }
OF_INLINE F32 load_e5m2(const uint8_t* p) { OF_EACH(F32, from_f16(uint16_t(p[i] << 8))); }
OF_INLINE F32 load_e4m3(const uint8_t* p) {
    OF_EACH(F32, (p[i] & 127) == 127 ? NAN : 256.0f * from_f16(uint16_t((p[i] & 128) << 8 | (p[i] & 127) << 7)));
}
OF_INLINE float sum(F32 a) {
    float h[8], q[4];
    for (int i = 0; i < 8; ++i) h[i] = a.v[i] + a.v[i + 8];
    for (int i = 0; i < 4; ++i) q[i] = h[i] + h[i + 4];
    return (q[0] + q[2]) + (q[1] + q[3]);
}
OF_INLINE float top(F32 a) {
    float m = a.v[0];
    for (int i = 1; i < LANES; ++i) m = a.v[i] > m ? a.v[i] : m;
    return m;
}

#endif

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
    int32_t bits[LANES];
    store_ints(bits, bf16_bits(x));
    for (int i = 0; i < LANES; ++i) p[i] = uint16_t(bits[i]);
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
