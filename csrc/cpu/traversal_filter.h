// Dominance: an option is not needed for the top_k if top_k others with the same boundary states come before it in
// (loss, index) and cost no more in any limited cost.
#pragma once

#include <cstdint>
#include <vector>

namespace pynas::traversal {

// Candidates in index order; what stands earlier wins ties.
struct Candidates {
  int64_t count;
  int limits;             // M
  const int64_t* losses;  // [n]
  const int64_t* costs;   // [n, M]
  const int32_t* group;   // [n], only candidates of one group compare; null: one group
};

// The positions that are still needed, ascending. Exact filter for one limit; for more, every dominated candidate that a
// bounded effort finds (dropping fewer is always right).
std::vector<int32_t> undominated(const Candidates& candidates, int64_t top_k);

}  // namespace pynas::traversal
