// Products of bf16 by the machine's tiles: sixteen rows, sixteen outputs and thirty-two inputs at a time.
//
// A panel is packed as a tile wants it: lines of sixteen pairs. Rows are rounded to bf16. One row goes the same way as
// many, in a tile of one line, since no other instruction adds in the order in which tiles do.
#pragma once

#include "amx.hpp"
#include "panels.hpp"

#if OF_TILES
namespace of {

class Grid {
  public:
    static constexpr int64_t LINE = 32;          // inputs of a tile
    static constexpr int64_t BLOCK = 16 * LINE;  // of a block, so that two panels of it stay in the first cache

    explicit Grid(const Job& job)
        : job(job), height(std::min(job.x.rows, TILE_LINES)), lines((job.ins + LINE - 1) / LINE),
          tiles((job.x.rows + height - 1) / height),
          numbers(static_cast<uint16_t*>(scratch(OWN_ROWS, tiles * tile_size() * 2))) {}

    void multiply() const {
        parallel(tiles, 1, [&](int64_t begin, int64_t end, int) {
            for (int64_t tile = begin; tile < end; ++tile) lay_out(tile);
        });
        constexpr int P = 2;
        const int64_t pairs = (job.panels + P - 1) / P;
        const int64_t runs = (job.x.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, run = (tiles + runs - 1) / runs;
        const int64_t grain = std::max<int64_t>(1, pairs * runs / (8 * threads()));
        parallel(pairs * runs, grain, [&](int64_t begin, int64_t end, int) {
            const Tiles mine(height);
            for (int64_t n = begin; n < end; ++n) {
                const int64_t first = n / pairs * run, last = std::min(first + run, tiles), panel = n % pairs * P;
                if (panel + P <= job.panels) multiply_panels<P>(first, last, panel);
                else multiply_panels<1>(first, last, panel);
            }
        });
    }

  private:
    const Job& job;
    int64_t height;     // rows of a tile, of the last one too: what it lacks is zero
    int64_t lines;      // tiles of inputs; what the last one lacks is zero
    int64_t tiles;      // of rows
    uint16_t* numbers;  // [tile][line][row][32]

    int64_t tile_size() const { return lines * height * LINE; }

    void lay_out(int64_t tile) const {
        for (int64_t r = 0; r < height; ++r) {
            const int64_t row = tile * height + r;
            const int64_t width = row < job.x.rows ? job.x.width : 0;
            const void* from = width == 0 ? nullptr : row_at(job.x, row);
            uint16_t* to = numbers + tile * tile_size() + r * LINE;
            for (int64_t i = 0; i < lines * LINE; i += LANES)
                store_bf16(to + in_lines<LINE>(i, height), i < width ? read_row(from, job.x.kind, i, width) : zero());
        }
    }

    template <int P>
    void multiply_panels(int64_t first, int64_t last, int64_t panel) const {
        const int64_t size = P * height * LANES;  // of a tile's sums: [panel][row][16]
        float* sums = static_cast<float*>(scratch(OWN_SUMS, (last - first) * size * 4));
        std::fill(sums, sums + (last - first) * size, 0.0f);
        for (int64_t k = 0; k < job.ins; k += BLOCK) {
            const int64_t whole = std::min(BLOCK, job.ins - k) / LINE, left = std::min(BLOCK, job.ins - k) % LINE;
            const uint16_t* weights[P];
            for (int p = 0; p < P; ++p)
                weights[p] = static_cast<const uint16_t*>(job.w.codes) + ((panel + p) * job.ins + k) * LANES;
            add_block<P>(first, last, k / LINE, whole, weights, sums);
            if (left == 0) continue;
            // Behind the last inputs lies the next panel: its numbers are none of ours, even times zero.
            uint16_t* rest = static_cast<uint16_t*>(scratch(OWN_PANEL, P * LINE * LANES * 2));
            for (int p = 0; p < P; ++p) {
                uint16_t* to = rest + p * LINE * LANES;
                std::fill_n(std::copy_n(weights[p] + whole * LINE * LANES, left * LANES, to), (LINE - left) * LANES, 0);
                weights[p] = to;
            }
            add_block<P>(first, last, k / LINE + whole, 1, weights, sums);
        }
        for (int64_t row = first * height; row < std::min(last * height, job.x.rows); ++row)
            for (int p = 0; p < P; ++p)
                finish(job, row, panel + p, load(sums + ((row / height - first) * P + p) * height * LANES
                                                 + row % height * LANES));
    }

    template <int P>
    void add_block(
        int64_t first, int64_t last, int64_t line, int64_t count, const uint16_t* const* weights, float* sums
    ) const {
        if (count == 0) return;
        int64_t tile = first;
        for (; tile + 2 <= last; tile += 2) add<2, P>(tile, line, count, weights, sums + (tile - first) * P * height * LANES);
        if (tile < last) add<1, P>(tile, line, count, weights, sums + (tile - first) * P * height * LANES);
    }

    // T tiles of rows times P panels, over so many lines.
    template <int T, int P>
    OF_APART void add(int64_t tile, int64_t line, int64_t count, const uint16_t* const* weights, float* sums) const {
        const int64_t square = height * LANES;
        each_sum<T, P>([&](auto t, auto p) OF_INLINE_LAMBDA { load_tile<t * 2 + p>(sums + (t * P + p) * square); });
        const uint16_t* x = numbers + tile * tile_size() + line * height * LINE;
        for (int64_t i = 0; i < count; ++i, x += height * LINE) {
            load_tile<4>(x);
            if constexpr (T == 2) load_tile<5>(x + tile_size());
            const auto take = [&](auto p) OF_INLINE_LAMBDA {
                const uint16_t* w = weights[p] + i * LINE * LANES;
                if constexpr (T == 1) look_ahead<TILE_LINES * TILE_BYTES>(w);
                load_tile<6 + p>(w);
                tile_dots<p, 4, 6 + p>();
                if constexpr (T == 2) tile_dots<2 + p, 5, 6 + p>();
            };
            each(take, std::make_integer_sequence<int, P>());
        }
        each_sum<T, P>([&](auto t, auto p) OF_INLINE_LAMBDA { store_tile<t * 2 + p>(sums + (t * P + p) * square); });
    }

    template <int T, int P, class F>
    OF_INLINE_METHOD static void each_sum(F&& f) {
        each([&](auto t) OF_INLINE_LAMBDA {
            each([&](auto p) OF_INLINE_LAMBDA { f(t, p); }, std::make_integer_sequence<int, P>());
        }, std::make_integer_sequence<int, T>());
    }
};

}  // namespace of
#endif
