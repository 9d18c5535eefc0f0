// Keys and values on their way into pages.
#include <algorithm>

#include "attention.hpp"
#include "floats.hpp"
#include "functions.hpp"
#include "pages.hpp"
#include "pool.hpp"

namespace of {
namespace {

constexpr int64_t SHARE = 16384;  // numbers that are worth waking a thread for

// Whole numbers from -127 to 127, times a scale. Shape: [width]. A row with what is no number is kept as none.
void keep_bytes(const float* x, int64_t width, int8_t* to, float* scale) {
    F32 most = zero(), nothing = zero();
    for (int64_t i = 0; i < width; i += LANES) {
        const F32 v = read_row(x, OF_F32, i, width);
        most = max(magnitude(v), most);
        nothing = fma(v, zero(), nothing);
    }
    const float greatest = top(most);
    // An infinite row has no scale either, and its products are none, as they would be.
    *scale = sum(nothing) == 0.0f ? greatest / 127.0f : NAN;
    const F32 factor = all(greatest > 0.0f ? 127.0f / greatest : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        int32_t codes[LANES];
        store_ints(codes, to_int(read_row(x, OF_F32, i, width) * factor));
        for (int64_t j = i; j < std::min(i + LANES, width); ++j) to[j] = int8_t(codes[j - i]);
    }
}

uint16_t to_bf16(float x) {
    uint16_t some[LANES];
    store_bf16(some, all(x));
    return some[0];
}

float from_bf16(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

// One group of four bits a number; those behind the end are as the least. A group with what is no finite number is none.
void keep_group(const float* x, int64_t count, uint8_t* to) {
    float least = x[0], most = x[0], nothing = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
        least = std::min(least, x[i]);
        most = std::max(most, x[i]);
        nothing += x[i] * 0.0f;
    }
    const bool finite = nothing == 0.0f;
    const uint16_t parts[2] = {to_bf16(finite ? (most - least) / 15.0f : NAN), to_bf16(finite ? least : NAN)};
    std::memcpy(to, parts, 4);
    const float step = from_bf16(parts[0]), low = from_bf16(parts[1]);
    const F32 factor = all(step > 0.0f ? 1.0f / step : 0.0f);
    int32_t codes[2 * LANES];
    for (int64_t i = 0; i < 2 * LANES; i += LANES) {
        const F32 some = i >= count ? all(low) : count - i >= LANES ? load(x + i) : load_some(x + i, int(count - i));
        const F32 scaled = (some - all(low)) * factor;
        store_ints(codes + i, to_int(min(max(scaled, zero()), all(15.0f))));
    }
    for (int64_t i = 0; i < LANES; ++i) {
        const int32_t high = i + LANES < count ? codes[i + LANES] & 15 : 0;
        to[4 + i] = uint8_t((i < count ? codes[i] & 15 : 0) | high << 4);
    }
}

void keep_nibbles(const float* x, int64_t width, uint8_t* to) {
    for (int64_t i = 0; i < width; i += PageN4::GROUP, to += PageN4::BYTES)
        keep_group(x + i, std::min(PageN4::GROUP, width - i), to);
}

void keep_row(const of_state& state, const float* x, int64_t slot) {
    for (int64_t head = 0; head < state.heads; ++head, x += state.width) {
        const int64_t at = head * state.head_stride + slot * state.slot_stride;
        if (state.kind == OF_I8) {
            keep_bytes(x, state.width, static_cast<int8_t*>(state.at) + at, state.scales + head * state.scale_stride + slot);
            continue;
        }
        if (state.kind == OF_N4) {
            keep_nibbles(x, state.width, static_cast<uint8_t*>(state.at) + at);
            continue;
        }
        char* to = static_cast<char*>(state.at) + at * bytes_of(state.kind);
        for (int64_t i = 0; i < state.width; i += LANES)
            write_row(to, state.kind, i, state.width, read_row(x, OF_F32, i, state.width));
    }
}

}  // namespace

void keep(const of_state& state, const float* x, int64_t stride, const int64_t* slots, int64_t rows) {
    const int64_t numbers = std::max<int64_t>(1, state.heads * state.width);
    parallel(rows, std::max<int64_t>(1, SHARE / numbers), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row)
            if (slots[row] >= 0) keep_row(state, x + row * stride, slots[row]);
    });
}

}  // namespace of

extern "C" int32_t of_keep(const of_state* state, const of_rows* x, const int64_t* slots) {
    of::keep(*state, static_cast<const float*>(x->at), x->stride, slots, x->rows);
    return OF_OK;
}
