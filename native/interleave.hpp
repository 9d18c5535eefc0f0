// Sixteen rows of units (of 1, 2 or 4 bytes) to lines of sixteen units, one of every row, and back.
//
// All layouts are this: float32, pairs of bf16 and eight nibbles are units of four bytes; float16 and pairs of int8 of
// two; fp8 of one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace of {

constexpr int64_t CHUNK = 64;  // bytes of a row that are taken at a time: a line of the cache

template <class Unit>
struct Vector {
    typedef Unit Type __attribute__((vector_size(16)));
    static constexpr int COUNT = 16 / sizeof(Unit);
};

#if defined(__clang__) || __GNUC__ >= 12
#define OF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif

inline Vector<uint32_t>::Type low_halves(Vector<uint32_t>::Type a, Vector<uint32_t>::Type b) {
    return OF_SHUFFLE(a, b, 0, 4, 1, 5);
}
inline Vector<uint32_t>::Type high_halves(Vector<uint32_t>::Type a, Vector<uint32_t>::Type b) {
    return OF_SHUFFLE(a, b, 2, 6, 3, 7);
}
inline Vector<uint16_t>::Type low_halves(Vector<uint16_t>::Type a, Vector<uint16_t>::Type b) {
    return OF_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline Vector<uint16_t>::Type high_halves(Vector<uint16_t>::Type a, Vector<uint16_t>::Type b) {
    return OF_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
inline Vector<uint8_t>::Type low_halves(Vector<uint8_t>::Type a, Vector<uint8_t>::Type b) {
    return OF_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vector<uint8_t>::Type high_halves(Vector<uint8_t>::Type a, Vector<uint8_t>::Type b) {
    return OF_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// A square of COUNT x COUNT units: what lay `from_apart` bytes apart lies `to_apart` apart. Joining the first half of
// the vectors with the second, unit by unit, as often as there are bits in COUNT, is the transpose.
template <class Unit>
inline void turn(const char* from, int64_t from_apart, char* to, int64_t to_apart) {
    constexpr int N = Vector<Unit>::COUNT;
    typename Vector<Unit>::Type a[N], b[N];
    for (int i = 0; i < N; ++i) std::memcpy(&a[i], from + i * from_apart, 16);
    for (int n = 1; n < N; n *= 2) {
        for (int i = 0; i < N / 2; ++i) {
            b[2 * i] = low_halves(a[i], a[i + N / 2]);
            b[2 * i + 1] = high_halves(a[i], a[i + N / 2]);
        }
        std::memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < N; ++i) std::memcpy(to + i * to_apart, &a[i], 16);
}

// `bytes` of each of sixteen rows, at most CHUNK of them or any multiple. to: [units][16]
template <class Unit>
inline void interleave_whole(const char* rows, int64_t apart, char* to) {
    constexpr int64_t N = Vector<Unit>::COUNT, LINE = 16 * sizeof(Unit);
    for (int64_t row = 0; row < 16; row += N)
        for (int64_t at = 0; at < CHUNK; at += 16)
            turn<Unit>(rows + row * apart + at, apart, to + at * 16 + row * int64_t(sizeof(Unit)), LINE);
}

template <class Unit>
inline void separate_whole(const char* from, char* rows, int64_t apart) {
    constexpr int64_t N = Vector<Unit>::COUNT, LINE = 16 * sizeof(Unit);
    for (int64_t row = 0; row < 16; row += N)
        for (int64_t at = 0; at < CHUNK; at += 16)
            turn<Unit>(from + at * 16 + row * int64_t(sizeof(Unit)), LINE, rows + row * apart + at, apart);
}

// Up to sixteen rows that lie `apart` bytes apart and hold `held` bytes each, as if they had `padded` bytes and there
// were sixteen: what they lack is zero.
template <class Unit>
void interleave(const char* rows, int64_t apart, int64_t count, int64_t held, int64_t padded, char* to) {
    for (int64_t at = 0; at < padded; at += CHUNK) {
        if (count == 16 && at + CHUNK <= held) {
            interleave_whole<Unit>(rows + at, apart, to + at * 16);
            continue;
        }
        char some[16 * CHUNK] = {}, turned[16 * CHUNK];
        for (int64_t row = 0; row < count && at < held; ++row)
            std::memcpy(some + row * CHUNK, rows + row * apart + at, size_t(std::min(CHUNK, held - at)));
        interleave_whole<Unit>(some, CHUNK, turned);
        std::memcpy(to + at * 16, turned, size_t(std::min(CHUNK, padded - at) * 16));
    }
}

template <class Unit>
void separate(const char* from, int64_t padded, char* rows, int64_t apart, int64_t count, int64_t held) {
    for (int64_t at = 0; at < held; at += CHUNK) {
        if (count == 16 && at + CHUNK <= held) {
            separate_whole<Unit>(from + at * 16, rows + at, apart);
            continue;
        }
        char turned[16 * CHUNK] = {}, some[16 * CHUNK];
        std::memcpy(turned, from + at * 16, size_t(std::min(CHUNK, padded - at) * 16));
        separate_whole<Unit>(turned, some, CHUNK);
        for (int64_t row = 0; row < count; ++row)
            std::memcpy(rows + row * apart + at, some + row * CHUNK, size_t(std::min(CHUNK, held - at)));
    }
}

// By the size of a unit.
inline void interleave(int unit, const char* rows, int64_t apart, int64_t count, int64_t held, int64_t padded, char* to) {
    if (unit == 4) return interleave<uint32_t>(rows, apart, count, held, padded, to);
    if (unit == 2) return interleave<uint16_t>(rows, apart, count, held, padded, to);
    interleave<uint8_t>(rows, apart, count, held, padded, to);
}

inline void separate(int unit, const char* from, int64_t padded, char* rows, int64_t apart, int64_t count, int64_t held) {
    if (unit == 4) return separate<uint32_t>(from, padded, rows, apart, count, held);
    if (unit == 2) return separate<uint16_t>(from, padded, rows, apart, count, held);
    separate<uint8_t>(from, padded, rows, apart, count, held);
}

}  // namespace of
