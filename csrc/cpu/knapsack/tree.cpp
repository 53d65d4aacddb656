#include "cpu/knapsack/tree.h"

#include <algorithm>

namespace pynas::knapsack {

Tree::Tree(const Problem& problem, const List& list, int32_t state) : limits_(problem.limits) {
  for (int64_t e = 0; e < list.size(); ++e)
    if (list.state[e] == state) entry_.push_back(static_cast<int32_t>(e));
  if (entry_.empty()) return;
  nodes_.push_back({0, static_cast<int32_t>(entry_.size()), 0, 0, 0.0});
  build(list, 0, 0);
  keys_.reserve(entry_.size() * (limits_ + 1));
  for (int32_t e : entry_) {
    keys_.push_back(list.loss[e]);
    for (int d = 0; d < limits_; ++d) keys_.push_back(list.cost[static_cast<int64_t>(e) * limits_ + d]);
  }
}

// Splits the node's entries at the median of the loss or of one cost, in turn by depth.
void Tree::build(const List& list, int32_t node, int depth) {
  constexpr int kLeaf = 8;
  const int32_t begin = nodes_[node].begin, end = nodes_[node].end;
  const auto key = [&](int32_t e, int d) {
    return d == 0 ? list.loss[e] : list.cost[static_cast<int64_t>(e) * limits_ + d - 1];
  };
  tick_(end - begin);
  nodes_[node].least = static_cast<int64_t>(least_.size());
  for (int d = 0; d <= limits_; ++d) {
    int64_t least = key(entry_[begin], d);
    for (int32_t p = begin; p < end; ++p) least = std::min(least, key(entry_[p], d));
    least_.push_back(least);
  }
  double value = kInfinity;
  for (int32_t p = begin; p < end; ++p) value = std::min(value, list.value[entry_[p]]);
  nodes_[node].value = value;
  if (end - begin <= kLeaf) return;
  const int32_t middle = begin + (end - begin) / 2;
  const int d = depth % (limits_ + 1);
  std::nth_element(entry_.begin() + begin, entry_.begin() + middle, entry_.begin() + end,
                   [&](int32_t a, int32_t b) { return key(a, d) < key(b, d) || (key(a, d) == key(b, d) && a < b); });
  const int32_t children = static_cast<int32_t>(nodes_.size());
  nodes_[node].children = children;
  nodes_.push_back({begin, middle, 0, 0, 0.0});
  nodes_.push_back({middle, end, 0, 0, 0.0});
  build(list, children, depth + 1);
  build(list, children + 1, depth + 1);
}

}  // namespace pynas::knapsack
