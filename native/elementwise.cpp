// Norms, rotary positions, activations, gates, sums and softmax, as elementwise.hpp has them.
#include "elementwise.hpp"

#include <algorithm>

#include "floats.hpp"
#include "functions.hpp"
#include "pool.hpp"

namespace of {
namespace {

constexpr int64_t SHARE = 8192;  // numbers that are worth waking a thread for
constexpr int64_t PIECE = 2048;  // of a row: a multiple of sixteen

// Runs `body(row)` over rows of `width` numbers each.
template <class F>
void each_row(int64_t rows, int64_t width, F&& body) {
    parallel(rows, std::max<int64_t>(1, SHARE / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) body(row);
    });
}

// Runs `body(i, n)` sixteen numbers at a time: those from i on, of which n are there.
template <class F>
OF_INLINE void each_sixteen(int64_t begin, int64_t end, F&& body) {
    for (int64_t i = begin; i < end; i += LANES) body(i, int(std::min<int64_t>(LANES, end - i)));
}

// Runs `body(row, begin, end)` over pieces of rows: of a long row, several threads may have one each.
template <class F>
void each_piece(int64_t rows, int64_t width, F&& body) {
    const int64_t pieces = std::max<int64_t>(1, (width + PIECE - 1) / PIECE);
    each_row(rows * pieces, std::min(width, PIECE), [&](int64_t n) {
        const int64_t begin = n % pieces * PIECE;
        body(n / pieces, begin, std::min(begin + PIECE, width));
    });
}

OF_INLINE F32 get(const float* p, int n) { return n == LANES ? load(p) : load_some(p, n); }
OF_INLINE void put(float* p, F32 x, int n) {
    if (n == LANES) store(p, x);
    else store_some(p, x, n);
}

// Runs `y[i] = f(x[i], i, n)` over rows.
template <class F>
void map(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width, F&& f) {
    each_piece(rows, width, [&](int64_t row, int64_t begin, int64_t end) {
        const float* from = x + row * x_stride;
        float* to = y + row * y_stride;
        each_sixteen(begin, end, [&](int64_t i, int n) { put(to + i, f(get(from + i, n)), n); });
    });
}

// Likewise of two inputs.
template <class F>
void map(
    const float* x, int64_t x_stride, const float* y, int64_t y_stride, float* z, int64_t z_stride, int64_t rows,
    int64_t width, F&& f) {
    each_piece(rows, width, [&](int64_t row, int64_t begin, int64_t end) {
        const float* a = x + row * x_stride;
        const float* b = y + row * y_stride;
        float* to = z + row * z_stride;
        each_sixteen(begin, end, [&](int64_t i, int n) { put(to + i, f(get(a + i, n), get(b + i, n)), n); });
    });
}

// The sum of f(x) over a row: four chains of sixteen lanes each. Lanes behind the end add nothing.
template <class F>
OF_INLINE float total(const float* x, int64_t width, F&& f) {
    F32 sums[4] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) sums[j] = f(load(x + i + j * LANES), sums[j]);
    for (int j = 0; i + LANES <= width; i += LANES, ++j) sums[j] = f(load(x + i), sums[j]);
    if (i < width) {
        // What f makes of a lane that is not there is thrown away, be it what it may.
        float some[LANES] = {};
        store(some, f(load_some(x + i, int(width - i)), zero()));
        sums[3] += load_some(some, int(width - i));
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// ---------------------------------------------------------------- norms

void normalise_group(const Norm& norm, const float* x, float* y, int64_t group) {
    const int64_t width = norm.width;
    const float part = 1.0f / float(width);
    F32 mean = zero();
    if (norm.centred) mean = all(total(x, width, [](F32 v, F32 sum) { return sum + v; }) * part);
    const float square = total(x, width, [&](F32 v, F32 sum) {
        const F32 off = v - mean;
        return fma(off, off, sum);
    });
    const F32 factor = all(1.0f / std::sqrt(square * part + norm.eps));
    const float* weight = norm.weight == nullptr ? nullptr : norm.weight + group * norm.weight_step;
    const float* bias = norm.bias == nullptr ? nullptr : norm.bias + group * norm.weight_step;
    each_sixteen(0, width, [&](int64_t i, int n) {
        F32 made = (get(x + i, n) - mean) * factor;
        if (weight != nullptr) made *= get(weight + i, n);
        if (bias != nullptr) made += get(bias + i, n);
        put(y + i, made, n);
    });
}

// ---------------------------------------------------------------- rotary positions

OF_INLINE F32 turned(F32 x, F32 partner, F32 cos, F32 sin) { return fma(partner, sin, x * cos); }

void rotate_head(const Rotary& rotary, const float* x, float* y, const float* cos, const float* sin) {
    const int64_t dim = rotary.dim, half = dim / 2;
    if (rotary.neighbours) {
        each_sixteen(0, dim, [&](int64_t i, int n) {
            const F32 own = get(x + i, n);
            put(y + i, turned(own, neighbours_swapped(own), get(cos + i, n), get(sin + i, n)), n);
        });
    } else {
        each_sixteen(0, half, [&](int64_t i, int n) {
            const F32 low = get(x + i, n), high = get(x + half + i, n);
            put(y + i, turned(low, high, get(cos + i, n), get(sin + i, n)), n);
            put(y + half + i, turned(high, low, get(cos + half + i, n), get(sin + half + i, n)), n);
        });
    }
    if (x != y) std::copy(x + dim, x + rotary.width, y + dim);
}

// ---------------------------------------------------------------- activations


OF_INLINE F32 clamped(F32 x, float low, float high) {
    return where_number(x, min(max(x, all(low)), all(high)), x);
}

OF_INLINE F32 hardswish(F32 x) { return x * (clamped(x + all(3.0f), 0.0f, 6.0f) * all(1.0f / 6.0f)); }

// With e = e^x, tanh(log(1 + e)) is n / (n + 2), n = e (e + 2).
OF_INLINE F32 mish(F32 x) {
    const F32 e = exp(min(all(20.0f), x)), n = e * (e + all(2.0f));
    return where_less(all(20.0f), x, x, x * (n / (n + all(2.0f))));
}

OF_INLINE F32 selu(F32 x) {
    constexpr float ALPHA = 1.6732632423543772f, FACTOR = 1.0507009873554805f;
    const F32 low = falling_less_one(min(zero(), x)) * all(FACTOR * ALPHA);
    return where_less(zero(), x, x * all(FACTOR), low);
}

// (1 + erf((x - mu) / (sigma sqrt 2))) / 2: a normal distribution's mass below x.
OF_INLINE F32 laplace(F32 x) {
    const F32 off = (x - all(0.707107f)) / all(0.282095f), tail = normal_tail(off);
    return where_less(off, zero(), tail, all(1.0f) - tail);
}

OF_INLINE F32 relu(F32 x) { return max(zero(), x); }  // what is no number, second, is what is left

// Runs `with(f)`, f being the activation of this number.
template <class F>
void chosen(int32_t act, F&& with) {
    switch (act) {
        case OF_GELU: return with([](F32 x) { return gelu(x); });
        case OF_GELU_TANH: return with([](F32 x) { return gelu_tanh(x); });
        case OF_SILU: return with([](F32 x) { return silu(x); });
        case OF_RELU: return with([](F32 x) { return relu(x); });
        case OF_RELU2: return with([](F32 x) { return relu(x) * relu(x); });
        case OF_QUICK_GELU: return with([](F32 x) { return x / (all(1.0f) + exp(x * all(-1.702f))); });
        case OF_SIGMOID: return with([](F32 x) { return sigmoid(x); });
        case OF_TANH: return with([](F32 x) { return tanh(x); });
        case OF_SOFTPLUS: return with([](F32 x) { return softplus(x); });
        case OF_GELU_10: return with([](F32 x) { return clamped(gelu(x), -10.0f, 10.0f); });
        case OF_HARDSWISH: return with([](F32 x) { return hardswish(x); });
        case OF_LAPLACE: return with([](F32 x) { return laplace(x); });
        case OF_LEAKY_RELU: return with([](F32 x) { return where_less(x, zero(), x * all(0.01f), x); });
        case OF_MISH: return with([](F32 x) { return mish(x); });
        case OF_RELU6: return with([](F32 x) { return clamped(x, 0.0f, 6.0f); });
        case OF_SELU: return with([](F32 x) { return selu(x); });
        default: return with([](F32 x) { return x; });
    }
}

// Sixteen numbers, or fewer, of which one is `step` after the other.
OF_INLINE F32 get_apart(const float* p, int64_t step, int n) {
    if (step == 1) return get(p, n);
    float some[LANES] = {};
    for (int j = 0; j < n; ++j) some[j] = p[j * step];
    return load(some);
}

}  // namespace

void normalise(const Norm& norm, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows) {
    each_row(rows * norm.groups, norm.width, [&](int64_t n) {
        const int64_t row = n / norm.groups, group = n % norm.groups, skip = group * norm.width;
        normalise_group(norm, x + row * x_stride + skip, y + row * y_stride + skip, group);
    });
}

void rotate(const Rotary& rotary, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows) {
    each_row(rows, rotary.heads * rotary.width, [&](int64_t row) {
        const float* cos = rotary.cos + row * rotary.table_stride;
        const float* sin = rotary.sin + row * rotary.table_stride;
        for (int64_t head = 0; head < rotary.heads; ++head) {
            const int64_t from = row * x_stride + head * rotary.x_step, to = row * y_stride + head * rotary.y_step;
            rotate_head(rotary, x + from, y + to, cos, sin);
        }
    });
}

void activate(int32_t act, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width) {
    chosen(act, [&](auto f) { map(x, x_stride, y, y_stride, rows, width, f); });
}

void gate(
    const Gate& how, const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, float* y,
    int64_t y_stride, int64_t rows, int64_t width) {
    const int64_t step = how.step;
    const auto both = [&](auto f) {
        each_piece(rows, width, [&](int64_t row, int64_t begin, int64_t end) {
            const float* a = gate + row * gate_stride;
            const float* b = up + row * up_stride;
            float* to = y + row * y_stride;
            each_sixteen(begin, end, [&](int64_t i, int n) {
                put(to + i, f(get_apart(a + i * step, step, n), get_apart(b + i * step, step, n)), n);
            });
        });
    };
    if (how.act == OF_CLAMPED_SWISH) {
        return both([&](F32 g, F32 u) {
            g = where_less(all(how.limit), g, all(how.limit), g);
            u = clamped(u, -how.limit, how.limit);
            return (u + all(1.0f)) * (g * sigmoid(g * all(how.alpha)));
        });
    }
    chosen(how.act, [&](auto act) { both([&](F32 g, F32 u) { return act(g) * u; }); });
}

void add(
    const float* x, int64_t x_stride, const float* y, int64_t y_stride, float factor, float* z, int64_t z_stride,
    int64_t rows, int64_t width) {
    map(x, x_stride, y, y_stride, z, z_stride, rows, width, [&](F32 a, F32 b) { return fma(all(factor), b, a); });
}

void times(
    const float* x, int64_t x_stride, const float* y, int64_t y_stride, float* z, int64_t z_stride, int64_t rows,
    int64_t width) {
    map(x, x_stride, y, y_stride, z, z_stride, rows, width, [](F32 a, F32 b) { return a * b; });
}

void scale(float factor, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width) {
    map(x, x_stride, y, y_stride, rows, width, [&](F32 a) { return a * all(factor); });
}

void bounded(float cap, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width) {
    const float part = 1.0f / cap;
    map(x, x_stride, y, y_stride, rows, width, [&](F32 a) { return tanh(a * all(part)) * all(cap); });
}

void softmax(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width) {
    each_row(rows, width, [&](int64_t row) {
        const float* from = x + row * x_stride;
        float* to = y + row * y_stride;
        F32 most = all(-INFINITY);
        each_sixteen(0, width, [&](int64_t i, int n) {
            if (n == LANES) {
                most = max(load(from + i), most);
            } else {
                float some[LANES];
                store(some, most);
                for (int j = 0; j < n; ++j) some[j] = from[i + j] > some[j] ? from[i + j] : some[j];
                most = load(some);
            }
        });
        const F32 highest = all(top(most));
        each_sixteen(0, width, [&](int64_t i, int n) { put(to + i, falling(get(from + i, n) - highest), n); });
        const F32 part = all(1.0f / total(to, width, [](F32 v, F32 sum) { return sum + v; }));
        each_sixteen(0, width, [&](int64_t i, int n) { put(to + i, get(to + i, n) * part, n); });
    });
}

void convert(const of_rows& x, const of_rows& y) {
    each_row(x.rows, x.width, [&](int64_t row) {
        const void* from = row_at(x, row);
        void* to = row_at(y, row);
        for (int64_t i = 0; i < x.width; i += LANES)
            write_row(to, y.kind, i, x.width, read_row(from, x.kind, i, x.width));
    });
}

}  // namespace of

