// The Lagrangian bound. For multipliers >= 0, every solution within the limits has a loss of at least
// loss + multipliers . (cost - limit), whose minimum over all solutions is found block by block.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/knapsack/problem.h"

namespace pynas::knapsack {

// The tables hold the least sums over the blocks 0 .. b-1 (behind) and b .. B-1 (ahead), by the boundary state before
// block b. The value of an option is its loss + multipliers . cost.
struct Bound {
  std::vector<double> multiplier;                              // [M]
  std::vector<std::vector<double>> value_ahead, value_behind;  // [B + 1][S]
  std::vector<std::vector<int64_t>> cost_ahead, cost_behind;   // [B + 1][S, M]
  std::vector<std::vector<int64_t>> loss_ahead;                // [B + 1][S]
  double limit_value;                                          // multipliers . limit
  double least_loss;                                           // the bound: no solution has a lower (shifted) loss
  double margin;                                               // more than the rounding of any comparison of values
  std::vector<int32_t> incumbent;                              // [B], the best solution known; empty: none
  int64_t incumbent_loss = kUnreachable;

  double value(const Problem& problem, const Block& block, int64_t i) const {
    double value = static_cast<double>(block.loss[i]);
    for (int d = 0; d < problem.limits; ++d)
      value += multiplier[d] * static_cast<double>(block.cost[i * problem.limits + d]);
    return value;
  }
};

// The bound from the undominated options, which have the same least sums as all options.
Bound lagrangian_bound(const Problems& problems);

}  // namespace pynas::knapsack
