// The exact search, a multiple-choice knapsack: take one option of every block so that every total cost keeps its limit,
// and return the top_k solutions of least total loss. csrc/cpu/knapsack/ solves it, csrc/cuda/knapsack*.cu its large
// steps on a GPU. All addresses are the CPU's.
//
// All numbers are integers, so sums are exact in any order. Solutions are ordered by total loss, then by their indices
// block by block. This order is total, so the answer is unique and does not depend on the number of threads.
#pragma once

#include <cstdint>

namespace pynas {

struct TraverseArgs {
  const int64_t* offsets;    // [B + 1], block b has the options offsets[b] .. offsets[b + 1] - 1
  const int64_t* losses;     // [N]
  const int64_t* costs;      // [N, M], of either sign
  const int64_t* limits;     // [M], inclusive
  const int64_t* state_in;   // [N], the boundary state in which the option starts; null without states
  const int64_t* state_out;  // [N], the boundary state in which the option ends; null without states
  int64_t* indices;          // [top_k, B], index within the block; rows past the last solution are not written
  int64_t* counts;           // [4]: solutions found, nodes visited, nodes pruned, rounds
  double* multipliers;       // [M + 1]: the Lagrangian multiplier of every limit, then the bound on the total loss
  int64_t block_count;       // B
  int64_t limit_count;       // M
  int64_t states;            // number of boundary states; 1 without states
  int64_t top_k;
  int64_t longest;       // partial solutions per list, which bounds the memory; other blocks are walked depth first
  int device;            // the number of the GPU
  int64_t device_sums;   // a step with so many sums, and those after it, run on the GPU
  int64_t device_pairs;  // pairs that the join there writes at a time
  int64_t device_chunk;  // tiles of a trailing list that one block of threads looks through
  int threads;
};

namespace cpu {
void traverse(const TraverseArgs& args);
}
namespace cuda {
void traverse(const TraverseArgs& args, void* stream);
}

}  // namespace pynas
