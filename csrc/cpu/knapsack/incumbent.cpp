#include "cpu/knapsack/incumbent.h"

#include <cstddef>

namespace pynas::knapsack {
namespace {

// More pairs of options than this take longer to try than a good incumbent saves.
constexpr double kMostPairs = 2e6;

class LocalSearch {
 public:
  LocalSearch(const Problem& problem, Bound& bound) : problem_(problem), bound_(bound), slack_(problem.limit) {
    for (size_t b = 0; b < bound.incumbent.size(); ++b) change_slack(b, -1);
  }

  void run() {
    const size_t count = problem_.blocks.size();
    double options = 0;
    for (const Block& block : problem_.blocks) options += static_cast<double>(block.size());
    for (size_t b = 0; b < count; ++b) exchange(b, 0);
    if (options * options / 2 > kMostPairs) return;
    for (size_t b = 0; b < count; ++b)
      for (size_t other = b + 1; other < count; ++other) exchange_two(b, other);
  }

 private:
  // Adds `sign` times the costs of block b's option in the incumbent to the slack.
  void change_slack(size_t b, int sign) {
    for (int d = 0; d < problem_.limits; ++d)
      slack_[d] += sign * problem_.blocks[b].cost[static_cast<int64_t>(bound_.incumbent[b]) * problem_.limits + d];
  }

  // Whether option i may stand in the place of `before`, whose costs are in the slack.
  bool fits(const Block& block, int64_t i, int32_t before) const {
    if (block.state_in[i] != block.state_in[before] || block.state_out[i] != block.state_out[before]) return false;
    for (int d = 0; d < problem_.limits; ++d)
      if (block.cost[i * problem_.limits + d] > slack_[d]) return false;
    return true;
  }

  // Takes the option of least loss that fits, if it lowers the loss by more than `least_gain`.
  bool exchange(size_t b, int64_t least_gain) {
    const Block& block = problem_.blocks[b];
    const int32_t before = bound_.incumbent[b];
    int32_t best = before;
    change_slack(b, 1);
    for (int64_t i = 0; i < block.size(); ++i)
      if (block.loss[i] < block.loss[best] && fits(block, i, before)) best = static_cast<int32_t>(i);
    const int64_t gain = block.loss[before] - block.loss[best];
    if (gain > least_gain) bound_.incumbent[b] = best, bound_.incumbent_loss -= gain;
    change_slack(b, -1);
    return gain > least_gain;
  }

  // Tries every option of block b that fits, together with an exchange in the other block that outweighs it.
  void exchange_two(size_t b, size_t other) {
    const Block& block = problem_.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const int32_t before = bound_.incumbent[b];
      const int64_t added_loss = block.loss[i] - block.loss[before];
      change_slack(b, 1);
      const bool possible = i != before && fits(block, i, before);
      if (possible) bound_.incumbent[b] = static_cast<int32_t>(i);
      change_slack(b, -1);
      if (!possible) continue;
      if (exchange(other, added_loss)) {
        bound_.incumbent_loss += added_loss;
        continue;
      }
      change_slack(b, 1);
      bound_.incumbent[b] = before;
      change_slack(b, -1);
    }
  }

  const Problem& problem_;
  Bound& bound_;
  std::vector<int64_t> slack_;  // [M], limit - cost of the incumbent
};

}  // namespace

void improve_incumbent(const Problem& problem, Bound& bound) { LocalSearch(problem, bound).run(); }

}  // namespace pynas::knapsack
