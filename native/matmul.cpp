// Products with packed matrices: which way goes for which numbers, and the way of floats.
#include "matmul.hpp"

#include <new>

#include "grid.hpp"
#include "integers.hpp"
#include "panels.hpp"

namespace of {
namespace {

// A panel widened to float32, an input after another.
struct WideFloats {
    using Raw = const float*;
    const float* codes;
    OF_INLINE_METHOD Raw at(int64_t k) const { return codes + k * LANES; }
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const { return load(raw + J * LANES); }
};

// Rows and weights as float32: one chain of additions in the order of the inputs.
struct FloatRows {
    static constexpr int64_t LINE = 16;
    const Job& job;
    int64_t padded;  // inputs of a row, to whole lines
    float* numbers;  // [tile][input / 16][row][16]

    explicit FloatRows(const Job& job)
        : job(job), padded(round_up(job.ins, LINE)),
          numbers(static_cast<float*>(scratch(OWN_ROWS, job.x.rows * padded * 4))) {}

    static constexpr float factor(int64_t) { return 1.0f; }

    void lay_out(int64_t first, int64_t rows) const {
        for (int64_t r = 0; r < rows; ++r) {
            const void* row = row_at(job.x, first + r);
            float* to = numbers + first * padded + r * LINE;
            for (int64_t i = 0; i < padded; i += LINE)
                store(to + i * rows, i < job.x.width ? read_row(row, job.x.kind, i, job.x.width) : zero());
        }
    }

    // A block of P panels, widened or not.
    template <int P>
    struct Plain {
        int64_t panel, k, count;
        float* wide = nullptr;
    };

    template <int R, int P>
    OF_APART void add_wide(const Plain<P>& block, int64_t row, float* sums) const {
        WideFloats from[P];
        for (int p = 0; p < P; ++p) from[p].codes = block.wide + (p * WIDE - block.k) * LANES;
        add<R, P>(block, from, row, sums);
    }

    template <int R, int P, class From>
    OF_INLINE_METHOD void add(const Plain<P>& block, const From* from, int64_t row, float* sums) const {
        F32 s[R][P];
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) s[r][p] = load(sums + (r * P + p) * LANES);
        const float* x = numbers + row * padded;
        for (int64_t k = block.k; k < block.k + block.count; k += STEP) {
            const float* at = x + in_lines<LINE>(k, R);
            typename From::Raw raw[P];
            for (int p = 0; p < P; ++p) raw[p] = from[p].at(k);
            each([&](auto j) OF_INLINE_LAMBDA {
                F32 w[P];
                for (int p = 0; p < P; ++p) w[p] = from[p].template pick<j>(raw[p]);
                for (int r = 0; r < R; ++r) {
                    const F32 one = all(at[r * LINE + j]);
                    for (int p = 0; p < P; ++p) s[r][p] = fma(one, w[p], s[r][p]);
                }
            }, InOrder());
        }
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) store(sums + (r * P + p) * LANES, s[r][p]);
    }
};

// ROWS: the most that read a panel as it is packed.
template <class Source, int64_t ROWS>
struct Floats : FloatRows {
    static constexpr int ALONE = FLOATS_ALONE;

    using FloatRows::FloatRows;

    template <int P>
    struct Block : Plain<P> {
        Block(const Floats& way, int64_t panel, int64_t k, int64_t count) : Plain<P>{panel, k, count} {
            if (way.job.widen) way.widen<P>(*this);
        }
    };

    template <int P>
    void widen(Plain<P>& block) const {
        block.wide = static_cast<float*>(scratch(OWN_PANEL, P * WIDE * LANES * 4));
        for (int p = 0; p < P; ++p)
            widen_panel(Source(job.w, block.panel + p), block.k, block.k + block.count, block.wide + p * WIDE * LANES);
    }

    template <int R, int P>
    OF_APART void tile(const Block<P>& block, int64_t row, float* sums) const {
        if (job.widen) return add_wide<R, P>(block, row, sums);
        // Sources are made here, so that what they hold stays in registers.
        if constexpr (R <= NARROW && R <= ROWS) add_direct<R, P>(block, row, sums, std::make_integer_sequence<int, P>());
    }

    template <int R, int P, int... N>
    OF_INLINE_METHOD void add_direct(
        const Block<P>& block, int64_t row, float* sums, std::integer_sequence<int, N...>
    ) const {
        const Source from[P] = {Source(job.w, block.panel + N)...};
        add<R, P>(block, from, row, sums);
    }
};

#if OF_BF16_DOTS && !OF_TILES
// Rows rounded to bf16, and the machine's own products of pairs: a panel is read as it is packed by any rows.
struct Dots {
    static constexpr int ALONE = 4;
    static constexpr int64_t LINE = 32;
    const Job& job;
    int64_t padded;     // inputs of a row, to whole lines
    uint16_t* numbers;  // [tile][input / 32][row][32]

    explicit Dots(const Job& job)
        : job(job), padded(round_up(job.ins, LINE)),
          numbers(static_cast<uint16_t*>(scratch(OWN_ROWS, job.x.rows * padded * 2))) {}

    static constexpr float factor(int64_t) { return 1.0f; }

