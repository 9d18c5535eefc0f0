// Matrices of integers: int8, and four bits with or without a table of what they mean.
//
// A row becomes integers of 12 bits with one scale (its greatest number is 2047), codes become integers of 16 bits, and
// what they add up to over a group of inputs is exact. Groups are then added in order as float32: sum += scale * total
// (+ minimum * the row's own total). Totals are taken over 256 inputs at most, so that none overflows:
// 256 * 2047 * 4095 < 2^31.
#pragma once

#include <cmath>

#include "panels.hpp"

namespace of {

constexpr float ROW_MOST = 2047.0f;
constexpr float TABLE_MOST = 4095.0f;

// What the codes of four bits mean as integers: unit * (code + offset), or unit * table[code].
struct Meaning {
    bool plain = true;
    int32_t offset = 0;
    float unit = 1.0f;
    int16_t table[16] = {};

    explicit Meaning(const float* means) {
        if (means == nullptr) return;
        float most = 0.0f;
        for (int i = 0; i < 16; ++i) {
            plain = plain && means[i] == means[0] + float(i);
            most = std::max(most, std::fabs(means[i]));
        }
        plain = plain && std::fabs(means[0]) <= 64.0f && means[0] == std::nearbyint(means[0]);
        if (plain) {
            offset = int32_t(means[0]);
            return;
        }
        // Exact where a small factor makes all of them whole (FP4: 192, MXFP4: 2, IQ4: 1); else to 13 bits, which is
        // off by at most 1/8190 of the greatest (NF4).
        float factor = most > 0.0f ? TABLE_MOST / most : 1.0f;
        for (int n = 1; n <= 192 && float(n) * most <= TABLE_MOST; ++n) {
            bool whole = true;
            for (int i = 0; i < 16 && whole; ++i) {
                const float x = float(n) * means[i];
                whole = std::fabs(x - std::nearbyint(x)) <= 1e-6f * std::fabs(x);
            }
            if (!whole) continue;
            factor = float(n);
            break;
        }
        for (int i = 0; i < 16; ++i) table[i] = int16_t(std::nearbyint(means[i] * factor));
        unit = 1.0f / factor;
    }
};

// Sources, as in floats.hpp, of integers: pick<J> is the inputs k + 2 J and k + 2 J + 1 of sixteen outputs.
struct WideCodes {
    using Raw = const int16_t*;
    const int16_t* codes;
    OF_INLINE_METHOD Raw at(int64_t k) const { return codes + k * LANES; }
    template <int J>
    OF_INLINE_METHOD Pairs pick(Raw raw) const { return load_pairs(raw + J * 2 * LANES); }
};

struct ByteCodes {
    using Raw = const int8_t*;
    const int8_t* codes;
    ByteCodes(const of_matrix& w, const Meaning&, int64_t panel)
        : codes(static_cast<const int8_t*>(w.codes) + panel * padded_ins(w.ins) * LANES) {}
    OF_INLINE_METHOD Raw at(int64_t k) const {
        look_ahead<STEP * LANES>(codes + k * LANES);
        return codes + k * LANES;
    }
    template <int J>
    OF_INLINE_METHOD Pairs pick(Raw raw) const { return load_bytes(raw + J * 2 * LANES); }
};

struct NibbleCodes {
    using Raw = Pairs;
    const int8_t* codes;
    NibbleCodes(const of_matrix& w, const Meaning&, int64_t panel)
        : codes(static_cast<const int8_t*>(w.codes) + panel * padded_ins(w.ins) * LANES / 2) {}
    OF_INLINE_METHOD Raw at(int64_t k) const {
        look_ahead<STEP * LANES / 2>(codes + k * LANES / 2);
        return load_pairs(codes + k * LANES / 2);
    }
    template <int J>
    OF_INLINE_METHOD Pairs pick(const Raw& raw) const { return nibble<J>(raw); }
};

struct TableCodes : NibbleCodes {
    Table table;
    TableCodes(const of_matrix& w, const Meaning& m, int64_t panel) : NibbleCodes(w, m, panel), table(table_of(m.table)) {}
    template <int J>
    OF_INLINE_METHOD Pairs pick(const Raw& raw) const { return coded<J>(table, raw); }
};

// Nibbles 0 and 2, 1 and 3 are found together where codes have a table.
using PairOrder = std::integer_sequence<int, 0, 2, 1, 3>;

// What all ways of integers know: the rows as integers.
struct IntegerRows {
    const Job& job;
    Meaning meaning;
    int64_t span, spans;  // inputs whose total is exact, and how many such there are
    int64_t padded;       // inputs of a row, to whole lines
    bool totals_matter;
    int16_t* numbers;     // [tile][input / 32][row][32]
    int32_t* totals;      // [tile][span][row]
    float* factors;       // [row]

