// Exact choice of one option per block: the top_k least total losses whose total costs keep every limit.
//
// Everything is an integer, so sums are exact in any order. Solutions are ordered by (total loss, indices compared block
// by block), a total order: the answer is unique and does not depend on threads.
#pragma once

#include <cstdint>

namespace pynas {

struct TraversalArguments {
  int64_t blocks;
  int64_t limits;            // M, the number of limited costs
  int64_t states;            // number of boundary states, 1 without states
  const int64_t* offsets;    // [B + 1], block b's options are offsets[b] .. offsets[b + 1] - 1
  const int64_t* losses;     // [N]
  const int64_t* costs;      // [N, M], of either sign
  const int64_t* limit;      // [M], inclusive
  const int64_t* state_in;   // [N], state that the option must find at its block's start; null without states
  const int64_t* state_out;  // [N], state it leaves at its block's end
  int64_t top_k;
  int64_t longest;  // partial choices per list: bounds the memory; blocks that do not fit are walked depth first
  int threads;
};

struct TraversalResult {
  int64_t* indices;     // [top_k, B], index within the block; rows after `found` untouched
  int64_t* counts;      // [4]: found, visited, pruned, rounds
  double* multipliers;  // [M + 1]: Lagrangian multipliers of the limits, then the bound they give on the total loss
};

namespace cpu {
void traverse(const TraversalArguments& arguments, const TraversalResult& result);
}

}  // namespace pynas
