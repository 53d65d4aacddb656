#include "cpu/traversal_lists.h"

#include <algorithm>
#include <utility>

#include "cpu/traversal_filter.h"

namespace pynas::traversal {
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

// Sums of a partial choice and an option, appended when they can still be completed.
class Appender {
 public:
  Appender(const Problem& problem, const Bound& bound, bool leading, size_t b, const List& from, List& to,
           Effort& effort)
      : problem_(problem), block_(problem.blocks[b]), from_(from), to_(to), effort_(effort), limits_(problem.limits),
        state_(leading ? block_.out : block_.in), value_rest_(leading ? bound.ahead[b + 1] : bound.behind[b]),
        cost_rest_(leading ? bound.cost_ahead[b + 1] : bound.cost_behind[b]) {
    for (int64_t i = 0; i < block_.size(); ++i) value_.push_back(bound.value(problem, block_, i));
  }

  // What an option adds to the value of a partial choice, the rest to complete it included.
  double value_added(int64_t i) const { return value_[i] + value_rest_[state_[i]]; }

  void append(int64_t entry, int64_t i) {
    const double value = from_.value[entry] + value_[i];
    const int32_t state = state_[i];
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

 private:
  const Problem& problem_;
  const Block& block_;
  const List& from_;
  List& to_;
  Effort& effort_;
  const int limits_;
  const std::vector<int32_t>& state_;
  const std::vector<double>& value_rest_;
  const std::vector<int64_t>& cost_rest_;
  std::vector<double> value_;
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

bool extend(const Problem& problem, const Bound& bound, const Window& window, bool leading, size_t b, int64_t most,
            List& list, Effort& effort) {
  const Block& block = problem.blocks[b];
  List next;
  next.parent.emplace_back();
  next.option.emplace_back();
  Appender appender(problem, bound, leading, b, list, next, effort);
  const std::vector<int32_t>& near = leading ? block.in : block.out;
  // Lexicographic order: the earlier block's choice is the outer loop. The inner one goes by rising value, to stop where
  // the window ends, and what passed is put back in order.
  const int64_t outer = leading ? list.size() : block.size(), inner = leading ? block.size() : list.size();
  std::vector<std::pair<double, int32_t>> rising(inner);
  for (int64_t n = 0; n < inner; ++n)
    rising[n] = {leading ? appender.value_added(n) : list.value[n], static_cast<int32_t>(n)};
  std::sort(rising.begin(), rising.end());
  std::vector<int32_t> passed;
  for (int64_t o = 0; o < outer; ++o) {
    const double room = window.value - (leading ? list.value[o] : appender.value_added(o));
    passed.clear();
    size_t p = 0;
    for (; p < rising.size() && rising[p].first <= room; ++p) {
      const int32_t n = rising[p].second;
      if (list.state[leading ? o : n] == near[leading ? n : o]) passed.push_back(n);
    }
    effort.visited += static_cast<int64_t>(p);
    effort.pruned += inner - static_cast<int64_t>(p);
    effort.cut |= p < rising.size();
    std::sort(passed.begin(), passed.end());
    for (int32_t n : passed) appender.append(leading ? o : n, leading ? n : o);
    if (next.size() > 4 * most) return false;
  }
  if (next.size() > 64) {
    const auto kept = undominated({next.size(), problem.limits, next.loss.data(), next.cost.data(),
                                   problem.states > 1 ? next.state.data() : nullptr},
                                  problem.top_k);
    effort.pruned += next.size() - static_cast<int64_t>(kept.size());
    if (kept.size() < next.loss.size()) keep(next, kept, problem.limits);
  }
  if (next.size() > most) return false;
  list.parent.push_back(std::move(next.parent.back()));
  list.option.push_back(std::move(next.option.back()));
  list.loss = std::move(next.loss);
  list.cost = std::move(next.cost);
  list.value = std::move(next.value);
  list.state = std::move(next.state);
  return true;
}

Tree::Tree(const Problem& problem, const List& list, int32_t state) : limits_(problem.limits) {
  for (int64_t e = 0; e < list.size(); ++e)
    if (list.state[e] == state) rank_.push_back(static_cast<int32_t>(e));
  if (rank_.empty()) return;
  nodes_.push_back({0, static_cast<int32_t>(rank_.size()), 0, 0, 0.0});
  build(problem, list, 0, 0);
  keys_.reserve(rank_.size() * (limits_ + 1));
  for (int32_t e : rank_) {
    keys_.push_back(list.loss[e]);
    for (int d = 0; d < limits_; ++d) keys_.push_back(list.cost[static_cast<int64_t>(e) * limits_ + d]);
  }
}

void Tree::build(const Problem& problem, const List& list, int32_t node, int depth) {
  constexpr int kLeaf = 8;
  const int32_t begin = nodes_[node].begin, end = nodes_[node].end;
  const auto key = [&](int32_t e, int d) {
    return d == 0 ? list.loss[e] : list.cost[static_cast<int64_t>(e) * limits_ + d - 1];
  };
  nodes_[node].least = static_cast<int64_t>(least_.size());
  for (int d = 0; d <= limits_; ++d) {
    int64_t least = key(rank_[begin], d);
    for (int32_t p = begin; p < end; ++p) least = std::min(least, key(rank_[p], d));
    least_.push_back(least);
  }
  double value = kInfinity;
  for (int32_t p = begin; p < end; ++p) value = std::min(value, list.value[rank_[p]]);
  nodes_[node].value = value;
  if (end - begin <= kLeaf) return;
  const int32_t middle = begin + (end - begin) / 2;
  const int d = depth % (limits_ + 1);
  std::nth_element(rank_.begin() + begin, rank_.begin() + middle, rank_.begin() + end,
                   [&](int32_t a, int32_t b) { return key(a, d) < key(b, d) || (key(a, d) == key(b, d) && a < b); });
  const int32_t children = static_cast<int32_t>(nodes_.size());
  nodes_[node].children = children;
  nodes_.push_back({begin, middle, 0, 0, 0.0});
  nodes_.push_back({middle, end, 0, 0, 0.0});
  build(problem, list, children, depth + 1);
  build(problem, list, children + 1, depth + 1);
}

}  // namespace pynas::traversal
