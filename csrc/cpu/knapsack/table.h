// Dynamic programming over the limit, for one limit in whole numbers that are few: a subset sum, say, whose bounds leave
// nothing out.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/knapsack/problem.h"

namespace pynas::knapsack {

// Whether the problem is of the kind that the table solves (one limit, no states, the best solution), and its rows no longer
// than `longest`, the length of lists, which take longer, as they are sorted.
bool fits_table(const Problem& problem, int64_t longest);

// The options of the first of the best solutions; none where no solution keeps the limit.
std::optional<std::vector<int32_t>> solve_by_table(const Problem& problem, Effort& effort);

}  // namespace pynas::knapsack
