// Extends a list of partial solutions by a block: all sums within the window and the limits, then the undominated ones.
#pragma once

#include "cpu/knapsack/lists.h"
#include "cuda/knapsack_tiles.cuh"

namespace pynas::cuda::traversal {

// Of each entry of a list: the entry of the list before it, and the option.
struct Level {
  Memory<int32_t> parent, option;
};

// Entries, with those of the list before that they come from.
struct ExtendedMemory {
  EntriesMemory entries;
  Level level;
};

struct ExtendMemory {
  ExtendedMemory sums, fewer;
  Memory<int32_t> option_states;
  Memory<int64_t> option_keys, need;
  Memory<double> option_values;
  TilesMemory tiles;
};

// A list that has left the CPU.
struct DeviceList {
  EntriesMemory memory;
  Entries entries{0, nullptr, nullptr, nullptr};
  std::vector<Level> levels;  // since it left
};

// As knapsack::extend.
bool extend(Device& device, ExtendMemory& memory, const knapsack::Problem& problem, const knapsack::Bound& bound,
            const knapsack::Window& window, bool leading, size_t b, int64_t longest, DeviceList& list,
            knapsack::Effort& effort);

}  // namespace pynas::cuda::traversal
