// The join of a leading and a trailing list on the GPU, all blocks in one of them.
#pragma once

#include "cpu/knapsack/join.h"
#include "cuda/knapsack_tiles.cuh"

namespace pynas::cuda::traversal {

// A pair of entries, by their positions in the lists.
struct Pair {
  int64_t loss;
  int32_t leading, trailing;

  __host__ __device__ bool operator<(const Pair& other) const {
    if (loss != other.loss) return loss < other.loss;
    return leading != other.leading ? leading < other.leading : trailing < other.trailing;
  }
};

struct JoinMemory {
  TilesMemory leading, trailing;
  Memory<int32_t> order;
  Memory<Pair> found;
  Memory<int64_t> counters;
};

// As knapsack::join.
std::vector<knapsack::Solution> join(Device& device, JoinMemory& memory, const knapsack::Problem& problem,
                                     const knapsack::Bound& bound, const Entries& leading, const Entries& trailing,
                                     int64_t greatest_loss, knapsack::Effort& effort);

}  // namespace pynas::cuda::traversal
