// Pareto dominance among points of (loss, costs), one or two costs: a point goes when another has no more of anything
// and less of something, or is equal and comes earlier. Integers, so the result is unique on every device.
#pragma once

#include <cstdint>

namespace pynas {

// Pair sums are sorted into buckets by cost; a pair whose loss is not below the least loss of all buckets with strictly
// less cost is dominated. What survives is few, and pareto_filter ends it.
struct ParetoPairsArgs {
  const int64_t* left_loss;   // [L]
  const int64_t* left_cost;   // [L, M]
  const int64_t* right_loss;  // [R]
  const int64_t* right_cost;  // [R, M]
  int64_t* floor;             // [K] or [K, K]: least loss of the buckets below, K = 2^bits
  int64_t* pairs;             // [capacity]: left * R + right of the survivors, in any order
  int64_t* count;             // [1]: how many survive; beyond `capacity` they are counted, not written
  int64_t lefts, rights, capacity;
  int64_t least[2];  // least sum of each cost
  int shift[2];      // bucket = (cost - least) >> shift
  int costs, bits;   // M (1 or 2)
  int threads;
};

struct ParetoFilterArgs {
  const int64_t* loss;  // [N]
  const int64_t* cost;  // [N, M]
  int64_t* kept;        // [N]: the positions kept, ascending; the rest untouched
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
