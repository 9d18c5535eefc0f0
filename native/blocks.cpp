// The blocks of GGUF files as panels: codes, scales and minima of every group, each exactly what the block says
// (https://github.com/ggml-org/ggml, ggml-quants.c; the same as src/omniform/weights/gguf/codes.py, which is the oracle).
//
// Sixteen rows are read a few blocks at a time, so that what is between the file and the panel stays in the first cache.
// Rows may come in any order, from several places, so that nobody has to put them together first.
#include <algorithm>
#include <new>

#include "floats.hpp"
#include "interleave.hpp"
#include "nibbles.hpp"
#include "pool.hpp"

namespace of {
namespace {

using Bytes = const uint8_t*;

constexpr int64_t STRIP = 256;  // numbers of a row at a time: whole blocks of any type

uint16_t half_bits(Bytes b) {
    uint16_t x;
    std::memcpy(&x, b, 2);
    return x;
}

float half(Bytes b) { return from_f16(half_bits(b)); }

typedef uint8_t Some __attribute__((vector_size(16)));

OF_INLINE Some some_at(const uint8_t* at) {
    Some x;
    std::memcpy(&x, at, sizeof x);
    return x;
}

OF_INLINE void put(uint8_t* at, Some x) { std::memcpy(at, &x, sizeof x); }

// The low four bits of N bytes, then the high ones.
template <int N>
OF_INLINE void split_nibbles(Bytes from, uint8_t* to) {
    if constexpr (N < 16) {
        for (int i = 0; i < N; ++i) to[i] = from[i] & 15, to[N + i] = from[i] >> 4;
        return;
    }
    for (int i = 0; i + 16 <= N; i += 16) {
        const Some x = some_at(from + i);
        put(to + i, x & 15);
        put(to + N + i, x >> 4);
    }
}

// The numbers of BITS bits that N bytes hold, the lowest of all bytes first, moved up and joined to what is there.
template <int BITS, int N, int UP>
OF_INLINE void join(Bytes from, uint8_t* to) {
    constexpr uint8_t MASK = (1 << BITS) - 1;
    for (int n = 0; n < 8 / BITS; ++n) {
        if constexpr (N < 16) {
            for (int i = 0; i < N; ++i) to[n * N + i] |= uint8_t((from[i] >> (BITS * n) & MASK) << UP);
            continue;
        }
        for (int i = 0; i + 16 <= N; i += 16)
            put(to + n * N + i, some_at(to + n * N + i) | (some_at(from + i) >> uint8_t(BITS * n) & MASK) << UP);
    }
}

OF_INLINE void less(uint8_t* codes, int count, uint8_t by) {
    for (int i = 0; i < count; i += 16) put(codes + i, some_at(codes + i) - by);
}

// A type of blocks has
//   SIZE, BYTES, GROUP        numbers and bytes of a block, and numbers that share a scale
//   KIND, Scale, MINIMA       its layout; uint16_t where scales are the file's own float16, else float; whether it has minima
//   codes(b, to)              SIZE codes, a byte each
//   meaning(b, scales, minima)

template <int FIRST>
struct OwnScale {
    using Scale = uint16_t;
    static void meaning(Bytes b, Scale* scales, Scale*) { scales[0] = half_bits(b + FIRST); }
};

struct OwnScaleAndMinimum {
    using Scale = uint16_t;
    static void meaning(Bytes b, Scale* scales, Scale* minima) { scales[0] = half_bits(b), minima[0] = half_bits(b + 2); }
};

template <int BYTES_, int GROUP_, of_kind KIND_, bool MINIMA_, int SIZE_ = 256>
struct Shape {
    static constexpr int SIZE = SIZE_, BYTES = BYTES_, GROUP = GROUP_;
    static constexpr of_kind KIND = KIND_;
    static constexpr bool MINIMA = MINIMA_;
};

struct Q4_0 : Shape<18, 32, OF_N4, false, 32>, OwnScale<0> {
    static void codes(Bytes b, uint8_t* to) { split_nibbles<16>(b + 2, to); }
};

struct Q4_1 : Shape<20, 32, OF_N4, true, 32>, OwnScaleAndMinimum {
    static void codes(Bytes b, uint8_t* to) { split_nibbles<16>(b + 4, to); }
};

// Four bits, and the fifth bits together.
template <int HIGH>
OF_INLINE void five_bits(Bytes b, uint8_t* to) {
    split_nibbles<16>(b + HIGH + 4, to);
    // Bit i of a byte to the i-th of eight bytes, four places up: a product puts it there, a bit of each byte is kept.
    for (int n = 0; n < 4; ++n) {
        uint64_t eight, bits = (uint64_t(b[HIGH + n] & 0x7f) * 0x02040810204081u & 0x0101010101010101u) | uint64_t(b[HIGH + n] >> 7) << 56;
        std::memcpy(&eight, to + 8 * n, 8);
        eight |= bits << 4;
        std::memcpy(to + 8 * n, &eight, 8);
    }
}

struct Q5_0 : Shape<22, 32, OF_I8, false, 32>, OwnScale<0> {
    static void codes(Bytes b, uint8_t* to) {
        five_bits<2>(b, to);
        less(to, SIZE, 16);
    }
};

struct Q5_1 : Shape<24, 32, OF_I8, true, 32>, OwnScaleAndMinimum {
    static void codes(Bytes b, uint8_t* to) { five_bits<4>(b, to); }
};

struct Q8_0 : Shape<34, 32, OF_I8, false, 32>, OwnScale<0> {
    static void codes(Bytes b, uint8_t* to) { std::memcpy(to, b + 2, 32); }
};

struct Q2_K : Shape<84, 16, OF_N4, true> {
    using Scale = float;
    static void codes(Bytes b, uint8_t* to) {
        std::memset(to, 0, SIZE);
        for (int part = 0; part < 2; ++part) join<2, 32, 0>(b + 16 + 32 * part, to + 128 * part);
    }
    static void meaning(Bytes b, float* scales, float* minima) {
        const float scale = half(b + 80), minimum = half(b + 82);
        for (int i = 0; i < 16; ++i) scales[i] = scale * float(b[i] & 15), minima[i] = -(minimum * float(b[i] >> 4));
    }
};

struct Q3_K : Shape<110, 16, OF_N4, false> {
    using Scale = float;
    static void codes(Bytes b, uint8_t* to) {
        std::memset(to, 0, SIZE);
        for (int part = 0; part < 2; ++part) join<2, 32, 0>(b + 32 + 32 * part, to + 128 * part);
        join<1, 32, 2>(b, to);
    }
    static void meaning(Bytes b, float* scales, float*) {
        uint8_t six[16];
        split_nibbles<8>(b + 96, six);
        join<2, 4, 4>(b + 104, six);
        for (int i = 0; i < 16; ++i) scales[i] = half(b + 108) * float(int(six[i]) - 32);
    }
};

// Eight scales and as many minima, of six bits, in twelve bytes.
struct SixBits {
    using Scale = float;
    static void meaning(Bytes b, float* scales, float* minima) {
        const float scale = half(b), minimum = half(b + 2);
        const Bytes s = b + 4;
        for (int i = 0; i < 4; ++i) {
            scales[i] = scale * float(s[i] & 63);
            scales[4 + i] = scale * float((s[8 + i] & 15) | s[i] >> 6 << 4);
            minima[i] = -(minimum * float(s[4 + i] & 63));
            minima[4 + i] = -(minimum * float(s[8 + i] >> 4 | s[4 + i] >> 6 << 4));
        }
    }
};

struct Q4_K : Shape<144, 32, OF_N4, true>, SixBits {
    static void codes(Bytes b, uint8_t* to) {
        for (int part = 0; part < 4; ++part) split_nibbles<32>(b + 16 + 32 * part, to + 64 * part);
    }
};

struct Q5_K : Shape<176, 32, OF_I8, true>, SixBits {
    static void codes(Bytes b, uint8_t* to) {
        for (int part = 0; part < 4; ++part) split_nibbles<32>(b + 48 + 32 * part, to + 64 * part);
        join<1, 32, 4>(b + 16, to);
    }
};

struct Q6_K : Shape<210, 16, OF_I8, false> {
    using Scale = float;
    static void codes(Bytes b, uint8_t* to) {
        for (int part = 0; part < 2; ++part) {
            split_nibbles<64>(b + 64 * part, to + 128 * part);
            join<2, 32, 4>(b + 128 + 32 * part, to + 128 * part);
        }
        less(to, SIZE, 32);
    }
    static void meaning(Bytes b, float* scales, float*) {
        const float scale = half(b + 208);
        for (int i = 0; i < 16; ++i) scales[i] = scale * float(int8_t(b[192 + i]));
    }
};

struct IQ4_NL : Q4_0 {};

struct IQ4_XS : Shape<136, 32, OF_N4, false> {
    using Scale = float;
    static void codes(Bytes b, uint8_t* to) {
        for (int part = 0; part < 8; ++part) split_nibbles<16>(b + 8 + 16 * part, to + 32 * part);
    }
    static void meaning(Bytes b, float* scales, float*) {
        const float scale = half(b);
        for (int i = 0; i < 8; ++i) {
            const int low = b[4 + i / 2] >> (4 * (i % 2)) & 15, high = b[2 + i / 4] >> (2 * (i % 4)) & 3;
            scales[i] = scale * float((low | high << 4) - 32);
        }
    }
};

struct MXFP4 : Shape<17, 32, OF_N4, false, 32> {
    using Scale = float;
    static void codes(Bytes b, uint8_t* to) { split_nibbles<16>(b + 1, to); }
    // Half of two to a power; below the smallest power that is normal, the bits of the fraction are set.
    static void meaning(Bytes b, float* scales, float*) {
        const uint32_t power = b[0];
        scales[0] = from_bits(power < 2 ? 0x00200000u << power : (power - 1) << 23);
    }
};

// Some blocks of a row: codes in the order of the layout's bytes, and scales sixteen apart.
template <class Type>
void read_blocks(Bytes from, int64_t blocks, uint8_t* line, typename Type::Scale* scales, typename Type::Scale* minima) {
    constexpr int GROUPS = Type::SIZE / Type::GROUP;
    alignas(64) uint8_t codes[STRIP];
    uint8_t* const whole = Type::KIND == OF_N4 ? codes : line;
    for (int64_t n = 0; n < blocks; ++n) {
        const Bytes b = from + n * Type::BYTES;
        typename Type::Scale own[GROUPS], least[GROUPS];
        Type::codes(b, whole + n * Type::SIZE);
        Type::meaning(b, own, least);
        for (int g = 0; g < GROUPS; ++g) {
            scales[(n * GROUPS + g) * LANES] = own[g];
            if (Type::MINIMA) minima[(n * GROUPS + g) * LANES] = least[g];
        }
    }
    if (Type::KIND != OF_N4) return;
    squeeze_whole(codes, blocks * Type::SIZE, line);
}

template <class Type>
int32_t pack_blocks(const of_blocks& source, const of_matrix& target) {
    using Scale = typename Type::Scale;
    constexpr int64_t SIZE = Type::SIZE, PER_BYTE = Type::KIND == OF_N4 ? 2 : 1, LINE = STRIP / PER_BYTE;
    if (target.kind != Type::KIND || target.scale_kind != (sizeof(Scale) == 2 ? OF_F16 : OF_F32) || target.ins % SIZE)
        return OF_UNKNOWN_KIND;
    const int64_t groups = target.ins / Type::GROUP, bytes = target.ins / PER_BYTE;
    char* const codes = static_cast<char*>(const_cast<void*>(target.codes));
    Scale* const scales = static_cast<Scale*>(const_cast<void*>(target.scales));
    Scale* const minima = static_cast<Scale*>(const_cast<void*>(target.minima));
    parallel(panels_of(target.outs), 1, [&](int64_t begin, int64_t end, int) {
        alignas(64) uint8_t lines[LANES * LINE];
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * LANES, count = std::min<int64_t>(LANES, target.outs - first);
            const int64_t meaning = panel * groups * LANES;
            if (count < LANES) {
                std::fill(scales + meaning, scales + meaning + groups * LANES, Scale(0));
                if (Type::MINIMA) std::fill(minima + meaning, minima + meaning + groups * LANES, Scale(0));
            }
            for (int64_t k = 0; k < target.ins; k += STRIP) {
                const int64_t blocks = std::min(STRIP, target.ins - k) / SIZE;
                const int64_t at = meaning + k / Type::GROUP * LANES;
                for (int64_t row = 0; row < count; ++row) {
                    const Bytes from = static_cast<Bytes>(source.rows[first + row]) + k / SIZE * Type::BYTES;
                    read_blocks<Type>(from, blocks, lines + row * LINE, scales + at + row,
                                      Type::MINIMA ? minima + at + row : nullptr);
                }
                const int64_t held = blocks * SIZE / PER_BYTE;
                interleave(Type::KIND == OF_N4 ? 4 : 2, reinterpret_cast<const char*>(lines), LINE, count, held, held,
                           codes + first * bytes + k / PER_BYTE * LANES);
            }
        }
    });
    return OF_OK;
}

// By the numbers that files have for types.
int32_t pack_any(const of_blocks& source, const of_matrix& target) {
    switch (source.type) {
        case 2: return pack_blocks<Q4_0>(source, target);
        case 3: return pack_blocks<Q4_1>(source, target);
        case 6: return pack_blocks<Q5_0>(source, target);
        case 7: return pack_blocks<Q5_1>(source, target);
        case 8: return pack_blocks<Q8_0>(source, target);
        case 10: return pack_blocks<Q2_K>(source, target);
        case 11: return pack_blocks<Q3_K>(source, target);
        case 12: return pack_blocks<Q4_K>(source, target);
        case 13: return pack_blocks<Q5_K>(source, target);
        case 14: return pack_blocks<Q6_K>(source, target);
        case 20: return pack_blocks<IQ4_NL>(source, target);
        case 23: return pack_blocks<IQ4_XS>(source, target);
        case 39: return pack_blocks<MXFP4>(source, target);
        default: return OF_UNKNOWN_KIND;
    }
}

}  // namespace
}  // namespace of

extern "C" int32_t of_pack_blocks(const of_blocks* source, const of_matrix* target) {
    try {
        return of::pack_any(*source, *target);
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}
