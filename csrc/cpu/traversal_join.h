// All pairs of a leading and a trailing partial choice that keep the limits: the top_k of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/traversal_lists.h"
#include "cpu/traversal_problem.h"

namespace pynas::traversal {

// A whole choice: a position in the leading list, options of the blocks between, a position in the trailing list.
struct Solution {
  int64_t loss;
  int32_t leading;
  std::vector<int32_t> middle;
  int32_t trailing;

  bool operator<(const Solution& other) const {
    if (loss != other.loss) return loss < other.loss;
    if (leading != other.leading) return leading < other.leading;
    if (middle != other.middle) return middle < other.middle;
    return trailing < other.trailing;
  }
};

// Blocks [0, begin) are in `leading`, [end, B) in `trailing`; those between are walked depth first.
struct Halves {
  size_t begin, end;
  List leading, trailing;
};

// The least top_k solutions with a loss of `most` or less that the halves can form, in order.
std::vector<Solution> join(const Problem& problem, const Bound& bound, const Halves& halves, int64_t most, int threads,
                           Effort& effort);

}  // namespace pynas::traversal
