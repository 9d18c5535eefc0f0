// Recurrences as recurrent.hpp has them. A task is a row and some columns of its state, which lie in a thread's own
// memory while it reads the row's tokens.
#include "recurrent.hpp"

#include <algorithm>
#include <cstring>

#include "floats.hpp"
#include "pool.hpp"

namespace of {
namespace {

constexpr int64_t WORTH_THREADS = 1 << 16;  // numbers of states and tokens that are worth waking threads for

OF_INLINE F32 get(const float* p, int64_t n) { return n >= LANES ? load(p) : load_some(p, int(n)); }
OF_INLINE void put(float* p, F32 x, int64_t n) {
    if (n >= LANES) store(p, x);
    else store_some(p, x, int(n));
}

// A number as it is when it was kept and read again.
OF_INLINE F32 as_kept(F32 x, int32_t kind) {
    if (kind == OF_BF16) return as_float(shift_left<16>(bf16_bits(x)));
    if (kind != OF_F16) return x;
    uint16_t some[LANES];
    store_f16(some, x);
    return load_f16(some);
}

// Where a reading's state comes from and goes to; none where it begins at zero, or is not kept.
struct Kept {
    const char* from = nullptr;
    char* to = nullptr;
    int32_t kind = OF_F32;

    Kept(const Readings& readings, const of_reading& reading) {
        const of_fixed* state = readings.state;
        if (state == nullptr) return;
        kind = state->kind;
        if (reading.row < 0) return;
        const int64_t row = state->places == nullptr ? reading.row : state->places[reading.row];
        const int64_t at = row * state->stride * bytes_of(kind);
        to = static_cast<char*>(state->to) + at;
        if (state->from != nullptr && !reading.fresh) from = static_cast<const char*>(state->from) + at;
    }

    F32 read(int64_t row, int64_t width, int64_t column, int64_t end) const {
        return from == nullptr ? zero() : read_row(from + row * width * bytes_of(kind), kind, column, end);
    }
    void write(int64_t row, int64_t width, int64_t column, int64_t end, F32 x) const {
        if (to != nullptr) write_row(to + row * width * bytes_of(kind), kind, column, end, x);
    }
};

// Runs `body(reading, share)` for every reading and each of so many shares of the columns; zeros where nobody reads.
template <class F>
void each_share(const Readings& readings, int64_t shares, int64_t worth, float* out, int64_t stride, int64_t width, F&& body) {
    int64_t read = 0;
    for (int64_t n = 0; n < readings.count; ++n) read += readings.each[n].count;
    if (read < readings.rows)
        for (int64_t row = 0; row < readings.rows; ++row) std::memset(out + row * stride, 0, size_t(width) * 4);
    const int64_t count = readings.count * shares;
    const int64_t whole = std::max<int64_t>(1, (read + readings.count) * worth);
    const int64_t grain = std::max<int64_t>(1, count * WORTH_THREADS / whole / 4);
    parallel(count, whole < WORTH_THREADS ? count : std::min(grain, count), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) body(readings.each[n / shares], n % shares);
    });
}

// ---------------------------------------------------------------- convolutions

constexpr int64_t ABREAST = 4;  // vectors of channels: a row of tokens is a line of memory each

template <int V>
void convolve_columns(
    const Convolution& how, const of_reading& reading, const Kept& kept, Columns x, float* out, int64_t out_stride,
    int64_t first, int64_t end) {
    const int64_t before = how.width - 1;
    F32 past[MOST_TAPS][V];  // the oldest first
    for (int64_t i = 0; i < before; ++i)
        for (int v = 0; v < V; ++v) past[i][v] = kept.read(i, how.channels, first + v * LANES, how.channels);
    for (int64_t t = reading.first; t < reading.first + reading.count; ++t) {
        for (int v = 0; v < V; ++v) {
            const int64_t c = first + v * LANES, left = end - c;
            past[before][v] = as_kept(get(x.row(t) + c, left), kept.kind);
            F32 made = past[0][v] * get(how.taps + c, left);
            for (int64_t i = 1; i <= before; ++i) made = fma(past[i][v], get(how.taps + i * how.channels + c, left), made);
            if (how.bias != nullptr) made += get(how.bias + c, left);
            put(out + t * out_stride + c, made, left);
            for (int64_t i = 0; i < before; ++i) past[i][v] = past[i + 1][v];
        }
    }
    for (int64_t i = 0; i < before; ++i)
        for (int v = 0; v < V; ++v) kept.write(i, how.channels, first + v * LANES, how.channels, past[i][v]);
}

// ---------------------------------------------------------------- heads

