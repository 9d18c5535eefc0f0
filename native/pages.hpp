// How keys and values are read from where they lie: numbers of a kind, widened to float32, sixteen at a time.
#pragma once

#include <type_traits>

#include "abi.h"
#include "turn.hpp"

namespace of {

// A kind says how many of its numbers a word of 32 bits holds, how a column of sixteen words becomes that many columns
// of numbers, and how sixteen numbers that lie side by side are read.
struct PageF32 {
    static constexpr int IN_WORD = 1, BYTES = 4;
    OF_INLINE void split(I32 words, F32* out) { out[0] = as_float(words); }
    OF_INLINE F32 sixteen(const char* at) { return load(reinterpret_cast<const float*>(at)); }
};

struct PageBF16 {
    static constexpr int IN_WORD = 2, BYTES = 2;
    OF_INLINE void split(I32 words, F32* out) {
        out[0] = as_float(shift_left<16>(words));
        out[1] = as_float(words & all_ints(int32_t(0xffff0000u)));
    }
    OF_INLINE F32 sixteen(const char* at) { return load_bf16(reinterpret_cast<const uint16_t*>(at)); }
};

struct PageF16 {
    static constexpr int IN_WORD = 2, BYTES = 2;
    // As from_f16: the exponent is moved by a product, which is exact, subnormals included.
    OF_INLINE F32 widened(I32 half) {
        const I32 rest = shift_left<13>(half & all_ints(0x7fff)), sign = shift_left<16>(half & all_ints(0x8000));
        const F32 made = as_float(rest) * all(5.192296858534828e33f);  // 2^112
        const F32 beyond = as_float(rest | all_ints(0x7f800000));     // infinite, or none
        return as_float(as_int(where_less(all(65504.0f), made, beyond, made)) | sign);
    }
    OF_INLINE void split(I32 words, F32* out) {
        out[0] = widened(words);
        out[1] = widened(shift_right<16>(words));
    }
    OF_INLINE F32 sixteen(const char* at) { return load_f16(reinterpret_cast<const uint16_t*>(at)); }
};

struct PageI8 {
    static constexpr int IN_WORD = 4, BYTES = 1;
    // Under the exponent of 2^23 a byte is its own number, 128 too many.
    OF_INLINE F32 widened(I32 byte) {
        const I32 above = (byte + all_ints(128)) & all_ints(255);
        return as_float(above | all_ints(0x4b000000)) - all(8388608.0f + 128.0f);
    }
    OF_INLINE void split(I32 words, F32* out) {
        out[0] = widened(words);
        out[1] = widened(shift_right<8>(words));
        out[2] = widened(shift_right<16>(words));
        out[3] = widened(shift_right<24>(words));
    }
    OF_INLINE F32 sixteen(const char* at) {
        int32_t some[LANES];
        for (int i = 0; i < LANES; ++i) some[i] = reinterpret_cast<const int8_t*>(at)[i];
        return to_float(load_ints(some));
    }
};

// Groups of 32 numbers in 20 bytes: a step and the least number in bfloat16, then codes of four bits, number j of the
// group in the lower half of byte j, number 16 + j in its upper half. A number is least + step * code. Rows are padded to
// whole groups, so sixteen can be read wherever some are.
struct PageN4 {
    static constexpr int64_t GROUP = 32, BYTES = 20;
    OF_INLINE F32 from_bf16(const char* at) {
        uint16_t half;
        std::memcpy(&half, at, 2);
        const uint32_t bits = uint32_t(half) << 16;
        float found;
        std::memcpy(&found, &bits, 4);
        return all(found);
    }
    OF_INLINE F32 panel(const char* row, int64_t panel) {
        const char* group = row + panel / 2 * BYTES;
        const uint8_t* codes = reinterpret_cast<const uint8_t*>(group + 4);
        int32_t some[LANES];
        if (panel % 2 == 0) for (int i = 0; i < LANES; ++i) some[i] = codes[i] & 15;
        else for (int i = 0; i < LANES; ++i) some[i] = codes[i] >> 4;
        return fma(to_float(load_ints(some)), from_bf16(group), from_bf16(group + 2));
    }
};

// Sixteen numbers of a row.
template <class Page>
OF_INLINE F32 panel_of(const char* row, int64_t panel) {
    return Page::sixteen(row + panel * LANES * Page::BYTES);
}
template <>
inline __attribute__((always_inline)) F32 panel_of<PageN4>(const char* row, int64_t panel) {
    return PageN4::panel(row, panel);
}

// The last sixteen of a row, or the n that are there and zeros.
template <class Page>
OF_INLINE F32 some_of(const char* row, int64_t panel, int64_t n) {
    if constexpr (std::is_same_v<Page, PageN4>) return panel_of<Page>(row, panel);
    else {
        if (n >= LANES) return panel_of<Page>(row, panel);
        char some[LANES * Page::BYTES] = {};
        std::memcpy(some, row + panel * LANES * Page::BYTES, size_t(n) * Page::BYTES);
        return Page::sixteen(some);
    }
}

// Sixteen keys as columns, widened. Shape: 16 rows of `width` numbers to [width][16].
template <class Page>
void turn_keys(const char* const* rows, int64_t width, float* to) {
    constexpr int64_t STEP = WORDS * Page::IN_WORD;
    const auto put = [&](int64_t d, const I32* words) {
        for (int w = 0; w < WORDS; ++w) {
            F32 out[Page::IN_WORD];
            Page::split(words[w], out);
            for (int p = 0; p < Page::IN_WORD; ++p) {
                const int64_t at = d + w * Page::IN_WORD + p;
                if (at < width) store(to + at * LANES, out[p]);
            }
        }
    };
    int64_t d = 0;
    I32 words[WORDS];
    for (; d + STEP <= width; d += STEP) {
        turn(rows, d * Page::BYTES, words);
        put(d, words);
    }
    if (d == width) return;
    char rest[LANES][WORDS * 4] = {};
    const char* at[LANES];
    for (int r = 0; r < LANES; ++r) {
        std::memcpy(rest[r], rows[r] + d * Page::BYTES, size_t(width - d) * Page::BYTES);
        at[r] = rest[r];
    }
    turn(at, 0, words);
    put(d, words);
}

// Those of groups are widened first, a group at a time.
template <>
inline void turn_keys<PageN4>(const char* const* rows, int64_t width, float* to) {
    float wide[LANES][PageN4::GROUP];
    const char* at[LANES];
    for (int r = 0; r < LANES; ++r) at[r] = reinterpret_cast<const char*>(wide[r]);
    for (int64_t d = 0; d < width; d += PageN4::GROUP) {
        for (int r = 0; r < LANES; ++r) {
            store(wide[r], PageN4::panel(rows[r], d / LANES));
            store(wide[r] + LANES, PageN4::panel(rows[r], d / LANES + 1));
        }
        turn_keys<PageF32>(at, width - d < PageN4::GROUP ? width - d : PageN4::GROUP, to + d * LANES);
    }
}

// Values from the first to the last, widened, sixteen channels of all of them after another sixteen.
// Shape: rows of `width` numbers to [width / 16][stride][16], zeros behind the end of the width.
template <class Page>
void widen_values(const char* const* rows, int64_t first, int64_t last, int64_t width, int64_t stride, float* to) {
    for (int64_t i = 0; i < width; i += LANES, to += stride * LANES)
        for (int64_t j = first; j < last; ++j) store(to + j * LANES, some_of<Page>(rows[j], i / LANES, width - i));
}

// Runs `with(Page())`, the page being of this kind.
template <class F>
auto with_page(int32_t kind, F&& with) {
    switch (kind) {
        case OF_BF16: return with(PageBF16());
        case OF_F16: return with(PageF16());
        case OF_I8: return with(PageI8());
        case OF_N4: return with(PageN4());
        default: return with(PageF32());
    }
}

// Bytes of what strides count: of a number, but where numbers are kept in groups a byte.
inline int64_t bytes_in_page(int32_t kind) {
    return kind == OF_N4 ? 1 : with_page(kind, [](auto page) { return int64_t(decltype(page)::BYTES); });
}

// Bytes of a head's numbers in a slot.
inline int64_t bytes_of_row(int32_t kind, int64_t width) {
    if (kind == OF_N4) return (width + PageN4::GROUP - 1) / PageN4::GROUP * PageN4::BYTES;
    return width * bytes_in_page(kind);
}

}  // namespace of
