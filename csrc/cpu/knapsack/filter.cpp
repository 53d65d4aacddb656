#include "cpu/knapsack/filter.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>

#include "common/interrupt.h"

namespace pynas::knapsack {
namespace {

using Key = std::pair<int64_t, int32_t>;  // (loss, position): a total order

// The k least keys so far.
class LeastKeys {
 public:
  explicit LeastKeys(int64_t k) : k_(k) {}

  // Keeps the key if it is among the k least, and returns whether it is.
  bool add(const Key& key) {
    if (k_ == 1) {
      if (!(key < best_)) return false;
      best_ = key;
      return true;
    }
    if (static_cast<int64_t>(heap_.size()) < k_) {
      heap_.push(key);
      return true;
    }
    if (!(key < heap_.top())) return false;
    heap_.pop();
    heap_.push(key);
    return true;
  }

  void clear() {
    best_ = {std::numeric_limits<int64_t>::max(), 0};
    heap_ = {};
  }

 private:
  const int64_t k_;
  Key best_{std::numeric_limits<int64_t>::max(), 0};
  std::priority_queue<Key> heap_;
};

// The positions of the points that no cheaper bucket of the first cost dominates: a sieve in linear time before sorting.
std::vector<int32_t> bucketed(const Points& points) {
  const uint64_t buckets = points.count > 32768 ? 2048 : 512;
  int64_t least = std::numeric_limits<int64_t>::max(), most = std::numeric_limits<int64_t>::min();
  for (int64_t i = 0; i < points.count; ++i) {
    least = std::min(least, points.costs[i]);
    most = std::max(most, points.costs[i]);
  }
  int shift = 0;
  while (((static_cast<uint64_t>(most) - static_cast<uint64_t>(least)) >> shift) >= buckets) ++shift;
  const auto bucket = [&](int64_t i) {
    return static_cast<int>((static_cast<uint64_t>(points.costs[i]) - static_cast<uint64_t>(least)) >> shift);
  };
  std::vector<int64_t> best(buckets + 1, std::numeric_limits<int64_t>::max());
  for (int64_t i = 0; i < points.count; ++i) {
    int64_t& loss = best[bucket(i) + 1];
    loss = std::min(loss, points.losses[i]);
  }
  for (uint64_t b = 1; b <= buckets; ++b) best[b] = std::min(best[b], best[b - 1]);
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < points.count; ++i)
    if (points.losses[i] <= best[bucket(i)]) kept.push_back(static_cast<int32_t>(i));
  return kept;
}

// Of each group in the order of cost, the points whose key is among the k least so far.
std::vector<int32_t> one_limit(const Points& points, int64_t top_k) {
  const bool many = points.count > 512 && top_k == 1 && points.group == nullptr;
  std::vector<int32_t> order = many ? bucketed(points) : std::vector<int32_t>(points.count);
  if (!many) std::iota(order.begin(), order.end(), 0);
  struct Row {
    int32_t group;
    int32_t position;
    int64_t cost, loss;
    bool operator<(const Row& other) const {
      if (group != other.group) return group < other.group;
      if (cost != other.cost) return cost < other.cost;
      if (loss != other.loss) return loss < other.loss;
      return position < other.position;
    }
  };
  std::vector<Row> rows;
  rows.reserve(order.size());
  for (int32_t i : order) rows.push_back({points.group ? points.group[i] : 0, i, points.costs[i], points.losses[i]});
  sort_listening(rows.begin(), rows.end(), std::less<>());
  LeastKeys least(top_k);
  order.clear();
  int32_t group = -1;
  for (const Row& row : rows) {
    if (row.group != group) least.clear(), group = row.group;
    if (least.add({row.loss, row.position})) order.push_back(row.position);
  }
  std::sort(order.begin(), order.end());
  return order;
}

// The k least keys of each group.
std::vector<int32_t> no_limit(const Points& points, int64_t top_k) {
  std::vector<int32_t> order(points.count);
  std::iota(order.begin(), order.end(), 0);
  const auto group = [&](int32_t i) { return points.group ? points.group[i] : 0; };
  sort_listening(order.begin(), order.end(), [&](int32_t i, int32_t j) {
    return std::make_pair(group(i), Key(points.losses[i], i)) < std::make_pair(group(j), Key(points.losses[j], j));
  });
  std::vector<int32_t> kept;
  int64_t seen = 0;
  for (size_t p = 0; p < order.size(); ++p) {
    seen = p > 0 && group(order[p]) == group(order[p - 1]) ? seen + 1 : 1;
    if (seen <= top_k) kept.push_back(order[p]);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

// Compares each point with the first points kept of its group, at most kWindow of them.
std::vector<int32_t> several_limits(const Points& points, int64_t top_k) {
  std::vector<int32_t> order(points.count);
  std::iota(order.begin(), order.end(), 0);
  if (top_k > 16) return order;  // seldom worth the time: few points have so many dominators
  const auto group = [&](int32_t i) { return points.group ? points.group[i] : 0; };
  sort_listening(order.begin(), order.end(), [&](int32_t i, int32_t j) {
    return std::make_pair(group(i), Key(points.losses[i], i)) < std::make_pair(group(j), Key(points.losses[j], j));
  });
  constexpr size_t kWindow = 128;
  std::vector<int32_t> kept;
  std::vector<int64_t> window;  // costs of the first kept of the group, [w, M]
  size_t filled = 0;
  Ticker tick;
  for (size_t p = 0; p < order.size(); ++p) {
    tick(static_cast<int64_t>(filled) + 1);
    const int32_t i = order[p];
    if (p > 0 && group(i) != group(order[p - 1])) window.clear(), filled = 0;
    const int64_t* cost = points.costs + static_cast<int64_t>(i) * points.limits;
    int64_t dominators = 0;
    for (size_t w = 0; w < filled && dominators < top_k; ++w) {
      bool all = true;
      for (int d = 0; d < points.limits; ++d) all &= window[w * points.limits + d] <= cost[d];
      dominators += all;
    }
    if (dominators >= top_k) continue;
    kept.push_back(i);
    if (filled < kWindow) window.insert(window.end(), cost, cost + points.limits), ++filled;
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace

std::vector<int32_t> undominated(const Points& points, int64_t top_k) {
  if (points.limits == 0) return no_limit(points, top_k);
  return points.limits == 1 ? one_limit(points, top_k) : several_limits(points, top_k);
}

}  // namespace pynas::knapsack
