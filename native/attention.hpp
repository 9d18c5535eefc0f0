// Attention of queries to keys that lie in pages, and what writes keys and values there.
//
// What one query gets depends on the query, on the keys it sees and on their places in its row, and on nothing else:
// not on the queries beside it, not on how its row was cut into steps, not on the pages, not on the threads. To that
// end keys are taken in blocks of 64, counted from the row's key 0, and for each query, in the order of the blocks:
//
//   score   one chain of fma over the width, times the scale, bounded by the cap, plus the bias
//   most    the greatest score so far (a sink is a score from the beginning on, of a key without a value)
//   sums    times e^(old most - new most); then one chain of fma over the block's keys
//   weight  likewise, in sixteen lanes (key j in lane j % 16), which are added up at the end
//
// What a query does not see has no part in it, whatever lies there (NaN too). Who sees nothing gets zeros.
#pragma once

#include "abi.h"

namespace of {

// Every struct is described in abi.h. Throws std::bad_alloc.
void attend(const of_attention& call);

// Writes rows of float32 to slots: row t goes to slot slots[t], or nowhere where that is below zero; the head h lies at
// x + t * stride + h * state.width. Of OF_I8 every (head, slot) gets a scale, its greatest magnitude / 127; of
// OF_N4 every 32 of a head's numbers get a step and a least number, which lie among the codes (pages.hpp).
void keep(const of_state& state, const float* x, int64_t stride, const int64_t* slots, int64_t rows);

}  // namespace of
