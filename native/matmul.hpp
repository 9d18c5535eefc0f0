// Products with packed matrices, for who calls from C++.
#pragma once

#include "abi.h"

namespace of {

// y = x matrix^T (+ bias): see of_matmul. All threads take part, unless the caller is in a chunk of a parallel call.
// Throws std::bad_alloc; a kind of matrix that is not known is the caller's bug, and leaves y as it was.
void matmul(const of_matrix& matrix, const of_rows& x, const float* bias, const of_rows& y, int32_t flags);

}  // namespace of
