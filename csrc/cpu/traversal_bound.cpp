#include <algorithm>
#include <cmath>

#include "cpu/traversal_problem.h"

namespace pynas::traversal {
namespace {

// The dual function at one point, or the best found along one coordinate: value and slope per limit.
struct Point {
  double value;
  std::vector<double> slope;  // [M], total cost - limit, of a choice or of a mix of choices
};

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

  // Maximise over the first `free` multipliers, the others fixed: one coordinate at a time, each step where the
  // tangents from both sides meet. The dual is concave and piecewise linear.
  Point maximise(int free) {
    if (free == 0) return evaluate();
    const int d = free - 1;
    double& multiplier = bound_.multiplier[d];
    double low = multiplier = 0;
    Point below = maximise(d);
    if (below.slope[d] <= 0) return below;
    double high = loss_range_ / cost_range_[d];
    const double most = 1e9 * high;
    Point above;
    while (true) {
      multiplier = high;
      above = maximise(d);
      if (above.slope[d] <= 0 || high >= most) break;
      low = high, below = above;
      high *= 8;
    }
    if (above.slope[d] > 0) return above;  // the limits clash: the bound grows without end
    for (int step = 0; step < 48; ++step) {
      const double meet = (above.value - below.value + below.slope[d] * low - above.slope[d] * high) /
                          (below.slope[d] - above.slope[d]);
      const double predicted = below.value + below.slope[d] * (meet - low);
      multiplier = std::min(std::max(meet, low), high);
      // Where tangents creep along from one side, halve instead.
      if (step % 4 == 3) multiplier = 0.5 * (low + high);
      const double here = multiplier;
      Point middle = maximise(d);
      const bool done =
          middle.value >= predicted - 1e-15 * (std::abs(predicted) + loss_range_) || here <= low || here >= high;
      if (middle.slope[d] > 0) low = here, below = std::move(middle);
      else high = here, above = std::move(middle);
      if (done) break;
    }
    return mixed(d, low, below, high, above);
  }

  Point evaluate() {
    tables();
    Point point{bound_.behind.back()[0], std::vector<double>(limits_)};
    const std::vector<int32_t> choice = choose();
    bool feasible = true;
    for (int d = 0; d < limits_; ++d) {
      const double limit = static_cast<double>(problem_.limit[d]);
      point.value -= bound_.multiplier[d] * limit;
      int64_t cost = 0;
      for (size_t b = 0; b < problem_.blocks.size(); ++b) {
        cost += problem_.blocks[b].cost[static_cast<int64_t>(choice[b]) * limits_ + d];
      }
      feasible &= cost <= problem_.limit[d];
      point.slope[d] = static_cast<double>(cost) - limit;
    }
    if (feasible) remember(choice);
    return point;
  }

  // Least value of every prefix by the state it ends in.
  void tables() {
    const size_t count = problem_.blocks.size();
    bound_.behind.resize(count + 1);
    bound_.behind[0].assign(problem_.states, problem_.states > 1 ? kInfinity : 0.0);
    bound_.behind[0][0] = 0;
    from_.resize(count);
    for (size_t b = 0; b < count; ++b) {
      const Block& block = problem_.blocks[b];
      bound_.behind[b + 1].assign(problem_.states, kInfinity);
      from_[b].assign(problem_.states, -1);
      for (int64_t i = 0; i < block.size(); ++i) {
        const double value = bound_.behind[b][block.in[i]] + bound_.value(problem_, block, i);
        double& least = bound_.behind[b + 1][block.out[i]];
        if (value < least) least = value, from_[b][block.out[i]] = static_cast<int32_t>(i);
      }
    }
  }

  std::vector<int32_t> choose() const {
    std::vector<int32_t> choice(problem_.blocks.size());
    int32_t state = 0;
    for (size_t b = problem_.blocks.size(); b-- > 0;) {
      const int32_t i = from_[b][state];
      choice[b] = i;
      state = problem_.blocks[b].in[i];
    }
    return choice;
  }