// V vectors of a head's columns. state: [keys][V * 16]
template <int V>
void recur_columns(
    const Recurrence& how, const of_reading& reading, const Kept& kept, int64_t head, int64_t first, float* state,
    float* out, int64_t out_stride) {
    const int64_t keys = how.keys, values = how.values, group = head / (how.heads / how.key_heads);
    for (int64_t i = 0; i < keys; ++i)
        for (int v = 0; v < V; ++v)
            store(state + (i * V + v) * LANES, kept.read(head * keys + i, values, first + v * LANES, values));
    for (int64_t t = reading.first; t < reading.first + reading.count; ++t) {
        const float *q = how.q.row(t) + group * keys, *k = how.k.row(t) + group * keys;
        const float* value = how.v.row(t) + head * values + first;
        const F32 fade = exp(all(how.g.row(t)[head])), beta = all(how.beta.row(t)[head]);
        F32 change[V], made[V];
        for (int v = 0; v < V; ++v) {
            change[v] = get(value + v * LANES, values - first - v * LANES);
            made[v] = zero();
        }
        if (how.corrects) {
            F32 known[V];
            for (int v = 0; v < V; ++v) known[v] = zero();
            for (int64_t i = 0; i < keys; ++i) {
                const F32 key = all(k[i]);
                for (int v = 0; v < V; ++v) {
                    const F32 left = load(state + (i * V + v) * LANES) * fade;
                    store(state + (i * V + v) * LANES, left);
                    known[v] = fma(key, left, known[v]);
                }
            }
            for (int v = 0; v < V; ++v) change[v] = (change[v] - known[v]) * beta;
            for (int64_t i = 0; i < keys; ++i) {
                const F32 key = all(k[i]), query = all(q[i]);
                for (int v = 0; v < V; ++v) {
                    const F32 now = fma(key, change[v], load(state + (i * V + v) * LANES));
                    store(state + (i * V + v) * LANES, now);
                    made[v] = fma(query, now, made[v]);
                }
            }
        } else {
            for (int v = 0; v < V; ++v) change[v] = change[v] * beta;
            for (int64_t i = 0; i < keys; ++i) {
                const F32 key = all(k[i]), query = all(q[i]);
                for (int v = 0; v < V; ++v) {
                    const F32 now = fma(key, change[v], load(state + (i * V + v) * LANES) * fade);
                    store(state + (i * V + v) * LANES, now);
                    made[v] = fma(query, now, made[v]);
                }
            }
        }
        float* to = out + t * out_stride + head * values + first;
        for (int v = 0; v < V; ++v) put(to + v * LANES, made[v], values - first - v * LANES);
    }
    for (int64_t i = 0; i < keys; ++i)
        for (int v = 0; v < V; ++v)
            kept.write(head * keys + i, values, first + v * LANES, values, load(state + (i * V + v) * LANES));
}

// ---------------------------------------------------------------- channels

// Sixteen channels, one to a lane; a state is kept channel by channel. state: [size][16]
void scan_columns(
    const Scan& how, const of_reading& reading, const Kept& kept, int64_t panel, float* state, float* out, int64_t out_stride) {
    const int64_t size = how.size, first = panel * LANES, left = how.channels - first;
    const int64_t lanes = std::min<int64_t>(LANES, left);
    const float* rates = how.rates + panel * size * LANES;
    std::memset(state, 0, size_t(size * LANES) * 4);
    float some[LANES] = {};
    for (int64_t lane = 0; lane < lanes && kept.from != nullptr; ++lane)
        for (int64_t i = 0; i < size; i += LANES) {
            store(some, kept.read(first + lane, size, i, size));
            for (int64_t j = i; j < std::min<int64_t>(i + LANES, size); ++j) state[j * LANES + lane] = some[j - i];
        }
    for (int64_t t = reading.first; t < reading.first + reading.count; ++t) {
        const float *b = how.b.row(t), *c = how.c.row(t);
        const F32 dt = get(how.dt.row(t) + first, left), added = dt * get(how.x.row(t) + first, left);
        F32 made = zero();
        for (int64_t i = 0; i < size; ++i) {
            const F32 fade = exp(dt * load(rates + i * LANES));
            const F32 now = fma(fade, load(state + i * LANES), added * all(b[i]));
            store(state + i * LANES, now);
            made = fma(now, all(c[i]), made);
        }
        put(out + t * out_stride + first, made, left);
    }
    for (int64_t lane = 0; lane < lanes && kept.to != nullptr; ++lane)
        for (int64_t i = 0; i < size; i += LANES) {
            for (int64_t j = i; j < std::min<int64_t>(i + LANES, size); ++j) some[j - i] = state[j * LANES + lane];
            kept.write(first + lane, size, i, size, load(some));
        }
}

}  // namespace

void convolve(const Convolution& how, const Readings& readings, Columns x, float* out, int64_t out_stride) {
    const int64_t step = ABREAST * LANES, shares = (how.channels + step - 1) / step;
    each_share(readings, shares, how.channels * how.width, out, out_stride, how.channels, [&](const of_reading& reading, int64_t share) {
        const Kept kept(readings, reading);
        const int64_t end = std::min(how.channels, (share + 1) * step);
        int64_t c = share * step;
        if (end - c > (ABREAST - 1) * LANES) return convolve_columns<ABREAST>(how, reading, kept, x, out, out_stride, c, end);
        for (; c < end; c += LANES) convolve_columns<1>(how, reading, kept, x, out, out_stride, c, end);
    });
}

void recur(const Recurrence& how, const Readings& readings, float* out, int64_t out_stride) {
    const int64_t vectors = (how.values + LANES - 1) / LANES, each = vectors == 1 ? 1 : 2;
    const int64_t shares = (vectors + each - 1) / each, bytes = how.keys * each * LANES * 4;
    const int64_t worth = how.heads * how.keys * how.values;
    each_share(readings, how.heads * shares, worth, out, out_stride, how.heads * how.values, [&](const of_reading& reading, int64_t n) {
        const Kept kept(readings, reading);
        float* state = static_cast<float*>(scratch(OWN_MORE, bytes));
        const int64_t head = n / shares, first = n % shares * each * LANES;
        if (how.values - first > LANES) recur_columns<2>(how, reading, kept, head, first, state, out, out_stride);
        else recur_columns<1>(how, reading, kept, head, first, state, out, out_stride);
    });
}

void scan(const Scan& how, const Readings& readings, float* out, int64_t out_stride) {
    const int64_t panels = (how.channels + LANES - 1) / LANES, bytes = how.size * LANES * 4;
    each_share(readings, panels, 8 * how.channels * how.size, out, out_stride, how.channels, [&](const of_reading& reading, int64_t panel) {
        const Kept kept(readings, reading);
        scan_columns(how, reading, kept, panel, static_cast<float*>(scratch(OWN_MORE, bytes)), out, out_stride);
    });
}

}  // namespace of
