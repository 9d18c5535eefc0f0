// From rows to panels and back, bit for bit.
#include <algorithm>
#include <new>

#include "floats.hpp"
#include "interleave.hpp"
#include "nibbles.hpp"
#include "pool.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace of {
namespace {

// Bytes of a unit that is interleaved, in the order of of_kind.
int unit_of(int32_t kind) {
    constexpr int UNITS[] = {4, 4, 2, 1, 1, 2, 4};
    return UNITS[kind];
}

int64_t row_bytes(int32_t kind, int64_t ins) {
    constexpr int64_t HALF_BYTES[] = {8, 4, 4, 2, 2, 2, 1};
    return HALF_BYTES[kind] * ins / 2;
}

bool known(int32_t kind) { return kind >= OF_F32 && kind <= OF_N4; }

// Codes of a row, a byte each, to half as many bytes; zeros behind them.
void squeeze(const uint8_t* codes, int64_t ins, uint32_t* to) {
    const int64_t whole = ins / 32 * 32;
    squeeze_whole(codes, whole, reinterpret_cast<uint8_t*>(to));
    for (int64_t i = whole / 8; i < padded_ins(ins) / 8; ++i) {
        uint64_t eight = 0;
        std::memcpy(&eight, codes + 8 * i, size_t(std::min<int64_t>(8, ins - 8 * i)));
        to[i] = uint32_t(eight_nibbles(eight));
    }
}

template <class Source>
void widen_all(const of_matrix& w, int64_t panel, float* to) {
    widen_panel(Source(w, panel), 0, padded_ins(w.ins), to);
}

// A panel as floats, whatever it holds. to: [input][16]
void widen_panel_of(const of_matrix& w, int64_t panel, float* to) {
    switch (w.kind) {
        case OF_F32: return widen_all<ReadF32>(w, panel, to);
        case OF_BF16: return widen_all<ReadBF16>(w, panel, to);
        case OF_F16: return widen_all<ReadF16>(w, panel, to);
        case OF_F8_E4M3: return widen_all<ReadE4M3>(w, panel, to);
        case OF_F8_E5M2: return widen_all<ReadE5M2>(w, panel, to);
        case OF_I8: return widen_all<ReadI8>(w, panel, to);
        case OF_N4: return widen_all<ReadN4>(w, panel, to);
    }
}

// Memory that is written for the first time comes in pages of 2 MB where the system has them: fewer faults now, and
// fewer misses of the page table at every product.
void in_large_pages(void* at, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t LARGE = uintptr_t(1) << 21;
    const uintptr_t begin = (uintptr_t(at) + LARGE - 1) & ~(LARGE - 1), end = (uintptr_t(at) + uintptr_t(bytes)) & ~(LARGE - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)at, (void)bytes;
#endif
}

void pack(const of_rows& source, int32_t kind, char* codes) {
    const int64_t held = row_bytes(kind, kind == OF_N4 ? padded_ins(source.width) : source.width);
    const int64_t padded = row_bytes(kind, padded_ins(source.width));
    parallel(panels_of(source.rows), 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * LANES, count = std::min<int64_t>(LANES, source.rows - first);
            const char* rows = row_at(source, first);
            int64_t apart = source.stride * bytes_of(source.kind);
            if (kind == OF_N4) {
                char* squeezed = static_cast<char*>(scratch(OWN_ROWS, LANES * held));
                for (int64_t row = 0; row < count; ++row)
                    squeeze(reinterpret_cast<const uint8_t*>(rows + row * apart), source.width,
                            reinterpret_cast<uint32_t*>(squeezed + row * held));
                rows = squeezed, apart = held;
            }
            interleave(unit_of(kind), rows, apart, count, held, padded, codes + first * padded);
        }
    });
}

void unpack(const of_matrix& matrix, const of_rows& target) {
    const bool as_it_is = target.kind == matrix.kind;
    const int64_t held = bytes_of(target.kind) * matrix.ins, padded = bytes_of(target.kind) * padded_ins(matrix.ins);
    parallel(panels_of(matrix.outs), 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * LANES, count = std::min<int64_t>(LANES, matrix.outs - first);
            const char* from = static_cast<const char*>(matrix.codes) + first * padded;
            if (!as_it_is) {
                float* wide = static_cast<float*>(scratch(OWN_PANEL, LANES * padded));
                widen_panel_of(matrix, panel, wide);
                from = reinterpret_cast<const char*>(wide);
            }
            separate(unit_of(target.kind), from, padded, row_at(target, first), target.stride * bytes_of(target.kind), count, held);
        }
    });
}

}  // namespace
}  // namespace of

extern "C" int64_t of_packed_bytes(int32_t kind, int64_t outs, int64_t ins) {
    return of::row_bytes(kind, of::panels_of(outs) * of::LANES * of::padded_ins(ins));
}

extern "C" void of_in_large_pages(void* at, int64_t bytes) { of::in_large_pages(at, bytes); }

extern "C" int32_t of_pack(const of_rows* source, int32_t kind, void* codes) {
    // Four bits come as a byte each.
    if (!of::known(kind) || of::bytes_of(source->kind) != (kind == OF_N4 ? 1 : of::row_bytes(kind, 1)))
        return OF_UNKNOWN_KIND;
    try {
        of::pack(*source, kind, static_cast<char*>(codes));
        return OF_OK;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}

extern "C" int32_t of_unpack(const of_matrix* matrix, of_rows* target) {
    if (!of::known(matrix->kind) || (target->kind != matrix->kind && target->kind != OF_F32)) return OF_UNKNOWN_KIND;
    if (target->kind >= OF_I8) return OF_UNKNOWN_KIND;
    try {
        of::unpack(*matrix, *target);
        return OF_OK;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}