  void remember(const std::vector<int32_t>& choice) {
    int64_t loss = 0;
    for (size_t b = 0; b < choice.size(); ++b) loss += problem_.blocks[b].loss[choice[b]];
    if (loss < bound_.choice_loss) bound_.choice_loss = loss, bound_.choice = choice;
  }

 private:
  // The end of a line search: keep the multiplier with the greater value, and mix slopes so that this one is 0.
  Point mixed(int d, double low, const Point& below, double high, const Point& above) {
    const bool lower = below.value > above.value;
    bound_.multiplier[d] = lower ? low : high;
    const double weight = -above.slope[d] / (below.slope[d] - above.slope[d]);
    Point point{lower ? below.value : above.value, std::vector<double>(limits_)};
    for (int e = 0; e < limits_; ++e) point.slope[e] = weight * below.slope[e] + (1 - weight) * above.slope[e];
    if (d > 0) maximise(d);  // the inner multipliers belong to this one
    return point;
  }

  const Problem& problem_;
  Bound& bound_;
  const int limits_;
  double loss_range_;
  std::vector<double> cost_range_;
  std::vector<std::vector<int32_t>> from_;  // [B][S], the option that attains `behind`
};

void cost_tables(const Problem& problem, Bound& bound) {
  const int limits = problem.limits, states = problem.states;
  const size_t count = problem.blocks.size();
  const std::vector<int64_t> never(static_cast<size_t>(states) * limits, kNever);
  bound.cost_behind.assign(count + 1, never);
  bound.cost_ahead.assign(count + 1, never);
  std::fill_n(bound.cost_behind[0].begin(), limits, 0);
  std::fill_n(bound.cost_ahead[count].begin(), limits, 0);
  const auto relax = [&](const Block& block, const std::vector<int64_t>& given, std::vector<int64_t>& least,
                         const std::vector<int32_t>& start, const std::vector<int32_t>& end) {
    for (int64_t i = 0; i < block.size(); ++i) {
      for (int d = 0; d < limits; ++d) {
        const int64_t cost = given[static_cast<int64_t>(start[i]) * limits + d];
        int64_t& best = least[static_cast<int64_t>(end[i]) * limits + d];
        if (cost != kNever) best = std::min(best, cost + block.cost[i * limits + d]);
      }
    }
  };
  for (size_t b = 0; b < count; ++b) {
    const Block &forward = problem.blocks[b], &backward = problem.blocks[count - 1 - b];
    relax(forward, bound.cost_behind[b], bound.cost_behind[b + 1], forward.in, forward.out);
    relax(backward, bound.cost_ahead[count - b], bound.cost_ahead[count - b - 1], backward.out, backward.in);
  }
}

void ahead_tables(const Problem& problem, Bound& bound) {
  const size_t count = problem.blocks.size();
  bound.ahead.assign(count + 1, std::vector<double>(problem.states, kInfinity));
  bound.ahead[count][0] = 0;
  for (size_t b = count; b-- > 0;) {
    const Block& block = problem.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const double value = bound.value(problem, block, i) + bound.ahead[b + 1][block.out[i]];
      bound.ahead[b][block.in[i]] = std::min(bound.ahead[b][block.in[i]], value);
    }
  }
}

void loss_tables(const Problem& problem, Bound& bound) {
  const size_t count = problem.blocks.size();
  bound.loss_ahead.assign(count + 1, std::vector<int64_t>(problem.states, kNever));
  bound.loss_ahead[count][0] = 0;
  for (size_t b = count; b-- > 0;) {
    const Block& block = problem.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const int64_t rest = bound.loss_ahead[b + 1][block.out[i]];
      int64_t& least = bound.loss_ahead[b][block.in[i]];
      if (rest != kNever) least = std::min(least, block.loss[i] + rest);
    }
  }
}

// Betters the feasible choice in hand by changing one option, then two at a time: the first window is then narrow.
class Improvement {
 public:
  Improvement(const Problem& problem, Bound& bound) : problem_(problem), bound_(bound), slack_(problem.limit) {
    for (size_t b = 0; b < bound.choice.size(); ++b) charge(b, -1);
  }

