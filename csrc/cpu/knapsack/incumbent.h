// Local search from the incumbent, the best solution that the Lagrangian bound has met.
#pragma once

#include "cpu/knapsack/bound.h"

namespace pynas::knapsack {

// Lowers the incumbent's loss by exchanging the option of one block, then of two blocks at a time.
void improve_incumbent(const Problem& problem, Bound& bound);

}  // namespace pynas::knapsack
