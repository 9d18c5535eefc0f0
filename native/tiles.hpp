// The two products of attention, in tiles whose sums stay in registers: queries with keys, weights with values.
#pragma once

#include "pages.hpp"

namespace of {

// A function of its own: joined with others, its sums would not stay in registers.
#define OF_APART __attribute__((noinline))
// Unrolled before registers are given out: an array of sums would have its place in memory too.
#define OF_UNROLLED _Pragma("GCC unroll 16")

constexpr int64_t BLOCK = 64;  // keys

#if OF_AVX512
constexpr int TILE = 12, SUMS = 24;
#else
constexpr int TILE = 6, SUMS = 6;  // rows of a tile; vectors of sums that fit the registers
#endif

// How many panels of sixteen a tile of so many rows takes side by side.
constexpr int abreast(int rows) { return rows * 4 <= SUMS ? 4 : rows * 2 <= SUMS ? 2 : 1; }

// Scores of R rows and P panels of keys. q: [R][width]; keys: [P][width][16]; scores: [R][BLOCK].
template <int R, int P>
OF_APART void compare(const float* q, const float* keys, int64_t width, float* scores) {
    F32 s[R][P];
    OF_UNROLLED for (int r = 0; r < R; ++r)
        OF_UNROLLED for (int p = 0; p < P; ++p) s[r][p] = zero();
    for (int64_t d = 0; d < width; ++d) {
        F32 key[P];
        OF_UNROLLED for (int p = 0; p < P; ++p) key[p] = load(keys + (p * width + d) * LANES);
        OF_UNROLLED for (int r = 0; r < R; ++r) {
            const F32 each = all(q[r * width + d]);
            OF_UNROLLED for (int p = 0; p < P; ++p) s[r][p] = fma(each, key[p], s[r][p]);
        }
    }
    OF_UNROLLED for (int r = 0; r < R; ++r)
        OF_UNROLLED for (int p = 0; p < P; ++p) store(scores + r * BLOCK + p * LANES, s[r][p]);
}

template <int R>
void compare_rows(int64_t rows, const float* q, const float* keys, int64_t width, int64_t panels, float* scores) {
    if (rows < R) {
        if constexpr (R > 1) compare_rows<R - 1>(rows, q, keys, width, panels, scores);
        return;
    }
    constexpr int P = abreast(R);
    int64_t p = 0;
    for (; p + P <= panels; p += P) compare<R, P>(q, keys + p * width * LANES, width, scores + p * LANES);
    for (; p < panels; ++p) compare<R, 1>(q, keys + p * width * LANES, width, scores + p * LANES);
}

// Values that lie widened in panels, and values that are widened as they are read.
struct Wide {
    const float* at;  // [panels][BLOCK][16]
    OF_INLINE F32 get(const Wide& v, int64_t key, int64_t panel) { return load(v.at + (panel * BLOCK + key) * LANES); }
};
template <class Page>
struct Straight {
    const char* const* rows;
    OF_INLINE F32 get(const Straight& v, int64_t key, int64_t panel) {
        return panel_of<Page>(v.rows[key], panel);
    }
};

// sums = sums shrink + weights values, of the keys from first to last, for R rows and P panels of channels from `panel`
// on. weights: [R][BLOCK]; sums: R rows with a stride.
template <int R, int P, class V>
OF_APART void weigh(
    const float* weights, const V& values, const float* shrink, int64_t panel, int64_t first, int64_t last, float* sums,
    int64_t stride) {
    F32 s[R][P];
    OF_UNROLLED for (int r = 0; r < R; ++r)
        OF_UNROLLED for (int p = 0; p < P; ++p) s[r][p] = load(sums + r * stride + (panel + p) * LANES) * all(shrink[r]);
    for (int64_t j = first; j < last; ++j) {
        OF_UNROLLED for (int p = 0; p < P; ++p) {
            const F32 value = V::get(values, j, panel + p);
            OF_UNROLLED for (int r = 0; r < R; ++r) s[r][p] = fma(all(weights[r * BLOCK + j]), value, s[r][p]);
        }
    }
    OF_UNROLLED for (int r = 0; r < R; ++r)
        OF_UNROLLED for (int p = 0; p < P; ++p) store(sums + r * stride + (panel + p) * LANES, s[r][p]);
}

// Likewise of the panels from `panel` to `stop`.
template <int R, class V>
void weigh_rows(
    int64_t rows, const float* weights, const V& values, const float* shrink, int64_t panel, int64_t stop, int64_t first,
    int64_t last, float* sums, int64_t stride) {
    if (rows < R) {
        if constexpr (R > 1) weigh_rows<R - 1>(rows, weights, values, shrink, panel, stop, first, last, sums, stride);
        return;
    }
    constexpr int P = abreast(R);
    for (; panel + P <= stop; panel += P) weigh<R, P>(weights, values, shrink, panel, first, last, sums, stride);
    for (; panel < stop; ++panel) weigh<R, 1>(weights, values, shrink, panel, first, last, sums, stride);
}

}  // namespace of
