// Sixteen lanes in a register of AVX-512. Included by simd.hpp.
#pragma once

namespace of {

// fp8 e4m3 has the layout of float16 but for an exponent that is 8 smaller and no infinities: all ones are no number.
OF_INLINE __m256i e4m3_as_f16(__m128i bytes) {
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), rest = _mm256_set1_epi16(0x3f80);
    __m256i none = _mm256_cmpeq_epi16(_mm256_and_si256(v, rest), rest);
    return _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16(int16_t(0xbf80))), none);
}

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
    __m512i r = _mm512_dpwssd_epi32(c.v, a.v, b.v);
    __asm__("" : "+v"(r));  // or gcc brings later steps forward, and has no registers to hold them
    return {r};
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
OF_INLINE void store_halves(uint16_t* p, I32 x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(x.v)); }
#if defined(__AVX512BF16__)
#define OF_BF16_DOTS 1
struct Halves { __m512i v; };  // sixteen pairs of bf16
OF_INLINE Halves load_halves(const void* p) { return {_mm512_loadu_si512(p)}; }
OF_INLINE Halves all_halves(int32_t pair) { return {_mm512_set1_epi32(pair)}; }
OF_INLINE F32 dots(Halves a, Halves b, F32 c) { return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)}; }
#endif
// Each lane with its neighbour: 0 and 1, 2 and 3, and so on.
OF_INLINE F32 neighbours_swapped(F32 x) { return {_mm512_permute_ps(x.v, 0xb1)}; }
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

}  // namespace of
