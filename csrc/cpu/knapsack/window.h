// Windows of losses. Where the lists of partial solutions grow too long, the search first looks for the solutions up to a
// lower total loss. A window that holds top_k solutions, or from which nothing was left out, proves the answer.
#pragma once

#include <cstdint>

#include "cpu/knapsack/bound.h"

namespace pynas::knapsack {

// The solutions of interest, whose value is at most `value`. A partial solution that cannot reach it is left out.
struct Window {
  int64_t loss;  // greatest total loss
  double value;  // loss + multipliers . limit + margin
};

// The window and the length of the lists, round after round.
struct Schedule {
  int64_t least_loss, greatest_loss;  // of any solution
  int64_t known_loss;                 // the k-th solution has at most this loss
  int64_t loss;                       // the window's greatest loss in this round
  int64_t done_loss;                  // the same of the widest window that was searched
  int64_t longest;                    // partial solutions per list in this round
  int64_t most_longest;               // and in any round
  double rounding;                    // a window no wider than this is not narrowed

  Window window(const Bound& bound) const;
  // After lists that grew too long: a narrower window or longer lists. False when neither is left to try.
  bool narrow();
  // After a window that did not hold top_k solutions: a wider one.
  void widen();
};

Schedule first_round(const Problem& problem, const Bound& bound, int64_t longest);

}  // namespace pynas::knapsack
