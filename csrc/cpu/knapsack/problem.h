// The multiple-choice knapsack that the search works on: a block is a class of the knapsack, an option is an item.
// Losses and costs are shifted so that the least of each block is 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/traversal.h"

namespace pynas::knapsack {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Of a state that cannot be reached: more than any total, and two of them do not overflow.
constexpr int64_t kUnreachable = std::numeric_limits<int64_t>::max() / 2;

// Some options of one block, in the order of their indices.
struct Block {
  std::vector<int32_t> index;                // [n], index in the whole block
  std::vector<int64_t> loss;                 // [n]
  std::vector<int64_t> cost;                 // [n, M]
  std::vector<int32_t> state_in, state_out;  // [n]

  int64_t size() const { return static_cast<int64_t>(index.size()); }
  Block subset(const std::vector<int32_t>& kept, int limits) const;
};

struct Problem {
  int limits;  // M
  int states;  // S
  int64_t top_k;
  std::vector<int64_t> limit;  // [M], of the shifted costs
  std::vector<Block> blocks;   // [B]
  int64_t step = 1;            // every total loss is a multiple of it
};

// Counts of the work done.
struct Effort {
  int64_t visited = 0, pruned = 0;
  bool cut = false;  // the window left something out
};

struct Problems {
  Problem whole;  // every option that a solution may need
  Problem front;  // the undominated options, which are enough for the bound
};

// The problem that the arguments describe.
Problems read(const TraverseArgs& args, Effort& effort);

}  // namespace pynas::knapsack
