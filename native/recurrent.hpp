// What takes a state of fixed size from token to token: causal convolutions, and linear recurrences.
//
// Tokens are read one after another, whatever else is in the step and however a row is cut: a state is one chain of
// products and sums, and so is every output. Columns of a state that know nothing of one another are computed side by
// side, and by several threads. Rows are float32, given as elsewhere by their first number and the stride from one to
// the next. Tokens that no reading has (padding) become zeros.
#pragma once

#include "abi.h"

namespace of {

// Rows of float32: those of a buffer, or some columns of them.
struct Columns {
    const float* at;
    int64_t stride;
    const float* row(int64_t n) const { return at + n * stride; }
};

// A step as its recurrences read it.
struct Readings {
    const of_reading* each;
    int64_t count, rows;    // rows: of the whole step, with padding
    const of_fixed* state;  // none: all begin at zero, and nothing is kept
};

// out[t][c] = sum of taps[i][c] x[t - width + 1 + i][c], in the order of i, + bias[c]. What came before the step is
// kept of every row, [width - 1][channels]; where that is in halves, inputs are rounded to these first, so that a row
// may be cut anywhere.
struct Convolution {
    const float* taps;  // [width][channels]
    const float* bias;  // [channels]; or none
    int64_t width, channels;
};
constexpr int64_t MOST_TAPS = 16;
void convolve(const Convolution& how, const Readings& readings, Columns x, float* out, int64_t out_stride);

// Each head keeps a matrix S of `keys` rows and `values` columns. A token lets it fade, adds its value in the direction
// of its key, and reads it in the direction of its query:
//     S = exp(g) S;  S = S + k (beta v);  out = S' q
// or, where the head `corrects` what it remembers, S = S + k (beta (v - S' k)).
struct Recurrence {
    Columns q, k, v, g, beta;  // [key_heads][keys] twice, [heads][values], [heads] twice
    int64_t key_heads, heads, keys, values;
    bool corrects;
};
void recur(const Recurrence& how, const Readings& readings, float* out, int64_t out_stride);

// Every channel keeps `size` numbers: S = exp(dt A) S + (dt x) b;  out = S c.
struct Scan {
    Columns x, b, c, dt;  // [channels], [size] twice, [channels]
    const float* rates;   // A, by sixteen channels: [channels / 16][size][16]
    int64_t channels, size;
};
void scan(const Scan& how, const Readings& readings, float* out, int64_t out_stride);

}  // namespace of
