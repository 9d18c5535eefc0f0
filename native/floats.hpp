// How numbers of every kind are read: rows, and panels widened to float32.
#pragma once

#include <utility>

#include "abi.h"
#include "simd.hpp"

namespace of {

OF_INLINE int64_t padded_ins(int64_t ins) { return (ins + 7) / 8 * 8; }
OF_INLINE int64_t panels_of(int64_t outs) { return (outs + LANES - 1) / LANES; }

OF_INLINE int64_t groups_of(const of_matrix& w) { return (w.ins + w.group - 1) / w.group; }

// Scales or minima of sixteen outputs. at: [panel][group][16]
OF_INLINE F32 read_scale(const of_matrix& w, const void* at, int64_t panel, int64_t group) {
    const int64_t i = (panel * groups_of(w) + group) * LANES;
    return w.scale_kind == OF_F32 ? load(static_cast<const float*>(at) + i) : load_f16(static_cast<const uint16_t*>(at) + i);
}

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

OF_INLINE int64_t bytes_of(int32_t kind) { return kind == OF_F32 ? 4 : kind <= OF_F16 ? 2 : 1; }

OF_INLINE char* row_at(const of_rows& rows, int64_t row) {
    return static_cast<char*>(rows.at) + row * rows.stride * bytes_of(rows.kind);
}

// Calls f with 0 .. N - 1 as constants, in the order given.
template <class F, int... J>
OF_INLINE void each(F&& f, std::integer_sequence<int, J...>) {
    (f(std::integral_constant<int, J>{}), ...);
}

constexpr int64_t STEP = 8;  // inputs that a kernel takes at a time: matrices are padded to it
using InOrder = std::make_integer_sequence<int, STEP>;

// ---------------------------------------------------------------- panels
//
// A source reads one panel, eight inputs at a time: at(k) is where they lie, pick<J> widens the input k + J of sixteen
// outputs.

// Asks for what lies some way behind, so that it is in the first cache when its turn comes: panels lie one behind
// another, and the machine's own looking ahead ends at every page.
constexpr int64_t AHEAD = 4096;
template <int64_t BYTES>
OF_INLINE void look_ahead(const void* at) {
    for (int64_t i = 0; i < BYTES; i += 64) __builtin_prefetch(static_cast<const char*>(at) + AHEAD + i);
}

// Asks for scales or minima that a later block wants: a core comes by so few of their lines, and so seldom, that the
// machine does not see that they follow one another. at: none, or [panel][group][16]
OF_INLINE void look_for_scales(const of_matrix& w, const void* at, int64_t panel, int64_t group, int64_t count) {
    if (at == nullptr) return;
    const int64_t line = LANES * (w.scale_kind == OF_F32 ? 4 : 2);
    const char* first = static_cast<const char*>(at) + (panel * groups_of(w) + group) * line;
    for (int64_t i = 0; i < count * line; i += 64) __builtin_prefetch(first + i);
}

struct ReadF32 {
    using Raw = const float*;
    const float* codes;
    ReadF32(const of_matrix& w, int64_t panel)
        : codes(static_cast<const float*>(w.codes) + panel * padded_ins(w.ins) * LANES) {}
    OF_INLINE_METHOD Raw at(int64_t k) const {
        look_ahead<STEP * LANES * int64_t(sizeof(*codes))>(codes + k * LANES);
        return codes + k * LANES;
    }
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const { return load(raw + J * LANES); }
};

struct ReadHalves {
    using Raw = const uint16_t*;
    const uint16_t* codes;
    ReadHalves(const of_matrix& w, int64_t panel)
        : codes(static_cast<const uint16_t*>(w.codes) + panel * padded_ins(w.ins) * LANES) {}
    OF_INLINE_METHOD Raw at(int64_t k) const {
        look_ahead<STEP * LANES * int64_t(sizeof(*codes))>(codes + k * LANES);
        return codes + k * LANES;
    }
};

struct ReadBF16 : ReadHalves {
    using ReadHalves::ReadHalves;
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const {
        const I32 pair = load_ints(raw + J / 2 * 2 * LANES);
        return J % 2 ? as_float(pair & all_ints(int32_t(0xffff0000u))) : as_float(shift_left<16>(pair));
    }
};

struct ReadF16 : ReadHalves {
    using ReadHalves::ReadHalves;
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const { return load_f16(raw + J * LANES); }
};

struct ReadBytes {
    using Raw = const uint8_t*;
    const uint8_t* codes;
    ReadBytes(const of_matrix& w, int64_t panel)
        : codes(static_cast<const uint8_t*>(w.codes) + panel * padded_ins(w.ins) * LANES) {}
    OF_INLINE_METHOD Raw at(int64_t k) const {
        look_ahead<STEP * LANES * int64_t(sizeof(*codes))>(codes + k * LANES);
        return codes + k * LANES;
    }
};

struct ReadE4M3 : ReadBytes {
    using ReadBytes::ReadBytes;
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const { return load_e4m3(raw + J * LANES); }
};

struct ReadE5M2 : ReadBytes {
    using ReadBytes::ReadBytes;
    template <int J>
    OF_INLINE_METHOD F32 pick(Raw raw) const { return load_e5m2(raw + J * LANES); }
};

// Codes with scales, as the float32 numbers that they stand for: scale * code + minimum, rounded once.
struct ReadScaled {
    const of_matrix& w;
    int64_t panel;
    ReadScaled(const of_matrix& w, int64_t panel) : w(w), panel(panel) {}
    OF_INLINE_METHOD F32 scale(int64_t k) const { return read_scale(w, w.scales, panel, k / w.group); }
    OF_INLINE_METHOD F32 minimum(int64_t k) const {
        return w.minima == nullptr ? zero() : read_scale(w, w.minima, panel, k / w.group);
    }
};

struct ReadI8 : ReadScaled {
    using ReadScaled::ReadScaled;
    struct Raw { const int8_t* codes; F32 scale, minimum; };
    OF_INLINE_METHOD Raw at(int64_t k) const {
        const int8_t* codes = static_cast<const int8_t*>(w.codes) + (panel * padded_ins(w.ins) + k) * LANES;
        return {codes, scale(k), minimum(k)};
    }
    template <int J>
    OF_INLINE_METHOD F32 pick(const Raw& raw) const {
        const Pairs both = load_bytes(raw.codes + J / 2 * 2 * LANES);
        return fma(raw.scale, to_float(madd(both, all_pairs(J % 2 ? 1 << 16 : 1), no_ints())), raw.minimum);
    }
};

struct ReadN4 : ReadScaled {
    using ReadScaled::ReadScaled;
    struct Raw { I32 codes; F32 scale, minimum; };
    OF_INLINE_METHOD Raw at(int64_t k) const {
        const int8_t* codes = static_cast<const int8_t*>(w.codes) + (panel * padded_ins(w.ins) + k) * LANES / 2;
        return {load_ints(codes), scale(k), minimum(k)};
    }
    template <int J>
    OF_INLINE_METHOD F32 pick(const Raw& raw) const {
        const I32 code = shift_right<J % 2 * 16 + J / 2 * 4>(raw.codes) & all_ints(15);
        const F32 means = w.table == nullptr ? to_float(code) : look_up(w.table, code);
        return fma(raw.scale, means, raw.minimum);
    }
};

// The inputs from `begin` to `end` of a panel as float32. to: [input][16]
template <class Source>
inline void widen_panel(const Source& source, int64_t begin, int64_t end, float* to) {
    for (int64_t k = begin; k < end; k += STEP, to += STEP * LANES) {
        const typename Source::Raw raw = source.at(k);
        each([&](auto j) OF_INLINE_LAMBDA { store(to + j * LANES, source.template pick<j>(raw)); }, InOrder());
    }
}

}  // namespace of
