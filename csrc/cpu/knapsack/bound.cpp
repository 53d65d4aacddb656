#include "cpu/knapsack/bound.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/interrupt.h"
#include "cpu/knapsack/incumbent.h"

namespace pynas::knapsack {
namespace {

// The dual function at one point, or at the best point of a line search.
struct DualPoint {
  double value;
  std::vector<double> slope;  // [M], total cost - limit, of a solution or of a mix of solutions
};

// The dual function: the least value of all solutions - multipliers . limit. It is concave and piecewise linear.
class Dual {
 public:
  Dual(const Problem& problem, Bound& bound) : problem_(problem), bound_(bound), limits_(problem.limits) {
    loss_range_ = 1;
    cost_range_.assign(limits_, 1);
    for (const Block& block : problem.blocks) {
      loss_range_ += static_cast<double>(*std::max_element(block.loss.begin(), block.loss.end()));
      for (int d = 0; d < limits_; ++d) {
        int64_t most = 0;
        for (int64_t i = 0; i < block.size(); ++i) most = std::max(most, block.cost[i * limits_ + d]);
        cost_range_[d] += static_cast<double>(most);
      }
    }
    bound_.multiplier.assign(limits_, 0.0);
  }

  // Maximises over the first `free` multipliers; the others stay. A line search over the last of them, which maximises
  // over those before it at each step.
  DualPoint maximise(int free) {
    if (free == 0) return evaluate();
    const int d = free - 1;
    double& multiplier = bound_.multiplier[d];
    double low = multiplier = 0;
    DualPoint below = maximise(d);
    if (below.slope[d] <= 0) return below;
    double high = loss_range_ / cost_range_[d];
    const double most = 1e9 * high;
    DualPoint above;
    while (true) {
      multiplier = high;
      above = maximise(d);
      if (above.slope[d] <= 0 || high >= most) break;
      low = high, below = above;
      high *= 8;
    }
    if (above.slope[d] > 0) return above;  // no solution keeps the limits: the dual grows without end
    search_line(d, low, below, high, above);
    return end_of_line(d, low, below, high, above);
  }

  // The dual at the multipliers; fills the tables of values behind.
  DualPoint evaluate() {
    fill_value_behind();
    DualPoint point{bound_.value_behind.back()[0], std::vector<double>(limits_)};
    const std::vector<int32_t> solution = minimiser();
    bool feasible = true;
    for (int d = 0; d < limits_; ++d) {
      const double limit = static_cast<double>(problem_.limit[d]);
      point.value -= bound_.multiplier[d] * limit;
      int64_t cost = 0;
      for (size_t b = 0; b < problem_.blocks.size(); ++b)
        cost += problem_.blocks[b].cost[static_cast<int64_t>(solution[b]) * limits_ + d];
      feasible &= cost <= problem_.limit[d];
      point.slope[d] = static_cast<double>(cost) - limit;
    }
    if (feasible) keep_better(solution);
    return point;
  }

 private:
  // Narrows [low, high] around the maximum along multiplier d: each step goes where the tangents of both ends meet.
  void search_line(int d, double& low, DualPoint& below, double& high, DualPoint& above) {
    double& multiplier = bound_.multiplier[d];
    for (int step = 0; step < 48; ++step) {
      const double meet = (above.value - below.value + below.slope[d] * low - above.slope[d] * high) /
                          (below.slope[d] - above.slope[d]);
      const double predicted = below.value + below.slope[d] * (meet - low);
      multiplier = std::min(std::max(meet, low), high);
      // Tangents may approach from one side in tiny steps: every fourth step halves the interval.
      if (step % 4 == 3) multiplier = 0.5 * (low + high);
      const double at = multiplier;
      DualPoint middle = maximise(d);
      const bool done =
          middle.value >= predicted - 1e-15 * (std::abs(predicted) + loss_range_) || at <= low || at >= high;
      if (middle.slope[d] > 0) low = at, below = std::move(middle);
      else high = at, above = std::move(middle);
      if (done) break;
    }
  }

  // Sets multiplier d to the better end, and mixes the slopes of both ends so that the slope along d is 0.
  DualPoint end_of_line(int d, double low, const DualPoint& below, double high, const DualPoint& above) {
    const bool lower = below.value > above.value;
    bound_.multiplier[d] = lower ? low : high;
    const double weight = -above.slope[d] / (below.slope[d] - above.slope[d]);
    DualPoint point{lower ? below.value : above.value, std::vector<double>(limits_)};
    for (int e = 0; e < limits_; ++e) point.slope[e] = weight * below.slope[e] + (1 - weight) * above.slope[e];
    if (d > 0) maximise(d);  // sets the multipliers before d to their best at this end
    return point;
  }

  void fill_value_behind() {
    const size_t count = problem_.blocks.size();
    bound_.value_behind.resize(count + 1);
    bound_.value_behind[0].assign(problem_.states, problem_.states > 1 ? kInfinity : 0.0);
    bound_.value_behind[0][0] = 0;
    last_option_.resize(count);
    for (size_t b = 0; b < count; ++b) {
      const Block& block = problem_.blocks[b];
      tick_(block.size());
      bound_.value_behind[b + 1].assign(problem_.states, kInfinity);
      last_option_[b].assign(problem_.states, -1);
      for (int64_t i = 0; i < block.size(); ++i) {
        const double value = bound_.value_behind[b][block.state_in[i]] + bound_.value(problem_, block, i);
        double& least = bound_.value_behind[b + 1][block.state_out[i]];
        if (value < least) least = value, last_option_[b][block.state_out[i]] = static_cast<int32_t>(i);
      }
    }
  }

