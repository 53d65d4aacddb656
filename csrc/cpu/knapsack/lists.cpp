#include "cpu/knapsack/lists.h"

#include <algorithm>
#include <utility>

#include "common/interrupt.h"
#include "cpu/knapsack/filter.h"

namespace pynas::knapsack {
namespace {

template <class T>
void gather(std::vector<T>& values, const std::vector<int32_t>& kept, int width) {
  for (size_t p = 0; p < kept.size(); ++p)
    std::copy_n(values.begin() + static_cast<int64_t>(kept[p]) * width, width, values.begin() + p * width);
  values.resize(kept.size() * width);
}

void keep(List& list, const std::vector<int32_t>& kept, int limits) {
  gather(list.loss, kept, 1);
  gather(list.cost, kept, limits);
  gather(list.value, kept, 1);
  gather(list.state, kept, 1);
  gather(list.parent.back(), kept, 1);
  gather(list.option.back(), kept, 1);
}

// All sums of a partial solution and an option of the next block.
class Extension {
 public:
  Extension(const Problem& problem, const Bound& bound, bool leading, size_t b, const List& from, Effort& effort)
      : problem_(problem), block_(problem.blocks[b]), from_(from), effort_(effort), limits_(problem.limits),
        leading_(leading), joined_state_(leading ? block_.state_in : block_.state_out),
        open_state_(leading ? block_.state_out : block_.state_in),
        value_rest_(leading ? bound.value_ahead[b + 1] : bound.value_behind[b]),
        cost_rest_(leading ? bound.cost_ahead[b + 1] : bound.cost_behind[b]) {
    for (int64_t i = 0; i < block_.size(); ++i) value_.push_back(bound.value(problem, block_, i));
    to_.parent.emplace_back();
    to_.option.emplace_back();
  }

  // Appends every sum within the window and the limits. False when there are more than `most`.
  bool append_all(const Window& window, int64_t most) {
    // In lexicographic order the option of the earlier block belongs to the outer loop. The inner loop goes by rising
    // value, to stop where the window ends; the positions that passed are then sorted back.
    const int64_t outer_count = leading_ ? from_.size() : block_.size();
    const std::vector<std::pair<double, int32_t>> rising = inner_by_value();
    std::vector<int32_t> passed;
    Ticker tick;
    for (int64_t outer = 0; outer < outer_count; ++outer) {
      const double room = window.value - (leading_ ? from_.value[outer] : least_value_with(outer));
      passed.clear();
      size_t p = 0;
      for (; p < rising.size() && rising[p].first <= room; ++p) {
        const int32_t inner = rising[p].second;
        if (from_.state[leading_ ? outer : inner] == joined_state_[leading_ ? inner : outer]) passed.push_back(inner);
      }
      tick(static_cast<int64_t>(p) + 1);
      effort_.visited += static_cast<int64_t>(p);
      effort_.pruned += static_cast<int64_t>(rising.size() - p);
      effort_.cut |= p < rising.size();
      std::sort(passed.begin(), passed.end());
      for (int32_t inner : passed) append(leading_ ? outer : inner, leading_ ? inner : outer);
      if (to_.size() > most) return false;
    }
    return true;
  }

  void drop_dominated() {
    const std::vector<int32_t> kept = undominated(
        {to_.size(), limits_, to_.loss.data(), to_.cost.data(), problem_.states > 1 ? to_.state.data() : nullptr},
        problem_.top_k);
    effort_.pruned += to_.size() - static_cast<int64_t>(kept.size());
    if (kept.size() < to_.loss.size()) keep(to_, kept, limits_);
  }

  List& list() { return to_; }

 private:
  // The value that option i and the least completion add to a partial solution.
  double least_value_with(int64_t i) const { return value_[i] + value_rest_[open_state_[i]]; }

  std::vector<std::pair<double, int32_t>> inner_by_value() const {
    std::vector<std::pair<double, int32_t>> rising(leading_ ? block_.size() : from_.size());
    for (int64_t n = 0; n < static_cast<int64_t>(rising.size()); ++n)
      rising[n] = {leading_ ? least_value_with(n) : from_.value[n], static_cast<int32_t>(n)};
    std::sort(rising.begin(), rising.end());
    return rising;
  }

  // Appends the sum of partial solution `entry` and option i, if its least completion keeps every limit.
  void append(int64_t entry, int64_t i) {
    const double value = from_.value[entry] + value_[i];
    const int32_t state = open_state_[i];
    for (int d = 0; d < limits_; ++d) {
      const int64_t cost = from_.cost[entry * limits_ + d] + block_.cost[i * limits_ + d];
      if (cost + cost_rest_[static_cast<int64_t>(state) * limits_ + d] > problem_.limit[d]) {
        to_.cost.resize(to_.loss.size() * limits_);
        ++effort_.pruned;
        return;
      }
      to_.cost.push_back(cost);
    }
    to_.loss.push_back(from_.loss[entry] + block_.loss[i]);
    to_.value.push_back(value);
    to_.state.push_back(state);
    to_.parent.back().push_back(static_cast<int32_t>(entry));
    to_.option.back().push_back(static_cast<int32_t>(i));
  }

  const Problem& problem_;
  const Block& block_;
  const List& from_;
  List to_;
  Effort& effort_;
  const int limits_;
  const bool leading_;
  const std::vector<int32_t>&joined_state_, &open_state_;  // [n], of the options at both ends
  const std::vector<double>& value_rest_;                  // [S], the least value to complete a partial solution
  const std::vector<int64_t>& cost_rest_;                  // [S, M], the least costs likewise
  std::vector<double> value_;                              // [n], of the options
};

}  // namespace

List empty_list(int limits) {
  List list;
  list.loss = {0};
  list.cost.assign(limits, 0);
  list.value = {0.0};
  list.state = {0};
  return list;
}

bool extend(const Problem& problem, const Bound& bound, const Window& window, bool leading, size_t b, int64_t longest,
            List& list, Effort& effort) {
  Extension extension(problem, bound, leading, b, list, effort);
  if (!extension.append_all(window, 4 * longest)) return false;
  if (extension.list().size() > 64) extension.drop_dominated();
  List& next = extension.list();
  if (next.size() > longest) return false;
  list.parent.push_back(std::move(next.parent.back()));
  list.option.push_back(std::move(next.option.back()));
  list.loss = std::move(next.loss);
  list.cost = std::move(next.cost);
  list.value = std::move(next.value);
  list.state = std::move(next.state);
  return true;
}

}  // namespace pynas::knapsack
