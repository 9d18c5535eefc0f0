// The scores of a large vocabulary in order.
#include <atomic>
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

// Digit by digit, the last first, each time in the order that was there: equal scores stay in the order of places.
void sort_row(const float* x, int64_t width, float* sorted, int64_t* places) {
    uint64_t* from = static_cast<uint64_t*>(scratch(OWN_ROWS, width * 8));
    uint64_t* to = static_cast<uint64_t*>(scratch(OWN_SUMS, width * 8));
    int64_t(*starts)[BINS] = static_cast<int64_t(*)[BINS]>(scratch(OWN_PANEL, DIGITS * BINS * 8));
    std::memset(starts, 0, DIGITS * BINS * 8);
    for (int64_t i = 0; i < width; ++i) {
        const uint32_t key = ordered(x[i]);
        from[i] = uint64_t(key) << 32 | uint32_t(i);
        for (int d = 0; d < DIGITS; ++d) ++starts[d][key >> (d * DIGIT) & (BINS - 1)];
    }
    for (int d = 0; d < DIGITS; ++d) {
        int64_t before = 0;
        for (int b = 0; b < BINS; ++b) before += std::exchange(starts[d][b], before);
        for (int64_t i = 0; i < width; ++i) {
            const uint32_t key = uint32_t(from[i] >> 32);
            to[starts[d][key >> (d * DIGIT) & (BINS - 1)]++] = from[i];
        }
        std::swap(from, to);
    }
    for (int64_t i = 0; i < width; ++i) {
        places[i] = int64_t(uint32_t(from[i]));
        sorted[i] = x[places[i]];
    }
}

}  // namespace
}  // namespace of

extern "C" int32_t of_sort(const of_rows* x, const of_rows* sorted, int64_t* places) {
    std::atomic<bool> failed{false};
    of::parallel(x->rows, 1, [&](int64_t begin, int64_t end, int) {
        try {
            for (int64_t row = begin; row < end; ++row)
                of::sort_row(
                    static_cast<const float*>(x->at) + row * x->stride, x->width,
                    static_cast<float*>(sorted->at) + row * sorted->stride, places + row * x->width);
        } catch (const std::bad_alloc&) {
            failed.store(true);  // nothing may be thrown out of another thread
        }
    });
    return failed.load() ? OF_NO_MEMORY : OF_OK;
}