  // The solution of least value.
  std::vector<int32_t> minimiser() const {
    std::vector<int32_t> solution(problem_.blocks.size());
    int32_t state = 0;
    for (size_t b = problem_.blocks.size(); b-- > 0;) {
      solution[b] = last_option_[b][state];
      state = problem_.blocks[b].state_in[solution[b]];
    }
    return solution;
  }

  void keep_better(const std::vector<int32_t>& solution) {
    int64_t loss = 0;
    for (size_t b = 0; b < solution.size(); ++b) loss += problem_.blocks[b].loss[solution[b]];
    if (loss < bound_.incumbent_loss) bound_.incumbent_loss = loss, bound_.incumbent = solution;
  }

  const Problem& problem_;
  Bound& bound_;
  const int limits_;
  double loss_range_;
  std::vector<double> cost_range_;
  Ticker tick_;
  std::vector<std::vector<int32_t>> last_option_;  // [B][S], block b's option in the least value that ends in the state
};

void fill_costs(const Problem& problem, Bound& bound) {
  const int limits = problem.limits, states = problem.states;
  const size_t count = problem.blocks.size();
  const std::vector<int64_t> unreachable(static_cast<size_t>(states) * limits, kUnreachable);
  bound.cost_behind.assign(count + 1, unreachable);
  bound.cost_ahead.assign(count + 1, unreachable);
  std::fill_n(bound.cost_behind[0].begin(), limits, 0);
  std::fill_n(bound.cost_ahead[count].begin(), limits, 0);
  const auto add_block = [&](const Block& block, const std::vector<int64_t>& given, std::vector<int64_t>& least,
                             const std::vector<int32_t>& start, const std::vector<int32_t>& end) {
    for (int64_t i = 0; i < block.size(); ++i) {
      for (int d = 0; d < limits; ++d) {
        const int64_t cost = given[static_cast<int64_t>(start[i]) * limits + d];
        int64_t& best = least[static_cast<int64_t>(end[i]) * limits + d];
        if (cost != kUnreachable) best = std::min(best, cost + block.cost[i * limits + d]);
      }
    }
  };
  for (size_t b = 0; b < count; ++b) {
    const Block &first = problem.blocks[b], &last = problem.blocks[count - 1 - b];
    add_block(first, bound.cost_behind[b], bound.cost_behind[b + 1], first.state_in, first.state_out);
    add_block(last, bound.cost_ahead[count - b], bound.cost_ahead[count - b - 1], last.state_out, last.state_in);
  }
}

void fill_value_and_loss_ahead(const Problem& problem, Bound& bound) {
  const size_t count = problem.blocks.size();
  bound.value_ahead.assign(count + 1, std::vector<double>(problem.states, kInfinity));
  bound.loss_ahead.assign(count + 1, std::vector<int64_t>(problem.states, kUnreachable));
  bound.value_ahead[count][0] = 0;
  bound.loss_ahead[count][0] = 0;
  for (size_t b = count; b-- > 0;) {
    const Block& block = problem.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      double& least_value = bound.value_ahead[b][block.state_in[i]];
      least_value =
          std::min(least_value, bound.value(problem, block, i) + bound.value_ahead[b + 1][block.state_out[i]]);
      int64_t& least_loss = bound.loss_ahead[b][block.state_in[i]];
      const int64_t loss = bound.loss_ahead[b + 1][block.state_out[i]];
      if (loss != kUnreachable) least_loss = std::min(least_loss, block.loss[i] + loss);
    }
  }
}

// Far above the rounding of any value, which is a sum over the blocks of a loss and of a product per limit.
double margin_of(const Problem& problem, const Bound& bound) {
  double size = 1 + std::abs(bound.limit_value);
  for (const Block& block : problem.blocks) {
    double most = 0;
    for (int64_t i = 0; i < block.size(); ++i) most = std::max(most, bound.value(problem, block, i));
    size += most;
  }
  for (int d = 0; d < problem.limits; ++d)
    size += bound.multiplier[d] * std::abs(static_cast<double>(problem.limit[d]));
  return size * std::ldexp(static_cast<double>(problem.blocks.size() * (problem.limits + 1) + 8), -51);
}

}  // namespace

Bound lagrangian_bound(const Problems& problems) {
  const Problem& front = problems.front;
  Bound bound;
  Dual dual(front, bound);
  dual.maximise(front.limits);
  dual.evaluate();
  fill_value_and_loss_ahead(front, bound);
  fill_costs(front, bound);
  if (!bound.incumbent.empty()) improve_incumbent(front, bound);
  bound.limit_value = 0;
  for (int d = 0; d < front.limits; ++d) bound.limit_value += bound.multiplier[d] * static_cast<double>(front.limit[d]);
  bound.margin = margin_of(problems.whole, bound);
  bound.least_loss = bound.value_behind.back()[0] - bound.limit_value - bound.margin;
  return bound;
}

}  // namespace pynas::knapsack
