// Codes of four bits, a byte each, to half as many bytes.
#pragma once

#include <cstdint>
#include <cstring>

namespace of {

// Eight codes, a byte each, as two numbers of 16 bits: those at even places and those at odd ones.
template <class Long>  // uint64_t, or a vector of them
inline Long eight_nibbles(Long codes) {
    const uint64_t pairs = 0x000000ff000000ffu, halves = 0xffff;
    codes &= 0x0f0f0f0f0f0f0f0fu;
    Long even = (codes | codes >> 12) & pairs, odd = (codes >> 8 | codes >> 20) & pairs;
    even = (even | even >> 24) & halves;
    odd = (odd | odd >> 24) & halves;
    return even | odd << 16;
}

// A multiple of 32 codes. to: half as many bytes
inline void squeeze_whole(const uint8_t* codes, int64_t count, uint8_t* to) {
    typedef uint64_t Longs __attribute__((vector_size(32)));
    typedef uint32_t Lanes __attribute__((vector_size(16)));
    for (int64_t i = 0; i < count; i += 32) {
        Longs some;
        std::memcpy(&some, codes + i, 32);
        const Lanes lanes = __builtin_convertvector(eight_nibbles(some), Lanes);
        std::memcpy(to + i / 2, &lanes, 16);
    }
}

}  // namespace of
