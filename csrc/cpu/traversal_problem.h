// What the parts of the traversal share: the options that are still in play and the bounds on completing a partial choice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/traversal.h"

namespace pynas::traversal {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kNever = std::numeric_limits<int64_t>::max() / 2;  // more than any sum; two of them do not overflow

// Some options of one block, in index order. Losses and costs are counted from the least in the block.
struct Block {
  std::vector<int32_t> index;    // [n], index in the block's whole pool
  std::vector<int64_t> loss;     // [n]
  std::vector<int64_t> cost;     // [n, M]
  std::vector<int32_t> in, out;  // [n], boundary states

  int64_t size() const { return static_cast<int64_t>(index.size()); }

  Block subset(const std::vector<int32_t>& kept, int limits) const {
    Block block;
    for (int32_t i : kept) {
      block.index.push_back(index[i]);
      block.loss.push_back(loss[i]);
      for (int d = 0; d < limits; ++d) block.cost.push_back(cost[static_cast<int64_t>(i) * limits + d]);
      block.in.push_back(in[i]);
      block.out.push_back(out[i]);
    }
    return block;
  }
};

struct Problem {
  int limits;  // M
  int states;  // S
  int64_t top_k;
  std::vector<int64_t> limit;  // [M], of the shifted costs
  std::vector<Block> blocks;   // [B]
  int64_t step = 1;            // every total loss is a multiple of it
};

// Lagrangian bound: for multipliers >= 0, loss >= loss + multipliers . (cost - limit), minimised block by block.
struct Bound {
  std::vector<double> multiplier;                             // [M]
  std::vector<std::vector<double>> ahead, behind;             // [B + 1][S], least value of blocks b.. / ..b-1
  std::vector<std::vector<int64_t>> cost_ahead, cost_behind;  // [B + 1][S, M], least costs likewise
  std::vector<std::vector<int64_t>> loss_ahead;               // [B + 1][S], least losses
  double limit_value;                                         // multipliers . limit
  double least;                                               // the bound on the total (shifted) loss
  double margin;                                              // more than all rounding in any comparison of values
  std::vector<int32_t> choice;                                // [B], the best feasible choice met on the way, or empty
  int64_t choice_loss = kNever;

  double value(const Problem& problem, const Block& block, int64_t i) const {
    double value = static_cast<double>(block.loss[i]);
    for (int d = 0; d < problem.limits; ++d)
      value += multiplier[d] * static_cast<double>(block.cost[i * problem.limits + d]);
    return value;
  }
};

// Over the undominated options, which have the same least values as the whole pool.
Bound lagrangian_bound(const Problem& front, const Problem& pool);

}  // namespace pynas::traversal