    void lay_out(int64_t first, int64_t rows) const {
        for (int64_t r = 0; r < rows; ++r) {
            const void* row = row_at(job.x, first + r);
            uint16_t* to = numbers + first * padded + r * LINE;
            for (int64_t i = 0; i < padded; i += LANES)
                store_bf16(to + in_lines<LINE>(i, rows),
                           i < job.x.width ? read_row(row, job.x.kind, i, job.x.width) : zero());
        }
    }

    template <int P>
    struct Block {
        int64_t panel, k, count;
        Block(const Dots&, int64_t panel, int64_t k, int64_t count) : panel(panel), k(k), count(count) {}
    };

    template <int R, int P>
    OF_APART void tile(const Block<P>& block, int64_t row, float* sums) const {
        F32 s[R][P];
        const uint16_t* at[P];
        for (int p = 0; p < P; ++p) {
            at[p] = static_cast<const uint16_t*>(job.w.codes) + ((block.panel + p) * job.ins + block.k) * LANES;
            for (int r = 0; r < R; ++r) s[r][p] = load(sums + (r * P + p) * LANES);
        }
        for (int64_t i = 0; i < block.count; i += STEP) {
            const uint16_t* x = numbers + row * padded + in_lines<LINE>(block.k + i, R);
            for (int p = 0; p < P; ++p) look_ahead<STEP * LANES * 2>(at[p] + i * LANES);
            each([&](auto j) OF_INLINE_LAMBDA {
                Halves w[P];
                for (int p = 0; p < P; ++p) w[p] = load_halves(at[p] + (i + 2 * j) * LANES);
                for (int r = 0; r < R; ++r) {
                    int32_t pair;
                    std::memcpy(&pair, x + r * LINE + 2 * j, 4);
                    const Halves both = all_halves(pair);
                    for (int p = 0; p < P; ++p) s[r][p] = dots(both, w[p], s[r][p]);
                }
            }, std::make_integer_sequence<int, STEP / 2>());
        }
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) store(sums + (r * P + p) * LANES, s[r][p]);
    }
};
#endif

// Bytes that are floats, with scales: scale * number. STEP inputs share one.
template <class Bytes>
struct ReadScaledBytes {
    struct Raw { const uint8_t* codes; F32 scale; };
    Bytes bytes;
    ReadScaled scales;
    ReadScaledBytes(const of_matrix& w, int64_t panel) : bytes(w, panel), scales(w, panel) {}
    OF_INLINE_METHOD Raw at(int64_t k) const { return {bytes.at(k), scales.scale(k)}; }
    template <int J>
    OF_INLINE_METHOD F32 pick(const Raw& raw) const { return bytes.template pick<J>(raw.codes) * raw.scale; }
};

template <class Source, int64_t ROWS>
void by_floats(Job& job) {
    cut(job, ROWS);
    Floats<Source, ROWS> way(job);
    multiply(way);
}

template <class Source>
void by_integers(Job& job, const Meaning& meaning) {
    cut(job, FEW);
    Integers<Source> way(job, meaning);
    multiply(way);
}

}  // namespace

void matmul(const of_matrix& matrix, const of_rows& x, const float* bias, const of_rows& y, int32_t flags) {
    if (x.rows < 1) return;
    Job job{matrix, x, y, bias, flags, padded_ins(matrix.ins), panels_of(matrix.outs), 1, false};
    const bool exact = flags & OF_EXACT;
    switch (matrix.kind) {
        case OF_F32: return by_floats<ReadF32, FEW>(job);
        case OF_BF16:
#if OF_TILES
            if (!exact) return Grid(job).multiply();
#elif OF_BF16_DOTS
            if (!exact) {
                cut(job, 0);
                Dots way(job);
                return multiply(way);
            }
#endif
            return by_floats<ReadBF16, FEW>(job);
        case OF_F16: return by_floats<ReadF16, FEW>(job);
        case OF_F8_E4M3:
            if (matrix.scales != nullptr) return by_floats<ReadScaledBytes<ReadE4M3>, 0>(job);
            return by_floats<ReadE4M3, 0>(job);
        case OF_F8_E5M2:
            if (matrix.scales != nullptr) return by_floats<ReadScaledBytes<ReadE5M2>, 0>(job);
            return by_floats<ReadE5M2, 0>(job);
        case OF_I8:
            if (exact) return by_floats<ReadI8, 0>(job);
            return by_integers<ByteCodes>(job, Meaning(nullptr));
        case OF_N4: {
            if (exact) return by_floats<ReadN4, 0>(job);
            const Meaning meaning(matrix.table);
            if (meaning.plain) return by_integers<NibbleCodes>(job, meaning);
            return by_integers<TableCodes>(job, meaning);
        }
    }
}

}  // namespace of

extern "C" int32_t of_matmul(
    const of_matrix* matrix, const of_rows* x, const float* bias, const of_rows* y, int32_t flags
) {
    if (matrix->kind < OF_F32 || matrix->kind > OF_N4) return OF_UNKNOWN_KIND;
    try {
        of::matmul(*matrix, *x, bias, *y, flags);
        return OF_OK;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}
