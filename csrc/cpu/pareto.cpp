#include "common/pareto.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <vector>

#include "common/interrupt.h"
#include "common/parallel.h"

namespace pynas::cpu {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// Calls f(pair, bucket, loss) for all pairs with a left in [begin, end).
template <int M, class F>
void each_pair(const ParetoPairsArgs& args, int64_t begin, int64_t end, F&& f) {
  Ticker tick;
  for (int64_t l = begin; l < end; ++l) {
    tick(args.rights);
    const int64_t loss = args.left_loss[l];
    int64_t cost[M];
    for (int d = 0; d < M; ++d) cost[d] = args.left_cost[l * M + d] - args.least[d];
    for (int64_t r = 0; r < args.rights; ++r) {
      int64_t bucket = (cost[0] + args.right_cost[r * M]) >> args.shift[0];
      if (M == 2) bucket = bucket << args.bits | (cost[M - 1] + args.right_cost[r * M + M - 1]) >> args.shift[M - 1];
      f(l * args.rights + r, bucket, loss + args.right_loss[r]);
    }
  }
}

// Replaces each bucket's least loss by that of the buckets which are lower in every cost.
void exclusive_minimum(int64_t* floor, int costs, int bits) {
  const int64_t size = int64_t{1} << bits;
  if (costs == 1) {
    int64_t least = kNone;
    for (int64_t k = 0; k < size; ++k) std::swap(least, floor[k]), least = std::min(least, floor[k]);
    return;
  }
  // column: the minimum of each column over the rows before.
  std::vector<int64_t> column(size, kNone);
  for (int64_t x = 0; x < size; ++x) {
    int64_t* row = floor + x * size;
    int64_t least = kNone;
    for (int64_t y = 0; y < size; ++y) {
      const int64_t value = row[y];
      row[y] = least;
      least = std::min(least, column[y]);
      column[y] = std::min(column[y], value);
    }
  }
}

template <int M>
void run(const ParetoPairsArgs& args) {
  const int64_t size = int64_t{1} << (args.bits * M);
  const int workers = static_cast<int>(std::min<int64_t>(args.threads, 1 + args.lefts * args.rights / 65536));
  std::vector<std::vector<int64_t>> tables(workers - 1, std::vector<int64_t>(size, kNone));
  std::fill_n(args.floor, size, kNone);
  parallel_for(args.lefts, 1, workers, [&](int64_t begin, int64_t end, int worker) {
    int64_t* table = worker == 0 ? args.floor : tables[worker - 1].data();
    each_pair<M>(args, begin, end, [&](int64_t, int64_t bucket, int64_t loss) {
      if (loss < table[bucket]) table[bucket] = loss;
    });
  });
  for (const auto& table : tables)
    for (int64_t k = 0; k < size; ++k) args.floor[k] = std::min(args.floor[k], table[k]);
  exclusive_minimum(args.floor, M, args.bits);
  std::atomic<int64_t> count{0};
  parallel_for(args.lefts, 1, workers, [&](int64_t begin, int64_t end, int) {
    each_pair<M>(args, begin, end, [&](int64_t pair, int64_t bucket, int64_t loss) {
      if (loss >= args.floor[bucket]) return;
      const int64_t at = count.fetch_add(1, std::memory_order_relaxed);
      if (at < args.capacity) args.pairs[at] = pair;
    });
  });
  *args.count = count.load();
}

// The least loss so far with a second cost of `rank` or less: a Fenwick tree of minima.
class PrefixMinimum {
 public:
  explicit PrefixMinimum(size_t size) : least_(size + 1, kNone) {}
  int64_t operator()(size_t rank) const {
    int64_t least = kNone;
    for (size_t i = rank + 1; i > 0; i &= i - 1) least = std::min(least, least_[i]);
    return least;
  }
  void add(size_t rank, int64_t loss) {
    for (size_t i = rank + 1; i < least_.size(); i += i & (~i + 1)) least_[i] = std::min(least_[i], loss);
  }

 private:
  std::vector<int64_t> least_;
};

struct Point {
  int64_t first, second, loss, position;  // costs; second is 0 with one cost, then its rank with two
  bool operator<(const Point& other) const {
    if (first != other.first) return first < other.first;
    if (second != other.second) return second < other.second;
    if (loss != other.loss) return loss < other.loss;
    return position < other.position;
  }
};

}  // namespace

void pareto_pairs(const ParetoPairsArgs& args) {
  const Listening call;
  args.costs == 1 ? run<1>(args) : run<2>(args);
}

void pareto_filter(const ParetoFilterArgs& args) {
  const Listening call;
  std::vector<Point> points(args.points);
  std::vector<int64_t> seconds;
  for (int64_t i = 0; i < args.points; ++i) {
    const int64_t* cost = args.cost + i * args.costs;
    points[i] = {cost[0], args.costs == 2 ? cost[1] : 0, args.loss[i], i};
    if (args.costs == 2) seconds.push_back(cost[1]);
  }
  sort_listening(seconds.begin(), seconds.end(), std::less<>());
  seconds.erase(std::unique(seconds.begin(), seconds.end()), seconds.end());
  Ticker tick;
  for (Point& point : points) {
    tick();
    point.second = std::lower_bound(seconds.begin(), seconds.end(), point.second) - seconds.begin();
  }
  // In sorted order every point comes after those that dominate it.
  sort_listening(points.begin(), points.end(), std::less<>());
  PrefixMinimum least(std::max<size_t>(seconds.size(), 1));
  int64_t count = 0;
  for (const Point& point : points) {
    tick();
    if (least(point.second) <= point.loss) continue;
    least.add(point.second, point.loss);
    args.kept[count++] = point.position;
  }
  sort_listening(args.kept, args.kept + count, std::less<>());
  *args.count = count;
}

}  // namespace pynas::cpu
