// From rows of floats to panels and back.
#include <algorithm>

#include "floats.hpp"
#include "pool.hpp"

namespace of {
namespace {

constexpr int64_t SIDE = 16;

// Whether an input's numbers lie in pairs, (k, k + 1) of every output.
bool in_pairs(int32_t kind) { return kind == OF_BF16; }

int64_t place(bool pairs, int64_t k, int64_t lane) {
    return pairs ? (k / 2 * LANES + lane) * 2 + k % 2 : k * LANES + lane;
}

// One panel, `Number` by `Number`, sixteen inputs at a time, so that every line of the rows is read once.
template <class Number>
void pack_panel(const of_rows& source, bool pairs, int64_t panel, Number* to) {
    const int64_t first = panel * LANES, outs = std::min<int64_t>(LANES, source.rows - first);
    const int64_t ins = padded_ins(source.width);
    for (int64_t begin = 0; begin < ins; begin += SIDE) {
        const int64_t end = std::min(begin + SIDE, ins);
        Number some[SIDE][LANES] = {};
        for (int64_t lane = 0; lane < outs; ++lane) {
            const Number* row = static_cast<const Number*>(source.at) + (first + lane) * source.stride;
            for (int64_t k = begin; k < std::min(end, source.width); ++k) some[k - begin][lane] = row[k];
        }
        for (int64_t k = begin; k < end; ++k)
            for (int64_t lane = 0; lane < LANES; ++lane) to[place(pairs, k, lane)] = some[k - begin][lane];
    }
}

template <class Number>
void unpack_panel(const Number* from, bool pairs, int64_t panel, const of_rows& target) {
    const int64_t first = panel * LANES, outs = std::min<int64_t>(LANES, target.rows - first);
    for (int64_t lane = 0; lane < outs; ++lane) {
        Number* row = static_cast<Number*>(target.at) + (first + lane) * target.stride;
        for (int64_t k = 0; k < target.width; ++k) row[k] = from[place(pairs, k, lane)];
    }
}

int64_t bytes_of_code(int32_t kind) {
    return kind == OF_F32 ? 4 : kind == OF_BF16 || kind == OF_F16 ? 2 : 1;
}

}  // namespace
}  // namespace of

extern "C" int64_t of_packed_bytes(int32_t kind, int64_t outs, int64_t ins) {
    const int64_t numbers = of::panels_of(outs) * of::LANES * of::padded_ins(ins);
    return kind == OF_N4 ? numbers / 2 : numbers * of::bytes_of_code(kind);
}

extern "C" int32_t of_pack(const of_rows* source, int32_t kind, void* codes) {
    if (kind != OF_F32 && kind != OF_BF16 && kind != OF_F16) return OF_UNKNOWN_KIND;
    const int64_t size = of::LANES * of::padded_ins(source->width);
    of::parallel(of::panels_of(source->rows), 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t panel = begin; panel < end; ++panel) {
            if (kind == OF_F32) of::pack_panel(*source, false, panel, static_cast<float*>(codes) + panel * size);
            else of::pack_panel(*source, of::in_pairs(kind), panel, static_cast<uint16_t*>(codes) + panel * size);
        }
    });
    return OF_OK;
}

extern "C" int32_t of_unpack(const of_matrix* matrix, of_rows* target) {
    const int32_t kind = matrix->kind;
    if (kind != OF_F32 && kind != OF_BF16 && kind != OF_F16) return OF_UNKNOWN_KIND;
    const int64_t size = of::LANES * of::padded_ins(matrix->ins);
    of::parallel(of::panels_of(matrix->outs), 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t panel = begin; panel < end; ++panel) {
            if (kind == OF_F32) of::unpack_panel(static_cast<const float*>(matrix->codes) + panel * size, false, panel, *target);
            else of::unpack_panel(static_cast<const uint16_t*>(matrix->codes) + panel * size, of::in_pairs(kind), panel, *target);
        }
    });
    return OF_OK;
}
