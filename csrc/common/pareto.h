// Pareto dominance among integer points of (loss, costs), one or two costs. A point is dominated when the loss and costs of
// another are no greater and one is less, or all are equal and the other comes earlier. The front is unique on every device.
#pragma once

#include <cstdint>

namespace pynas {

// A sieve before pareto_filter. Buckets divide the sums of all pairs by their costs. A pair is dominated, and dropped, if its
// loss is not below the least loss of the buckets that are lower in every cost.
struct ParetoPairsArgs {
  const int64_t* left_loss;   // [L]
  const int64_t* left_cost;   // [L, M]
  const int64_t* right_loss;  // [R]
  const int64_t* right_cost;  // [R, M]
  int64_t* floor;             // [K] or [K, K], workspace: least loss of the lower buckets, K = 2^bits
  int64_t* pairs;             // [capacity]: left * R + right of the pairs that survive, in any order
  int64_t* count;             // [1]: pairs that survive; those past `capacity` are counted, not written
  int64_t lefts, rights, capacity;
  int64_t least[2];  // least sum of each cost
  int shift[2];      // bucket = (cost - least) >> shift
  int costs, bits;   // M (1 or 2)
  int threads;
};

struct ParetoFilterArgs {
  const int64_t* loss;  // [N]
  const int64_t* cost;  // [N, M]
  int64_t* kept;        // [N]: the positions of the front, ascending; those after `count` are not written
  int64_t* count;       // [1]
  int64_t points;
  int costs;
};

namespace cpu {
void pareto_pairs(const ParetoPairsArgs& args);
void pareto_filter(const ParetoFilterArgs& args);
}  // namespace cpu

namespace cuda {
void pareto_pairs(const ParetoPairsArgs& args, void* stream);
}  // namespace cuda

}  // namespace pynas