    static constexpr int64_t LINE = 32;

    float factor(int64_t row) const { return factors[row]; }

    IntegerRows(const Job& job, const Meaning& meaning)
        : job(job), meaning(meaning), span(std::min(job.w.group, WIDE)),
          totals_matter(job.w.minima != nullptr || meaning.offset != 0) {
        spans = (job.ins + span - 1) / span;
        padded = round_up(job.ins, LINE);
        const int64_t rows = job.x.rows, in_lines = round_up(rows * padded * 2, 64);
        char* at = static_cast<char*>(scratch(OWN_ROWS, in_lines + rows * (spans + 1) * 4));
        numbers = reinterpret_cast<int16_t*>(at);
        totals = reinterpret_cast<int32_t*>(at + in_lines);
        factors = reinterpret_cast<float*>(totals + rows * spans);
    }

    void lay_out(int64_t first, int64_t rows) const {
        for (int64_t r = 0; r < rows; ++r) {
            int16_t* to = numbers + first * padded + r * LINE;
            factors[first + r] = to_integers(row_at(job.x, first + r), to, rows * LINE);
            if (!totals_matter) continue;
            for (int64_t s = 0; s < spans; ++s) {
                int32_t total = 0;
                for (int64_t k = s * span; k < std::min((s + 1) * span, job.ins); k += STEP) {
                    const int16_t* at = to + in_lines<LINE>(k, rows);
                    for (int i = 0; i < STEP; ++i) total += at[i];
                }
                totals[first * spans + s * rows + r] = total;
            }
        }
    }

    // Makes one row integers, whose lines lie so far apart; what one of them is worth. A row that holds an infinity or
    // what is no number is worth no number.
    float to_integers(const void* row, int16_t* to, int64_t apart) const {
        I32 most = no_ints();
        for (int64_t i = 0; i < job.x.width; i += LANES)
            most = max(most, as_int(read_row(row, job.x.kind, i, job.x.width)) & all_ints(0x7fffffff));
        int32_t lanes[LANES], bits = 0;
        store_ints(lanes, most);
        for (int32_t lane : lanes) bits = std::max(bits, lane);
        const float greatest = from_bits(uint32_t(bits));
        const bool numbers_all = bits < 0x7f800000;
        if (bits == 0 || !numbers_all) {
            for (int64_t i = 0; i < padded; i += LINE) std::fill_n(to + i / LINE * apart, LINE, int16_t(0));
            return numbers_all ? 0.0f : NAN;
        }
        // Of rows of the smallest numbers the inverse would be infinite.
        const float lift = greatest < 1e-30f ? 0x1p96f : 1.0f;
        const F32 first = all(lift), then = all(ROW_MOST / (greatest * lift));
        for (int64_t i = 0; i < padded; i += LANES) {
            const F32 x = i < job.x.width ? read_row(row, job.x.kind, i, job.x.width) : zero();
            store_shorts(to + i / LINE * apart + i % LINE, to_int(x * first * then));
        }
        return greatest / ROW_MOST;
    }

    // A block of P panels: their scales and minima as float32, and the codes widened, or none.
    template <int P>
    struct Scaled {
        int64_t panel, k, count;
        int16_t* wide = nullptr;
        alignas(64) float scales[WIDE / STEP][P][LANES];
        alignas(64) float minima[WIDE / STEP][P][LANES];

        Scaled(const IntegerRows& rows, int64_t panel, int64_t k, int64_t count) : panel(panel), k(k), count(count) {
            const of_matrix& w = rows.job.w;
            for (int p = P; p < 2 * P; ++p) {
                look_for_scales(w, w.scales, panel + p, k / w.group, (count + w.group - 1) / w.group);
                look_for_scales(w, w.minima, panel + p, k / w.group, (count + w.group - 1) / w.group);
            }
            for (int64_t at = 0, s = 0; at < count; at += rows.span, ++s) {
                const int64_t group = (k + at) / w.group;
                for (int p = 0; p < P; ++p) {
                    store(scales[s][p], read_scale(w, w.scales, panel + p, group) * all(rows.meaning.unit));
                    if (w.minima != nullptr) store(minima[s][p], read_scale(w, w.minima, panel + p, group));
                }
            }
        }
    };

