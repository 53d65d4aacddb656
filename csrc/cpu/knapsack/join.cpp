#include "cpu/knapsack/join.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/interrupt.h"
#include "common/parallel.h"
#include "cpu/knapsack/tree.h"

namespace pynas::knapsack {
namespace {

// The top_k least solutions, in a heap with the worst on top.
class Collector {
 public:
  // `worst`: the solution that every other must beat, or null.
  Collector(int64_t top_k, int64_t greatest_loss, const Solution* worst)
      : top_k_(top_k), greatest_loss_(greatest_loss), worst_(worst) {}

  bool full() const { return static_cast<int64_t>(heap_.size()) >= top_k_; }

  // The solution that a new one must beat, or null.
  const Solution* worst() const { return full() ? &heap_.front() : worst_; }
  int64_t greatest_loss() const { return worst() != nullptr ? worst()->loss : greatest_loss_; }

  void add(Solution solution) {
    const Solution* beaten = worst();
    if (beaten != nullptr ? !(solution < *beaten) : solution.loss > greatest_loss_) return;
    if (full()) {
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
    }
    heap_.push_back(std::move(solution));
    std::push_heap(heap_.begin(), heap_.end());
  }

  std::vector<Solution>& solutions() { return heap_; }

 private:
  int64_t top_k_, greatest_loss_;
  const Solution* worst_;
  std::vector<Solution> heap_;
};

// Completes leading partial solutions. Each worker has its own.
class Joiner {
 public:
  Joiner(const Problem& problem, const Bound& bound, const Halves& halves, const std::vector<Tree>& trees,
         Collector& collector, Effort& effort)
      : problem_(problem), bound_(bound), halves_(halves), trees_(trees), collector_(collector), effort_(effort),
        limits_(problem.limits), cost_((halves.end - halves.begin + 1) * problem.limits) {
    query_.cost.resize(limits_);
  }

  void complete(int64_t entry) {
    solution_.leading = static_cast<int32_t>(entry);
    solution_.middle.clear();
    for (int d = 0; d < limits_; ++d) cost_[d] = halves_.leading.cost[entry * limits_ + d];
    walk(halves_.begin, halves_.leading.loss[entry], halves_.leading.value[entry], halves_.leading.state[entry]);
  }

 private:
  // The greatest total loss of interest. A tie with the worst solution counts only before it in the order.
  int64_t greatest_loss() const {
    const Solution* worst = collector_.worst();
    const bool after = worst != nullptr && (worst->leading < solution_.leading ||
                                            (worst->leading == solution_.leading && worst->middle < solution_.middle));
    return collector_.greatest_loss() - (after ? problem_.step : 0);
  }
  double greatest_value() const { return static_cast<double>(greatest_loss()) + bound_.limit_value + bound_.margin; }

  // Depth first over the blocks between the lists.
  void walk(size_t b, int64_t loss, double value, int32_t state) {
    if (loss + bound_.loss_ahead[b][state] > greatest_loss() || value + bound_.value_ahead[b][state] > greatest_value())
      return;
    if (b == halves_.end) return find_trailing(loss, value, state);
    tick_(problem_.blocks[b].size());
    const Block& block = problem_.blocks[b];
    const int64_t* cost = cost_.data() + (b - halves_.begin) * limits_;
    int64_t* next = cost_.data() + (b - halves_.begin + 1) * limits_;
    for (int64_t i = 0; i < block.size(); ++i) {
      if (block.state_in[i] != state) continue;
      ++effort_.visited;
      const double sum = value + bound_.value(problem_, block, i);
      const int64_t* rest = bound_.cost_ahead[b + 1].data() + static_cast<int64_t>(block.state_out[i]) * limits_;
      bool fits = true;
      for (int d = 0; d < limits_; ++d) {
        next[d] = cost[d] + block.cost[i * limits_ + d];
        fits &= next[d] + rest[d] <= problem_.limit[d];
      }
      if (!fits) {
        ++effort_.pruned;
        continue;
      }
      solution_.middle.push_back(static_cast<int32_t>(i));
      walk(b + 1, loss + block.loss[i], sum, block.state_out[i]);
      solution_.middle.pop_back();
    }
  }

