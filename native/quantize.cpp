// Integer matrices made of floats: of every group of inputs a scale, and codes.
//
// A panel is interleaved first, so that a lane is an output: sixteen groups are made at once, and codes come out as the
// layout wants them. Scales are rounded first, and codes made from what they became.
#include <atomic>
#include <new>

#include "floats.hpp"
#include "interleave.hpp"
#include "pool.hpp"

namespace of {
namespace {

// Sixteen groups: numbers that lie [input][16].
struct Group {
    const float* numbers;
    int64_t count;

    OF_INLINE_METHOD F32 operator[](int64_t k) const { return load(numbers + k * LANES); }
};

struct Fit {
    F32 scale, minimum;
};

// As the matrix will hold it.
OF_INLINE F32 held(F32 x, int32_t kind) {
    if (kind == OF_F32) return x;
    uint16_t some[LANES];
    store_f16(some, x);
    return load_f16(some);
}

OF_INLINE F32 inverse(F32 scale) { return where_less(zero(), absolute(scale), all(1.0f) / scale, zero()); }

OF_INLINE F32 within(F32 x, float low, float high) { return min(max(rounded(x), all(low)), all(high)); }

// What is lost: the sum of squares of number - (scale * code + minimum).
F32 loss(const Group& group, const Fit& fit, float low, float high) {
    const F32 by = inverse(fit.scale);
    F32 total = zero();
    for (int64_t k = 0; k < group.count; ++k) {
        const F32 x = group[k] - fit.minimum, off = x - within(x * by, low, high) * fit.scale;
        total = fma(off, off, total);
    }
    return total;
}

void keep_better(const Group& group, const Fit& fit, float low, float high, Fit& best, F32& least) {
    const F32 lost = loss(group, fit, low, high);
    best.scale = where_less(lost, least, fit.scale, best.scale);
    best.minimum = where_less(lost, least, fit.minimum, best.minimum);
    least = min(lost, least);
}

struct Extremes {
    F32 least, most, poison;  // poison: zero, or no number where an infinity or what is no number is among them
};

Extremes extremes(const Group& group) {
    Extremes e{group[0], group[0], zero()};
    for (int64_t k = 0; k < group.count; ++k) {
        e.least = min(group[k], e.least);
        e.most = max(group[k], e.most);
        e.poison = fma(group[k], zero(), e.poison);
    }
    return e;
}

Fit fit_bytes(const Group&, const Extremes& e, int32_t kind) {
    const F32 most = max(e.most, zero() - e.least);
    return {held(most * all(1.0f / 127.0f), kind), zero()};
}

// Codes of -8 .. 7. The number that is furthest from zero has the code -8 at first; then scales around that are tried,
// since a group loses less where its greatest numbers are cut a little or less fine steps fit the others.
Fit fit_even_nibbles(const Group& group, const Extremes& e, int32_t kind) {
    const F32 far = where_less(e.most, zero() - e.least, e.least, e.most);
    Fit best{held(far * all(-1.0f / 8.0f), kind), zero()};
    F32 least = loss(group, best, -8.0f, 7.0f);
    for (float steps : {-7.2f, -7.6f, -8.4f, -8.8f, 7.4f, 6.9f})
        keep_better(group, {held(far * all(1.0f / steps), kind), zero()}, -8.0f, 7.0f, best, least);
    return best;
}

// Codes of 0 .. 15 above a minimum: from the least to the most, or between, where both ends are cut.
Fit fit_nibbles(const Group& group, const Extremes& e, int32_t kind) {
    const F32 span = e.most - e.least, middle = e.least + span * all(0.5f);
    Fit best{held(span * all(1.0f / 15.0f), kind), held(e.least, kind)};
    F32 least = loss(group, best, 0.0f, 15.0f);
    for (float share : {0.97f, 0.93f, 0.88f, 0.82f})
        keep_better(group, {held(span * all(share / 15.0f), kind), held(middle - span * all(share * 0.5f), kind)},
                    0.0f, 15.0f, best, least);
    // The line through what the best codes stand for, by least squares.
    const F32 by = inverse(best.scale);
    F32 n = zero(), q = zero(), qq = zero(), x = zero(), qx = zero();
    for (int64_t k = 0; k < group.count; ++k) {
        const F32 code = within((group[k] - best.minimum) * by, 0.0f, 15.0f);
        n += all(1.0f), q += code, x += group[k];
        qq = fma(code, code, qq), qx = fma(code, group[k], qx);
    }
    const F32 slope = (n * qx - q * x) * inverse(n * qq - q * q);
    keep_better(group, {held(slope, kind), held((x - slope * q) / n, kind)}, 0.0f, 15.0f, best, least);
    return best;
}

// Codes as bytes, two inputs in a lane of 16 bits.
void write_bytes(const Group& group, const Fit& fit, char* to) {
    const F32 by = inverse(fit.scale);
    for (int64_t k = 0; k < group.count; k += 2) {
        const I32 even = to_int(within(group[k] * by, -127.0f, 127.0f)), odd = to_int(within(group[k + 1] * by, -127.0f, 127.0f));
        // As shorts with a sign, so that none is cut to another on its way.
        const I32 pair = shift_left<8>(odd) + (even & all_ints(255));
        store_shorts(reinterpret_cast<int16_t*>(to + k * LANES), pair);
    }
}

void write_nibbles(const Group& group, const Fit& fit, float low, float high, char* to) {
    const F32 by = inverse(fit.scale);
    for (int64_t k = 0; k < group.count; k += 8) {
        I32 lanes = no_ints();
        auto add = [&](int64_t i) {
            return to_int(within((group[k + i] - fit.minimum) * by, low, high) - all(low)) & all_ints(15);
        };
        lanes = add(0) | shift_left<4>(add(2)) | shift_left<8>(add(4)) | shift_left<12>(add(6));
        lanes = lanes | shift_left<16>(add(1) | shift_left<4>(add(3)) | shift_left<8>(add(5)) | shift_left<12>(add(7)));
        store_ints(to + k * LANES / 2, lanes);
    }
}

void write_scale(void* at, int32_t kind, int64_t i, F32 x) {
    if (kind == OF_F32) store(static_cast<float*>(at) + i, x);
    else store_f16(static_cast<uint16_t*>(at) + i, x);
}

// Whether float16 holds all of these: zero, or not so small that little is left of its digits, and not too great.
bool fits_f16(F32 exact) {
    float some[LANES];
    store(some, absolute(exact));
    for (float x : some)
        if (x < INFINITY && (x > 65504.0f || (x > 0.0f && x < 1e-6f))) return false;
    return true;
}

// Whether its scales could be held.
bool quantize_group(const of_matrix& target, const Group& group, int64_t panel, int64_t n) {
    const int64_t first = n * target.group, ins = padded_ins(target.ins), at = (panel * groups_of(target) + n) * LANES;
    char* codes = static_cast<char*>(const_cast<void*>(target.codes)) + of_packed_bytes(target.kind, LANES, ins) * panel;
    const Extremes e = extremes(group);
    Fit fit;
    if (target.kind == OF_I8) {
        fit = fit_bytes(group, e, target.scale_kind);
        write_bytes(group, fit, codes + first * LANES);
    } else if (target.minima == nullptr) {
        fit = fit_even_nibbles(group, e, target.scale_kind);
        write_nibbles(group, fit, -8.0f, 7.0f, codes + first * LANES / 2);
    } else {
        fit = fit_nibbles(group, e, target.scale_kind);
        write_nibbles(group, fit, 0.0f, 15.0f, codes + first * LANES / 2);
        write_scale(const_cast<void*>(target.minima), target.scale_kind, at, fit.minimum + e.poison);
    }
    write_scale(const_cast<void*>(target.scales), target.scale_kind, at, fit.scale + e.poison);
    const F32 greatest = max(e.most, zero() - e.least);
    return target.scale_kind == OF_F32 || fits_f16(greatest * all(target.kind == OF_I8 ? 1.0f / 127.0f : 1.0f / 15.0f));
}

template <class Source>
bool quantize_panel(const of_rows& source, const of_matrix& target, int64_t panel) {
    const int64_t first = panel * LANES, count = std::min<int64_t>(LANES, source.rows - first);
    const int64_t ins = padded_ins(source.width), size = bytes_of(source.kind);
    char* packed = static_cast<char*>(scratch(OWN_ROWS, LANES * ins * size));
    interleave(source.kind == OF_F16 ? 2 : 4, row_at(source, first), source.stride * size, count, source.width * size,
               ins * size, packed);
    const of_matrix alone{packed, nullptr, nullptr, nullptr, LANES, source.width, source.width, source.kind, 0};
    const Source reader(alone, 0);
    bool fits = true;
    for (int64_t n = 0; n < groups_of(target); ++n) {
        const int64_t begin = n * target.group, end = std::min(begin + target.group, ins);
        float* numbers = static_cast<float*>(scratch(OWN_PANEL, (end - begin) * LANES * 4));
        widen_panel(reader, begin, end, numbers);
        // What pads the inputs must not widen what a group spans.
        const int64_t real = std::min(end, source.width) - begin;
        for (int64_t k = real; k < end - begin; ++k) store(numbers + k * LANES, load(numbers + (real - 1) * LANES));
        fits = quantize_group(target, {numbers, end - begin}, panel, n) && fits;
    }
    return fits;
}

bool quantize(const of_rows& source, const of_matrix& target) {
    std::atomic<bool> fits{true};
    parallel(panels_of(source.rows), 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t panel = begin; panel < end && fits; ++panel) {
            const bool well = source.kind == OF_F32    ? quantize_panel<ReadF32>(source, target, panel)
                              : source.kind == OF_BF16 ? quantize_panel<ReadBF16>(source, target, panel)
                                                       : quantize_panel<ReadF16>(source, target, panel);
            if (!well) fits = false;
        }
    });
    return fits;
}

}  // namespace
}  // namespace of

extern "C" int32_t of_quantize(const of_rows* source, const of_matrix* target) {
    if (source->kind > OF_F16 || (target->kind != OF_I8 && target->kind != OF_N4)) return OF_UNKNOWN_KIND;
    try {
        return of::quantize(*source, *target) ? OF_OK : OF_OUT_OF_RANGE;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}

extern "C" int32_t of_pack_scales(const of_rows* source, void* scales) {
    if (source->kind != OF_F32 && source->kind != OF_F16) return OF_UNKNOWN_KIND;
    const int64_t size = of::bytes_of(source->kind);
    for (int64_t first = 0; first < source->rows; first += of::LANES)
        of::interleave(int(size), of::row_at(*source, first), source->stride * size, std::min<int64_t>(of::LANES, source->rows - first),
                       source->width * size, source->width * size, static_cast<char*>(scales) + first * source->width * size);
    return OF_OK;
}
