// Mixtures of experts: which experts a row goes through, and what they make of it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "elementwise.hpp"
#include "floats.hpp"
#include "matmul.hpp"
#include "pool.hpp"
#include "program.hpp"

namespace of {
namespace {

constexpr int64_t AT_ONCE = 512;  // rows, so that what experts make of a long prompt is not held at once
constexpr float NONE = -INFINITY;

enum { SOFTMAX, SIGMOID, CHOSEN };

// The numbers of the `count` greatest, the greatest first; of equals the first. `values` loses them.
void greatest(float* values, int64_t size, int64_t count, int64_t* found) {
    for (int64_t k = 0; k < count; ++k) {
        found[k] = std::max_element(values, values + size) - values;
        values[found[k]] = NONE;
    }
}

void softmax_of(float* x, int64_t size) {
    const float most = *std::max_element(x, x + size);
    float total = 0.0f;
    for (int64_t i = 0; i < size; ++i) total += x[i] = std::exp(x[i] - most);
    for (int64_t i = 0; i < size; ++i) x[i] /= total;
}

// How good each group is; the experts of all but the best are out of the choice.
void leave_groups(const of_routing& how, float* ranked, int64_t count) {
    const int64_t size = count / how.groups, best = std::min<int64_t>(how.best, size);
    std::vector<float> good(how.groups), own(size);
    std::vector<int64_t> found(std::max<int64_t>(best, how.top_groups));
    for (int64_t g = 0; g < how.groups; ++g) {
        std::copy_n(ranked + g * size, size, own.begin());
        greatest(own.data(), size, best, found.data());
        for (int64_t k = 0; k < best; ++k) good[g] += ranked[g * size + found[k]];
    }
    greatest(good.data(), how.groups, how.top_groups, found.data());
    for (int64_t g = 0; g < how.groups; ++g)
        if (std::find(found.begin(), found.begin() + how.top_groups, g) == found.begin() + how.top_groups)
            std::fill_n(ranked + g * size, size, NONE);
}

void route_row(const of_routing& how, const float* x, int64_t count, float* shares, float* chosen, float* memory) {
    float *likely = memory, *ranked = memory + count;
    std::copy_n(x, count, likely);
    if (how.likely == SOFTMAX) softmax_of(likely, count);
    if (how.likely == SIGMOID)
        for (int64_t i = 0; i < count; ++i) likely[i] = 1.0f / (1.0f + std::exp(-likely[i]));
    for (int64_t i = 0; i < count; ++i) ranked[i] = likely[i] + (how.bias == nullptr ? 0.0f : how.bias[i]);
    if (how.groups > 1) leave_groups(how, ranked, count);
    std::vector<int64_t> found(how.top);
    greatest(ranked, count, how.top, found.data());
    float total = 0.0f;
    for (int32_t k = 0; k < how.top; ++k) {
        chosen[k] = float(found[k]);
        total += shares[k] = likely[found[k]];
    }
    if (how.likely == CHOSEN) softmax_of(shares, how.top);
    for (int32_t k = 0; k < how.top; ++k) {
        if (how.normed) shares[k] /= total + how.least;
        shares[k] *= how.scale;
    }
}

// Some rows, in the order of their experts.
struct Sent {
    std::vector<int64_t> begin;   // [experts + 1], in `places`
    std::vector<int64_t> places;  // row * top + which of its experts
};

Sent sent(const of_experts& how, const float* chosen, int64_t stride, int64_t top, int64_t rows) {
    Sent s{std::vector<int64_t>(how.count + 1), std::vector<int64_t>(rows * top)};
    auto expert = [&](int64_t n, int64_t k) { return int64_t(chosen[n * stride + k]); };
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t k = 0; k < top; ++k) ++s.begin[expert(n, k) + 1];
    for (int64_t e = 0; e < how.count; ++e) s.begin[e + 1] += s.begin[e];
    std::vector<int64_t> next = s.begin;
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t k = 0; k < top; ++k) s.places[next[expert(n, k)]++] = n * top + k;
    return s;
}

// One expert's rows: gathered, computed, and put to where their shares are waiting.
void through_one(const of_experts& how, int64_t e, const int64_t* places, int64_t count, int64_t top, const float* x,
                 int64_t x_stride, int64_t width, float* memory, float* made) {
    float *in = memory, *both = in + count * width, *h = both + count * 2 * how.hidden, *out = h + count * how.hidden;
    for (int64_t i = 0; i < count; ++i) std::copy_n(x + places[i] / top * x_stride, width, in + i * width);
    const of_rows rows_in = {in, count, width, width, OF_F32, 0};
    const of_rows rows_both = {both, count, 2 * how.hidden, 2 * how.hidden, OF_F32, 0};
    const of_rows rows_h = {h, count, how.hidden, how.hidden, OF_F32, 0};
    const of_rows rows_out = {out, count, width, width, OF_F32, 0};
    matmul(*how.gate_up[e].matrix, rows_in, how.gate_up[e].bias, rows_both, 0);
    const float* up = both + (how.beside ? 1 : how.hidden);
    gate({how.act, how.limit, how.alpha, how.beside ? 2 : 1}, both, 2 * how.hidden, up, 2 * how.hidden, h, how.hidden,
         count, how.hidden);
    matmul(*how.down[e].matrix, rows_h, how.down[e].bias, rows_out, 0);
    for (int64_t i = 0; i < count; ++i) std::copy_n(out + i * width, width, made + places[i] * width);
}

}  // namespace

void route(const of_routing& how, const float* x, int64_t x_stride, int64_t count, float* shares, int64_t shares_stride,
           float* chosen, int64_t chosen_stride, int64_t rows) {
    parallel(rows, std::max<int64_t>(1, 2048 / count), [&](int64_t begin, int64_t end, int) {
        std::vector<float> memory(2 * count);
        for (int64_t n = begin; n < end; ++n)
            route_row(how, x + n * x_stride, count, shares + n * shares_stride, chosen + n * chosen_stride, memory.data());
    });
}

void through_experts(const of_experts& how, const of_rows& x, const float* shares, int64_t shares_stride,
                     const float* chosen, int64_t chosen_stride, int64_t top, const of_rows& out) {
    const int64_t width = x.width, most = std::min(AT_ONCE, x.rows);
    std::vector<float> made(most * top * width), memory(most * top * (2 * width + 3 * how.hidden));
    for (int64_t first = 0; first < x.rows; first += AT_ONCE) {
        const int64_t rows = std::min(AT_ONCE, x.rows - first);
        const float* own = static_cast<const float*>(x.at) + first * x.stride;
        const Sent s = sent(how, chosen + first * chosen_stride, chosen_stride, top, rows);
        for (int64_t e = 0; e < how.count; ++e) {
            const int64_t count = s.begin[e + 1] - s.begin[e];
            if (count) through_one(how, e, s.places.data() + s.begin[e], count, top, own, x.stride, width, memory.data(), made.data());
        }
        parallel(rows, std::max<int64_t>(1, 8192 / (top * width)), [&](int64_t begin, int64_t end, int) {
            for (int64_t n = begin; n < end; ++n) {
                const float* share = shares + (first + n) * shares_stride;
                float* to = static_cast<float*>(out.at) + (first + n) * out.stride;
                for (int64_t i = 0; i < width; i += LANES) {
                    F32 sum = zero();
                    for (int64_t k = 0; k < top; ++k)
                        sum = fma(all(share[k]), read_row(made.data() + (n * top + k) * width, OF_F32, i, width), sum);
                    write_row(to, OF_F32, i, width, sum);
                }
            }
        });
    }
}

}  // namespace of
