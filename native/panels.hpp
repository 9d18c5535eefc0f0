// How a product goes over the panels of a matrix, whatever the numbers are.
//
// Rows are cut into tiles whose sums fit the registers, inputs into blocks of 256. Few rows read a panel as it is
// packed; many rows first widen a block of it into the core's first cache. Both add the same numbers in the same order
// to sums that are kept as float32 between blocks, so that a row's result depends neither on the rows beside it nor on
// how they are cut.
#pragma once

#include <algorithm>
#include <utility>

#include "floats.hpp"
#include "pool.hpp"

namespace of {

constexpr int64_t WIDE = 256;  // inputs of a block

#if OF_AVX512
constexpr int TILE = 10;
constexpr int PAIR = 2, MORE = 2;  // panels side by side of tiles of two rows, and of more
#else
constexpr int TILE = 6;
constexpr int PAIR = 2, MORE = 1;
#endif
constexpr int most_rows(int panels) { return panels <= MORE ? TILE : panels == PAIR ? 2 : 1; }
// Panels side by side of one row. A core reads few streams fastest; where an addition of integers takes a cycle, one keeps
// it busy. Instructions that multiply and add wait for their sums, and have others to go on with.
#if OF_AVX2 && !defined(__AVXVNNI__)
constexpr int INTEGERS_ALONE = 1, FLOATS_ALONE = 2;
#else
constexpr int INTEGERS_ALONE = 2, FLOATS_ALONE = 4;
#endif
constexpr int64_t FEW = 24;            // rows that read a panel as it is packed,
constexpr int NARROW = 6;              // in tiles of at most so many
constexpr int64_t ROWS_AT_ONCE = 288;  // their sums of a panel stay in the second cache

struct Job {
    const of_matrix& w;
    const of_rows& x;
    const of_rows& y;
    const float* bias;
    int32_t flags;
    int64_t ins, panels;
    int64_t height;  // rows of a tile; the last may have fewer
    bool widen;
};

OF_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Where the input k of a tile's first row lies, whose rows alternate in lines.
template <int64_t LINE>
OF_INLINE int64_t in_lines(int64_t k, int64_t rows) {
    const uint64_t at = uint64_t(k);  // without a sign, or a division is more than a shift
    return int64_t(at / LINE * LINE) * rows + int64_t(at % LINE);
}

// What becomes of a finished sum.
OF_INLINE void finish(const Job& job, int64_t row, int64_t panel, F32 sum) {
    const int64_t first = panel * LANES;
    if (job.bias != nullptr) sum += read_row(job.bias, OF_F32, first, job.w.outs);
    void* at = row_at(job.y, row);
    if (job.flags & OF_ACCUMULATE) sum += read_row(at, job.y.kind, first, job.w.outs);
    write_row(at, job.y.kind, first, job.w.outs, sum);
}

// A Way is what multiplies. It has
//   ALONE                               panels side by side of one row: so few that memory is read in order, and as many
//                                       as keep additions from waiting longer than memory does
//   lay_out(first, rows, from)          puts a tile's rows down as tile() wants them
//   Block<P>                            a block of P panels: made of (way, panel, k, count)
//   tile<R, P>(block, row, sums)        adds a block to the sums of a tile. sums: [R][P][16]
//   factor(row)                         what a row's sums are multiplied by at the end
template <int R, int P, class Way, class Block>
void tile_of(const Way& way, const Block& block, int64_t rows, int64_t row, float* sums) {
    if (rows == R) return way.template tile<R, P>(block, row, sums);
    if constexpr (R > 1) tile_of<R - 1, P>(way, block, rows, row, sums);
}

// P panels from `panel` on, for the rows from `first` to `last`.
template <int P, class Way>
void multiply_panels(const Way& way, int64_t first, int64_t last, int64_t panel) {
    const Job& job = way.job;
    const int64_t width = P * LANES;
    float* sums = static_cast<float*>(scratch(OWN_SUMS, (last - first) * width * 4));
    std::fill(sums, sums + (last - first) * width, 0.0f);
    for (int64_t k = 0; k < job.ins; k += WIDE) {
        const typename Way::template Block<P> block(way, panel, k, std::min(WIDE, job.ins - k));
        for (int64_t row = first; row < last; row += job.height)
            tile_of<most_rows(P), P>(
                way, block, std::min(job.height, last - row), row, sums + (row - first) * width);
    }
    for (int64_t row = first; row < last; ++row)
        for (int p = 0; p < P; ++p)
            finish(job, row, panel + p, load(sums + (row - first) * width + p * LANES) * all(way.factor(row)));
}

template <int P, class Way>
void multiply_abreast(const Way& way) {
    const Job& job = way.job;
    const int64_t groups = (job.panels + P - 1) / P;
    const int64_t runs = (job.x.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const int64_t run = round_up((job.x.rows + runs - 1) / runs, job.height);
    const int64_t grain = std::max<int64_t>(1, groups * runs / (8 * threads()));
    parallel(groups * runs, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const int64_t first = n / groups * run, last = std::min(first + run, job.x.rows);
            int64_t panel = n % groups * P;
            if (panel + P <= job.panels) {
                multiply_panels<P>(way, first, last, panel);
                continue;
            }
            for (; panel < job.panels; ++panel) multiply_panels<1>(way, first, last, panel);
        }
    });
}

// Sets how rows are cut, before the way lays them out.
inline void cut(Job& job, int64_t direct) {
    job.widen = job.x.rows > direct;
    const int64_t most = job.widen ? TILE : NARROW, tiles = (job.x.rows + most - 1) / most;
    job.height = (job.x.rows + tiles - 1) / tiles;  // as even as can be: small tiles leave the adders waiting
}

template <class Way>
void multiply(Way& way) {
    const Job& job = way.job;
    const int64_t tiles = (job.x.rows + job.height - 1) / job.height;
    parallel(tiles, std::max<int64_t>(1, 8 / job.height), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t)
            way.lay_out(t * job.height, std::min(job.height, job.x.rows - t * job.height));
    });
    if (job.height == 1) return multiply_abreast<Way::ALONE>(way);
    if (job.height == 2) return multiply_abreast<PAIR>(way);
    multiply_abreast<MORE>(way);
}

}  // namespace of