    template <int R, int P>
    OF_APART void add_wide(const Scaled<P>& block, int64_t row, float* sums) const {
        WideCodes from[P];
        for (int p = 0; p < P; ++p) from[p].codes = block.wide + (p * WIDE - block.k) * LANES;
        add<R, P>(block, from, row, sums);
    }

    template <int R, int P, class From>
    OF_INLINE_METHOD void add(const Scaled<P>& block, const From* from, int64_t row, float* sums) const {
        const int16_t* x = numbers + row * padded;
        const int32_t* total = totals + row * spans + block.k / span * R;
        const int64_t end = block.k + block.count, span = this->span;
        const int32_t offset = meaning.offset;
        const bool minima = job.w.minima != nullptr;
        for (int64_t k = block.k, s = 0; k < end; ++s, total += R) {
            I32 exact[R][P];
            for (int r = 0; r < R; ++r)
                for (int p = 0; p < P; ++p)
                    exact[r][p] = offset == 0 ? no_ints() : all_ints(offset * total[r]);
            for (const int64_t stop = std::min(k + span, end); k < stop; k += STEP) {
                const int16_t* at = x + in_lines<LINE>(k, R);
                typename From::Raw raw[P];
                for (int p = 0; p < P; ++p) raw[p] = from[p].at(k);
                each([&](auto j) OF_INLINE_LAMBDA {
                    Pairs w[P];
                    for (int p = 0; p < P; ++p) w[p] = from[p].template pick<j>(raw[p]);
                    for (int r = 0; r < R; ++r) {
                        int32_t pair;
                        std::memcpy(&pair, at + r * LINE + 2 * j, 4);
                        const Pairs both = all_pairs(pair);
                        for (int p = 0; p < P; ++p) exact[r][p] = madd(both, w[p], exact[r][p]);
                    }
                }, PairOrder());
            }
            for (int r = 0; r < R; ++r) {
                for (int p = 0; p < P; ++p) {
                    float* at = sums + (r * P + p) * LANES;
                    store(at, fma(to_float(exact[r][p]), load(block.scales[s][p]), load(at)));
                }
            }
            if (!minima) continue;
            for (int r = 0; r < R; ++r) {
                for (int p = 0; p < P; ++p) {
                    float* at = sums + (r * P + p) * LANES;
                    store(at, fma(all(float(total[r])), load(block.minima[s][p]), load(at)));
                }
            }
        }
    }
};

template <class Source>
struct Integers : IntegerRows {
    static constexpr int ALONE = INTEGERS_ALONE;

    using IntegerRows::IntegerRows;

    template <int P>
    struct Block : Scaled<P> {
        Block(const Integers& way, int64_t panel, int64_t k, int64_t count) : Scaled<P>(way, panel, k, count) {
            if (way.job.widen) way.widen<P>(*this);
        }
    };

    template <int P>
    void widen(Scaled<P>& block) const {
        block.wide = static_cast<int16_t*>(scratch(OWN_PANEL, P * WIDE * LANES * 2));
        for (int p = 0; p < P; ++p) {
            const Source source(job.w, meaning, block.panel + p);
            int16_t* to = block.wide + p * WIDE * LANES;
            for (int64_t i = 0; i < block.count; i += STEP) {
                const typename Source::Raw raw = source.at(block.k + i);
                each([&](auto j) OF_INLINE_LAMBDA {
                    store_pairs(to + (i + 2 * j) * LANES, source.template pick<j>(raw));
                }, PairOrder());
            }
        }
    }

    template <int R, int P>
    OF_APART void tile(const Block<P>& block, int64_t row, float* sums) const {
        if (job.widen) return add_wide<R, P>(block, row, sums);
        // Sources are made here, so that what they hold stays in registers.
        if constexpr (R <= NARROW) add_direct<R, P>(block, row, sums, std::make_integer_sequence<int, P>());
    }

    template <int R, int P, int... N>
    OF_INLINE_METHOD void add_direct(
        const Block<P>& block, int64_t row, float* sums, std::integer_sequence<int, N...>
    ) const {
        const Source from[P] = {Source(job.w, meaning, block.panel + N)...};
        add<R, P>(block, from, row, sums);
    }
};

}  // namespace of
