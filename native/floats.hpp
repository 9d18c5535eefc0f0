// How the float layouts are read: two inputs of sixteen outputs at a time, widened to float32.
#pragma once

#include "abi.h"
#include "simd.hpp"

namespace of {

struct ReadF32 {
    using Code = float;
    OF_INLINE void two(const Code* panel, int64_t k, F32& even, F32& odd) {
        even = load(panel + k * LANES);
        odd = load(panel + (k + 1) * LANES);
    }
};

struct ReadBF16 {
    using Code = uint16_t;
    OF_INLINE void two(const Code* panel, int64_t k, F32& even, F32& odd) { load_bf16_pairs(panel + k * LANES, even, odd); }
};

struct ReadF16 {
    using Code = uint16_t;
    OF_INLINE void two(const Code* panel, int64_t k, F32& even, F32& odd) {
        even = load_f16(panel + k * LANES);
        odd = load_f16(panel + (k + 1) * LANES);
    }
};

OF_INLINE int64_t padded_ins(int64_t ins) { return (ins + 7) / 8 * 8; }
OF_INLINE int64_t panels_of(int64_t outs) { return (outs + LANES - 1) / LANES; }

// Sixteen numbers of a row of any kind, or fewer at its end; zeros behind them.
OF_INLINE F32 read_row(const void* at, int32_t kind, int64_t i, int64_t width) {
    const int64_t left = width - i;
    if (kind == OF_F32) {
        const float* p = static_cast<const float*>(at) + i;
        return left >= LANES ? load(p) : load_some(p, int(left));
    }
    const uint16_t* p = static_cast<const uint16_t*>(at) + i;
    uint16_t some[LANES] = {};
    if (left < LANES) {
        std::memcpy(some, p, size_t(left) * 2);
        p = some;
    }
    return kind == OF_BF16 ? load_bf16(p) : load_f16(p);
}

OF_INLINE void write_row(void* at, int32_t kind, int64_t i, int64_t width, F32 x) {
    const int64_t left = width - i;
    if (kind == OF_F32) {
        float* p = static_cast<float*>(at) + i;
        if (left >= LANES) store(p, x);
        else store_some(p, x, int(left));
        return;
    }
    uint16_t* p = static_cast<uint16_t*>(at) + i;
    uint16_t some[LANES];
    uint16_t* to = left < LANES ? some : p;
    if (kind == OF_BF16) store_bf16(to, x);
    else store_f16(to, x);
    if (left < LANES) std::memcpy(p, some, size_t(left) * 2);
}

OF_INLINE int64_t bytes_of(int32_t kind) { return kind == OF_F32 ? 4 : 2; }

OF_INLINE char* row_at(const of_rows& rows, int64_t row) {
    return static_cast<char*>(rows.at) + row * rows.stride * bytes_of(rows.kind);
}

}  // namespace of
