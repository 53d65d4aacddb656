// Dominance: a point is not needed for the top_k solutions if top_k others of its group come before it in (loss, position)
// and cost no more in any limited cost.
#pragma once

#include <cstdint>
#include <vector>

namespace pynas::knapsack {

// Options of a block, or partial solutions: n points of a loss and M costs. Of equal points the earlier one wins.
struct Points {
  int64_t count;          // n
  int limits;             // M
  const int64_t* losses;  // [n]
  const int64_t* costs;   // [n, M]
  const int32_t* group;   // [n], points of different groups are not compared; null: one group
};

// The positions of the points that are needed, ascending. With one limit or none, exactly those. With more, dominated
// points may remain, which costs time and changes no answer.
std::vector<int32_t> undominated(const Points& points, int64_t top_k);

}  // namespace pynas::knapsack
