// A program that runs the kernels on buffers of exactly the size that they may touch, for the sanitizers and for
// machines that are emulated. A case is a function and its name in the table of the file it is in.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "abi.h"
#include "simd.hpp"

#define CHECK(said)                                                            \
    do {                                                                       \
        if (!(said)) {                                                         \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #said); \
            std::exit(1);                                                      \
        }                                                                      \
    } while (0)

struct Case {
    const char* name;
    void (*run)();
};

// Numbers that repeat from run to run; not of high quality.
inline uint32_t draw() {
    static uint32_t state = 12345;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}
inline float drawn() { return float(int32_t(draw() % 2001) - 1000) / 500.0f; }

// So many items on the heap, not one byte more, from a multiple of 64 on (or `off` items behind one).
template <class T>
class Exact {
  public:
    explicit Exact(int64_t count, int64_t off = 0) : count_(count), off_(off) {
        void* made = nullptr;
        if (posix_memalign(&made, 64, size_t(count + off) * sizeof(T) + (count + off == 0)) != 0) std::abort();
        whole_ = static_cast<T*>(made);
        std::memset(made, 0, size_t(count + off) * sizeof(T));
    }
    ~Exact() { std::free(whole_); }
    Exact(const Exact&) = delete;
    Exact& operator=(const Exact&) = delete;
    T* at() { return whole_ + off_; }
    T& operator[](int64_t i) { return whole_[off_ + i]; }
    int64_t count() const { return count_; }

  private:
    T* whole_;
    int64_t count_, off_;
};

// Rows of numbers of one kind, with a stride; the last row ends where it ends.
class Rows {
  public:
    Rows(int32_t kind, int64_t rows, int64_t width, int64_t gap = 0)
        : kind_(kind), width_(width), stride_(width + gap),
          bytes_(rows == 0 ? 0 : ((rows - 1) * (width + gap) + width) * size(kind)) {
        c = {bytes_.at(), rows, width, stride_, kind, 0};
    }
    static int64_t size(int32_t kind) { return kind == OF_F32 ? 4 : 2; }
    void set(int64_t row, int64_t i, float x) {
        if (kind_ == OF_F32) std::memcpy(place(row, i), &x, 4);
        else {
            const uint16_t bits = kind_ == OF_BF16 ? of::to_bf16(x) : of::to_f16(x);
            std::memcpy(place(row, i), &bits, 2);
        }
    }
    float get(int64_t row, int64_t i) {
        if (kind_ == OF_F32) {
            float x;
            std::memcpy(&x, place(row, i), 4);
            return x;
        }
        uint16_t bits;
        std::memcpy(&bits, place(row, i), 2);
        return kind_ == OF_BF16 ? of::from_bf16(bits) : of::from_f16(bits);
    }
    Rows& fill() {
        for (int64_t row = 0; row < c.rows; ++row)
            for (int64_t i = 0; i < width_; ++i) set(row, i, drawn());
        return *this;
    }
    of_rows c;

  private:
    uint8_t* place(int64_t row, int64_t i) { return bytes_.at() + (row * stride_ + i) * size(kind_); }
    int32_t kind_;
    int64_t width_, stride_;
    Exact<uint8_t> bytes_;
};

template <size_t N>
int run_all(const Case (&cases)[N], int count, char** names) {
    for (const Case& each : cases) {
        bool chosen = count < 2;
        for (int i = 1; i < count; ++i) chosen = chosen || std::strcmp(names[i], each.name) == 0;
        if (!chosen) continue;
        each.run();
        std::printf("%s\n", each.name);
        std::fflush(stdout);
    }
    return 0;
}
