// Scores of a large vocabulary: in order, cut where a filter cuts them, and drawn from.
//
// A row is one thread's, and its sums have one order: what is left of it and drawn is the same in any company.
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "abi.h"
#include "pool.hpp"
#include "simd.hpp"

namespace of {
namespace {

constexpr int DIGIT = 11, DIGITS = 3, BINS = 1 << DIGIT;

// A whole number that is ordered as the float is; zeros of either sign are one, and what is no number is above all.
OF_INLINE uint32_t ordered(float x) {
    if (x != x) return 0xffffffffu;
    const uint32_t bits = to_bits(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Key above, place below.
OF_INLINE uint64_t paired(uint32_t key, int64_t place) { return uint64_t(key) << 32 | uint32_t(place); }

// Digit by digit, the last first, each time in the order that was there: equal keys stay in the order of places.
// Returns where they lie in order: one of the two.
uint64_t* in_order(uint64_t* from, uint64_t* to, int64_t count) {
    int64_t(*starts)[BINS] = static_cast<int64_t(*)[BINS]>(scratch(OWN_PANEL, DIGITS * BINS * 8));
    std::memset(starts, 0, DIGITS * BINS * 8);
    for (int64_t i = 0; i < count; ++i)
        for (int d = 0; d < DIGITS; ++d) ++starts[d][from[i] >> (32 + d * DIGIT) & (BINS - 1)];
    for (int d = 0; d < DIGITS; ++d) {
        const int shift = 32 + d * DIGIT;
        if (count == 0 || starts[d][from[0] >> shift & (BINS - 1)] == count) continue;  // all have the same digit
        int64_t before = 0;
        for (int b = 0; b < BINS; ++b) before += std::exchange(starts[d][b], before);
        for (int64_t i = 0; i < count; ++i) to[starts[d][from[i] >> shift & (BINS - 1)]++] = from[i];
        std::swap(from, to);
    }
    return from;
}

void sort_row(const float* x, int64_t width, float* sorted, int64_t* places) {
    uint64_t* from = static_cast<uint64_t*>(scratch(OWN_ROWS, width * 8));
    uint64_t* to = static_cast<uint64_t*>(scratch(OWN_SUMS, width * 8));
    for (int64_t i = 0; i < width; ++i) from[i] = paired(ordered(x[i]), i);
    const uint64_t* found = in_order(from, to, width);
    for (int64_t i = 0; i < width; ++i) {
        places[i] = int64_t(uint32_t(found[i]));
        sorted[i] = x[places[i]];
    }
}

// ---------------------------------------------------------------- cuts

// Other implementations' logarithms are right to within this.
constexpr double NEAR = 1e-4;
constexpr float LARGEST = 256;  // scores above which float32 is too coarse for that

// And their sums of probabilities to within this: in float32, they add to one register's lanes, and each sum is rounded.
OF_INLINE double doubt(int64_t width) {
#if OF_NEON
    return double(width / 4 + 160) * 0x1p-24;
#else
    return double(width / 8 + 160) * 0x1p-24;
#endif
}

OF_INLINE F32 some(const float* x, int64_t i, int64_t width, float rest) {
    if (i + LANES <= width) return load(x + i);
    float held[LANES];
    for (int j = 0; j < LANES; ++j) held[j] = i + j < width ? x[i + j] : rest;
    return load(held);
}

// A row's likelihoods before they are divided by their sum, in `odds`, and what they add up to.
struct Likely {
    float top = 0;     // the highest score; no number where a score is none, or where all are minus infinity
    double sum = 0;
    double mean = 0;   // of scores less the top, each as likely as it is
};

Likely likely(const float* x, int64_t width, float* odds) {
    Likely row;
    F32 highest = all(-INFINITY), bad = zero();
    for (int64_t i = 0; i < width; i += LANES) {
        const F32 v = some(x, i, width, -INFINITY);
        highest = max(v, highest);
        bad = where_number(v, bad, v);
    }
    row.top = top(highest);
    const float odd = sum(bad);
    if (odd != odd || !(std::fabs(row.top) <= LARGEST)) return {NAN, 0, 0};
    constexpr int64_t PIECE = 16 * LANES;  // in float32, and pieces of it in float64
    for (int64_t begin = 0; begin < width; begin += PIECE) {
        F32 sums = zero(), means = zero();
        for (int64_t i = begin; i < begin + PIECE && i < width; i += LANES) {
            const F32 off = max(some(x, i, width, -INFINITY) - all(row.top), all(-200.0f));
            const F32 e = exp(off);
            if (i + LANES <= width) store(odds + i, e);
            else store_some(odds + i, e, int(width - i));
            sums += e;
            means = fma(e, off, means);
        }
        row.sum += sum(sums);
        row.mean += sum(means);
    }
    row.mean /= row.sum;
    return row;
}

// Those whose turn it is when, in the order of keys, the sums of their odds reach `low` and then `high`, in order.
struct Turn {
    const uint64_t* at;
    int64_t count;
    double before;  // the sum of those before them
};

// Keys from `begin` to `end` first: a part of that stretch that holds them, four times in five parts, each a glance at
// the whole row; then those of the part are sorted. `key` is given sixteen scores, and one.
template <class Vector, class Key>
Turn turn(
    const float* x, int64_t width, const float* odds, Vector&& keys, Key&& key, float begin, float end, double low,
    double high) {
    constexpr int CUTS = 4, GLANCES = 4, PIECE = 16 * LANES;
    float from = -INFINITY, to = INFINITY;
    double before = 0;
    for (int glance = 0; glance < GLANCES; ++glance) {
        float cuts[CUTS];
        for (int c = 0; c < CUTS; ++c) cuts[c] = begin + (end - begin) * float(c + 1) / float(CUTS + 1);
        double below[CUTS] = {};
        for (int64_t piece = 0; piece < width; piece += PIECE) {
            F32 sums[CUTS] = {zero(), zero(), zero(), zero()};
            for (int64_t i = piece; i < piece + PIECE && i < width; i += LANES) {
                const F32 own = keys(some(x, i, width, -INFINITY)), e = some(odds, i, width, 0);
                for (int c = 0; c < CUTS; ++c) sums[c] += where_less(own, all(cuts[c]), e, zero());
            }
            for (int c = 0; c < CUTS; ++c) below[c] += sum(sums[c]);
        }
        float next = end;
        for (int c = CUTS - 1; c >= 0; --c) {
            if (below[c] > high && cuts[c] < to) to = next = cuts[c];
            if (below[c] <= low && cuts[c] > from) {
                from = begin = cuts[c], before = below[c];
                break;
            }
        }
        end = next;
    }
    uint64_t* held = static_cast<uint64_t*>(scratch(OWN_ROWS, width * 8));
    int64_t count = 0;
    for (int64_t i = 0; i < width; i += LANES) {
        const F32 own = keys(some(x, i, width, -INFINITY));
        const F32 inside = where_less(own, all(from), zero(), where_less(own, all(to), all(1.0f), zero()));
        if (to < INFINITY && top(inside) == 0) continue;
        for (int64_t j = i; j < width && j < i + LANES; ++j) {
            const float one = key(x[j]);
            held[count] = paired(ordered(one), j);
            count += int(one >= from) & int(one < to || to == INFINITY);
        }
    }
    return {in_order(held, static_cast<uint64_t*>(scratch(OWN_SUMS, width * 8)), count), count, before};
}

// Leaves out the unlikeliest ones that together have at most 1 - share. Which of equal scores are out is nobody's to say.
void cut_top_p(const float* x, int64_t width, double share, const float* odds, const Likely& row, float* bounds) {
    const double rest = 1 - share, low = (rest - doubt(width)) * row.sum, high = (rest + doubt(width)) * row.sum;
    const Turn them = turn(
        x, width, odds, [](F32 v) { return v; }, [](float v) { return v; }, row.top - 30, row.top, low, high);
    double before = them.before;
    float from = row.top, sure = row.top;
    bool begun = false, ended = false;
    for (int64_t i = 0, next; i < them.count && !ended; i = next) {
        const uint32_t key = uint32_t(them.at[i] >> 32);
        for (next = i + 1; next < them.count && uint32_t(them.at[next] >> 32) == key;) ++next;
        const int64_t place = int64_t(uint32_t(them.at[i]));
        const double one = odds[place], with = before + one * double(next - i);
        if (with > low) {
            if (!begun) from = x[place];
            begun = true;
            ended = before + one > high || (x[place] == row.top && next - i == 1);
            sure = ended ? x[place] : std::nextafter(x[place], INFINITY);
        }
        before = with;
    }
    if (begun) bounds[0] = from, bounds[1] = sure, bounds[2] = bounds[3] = INFINITY;
}

// Leaves those nearest to the mean that together have the share.
void cut_typical(const float* x, int64_t width, double share, const float* odds, const Likely& row, float* bounds) {
    const float middle = float(double(row.top) + row.mean);
    const double low = (share - doubt(width)) * row.sum, high = (share + doubt(width)) * row.sum;
    const auto off = [&](int64_t i) { return std::fabs(x[i] - middle); };
    const Turn them = turn(
        x, width, odds, [&](F32 v) { return absolute(v - all(middle)); },
        [&](float v) { return std::fabs(v - middle); }, 0, 30, low, high);
    double before = them.before;
    double nearest = INFINITY, farthest = INFINITY;
    for (int64_t i = 0; i < them.count; ++i) {
        const int64_t place = int64_t(uint32_t(them.at[i]));
        before += odds[place];
        if (before >= low && nearest == INFINITY) nearest = off(place);
        if (before >= high) {
            farthest = off(place);
            break;
        }
    }
    // All of one score, and nobody else near: those are in.
    nearest -= 2 * NEAR, farthest += 2 * NEAR;
    F32 least = all(INFINITY), most = all(-INFINITY);
    const F32 first = all(std::nextafter(float(nearest), -INFINITY)), last = all(std::nextafter(float(farthest), INFINITY));
    for (int64_t i = 0; i < width; i += LANES) {
        const F32 v = some(x, i, width, -INFINITY), o = absolute(v - all(middle));
        const F32 near = where_less(first, o, where_less(o, last, v, all(NAN)), all(NAN));
        least = min(near, least), most = max(near, most);
    }
    if (top(zero() - least) == -top(most)) nearest = farthest;
    bounds[0] = float(middle - farthest), bounds[1] = float(middle - nearest);
    bounds[2] = float(middle + nearest), bounds[3] = float(middle + farthest);
}

void cut_row(const float* x, int64_t width, int32_t how, double amount, float* bounds) {
    float* odds = static_cast<float*>(scratch(OWN_MORE, width * 4));
    const Likely row = likely(x, width, odds);
    for (int i = 0; i < 4; ++i) bounds[i] = NAN;
    if (row.top != row.top) return;
    if (how == OF_TOP_P) return cut_top_p(x, width, amount, odds, row, bounds);
    if (how == OF_TYPICAL) return cut_typical(x, width, amount, odds, row, bounds);
    // The others leave out what is less likely than a limit. Here its logarithm, less the top.
    const double sum = std::log(row.sum), entropy = sum - row.mean, amounts = std::log(amount);
    double limit = amounts;
    if (how == OF_EPSILON) limit += sum;
    if (how == OF_ETA) limit = std::fmin(amounts, amounts / 2 - entropy) + sum;
    bounds[0] = std::fmin(row.top, float(row.top + limit - NEAR));
    bounds[1] = std::fmin(row.top, float(row.top + limit + NEAR));
    bounds[2] = bounds[3] = INFINITY;
}

// ---------------------------------------------------------------- draws

OF_INLINE float exact_race(float odds, double uniform) { return odds / float(-std::log1p(-uniform)); }

// The first of the highest of odds / q, with q = -log(1 - u), as if all of them were looked at: since q is at least u,
// only those whose odds / u is above somebody's odds / q are. What is no number is the highest.
template <class Uniform>
int64_t raced(const float* odds, int64_t count, Uniform&& uniform) {
    constexpr int64_t PIECE = 64;
    // Runs `body(i)` over those whose odds / u is above `bar`, which may rise; many are passed over at once.
    const auto each_above = [&](const double& bar, auto&& body) {
        for (int64_t begin = 0; begin < count; begin += PIECE) {
            const int64_t end = begin + PIECE < count ? begin + PIECE : count;
            int worth = 0;
            for (int64_t i = begin; i < end; ++i) worth |= !(double(odds[i]) <= bar * uniform(i));
            for (int64_t i = begin; worth && i < end; ++i)
                if (!(double(odds[i]) <= bar * uniform(i))) body(i);
        }
    };
    int64_t first = 0;
    double bar = 0;
    each_above(bar, [&](int64_t i) {
        const double ratio = double(odds[i]) / uniform(i);
        if (ratio > bar) bar = ratio, first = i;
    });
    bar = double(exact_race(odds[first], uniform(first))) * (1 - 1e-6);
    int64_t best = -1;
    float held = 0;
    each_above(bar, [&](int64_t i) {
        const float own = exact_race(odds[i], uniform(i));
        if (best < 0 || own > held || (own != own && held == held)) best = i, held = own;
    });
    return best < 0 ? first : best;
}

int64_t draw_row(const float* odds, const int64_t* tokens, int64_t count, const double* uniform) {
    if (tokens == nullptr) return raced(odds, count, [=](int64_t i) { return uniform[i]; });
    return raced(odds, count, [=](int64_t i) { return uniform[tokens[i]]; });
}

// ---------------------------------------------------------------- torch's numbers by chance

// Mersenne's twister of 624 words (Matsumoto and Nishimura, 1998), kept as torch keeps it: `left` words until all are
// made anew, `next` the first that was not given.
struct Twister {
    uint64_t seed;
    int32_t left, seeded;
    uint64_t next;
    uint64_t words[624];
};
constexpr int WORDS = 624, BEHIND = 397;

OF_INLINE uint32_t twisted(uint32_t high, uint32_t low) {
    const uint32_t mixed = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (mixed >> 1) ^ (0u - (low & 1u) & 0x9908b0dfu);
}

OF_INLINE uint32_t tempered(uint32_t y) {
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

// What torch's uniform_ of float64 makes: 53 bits of two words. Nowhere: the numbers are passed over.
void uniform_numbers(Twister& state, int64_t count, double* to) {
    uint32_t words[WORDS], made[2 * WORDS];
    for (int i = 0; i < WORDS; ++i) words[i] = uint32_t(state.words[i]);
    int next = int(state.next), left = state.left, held = 0;
    for (int64_t needed = 2 * count, written = 0; needed > 0;) {
        if (left == 1) {
            for (int i = 0; i < WORDS - BEHIND; ++i) words[i] = words[i + BEHIND] ^ twisted(words[i], words[i + 1]);
            for (int i = WORDS - BEHIND; i < WORDS - 1; ++i)
                words[i] = words[i + BEHIND - WORDS] ^ twisted(words[i], words[i + 1]);
            words[WORDS - 1] = words[BEHIND - 1] ^ twisted(words[WORDS - 1], words[0]);
            left = WORDS + 1, next = 0;
        }
        const int given = int(needed < left - 1 ? needed : left - 1);
        if (to != nullptr) {
            for (int i = 0; i < given; ++i) made[held + i] = tempered(words[next + i]);
            held += given;
            const int pairs = held / 2;
            for (int i = 0; i < pairs; ++i) {
                const int32_t high = int32_t(made[2 * i] & 0x1fffffu), low = int32_t(made[2 * i + 1] ^ 0x80000000u);
                to[written + i] = (double(high) * 4294967296.0 + (double(low) + 2147483648.0)) * 0x1p-53;
            }
            written += pairs;
            if (held & 1) made[0] = made[held - 1];
            held &= 1;
        }
        next += given, left -= given, needed -= given;
    }
    state.next = uint64_t(next), state.left = left;
    for (int i = 0; i < WORDS; ++i) state.words[i] = words[i];
}

// ---------------------------------------------------------------- the highest

OF_INLINE F32 some(const uint16_t* x, int64_t i, int64_t width, float rest) {
    if (i + LANES <= width) return load_bf16(x + i);
    float held[LANES];
    for (int j = 0; j < LANES; ++j) held[j] = i + j < width ? from_bf16(x[i + j]) : rest;
    return load(held);
}
OF_INLINE float one(const float* x, int64_t i) { return x[i]; }
OF_INLINE float one(const uint16_t* x, int64_t i) { return from_bf16(x[i]); }

// The first of the highest of a row; what is no number is above all.
template <class T>
int64_t highest(const T* x, int64_t width) {
    constexpr int64_t PIECE = 32 * LANES;
    float best = -INFINITY;
    int64_t where = 0;
    for (int64_t begin = 0; begin < width; begin += PIECE) {
        F32 tops[2] = {all(-INFINITY), all(-INFINITY)}, bad = zero();
        for (int64_t i = begin; i < begin + PIECE && i < width; i += 2 * LANES) {
            const F32 v = some(x, i, width, -INFINITY), w = some(x, i + LANES, width, -INFINITY);
            tops[0] = max(v, tops[0]), tops[1] = max(w, tops[1]);
            bad = where_number(v, where_number(w, bad, w), v);
        }
        const float odd = sum(bad);
        if (odd != odd)
            for (int64_t i = begin; i < begin + PIECE && i < width; ++i)
                if (one(x, i) != one(x, i)) return i;
        const float now = top(max(tops[0], tops[1]));
        if (now > best) best = now, where = begin;
    }
    for (int64_t i = where; i < width; ++i)
        if (one(x, i) == best) return i;
    return 0;
}

// The scores from low to high, or that are none, and where they stood; minus infinity and 0 behind.
void take_within(const float* x, int64_t width, float low, float high, float* to, int64_t* places, int64_t room) {
    int64_t count = 0;
    const bool rare = room * 64 < width;  // worth looking at sixteen at once
    for (int64_t i = 0; i < width && count < room; i += LANES) {
        if (rare) {
            const F32 v = some(x, i, width, -INFINITY);
            if (top(where_less(v, all(low), zero(), where_less(all(high), v, zero(), all(1.0f)))) == 0) continue;
        }
        for (int64_t j = i; j < width && j < i + LANES && count < room; ++j) {
            to[count] = x[j], places[count] = j;
            count += !(x[j] < low) & !(x[j] > high);
        }
    }
    for (; count < room; ++count) to[count] = -INFINITY, places[count] = 0;
}

// Runs `body(row)` over rows, and says whether there was memory.
template <class F>
int32_t each_row(int64_t rows, F&& body) {
    std::atomic<bool> failed{false};
    parallel(rows, 1, [&](int64_t begin, int64_t end, int) {
        try {
            for (int64_t row = begin; row < end; ++row) body(row);
        } catch (const std::bad_alloc&) {
            failed.store(true);  // nothing may be thrown out of another thread
        }
    });
    return failed.load() ? OF_NO_MEMORY : OF_OK;
}

OF_INLINE const float* row_of(const of_rows* x, int64_t row) {
    return static_cast<const float*>(x->at) + row * x->stride;
}

}  // namespace
}  // namespace of

extern "C" int32_t of_sort(const of_rows* x, const of_rows* sorted, int64_t* places) {
    return of::each_row(x->rows, [&](int64_t row) {
        float* to = static_cast<float*>(sorted->at) + row * sorted->stride;
        of::sort_row(of::row_of(x, row), x->width, to, places + row * x->width);
    });
}

extern "C" int32_t of_cut(const of_rows* x, int32_t how, double amount, float* bounds) {
    return of::each_row(x->rows, [&](int64_t row) {
        of::cut_row(of::row_of(x, row), x->width, how, amount, bounds + row * 4);
    });
}

extern "C" int32_t of_count_within(const of_rows* x, const float* bounds, int64_t* counts) {
    return of::each_row(x->rows, [&](int64_t row) {
        const float *scores = of::row_of(x, row), low = bounds[row * 4], high = bounds[row * 4 + 3];
        int32_t count = 0;
        for (int64_t i = 0; i < x->width; ++i) count += !(scores[i] < low) & !(scores[i] > high);
        counts[row] = count;
    });
}

extern "C" int32_t of_take_within(
    const of_rows* x, const float* bounds, const of_rows* taken, int64_t* places) {
    return of::each_row(x->rows, [&](int64_t row) {
        const float low = bounds[row * 4], high = bounds[row * 4 + 3];
        float* to = static_cast<float*>(taken->at) + row * taken->stride;
        of::take_within(of::row_of(x, row), x->width, low, high, to, places + row * taken->width, taken->width);
    });
}

extern "C" int32_t of_highest(const of_rows* x, int64_t* places) {
    if (x->kind != OF_F32 && x->kind != OF_BF16) return OF_UNKNOWN_KIND;
    return of::each_row(x->rows, [&](int64_t row) {
        const uint16_t* halves = static_cast<const uint16_t*>(x->at) + row * x->stride;
        places[row] = x->kind == OF_F32 ? of::highest(of::row_of(x, row), x->width) : of::highest(halves, x->width);
    });
}

extern "C" int64_t of_draw(const of_rows* odds, const int64_t* tokens, const double* uniform) {
    return of::draw_row(static_cast<const float*>(odds->at), tokens, odds->width, uniform);
}

extern "C" int64_t of_draw_on(const of_rows* odds, const int64_t* tokens, int64_t vocabulary, void* generator) {
    double* uniform = nullptr;
    try {
        if (odds != nullptr) uniform = static_cast<double*>(of::scratch(of::OWN_ROWS, vocabulary * 8));
    } catch (const std::bad_alloc&) {
        return -1;
    }
    of::uniform_numbers(*static_cast<of::Twister*>(generator), vocabulary, uniform);
    return odds == nullptr ? 0 : of_draw(odds, tokens, uniform);
}
