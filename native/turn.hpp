// Rows of words turned into columns: what lies side by side in sixteen rows comes to lie in sixteen lanes.
#pragma once

#include "simd.hpp"

namespace of {

constexpr int WORDS = 8;  // of 32 bits, turned at a time

// Word w of row r, at rows[r] + skip bytes, becomes lane r of out[w].
#if OF_AVX2 || OF_AVX512

// Of four rows and the four beside them, sixteen bytes each, the words as columns.
OF_INLINE void turn_four(__m256 a, __m256 b, __m256 c, __m256 d, __m256 out[4]) {
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    const __m256 low2 = _mm256_unpacklo_ps(c, d), high2 = _mm256_unpackhi_ps(c, d);
    const auto pairs = [](__m256 x) { return _mm256_castps_pd(x); };
    out[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs(low), pairs(low2)));
    out[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs(low), pairs(low2)));
    out[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs(high), pairs(high2)));
    out[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs(high), pairs(high2)));
}

OF_INLINE void turn_eight_rows(const char* const* rows, int64_t skip, __m256 out[WORDS]) {
    for (int half = 0; half < 2; ++half) {
        __m256 v[4];
        for (int r = 0; r < 4; ++r) {
            const float* near = reinterpret_cast<const float*>(rows[r] + skip + half * 16);
            const float* far = reinterpret_cast<const float*>(rows[r + 4] + skip + half * 16);
            v[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(near)), _mm_loadu_ps(far), 1);
        }
        turn_four(v[0], v[1], v[2], v[3], out + half * 4);
    }
}

OF_INLINE void turn(const char* const* rows, int64_t skip, I32 out[WORDS]) {
    __m256 first[WORDS], second[WORDS];
    turn_eight_rows(rows, skip, first);
    turn_eight_rows(rows + 8, skip, second);
    for (int w = 0; w < WORDS; ++w) {
        const __m256i a = _mm256_castps_si256(first[w]), b = _mm256_castps_si256(second[w]);
#if OF_AVX512
        out[w].v = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
#else
        out[w] = {a, b};
#endif
    }
}

#else

OF_INLINE void turn(const char* const* rows, int64_t skip, I32 out[WORDS]) {
    int32_t columns[WORDS][LANES];
    for (int r = 0; r < LANES; ++r) {
        int32_t words[WORDS];
        std::memcpy(words, rows[r] + skip, sizeof words);
        for (int w = 0; w < WORDS; ++w) columns[w][r] = words[w];
    }
    for (int w = 0; w < WORDS; ++w) out[w] = load_ints(columns[w]);
}

#endif

}  // namespace of
