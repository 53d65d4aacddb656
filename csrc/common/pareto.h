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
  int64_t* floor;             // [K] or [K, K], workspace: least loss of the buckets, K = 2^bits
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

// The last filter on a CUDA device. The points are in order of their costs, loss and position, so that a point comes after
// those that dominate it: an earlier point does so if its second cost and its loss are no greater.
struct ParetoDominatedArgs {
  const int64_t* loss;  // [N], with two costs its rank: 0 <= loss < N, equal for equal losses
  int64_t* sequence;    // [N]: the points in order of their second cost, of equal ones the first; overwritten. Null: one cost
  int64_t* spare;       // [N], workspace; null with one cost
  int64_t* partial;     // [ceil(N / kParetoTile), 2], workspace
  bool* dominated;      // [N]: false on entry
  int64_t points;
  int threads;
};
constexpr int64_t kParetoTile = 2048;

namespace cpu {
void pareto_pairs(const ParetoPairsArgs& args);
void pareto_filter(const ParetoFilterArgs& args);
}  // namespace cpu

namespace cuda {
void pareto_pairs(const ParetoPairsArgs& args, void* stream);
void pareto_dominated(const ParetoDominatedArgs& args, void* stream);
}  // namespace cuda

}  // namespace pynas
