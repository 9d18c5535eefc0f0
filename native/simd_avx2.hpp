// Sixteen lanes in two registers of AVX2. Included by simd.hpp.
#pragma once

namespace of {

// fp8 e4m3 has the layout of float16 but for an exponent that is 8 smaller and no infinities: all ones are no number.
OF_INLINE __m256i e4m3_as_f16(__m128i bytes) {
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), rest = _mm256_set1_epi16(0x3f80);
    __m256i none = _mm256_cmpeq_epi16(_mm256_and_si256(v, rest), rest);
    return _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16(int16_t(0xbf80))), none);
}

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
OF_INLINE void store_halves(uint16_t* p, I32 x) {
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8));
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
// Each lane with its neighbour: 0 and 1, 2 and 3, and so on.
OF_INLINE F32 neighbours_swapped(F32 x) { return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)}; }
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

}  // namespace of