  void run() {
    const size_t count = problem_.blocks.size();
    double pairs = 0, options = 0;
    for (const Block& block : problem_.blocks) options += static_cast<double>(block.size());
    pairs = options * options / 2;
    for (size_t b = 0; b < count; ++b) change(b, 0);
    if (pairs > 2e6) return;
    for (size_t b = 0; b < count; ++b)
      for (size_t other = b + 1; other < count; ++other) change_two(b, other);
  }

 private:
  // Adds (sign 1) or takes (-1) the chosen option's costs to or from the slack.
  void charge(size_t b, int sign) {
    for (int d = 0; d < problem_.limits; ++d)
      slack_[d] += sign * problem_.blocks[b].cost[static_cast<int64_t>(bound_.choice[b]) * problem_.limits + d];
  }

  bool fits(const Block& block, int64_t i, int32_t chosen) const {
    if (block.in[i] != block.in[chosen] || block.out[i] != block.out[chosen]) return false;
    for (int d = 0; d < problem_.limits; ++d)
      if (block.cost[i * problem_.limits + d] > slack_[d]) return false;
    return true;
  }

  // The option of least loss that fits, if it gains more than `least`.
  bool change(size_t b, int64_t least) {
    const Block& block = problem_.blocks[b];
    const int32_t before = bound_.choice[b];
    int32_t best = before;
    charge(b, 1);
    for (int64_t i = 0; i < block.size(); ++i)
      if (block.loss[i] < block.loss[best] && fits(block, i, before)) best = static_cast<int32_t>(i);
    const int64_t gain = block.loss[before] - block.loss[best];
    if (gain > least) bound_.choice[b] = best, bound_.choice_loss -= gain;
    charge(b, -1);
    return gain > least;
  }

  void change_two(size_t b, size_t other) {
    const Block& block = problem_.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const int32_t before = bound_.choice[b];
      const int64_t worse = block.loss[i] - block.loss[before];
      charge(b, 1);
      const bool possible = i != before && fits(block, i, before);
      if (possible) bound_.choice[b] = static_cast<int32_t>(i);
      charge(b, -1);
      if (!possible) continue;
      if (change(other, worse)) {
        bound_.choice_loss += worse;
        continue;
      }
      charge(b, 1);
      bound_.choice[b] = before;
      charge(b, -1);
    }
  }

  const Problem& problem_;
  Bound& bound_;
  std::vector<int64_t> slack_;
};

// Far above the rounding of any value: a sum over the blocks of a loss and of a product per limit.
double margin_of(const Problem& pool, const Bound& bound) {
  double size = 1 + std::abs(bound.limit_value);
  for (const Block& block : pool.blocks) {
    double most = 0;
    for (int64_t i = 0; i < block.size(); ++i) most = std::max(most, bound.value(pool, block, i));
    size += most;
  }
  for (int d = 0; d < pool.limits; ++d) size += bound.multiplier[d] * std::abs(static_cast<double>(pool.limit[d]));
  return size * std::ldexp(static_cast<double>(pool.blocks.size() * (pool.limits + 1) + 8), -51);
}

}  // namespace

Bound lagrangian_bound(const Problem& front, const Problem& pool) {
  Bound bound;
  Dual dual(front, bound);
  dual.maximise(front.limits);
  dual.evaluate();
  ahead_tables(front, bound);
  cost_tables(front, bound);
  loss_tables(front, bound);
  if (!bound.choice.empty()) Improvement(front, bound).run();
  bound.limit_value = 0;
  for (int d = 0; d < front.limits; ++d) bound.limit_value += bound.multiplier[d] * static_cast<double>(front.limit[d]);
  bound.margin = margin_of(pool, bound);
  bound.least = bound.behind.back()[0] - bound.limit_value - bound.margin;
  return bound;
}

}  // namespace pynas::traversal
