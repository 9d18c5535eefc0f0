// The machine's tiles (AMX): eight registers of up to sixteen lines of 64 bytes, and products of whole tiles.
// Architecture: Intel, "Intel Architecture Instruction Set Extensions", chapter "Intel AMX".
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.hpp"

#if defined(__AMX_BF16__)
#define OF_TILES 1
#elif defined(OF_PLAIN_TILES)
#define OF_TILES 1
#endif

#if OF_TILES
namespace of {

constexpr int64_t TILE_LINES = 16, TILE_BYTES = 64;

// Tiles 0 to 3 hold sums and 4 and 5 rows, `rows` lines of each; 6 and 7 hold weights, all their lines. A thread has the
// tiles for as long as this lives: in between, the system has less to save when it changes threads.
class Tiles {
  public:
    explicit Tiles(int64_t rows);
    ~Tiles();
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

#if defined(__AMX_BF16__)

inline Tiles::Tiles(int64_t rows) {
    struct { uint8_t palette, start, unused[14]; uint16_t bytes[16]; uint8_t lines[16]; } shapes = {};
    static_assert(sizeof shapes == 64, "what LDTILECFG reads");
    shapes.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
        shapes.bytes[tile] = TILE_BYTES;
        shapes.lines[tile] = uint8_t(tile < 6 ? rows : TILE_LINES);
    }
    _tile_loadconfig(&shapes);
}
inline Tiles::~Tiles() { _tile_release(); }

// The compilers' own functions for these want a number written out, which a template has not.
template <int TO> OF_INLINE void load_tile(const void* from) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(TO), "r"(from), "r"(TILE_BYTES) : "memory");
}
template <int FROM> OF_INLINE void store_tile(void* to) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(FROM), "r"(to), "r"(TILE_BYTES) : "memory");
}
template <int SUMS, int ROWS, int WEIGHTS> OF_INLINE void tile_dots() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ROWS), "i"(WEIGHTS));
}

#else  // Stands in for the instructions, so that what is made of them is tested on every machine.

inline thread_local char plain_tiles[8][TILE_LINES * TILE_BYTES];
inline thread_local int64_t plain_rows;

inline Tiles::Tiles(int64_t rows) { plain_rows = rows; }
inline Tiles::~Tiles() { plain_rows = 0; }

OF_INLINE size_t bytes_of_tile(int tile) { return size_t((tile < 6 ? plain_rows : TILE_LINES) * TILE_BYTES); }
template <int TO> OF_INLINE void load_tile(const void* from) { std::memcpy(plain_tiles[TO], from, bytes_of_tile(TO)); }
template <int FROM> OF_INLINE void store_tile(void* to) { std::memcpy(to, plain_tiles[FROM], bytes_of_tile(FROM)); }
template <int SUMS, int ROWS, int WEIGHTS> OF_INLINE void tile_dots() {
    const auto at = [](int tile, int64_t line, int64_t i) {
        uint16_t half;
        std::memcpy(&half, plain_tiles[tile] + line * TILE_BYTES + i * 2, 2);
        return from_bf16(half);
    };
    for (int64_t row = 0; row < plain_rows; ++row)
        for (int64_t out = 0; out < LANES; ++out) {
            char* sum = plain_tiles[SUMS] + row * TILE_BYTES + out * 4;
            float s;
            std::memcpy(&s, sum, 4);
            for (int64_t k = 0; k < 2 * TILE_LINES; ++k)
                s += at(ROWS, row, k) * at(WEIGHTS, k / 2, out * 2 + k % 2);
            std::memcpy(sum, &s, 4);
        }
}

#endif

}  // namespace of
#endif
