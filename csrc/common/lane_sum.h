// Sums of short rows. A plain reduction ends by adding the lanes of a vector one after the other, which takes longer than a
// short row itself; here they are added in pairs.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace pynas {

// Sets lanes[0] to the sum of 2 W lanes. Every width is a constant, so that the lanes stay in registers.
template <int W, class A>
PYNAS_INLINE void fold_lanes(A* lanes) {
#pragma omp simd
  for (int i = 0; i < W; ++i) lanes[i] += lanes[i + W];
  if constexpr (W > 1) fold_lanes<W / 2>(lanes);
}

// The sum of term(i) for i in [0, n), in an order that depends on n alone.
template <class A, class Term>
PYNAS_INLINE A lane_sum(int64_t n, Term term) {
  constexpr int kLanes = 32;
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  }
  for (int j = 0; i + j < n; ++j) lanes[j] += term(i + j);
  fold_lanes<kLanes / 2>(lanes);
  return lanes[0];
}

}  // namespace pynas