extern "C" {

int32_t of_normalise(
    const of_rows* x, const of_rows* y, int64_t groups, const float* weight, const float* bias, int64_t weight_step,
    float eps, int32_t centred) {
    const of::Norm norm{weight, bias, groups, x->width / groups, weight_step, eps, centred != 0};
    of::normalise(norm, static_cast<const float*>(x->at), x->stride, static_cast<float*>(y->at), y->stride, x->rows);
    return OF_OK;
}

int32_t of_rotate(
    const of_rows* x, const of_rows* y, int64_t heads, const of_rows* cos, const of_rows* sin, int32_t neighbours) {
    const int64_t width = x->width / heads;
    const of::Rotary rotary{
        static_cast<const float*>(cos->at), static_cast<const float*>(sin->at), cos->stride, heads, width, width, width,
        cos->width, neighbours != 0};
    of::rotate(rotary, static_cast<const float*>(x->at), x->stride, static_cast<float*>(y->at), y->stride, x->rows);
    return OF_OK;
}

int32_t of_activate(int32_t act, const of_rows* x, const of_rows* y) {
    of::activate(
        act, static_cast<const float*>(x->at), x->stride, static_cast<float*>(y->at), y->stride, x->rows, x->width);
    return OF_OK;
}

int32_t of_gate(
    int32_t act, float limit, float alpha, int64_t step, const of_rows* gate, const of_rows* up, const of_rows* y) {
    of::gate(
        {act, limit, alpha, step}, static_cast<const float*>(gate->at), gate->stride,
        static_cast<const float*>(up->at), up->stride, static_cast<float*>(y->at), y->stride, y->rows, y->width);
    return OF_OK;
}

int32_t of_add(const of_rows* x, const of_rows* y, float factor, const of_rows* z) {
    of::add(
        static_cast<const float*>(x->at), x->stride, static_cast<const float*>(y->at), y->stride, factor,
        static_cast<float*>(z->at), z->stride, z->rows, z->width);
    return OF_OK;
}

int32_t of_softmax(const of_rows* x, const of_rows* y) {
    of::softmax(
        static_cast<const float*>(x->at), x->stride, static_cast<float*>(y->at), y->stride, x->rows, x->width);
    return OF_OK;
}

int32_t of_bounded(float cap, const of_rows* x, const of_rows* y) {
    of::bounded(
        cap, static_cast<const float*>(x->at), x->stride, static_cast<float*>(y->at), y->stride, x->rows, x->width);
    return OF_OK;
}

int32_t of_convert(const of_rows* x, const of_rows* y) {
    of::convert(*x, *y);
    return OF_OK;
}

}
