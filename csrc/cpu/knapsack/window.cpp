#include "cpu/knapsack/window.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pynas::knapsack {
namespace {

constexpr int kExponents = 64;

// [B][e]: the options that raise the bound by less than 2^e.
std::vector<std::vector<double>> options_by_excess(const Problem& problem, const Bound& bound, int64_t least_loss) {
  const size_t count = problem.blocks.size();
  std::vector<std::vector<double>> options(count, std::vector<double>(kExponents));
  for (size_t b = 0; b < count; ++b) {
    const Block& block = problem.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const double least = bound.value_behind[b][block.state_in[i]] + bound.value(problem, block, i) +
                           bound.value_ahead[b + 1][block.state_out[i]];
      int exponent = 0;
      std::frexp(least - bound.limit_value - static_cast<double>(least_loss), &exponent);
      ++options[b][std::min(std::max(exponent, 0), kExponents - 1)];
    }
    for (int e = 1; e < kExponents; ++e) options[b][e] += options[b][e - 1];
  }
  return options;
}

// The width of a first window that would hold about 512 top_k solutions if there were no limits. The number of solutions
// whose excesses over the bound sum to at most the width is near sum_j e_j(n_b - 1) / j!, with n_b the options of block b
// of at most that excess, and e_j the elementary symmetric polynomials.
int64_t first_width(const Problem& problem, const Bound& bound, int64_t least_loss, int64_t greatest_loss) {
  const size_t count = problem.blocks.size();
  const std::vector<std::vector<double>> options = options_by_excess(problem, bound, least_loss);
  for (int e = kExponents - 2; e > 0; --e) {
    if (least_loss + (int64_t{1} << e) > greatest_loss) continue;
    std::vector<double> symmetric(count + 1);
    symmetric[0] = 1;
    for (size_t b = 0; b < count; ++b)
      for (size_t j = b + 1; j > 0; --j) symmetric[j] += symmetric[j - 1] * std::max(options[b][e] - 1, 0.0) / j;
    if (std::accumulate(symmetric.begin(), symmetric.end(), 0.0) <= 512.0 * problem.top_k) return int64_t{1} << e;
  }
  return 1;
}

}  // namespace

Window Schedule::window(const Bound& bound) const {
  return {loss, static_cast<double>(loss) + bound.limit_value + bound.margin};
}

bool Schedule::narrow() {
  if (static_cast<double>(loss - least_loss) <= rounding) {
    const bool longer = longest < most_longest;
    longest = most_longest;
    return longer;
  }
  const int64_t narrower = least_loss + (loss - least_loss) / 4;
  if (longest < most_longest) {
    loss = narrower;
    if (loss <= done_loss) longest = std::min(most_longest, longest * 8), loss = known_loss;
    return true;
  }
  const int64_t narrowest = std::max(least_loss + 4 * (done_loss - least_loss), least_loss + (greatest_loss >> 24) + 1);
  if (loss <= narrowest) return false;
  loss = std::max(narrower, narrowest);
  return true;
}

void Schedule::widen() {
  done_loss = loss;
  loss = std::min(known_loss, least_loss + 2 * std::max<int64_t>(done_loss - least_loss, 1));
  longest = std::min(most_longest, longest * 8);
}

Schedule first_round(const Problem& problem, const Bound& bound, int64_t longest) {
  int64_t greatest = 0;
  for (const Block& block : problem.blocks) greatest += *std::max_element(block.loss.begin(), block.loss.end());
  const auto least = static_cast<int64_t>(std::max(0.0, std::min(bound.least_loss, static_cast<double>(greatest))));
  int64_t known = greatest, loss;
  if (problem.top_k == 1 && !bound.incumbent.empty()) loss = known = bound.incumbent_loss;
  else loss = std::min(greatest, least + first_width(problem, bound, least, greatest));
  return {least, greatest, known, loss, least, std::min(longest, 4096 + 4 * problem.top_k), longest, 4 * bound.margin};
}

}  // namespace pynas::knapsack
