// What happens between products: norms, rotary positions, activations, gates, sums, softmax. All on rows of float32.
//
// Rows are given by their first number and the stride from one to the next (in numbers); neighbours within a row lie
// side by side. A result may take the place of an input (same address and stride), and not overlap one otherwise.
// Numbers of a row depend on that row alone, and are the same whatever rows are beside it and however many threads.
#pragma once

#include "abi.h"

namespace of {

// y = norm(x) weight + bias, over every group of `width` numbers of a row: sums in sixteen lanes of four chains, in an
// order that the width alone decides.
struct Norm {
    const float* weight;  // [width], or [groups][width] where weight_step is width; none for ones
    const float* bias;    // likewise; none for zeros
    int64_t groups;       // in a row, one after another (heads); 1 for the whole row
    int64_t width;        // of a group
    int64_t weight_step;  // from a group's weights to the next group's: 0 where all share them
    float eps;            // added to the mean square or the variance
    bool centred;         // a layer norm, of the numbers less their mean; else a root mean square norm
};
void normalise(const Norm& norm, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows);

// Turns the first `dim` channels of every head; the others are copied.
struct Rotary {
    const float* cos;  // [rows][dim], with a stride of table_stride
    const float* sin;  // likewise, with the sign it is added with
    int64_t table_stride;
    int64_t heads, width;  // heads in a row, and channels in a head
    int64_t x_step, y_step; // from a head to the next: its width, where they stand one after another
    int64_t dim;           // even
    bool neighbours;       // channel 2 i is paired with 2 i + 1; else i with i + dim / 2
};
// y[i] = x[i] cos[i] + x[partner of i] sin[i].
void rotate(const Rotary& rotary, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows);

// y = act(x); `act` is an of_act.
void activate(int32_t act, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width);

struct Gate {
    int32_t act;  // an of_act, or OF_CLAMPED_SWISH
    float limit;  // of OF_CLAMPED_SWISH: bound of gates from above, and of ups from either side
    float alpha;  // of OF_CLAMPED_SWISH: factor within the sigmoid
    int64_t step; // from a number to the next in gate and up: 1, or 2 where they lie interleaved (up = gate + 1)
};
// y = act(gate) up; of OF_CLAMPED_SWISH (up + 1) gate sigmoid(alpha gate), both bounded (gpt-oss).
void gate(
    const Gate& how, const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, float* y,
    int64_t y_stride, int64_t rows, int64_t width);

// z = x + factor y.
void add(
    const float* x, int64_t x_stride, const float* y, int64_t y_stride, float factor, float* z, int64_t z_stride,
    int64_t rows, int64_t width);

// z = x y.
void times(
    const float* x, int64_t x_stride, const float* y, int64_t y_stride, float* z, int64_t z_stride, int64_t rows,
    int64_t width);

// y = factor x.
void scale(float factor, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width);

// y = softmax of every row.
void softmax(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width);

// y = cap tanh(x / cap).
void bounded(float cap, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows, int64_t width);

// Rows of one kind of floats (OF_F32, OF_BF16, OF_F16) to another, rounded to the nearest, ties to even.
void convert(const of_rows& x, const of_rows& y);

}  // namespace of
