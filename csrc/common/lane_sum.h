// Sums of short rows: a plain reduction adds a vector's elements up one after the other, for longer than a row takes.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace pynas {

// lanes[0] becomes the sum of 2 W lanes, added in pairs. The compiler sees every width, and stays in registers.
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
