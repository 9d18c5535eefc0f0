// Matrices of floats times rows: float32 sums, one chain per output in the order of the inputs.
//
// Few rows read the matrix once, straight into registers, several panels side by side so that the adders are never
// idle. Many rows first widen 256 inputs of a panel into the core's first cache, then go over it in tiles of rows. Both
// add in the same order, so that a row's numbers do not depend on the rows beside it.
#include <algorithm>
#include <new>

#include "floats.hpp"
#include "matmul.hpp"
#include "pool.hpp"

namespace of {
namespace {

constexpr int64_t WIDE = 256;  // inputs that are widened at a time

#if OF_AVX512
constexpr int TILE = 12, ABREAST = 2, FEW = 2;
#else
constexpr int TILE = 6, ABREAST = 1, FEW = 3;
#endif
constexpr int64_t ROWS_AT_ONCE = 20 * TILE;  // their sums stay in the second cache

struct Job {
    const of_matrix& w;
    const of_rows& x;
    const of_rows& y;
    const float* bias;
    int32_t flags;
    int64_t ins, panels;
};

// ---------------------------------------------------------------- what becomes of a finished sum

OF_INLINE void finish(const Job& job, int64_t row, int64_t panel, F32 sum) {
    const int64_t first = panel * LANES;
    if (job.bias != nullptr) sum += read_row(job.bias, OF_F32, first, job.w.outs);
    void* at = row_at(job.y, row);
    if (job.flags & OF_ACCUMULATE) sum += read_row(at, job.y.kind, first, job.w.outs);
    write_row(at, job.y.kind, first, job.w.outs, sum);
}

// ---------------------------------------------------------------- few rows

// R rows times P panels. x: [R][ins], zeros behind an odd end.
template <class W, int R, int P>
void straight(const Job& job, const float* const* x, int64_t first_row, int64_t panel) {
    using Code = typename W::Code;
    F32 sums[R][P];
    const Code* at[P];
    for (int p = 0; p < P; ++p) {
        at[p] = static_cast<const Code*>(job.w.codes) + (panel + p) * job.ins * LANES;
        for (int r = 0; r < R; ++r) sums[r][p] = zero();
    }
    for (int64_t k = 0; k < job.ins; k += 2) {
        for (int p = 0; p < P; ++p) {
            F32 even, odd;
            W::two(at[p], k, even, odd);
            for (int r = 0; r < R; ++r) {
                sums[r][p] = fma(all(x[r][k]), even, sums[r][p]);
                sums[r][p] = fma(all(x[r][k + 1]), odd, sums[r][p]);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) finish(job, first_row + r, panel + p, sums[r][p]);
}

template <class W, int R>
void few(const Job& job) {
    constexpr int P = R == 1 ? 4 : R == 2 ? 2 : 1;  // eight registers of sums or more
    float* copy = static_cast<float*>(scratch(OWN_ROWS, R * (job.ins + LANES) * 4));
    const float* x[R];
    for (int r = 0; r < R; ++r) {
        float* to = copy + r * job.ins;
        for (int64_t i = 0; i < job.ins; i += LANES)
            write_row(to, OF_F32, i, job.ins, i < job.x.width ? read_row(row_at(job.x, r), job.x.kind, i, job.x.width) : zero());
        x[r] = to;
    }
    const int64_t groups = (job.panels + P - 1) / P;
    parallel(groups, std::max<int64_t>(1, groups / (8 * threads())), [&](int64_t begin, int64_t end, int) {
        for (int64_t group = begin; group < end; ++group) {
            int64_t panel = group * P;
            if (panel + P <= job.panels) {
                straight<W, R, P>(job, x, 0, panel);
                continue;
            }
            for (; panel < job.panels; ++panel) straight<W, R, 1>(job, x, 0, panel);
        }
    });
}

// ---------------------------------------------------------------- many rows

// R rows times P widened panels: sums += x w. x: [count][R]; w: [P][WIDE][16]; sums: [R][P][16].
template <int R, int P>
void tile(const float* x, const float* w, float* sums, int64_t count) {
    F32 s[R][P];
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) s[r][p] = load(sums + (r * P + p) * LANES);
    for (int64_t k = 0; k < count; ++k) {
        F32 panel[P];
        for (int p = 0; p < P; ++p) panel[p] = load(w + (p * WIDE + k) * LANES);
        for (int r = 0; r < R; ++r) {
            const F32 each = all(x[k * R + r]);
            for (int p = 0; p < P; ++p) s[r][p] = fma(each, panel[p], s[r][p]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) store(sums + (r * P + p) * LANES, s[r][p]);
}

template <int R, int P>
void tile_of(int64_t rows, const float* x, const float* w, float* sums, int64_t count) {
    if (rows == R) return tile<R, P>(x, w, sums, count);
    if constexpr (R > 1) tile_of<R - 1, P>(rows, x, w, sums, count);
}

// Rows as tiles: [tile][ins][rows of the tile].
void lay_out(const Job& job, float* to) {
    const int64_t tiles = (job.x.rows + TILE - 1) / TILE;
    parallel(tiles, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t first = t * TILE, rows = std::min<int64_t>(TILE, job.x.rows - first);
            float* at = to + first * job.ins;
            for (int64_t r = 0; r < rows; ++r) {
                const void* row = row_at(job.x, first + r);
                float some[LANES];
                for (int64_t i = 0; i < job.ins; i += LANES) {
                    store(some, i < job.x.width ? read_row(row, job.x.kind, i, job.x.width) : zero());
                    const int64_t count = std::min<int64_t>(LANES, job.ins - i);
                    for (int64_t k = 0; k < count; ++k) at[(i + k) * rows + r] = some[k];
                }
            }
        }
    });
}

// P panels from `panel` on, for the rows from `first` to `last`.
template <class W, int P>
void block(const Job& job, const float* x, int64_t first, int64_t last, int64_t panel) {
    using Code = typename W::Code;
    const Code* codes = static_cast<const Code*>(job.w.codes);
    float* wide = static_cast<float*>(scratch(OWN_PANEL, P * WIDE * LANES * 4));
    float* sums = static_cast<float*>(scratch(OWN_SUMS, (last - first) * P * LANES * 4));
    std::fill(sums, sums + (last - first) * P * LANES, 0.0f);
    for (int64_t k = 0; k < job.ins; k += WIDE) {
        const int64_t count = std::min(WIDE, job.ins - k);
        for (int p = 0; p < P; ++p) {
            const Code* at = codes + ((panel + p) * job.ins + k) * LANES;
            for (int64_t i = 0; i < count; i += 2) {
                F32 even, odd;
                W::two(at, i, even, odd);
                store(wide + (p * WIDE + i) * LANES, even);
                store(wide + (p * WIDE + i + 1) * LANES, odd);
            }
        }
        for (int64_t row = first; row < last; row += TILE) {
            const int64_t rows = std::min<int64_t>(TILE, job.x.rows - row);
            tile_of<TILE, P>(rows, x + row * job.ins + k * rows, wide, sums + (row - first) * P * LANES, count);
        }
    }
    for (int64_t row = first; row < last; ++row)
        for (int p = 0; p < P; ++p) finish(job, row, panel + p, load(sums + ((row - first) * P + p) * LANES));
}

template <class W>
void many(const Job& job) {
    float* x = static_cast<float*>(scratch(OWN_ROWS, job.x.rows * job.ins * 4));
    lay_out(job, x);
    const int64_t groups = (job.panels + ABREAST - 1) / ABREAST;
    const int64_t runs = (job.x.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const int64_t grain = std::max<int64_t>(1, groups * runs / (8 * threads()));
    parallel(groups * runs, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const int64_t first = n / groups * ROWS_AT_ONCE, last = std::min(first + ROWS_AT_ONCE, job.x.rows);
            int64_t panel = n % groups * ABREAST;
            if (panel + ABREAST <= job.panels) {
                block<W, ABREAST>(job, x, first, last, panel);
                continue;
            }
            for (; panel < job.panels; ++panel) block<W, 1>(job, x, first, last, panel);
        }
    });
}

template <class W>
void multiply(const Job& job) {
    if (job.x.rows == 1) return few<W, 1>(job);
    if (job.x.rows == 2) return few<W, 2>(job);
    if constexpr (FEW == 3) {
        if (job.x.rows == 3) return few<W, 3>(job);
    }
    many<W>(job);
}

}  // namespace

void matmul(const of_matrix& matrix, const of_rows& x, const float* bias, const of_rows& y, int32_t flags) {
    const Job job{matrix, x, y, bias, flags, padded_ins(matrix.ins), panels_of(matrix.outs)};
    if (x.rows < 1) return;
    switch (matrix.kind) {
        case OF_F32: return multiply<ReadF32>(job);
        case OF_BF16: return multiply<ReadBF16>(job);
        case OF_F16: return multiply<ReadF16>(job);
    }
}

}  // namespace of

extern "C" int32_t of_matmul(
    const of_matrix* matrix, const of_rows* x, const float* bias, const of_rows* y, int32_t flags
) {
    if (matrix->kind < OF_F32 || matrix->kind > OF_F16) return OF_UNKNOWN_KIND;
    try {
        of::matmul(*matrix, *x, bias, *y, flags);
        return OF_OK;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}
