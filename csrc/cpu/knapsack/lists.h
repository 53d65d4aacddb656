// Partial solutions over the leading or the trailing blocks: a list per end, extended block by block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/knapsack/window.h"

namespace pynas::knapsack {

// Partial solutions in the lexicographic order of their indices: of equal ones the earlier position wins.
struct List {
  std::vector<int64_t> loss;   // [n]
  std::vector<int64_t> cost;   // [n, M]
  std::vector<double> value;   // [n]
  std::vector<int32_t> state;  // [n], the boundary state at the open end
  // For each block in the list, in the order of extension: the position in the list before, and the option.
  std::vector<std::vector<int32_t>> parent, option;

  int64_t size() const { return static_cast<int64_t>(loss.size()); }
};

List empty_list(int limits);

// Extends the list by block b, behind a leading list or before a trailing one. False, and the list stays as it was, when
// more than `longest` partial solutions remain.
bool extend(const Problem& problem, const Bound& bound, const Window& window, bool leading, size_t b, int64_t longest,
            List& list, Effort& effort);

}  // namespace pynas::knapsack
