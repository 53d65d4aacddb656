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

// A point on a Z curve through losses and costs: of two points of which one is no greater in all, it comes first, or both share
// a place.
struct Placed {
  int32_t group, position;
  uint64_t place;

  bool operator<(const Placed& other) const {
    if (group != other.group) return group < other.group;
    return place != other.place ? place < other.place : position < other.position;
  }
};

std::vector<Placed> place(const Points& points) {
  constexpr int kHalf = 10;
  const int dims = 1 + points.limits, bits = std::min(64 / dims, 2 * kHalf);
  // The bits of a number, dims apart.
  std::vector<uint64_t> apart(1 << kHalf);
  for (size_t n = 0; n < apart.size(); ++n)
    for (int bit = 0; bit < std::min(bits, kHalf); ++bit) apart[n] |= (n >> bit & 1) << (bit * dims);
  std::vector<Placed> placed(points.count);
  for (int32_t i = 0; i < points.count; ++i) placed[i] = {points.group ? points.group[i] : 0, i, 0};
  for (int d = 0; d < std::min(dims, 64); ++d) {
    const int64_t* keys = d == 0 ? points.losses : points.costs + d - 1;
    const int64_t step = d == 0 ? 1 : points.limits;
    int64_t least = keys[0], most = keys[0];
    for (int64_t i = 0; i < points.count; ++i)
      least = std::min(least, keys[i * step]), most = std::max(most, keys[i * step]);
    const uint64_t range = static_cast<uint64_t>(most) - static_cast<uint64_t>(least);
    int shift = 0;
    while (range >> shift >> bits != 0) ++shift;
    for (int64_t i = 0; i < points.count; ++i) {
      const uint64_t part = (static_cast<uint64_t>(keys[i * step]) - static_cast<uint64_t>(least)) >> shift;
      placed[i].place |= apart[part % apart.size()] << d;
      if (bits > kHalf) placed[i].place |= apart[part / apart.size()] << (kHalf * dims + d);
    }
  }
  return placed;
}

// The last points kept of a group, at most kSize of them.
class LastKept {
 public:
  explicit LastKept(const Points& points) : points_(points), width_(1 + points.limits), keys_(kSize * width_) {}

  // Whether `enough` of them dominate point i.
  bool dominate(int32_t i, int64_t enough) const {
    const int64_t* cost = points_.costs + static_cast<int64_t>(i) * points_.limits;
    const Key key(points_.losses[i], i);
    for (size_t w = 1; w <= size(); ++w) {
      const size_t at = (added_ - w) % kSize;
      const int64_t* other = keys_.data() + at * width_;
      bool all = Key(other[0], positions_[at]) < key;
      for (int d = 0; d < points_.limits; ++d) all &= other[1 + d] <= cost[d];
      if (all && --enough == 0) return true;
    }
    return false;
  }

  void add(int32_t i) {
    const size_t at = added_++ % kSize;
    positions_[at] = i;
    keys_[at * width_] = points_.losses[i];
    std::copy_n(points_.costs + static_cast<int64_t>(i) * points_.limits, points_.limits,
                keys_.begin() + at * width_ + 1);
  }

  void clear() { added_ = 0; }
  size_t size() const { return std::min(added_, kSize); }

 private:
  static constexpr size_t kSize = 128;
  const Points& points_;
  const size_t width_;
  std::vector<int64_t> keys_;  // [kSize, 1 + M], losses and costs
  int32_t positions_[kSize];
  size_t added_ = 0;
};

// Appends those of [begin, end), in the order of the curve, that the last ones kept before them do not dominate.
void keep_undominated(const Points& points, int64_t top_k, const Placed* begin, const Placed* end,
                      std::vector<int32_t>& kept) {
  LastKept last(points);
  Ticker tick;
  for (const Placed* point = begin; point < end; ++point) {
    if (point > begin && point[0].group != point[-1].group) last.clear();
    tick(static_cast<int64_t>(last.size()) + 1);
    if (last.dominate(point->position, top_k)) continue;
    kept.push_back(point->position);
    last.add(point->position);
  }
}

// Whether a 64th of two pieces of the curve is dominated. Reorders the points.
bool worth_the_time(const Points& points, int64_t top_k, std::vector<Placed>& placed) {
  constexpr int64_t kPiece = 2048;
  const int64_t count = points.count;
  if (count < 8 * kPiece) return true;
  std::vector<int32_t> kept;
  for (const int64_t at : {count / 3, 2 * count / 3}) {
    check_interrupt();
    const auto begin = placed.begin() + at, end = begin + kPiece;
    std::nth_element(placed.begin(), begin, placed.end());
    std::nth_element(begin, end, placed.end());
    std::sort(begin, end);
    keep_undominated(points, top_k, &*begin, &*end, kept);
  }
  return static_cast<int64_t>(kept.size()) * 64 <= 2 * kPiece * 63;
}

// Compares each point with those kept before it on the curve that are near: its dominators come before it.
std::vector<int32_t> several_limits(const Points& points, int64_t top_k) {
  std::vector<int32_t> kept;
  if (points.count > 0 && top_k <= 16) {  // few points have more dominators
    std::vector<Placed> placed = place(points);
    if (worth_the_time(points, top_k, placed)) {
      sort_listening(placed.begin(), placed.end(), std::less<>());
      keep_undominated(points, top_k, placed.data(), placed.data() + placed.size(), kept);
      std::sort(kept.begin(), kept.end());
      return kept;
    }
  }
  kept.resize(points.count);
  std::iota(kept.begin(), kept.end(), 0);
  return kept;
}

}  // namespace

std::vector<int32_t> undominated(const Points& points, int64_t top_k) {
  if (points.limits == 0) return no_limit(points, top_k);
  return points.limits == 1 ? one_limit(points, top_k) : several_limits(points, top_k);
}

}  // namespace pynas::knapsack