  void find_trailing(int64_t loss, double value, int32_t state) {
    const int64_t* cost = cost_.data() + (halves_.end - halves_.begin) * limits_;
    for (int d = 0; d < limits_; ++d) query_.cost[d] = problem_.limit[d] - cost[d];
    const auto tighten = [&] {
      query_.loss = greatest_loss() - loss;
      query_.value = greatest_value() - value;
    };
    tighten();
    const int64_t visited = trees_[state].search(query_, [&](int32_t entry, int64_t trailing_loss) {
      solution_.loss = loss + trailing_loss;
      solution_.trailing = entry;
      collector_.add(solution_);
      tighten();
    });
    effort_.visited += visited;
    tick_(visited + 1);
  }

  const Problem& problem_;
  const Bound& bound_;
  const Halves& halves_;
  const std::vector<Tree>& trees_;
  Collector& collector_;
  Effort& effort_;
  const int limits_;
  Solution solution_;
  Tree::Query query_;
  std::vector<int64_t> cost_;  // [blocks between + 1, M], of the partial solution up to each block
  Ticker tick_;
};

// Leading entries by the least value that completes them: the threshold falls early, and most are never completed.
struct Order {
  std::vector<int32_t> entries;
  std::vector<double> value;  // [n], by entry; rounded down to a multiple of 4 margins, so that ties keep their order

  Order(const Bound& bound, const Halves& halves) {
    const List& leading = halves.leading;
    value.resize(leading.size());
    for (int64_t e = 0; e < leading.size(); ++e) {
      const double least = leading.value[e] + bound.value_ahead[halves.begin][leading.state[e]];
      value[e] = std::floor(least / (4 * bound.margin)) * (4 * bound.margin);
    }
    entries.resize(leading.size());
    std::iota(entries.begin(), entries.end(), 0);
    sort_listening(entries.begin(), entries.end(),
                   [&](int32_t a, int32_t b) { return value[a] != value[b] ? value[a] < value[b] : a < b; });
  }
};

}  // namespace

std::vector<Solution> join(const Problem& problem, const Bound& bound, const Halves& halves, int64_t greatest_loss,
                           int threads, Effort& effort) {
  std::vector<Tree> trees;
  for (int32_t state = 0; state < problem.states; ++state) trees.emplace_back(problem, halves.trailing, state);
  const Order order(bound, halves);
  const auto count = static_cast<int64_t>(order.entries.size());
  Collector all(problem.top_k, greatest_loss, nullptr);
  // Entries go in waves, a wave in a fixed number of pieces. Every piece starts from the worst solution before its wave,
  // so the answer and the effort do not depend on the number of threads.
  constexpr int64_t kPieces = 16;
  for (int64_t begin = 0, wave = kPieces; begin < count; begin += wave, wave = std::min<int64_t>(wave * 2, 8192)) {
    const double greatest_value = static_cast<double>(all.greatest_loss()) + bound.limit_value + bound.margin;
    if (order.value[order.entries[begin]] > greatest_value) break;
    wave = std::min(wave, count - begin);
    const int64_t pieces = wave >= 512 ? kPieces : 1;
    const Solution worst = all.full() ? *all.worst() : Solution{};
    std::vector<Collector> found(pieces, Collector(problem.top_k, greatest_loss, all.full() ? &worst : nullptr));
    std::vector<Effort> efforts(pieces);
    parallel_for(pieces, 1, threads, [&](int64_t first, int64_t last, int) {
      for (int64_t piece = first; piece < last; ++piece) {
        Joiner joiner(problem, bound, halves, trees, found[piece], efforts[piece]);
        const int64_t end = begin + wave * (piece + 1) / pieces;
        for (int64_t p = begin + wave * piece / pieces; p < end; ++p) joiner.complete(order.entries[p]);
      }
    });
    for (int64_t piece = 0; piece < pieces; ++piece) {
      effort.visited += efforts[piece].visited;
      effort.pruned += efforts[piece].pruned;
      for (Solution& solution : found[piece].solutions()) all.add(std::move(solution));
    }
  }
  std::vector<Solution> solutions = std::move(all.solutions());
  std::sort(solutions.begin(), solutions.end());
  return solutions;
}

}  // namespace pynas::knapsack
