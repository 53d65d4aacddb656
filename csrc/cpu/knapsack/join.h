// The join of both ends: pairs of a leading and a trailing partial solution that keep the limits, the top_k of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/knapsack/lists.h"

namespace pynas::knapsack {

struct Solution {
  int64_t loss;
  int32_t leading;              // position in the leading list
  std::vector<int32_t> middle;  // options of the blocks between the lists
  int32_t trailing;             // position in the trailing list

  bool operator<(const Solution& other) const {
    if (loss != other.loss) return loss < other.loss;
    if (leading != other.leading) return leading < other.leading;
    if (middle != other.middle) return middle < other.middle;
    return trailing < other.trailing;
  }
};

// The lists of both ends. The blocks between them, [begin, end), are walked depth first.
struct Halves {
  size_t begin, end;
  List leading, trailing;  // over the blocks [0, begin) and [end, B)
};

// The least top_k solutions of a loss of at most `greatest_loss` that the halves form, in order.
std::vector<Solution> join(const Problem& problem, const Bound& bound, const Halves& halves, int64_t greatest_loss,
                           int threads, Effort& effort);

}  // namespace pynas::knapsack
