// A stack of layers as one call: a flat list of operations over buffers of float32, each a call of a kernel.
//
// A new operation is a code in abi.h, a function in program.cpp and its line in the table there. What a program may
// hold was checked where it was made (src/omniform/transforms/program.py).
#pragma once

#include "abi.h"

namespace of {

// Throws std::bad_alloc.
void run(const of_program& program, const of_step& step);

// Each row's experts and their shares (mixtures of experts). x: scores, a row of `count` each.
void route(const of_routing& how, const float* x, int64_t x_stride, int64_t count, float* shares, int64_t shares_stride,
           float* chosen, int64_t chosen_stride, int64_t rows);

// Rows through their experts, times their shares, summed in the order in which they were chosen.
void through_experts(const of_experts& how, const of_rows& x, const float* shares, int64_t shares_stride,
                     const float* chosen, int64_t chosen_stride, int64_t top, const of_rows& out);

}  // namespace of
