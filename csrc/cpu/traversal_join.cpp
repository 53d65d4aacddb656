#include "cpu/traversal_join.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/parallel.h"

namespace pynas::traversal {
namespace {

// The top_k least solutions below a threshold, as a heap with the greatest on top.
class Collector {
 public:
  Collector(int64_t top_k, int64_t most, const Solution* worst) : top_k_(top_k), most_(most), worst_(worst) {}

  bool full() const { return static_cast<int64_t>(heap_.size()) >= top_k_; }

  // The worst that a new solution must beat, or null.
  const Solution* threshold() const { return full() ? &heap_.front() : worst_; }
  int64_t most() const { return threshold() != nullptr ? threshold()->loss : most_; }

  void add(Solution solution) {
    if (const Solution* worst = threshold(); worst != nullptr ? !(solution < *worst) : solution.loss > most_) return;
    if (full()) {
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
    }
    heap_.push_back(std::move(solution));
    std::push_heap(heap_.begin(), heap_.end());
  }

  std::vector<Solution>& solutions() { return heap_; }

 private:
  int64_t top_k_, most_;
  const Solution* worst_;
  std::vector<Solution> heap_;
};

// Finds the partners of leading entries; one per worker, all state its own.
class Joiner {
 public:
  Joiner(const Problem& problem, const Bound& bound, const Halves& halves, const std::vector<Tree>& trees,
         Collector& collector, Effort& effort)
      : problem_(problem), bound_(bound), halves_(halves), trees_(trees), collector_(collector), effort_(effort),
        limits_(problem.limits), cost_((halves.end - halves.begin + 1) * problem.limits) {
    query_.cost.resize(limits_);
  }

  void from(int64_t entry) {
    solution_.leading = static_cast<int32_t>(entry);
    solution_.middle.clear();
    for (int d = 0; d < limits_; ++d) cost_[d] = halves_.leading.cost[entry * limits_ + d];
    walk(halves_.begin, halves_.leading.loss[entry], halves_.leading.value[entry], halves_.leading.state[entry]);
  }

 private:
  double most_value() const { return static_cast<double>(most_loss()) + bound_.limit_value + bound_.margin; }

  // The greatest total loss that still counts: a tie only for what comes before the worst kept.
  int64_t most_loss() const {
    const Solution* worst = collector_.threshold();
    const bool after = worst != nullptr && (worst->leading < solution_.leading ||
                                            (worst->leading == solution_.leading && worst->middle < solution_.middle));
    return collector_.most() - (after ? problem_.step : 0);
  }

  void walk(size_t b, int64_t loss, double value, int32_t state) {
    if (loss + bound_.loss_ahead[b][state] > most_loss() || value + bound_.ahead[b][state] > most_value()) return;
    if (b == halves_.end) return finish(loss, value, state);
    const Block& block = problem_.blocks[b];
    const int64_t* cost = cost_.data() + (b - halves_.begin) * limits_;
    int64_t* next = cost_.data() + (b - halves_.begin + 1) * limits_;
    for (int64_t i = 0; i < block.size(); ++i) {
      if (block.in[i] != state) continue;
      ++effort_.visited;
      const double sum = value + bound_.value(problem_, block, i);
      bool open = true;
      for (int d = 0; d < limits_; ++d) {
        next[d] = cost[d] + block.cost[i * limits_ + d];
        open &=
            next[d] + bound_.cost_ahead[b + 1][static_cast<int64_t>(block.out[i]) * limits_ + d] <= problem_.limit[d];
      }
      if (!open) {
        ++effort_.pruned;
        continue;
      }
      solution_.middle.push_back(static_cast<int32_t>(i));
      walk(b + 1, loss + block.loss[i], sum, block.out[i]);
      solution_.middle.pop_back();
    }
  }

  void finish(int64_t loss, double value, int32_t state) {
    const int64_t* cost = cost_.data() + (halves_.end - halves_.begin) * limits_;
    for (int d = 0; d < limits_; ++d) query_.cost[d] = problem_.limit[d] - cost[d];
    const auto tighten = [&] {
      query_.loss = most_loss() - loss;
      query_.value = most_value() - value;
    };
    tighten();
    effort_.visited += trees_[state].search(query_, [&](int32_t rank, int64_t partner) {
      solution_.loss = loss + partner;
      solution_.trailing = rank;
      collector_.add(solution_);
      tighten();
    });
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
  std::vector<int64_t> cost_;  // [middle + 1, M]
};

}  // namespace

std::vector<Solution> join(const Problem& problem, const Bound& bound, const Halves& halves, int64_t most, int threads,
                           Effort& effort) {
  std::vector<Tree> trees;
  for (int32_t state = 0; state < problem.states; ++state) trees.emplace_back(problem, halves.trailing, state);
  // The most promising first, so that the threshold falls early and the rest is never looked at.
  const List& leading = halves.leading;
  std::vector<double> promise(leading.size());
  for (int64_t e = 0; e < leading.size(); ++e) {
    // In steps as wide as rounding, so that what may tie stays in order of rank.
    const double value = leading.value[e] + bound.ahead[halves.begin][leading.state[e]];
    promise[e] = std::floor(value / (4 * bound.margin)) * (4 * bound.margin);
  }
  std::vector<int32_t> order(leading.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return promise[a] != promise[b] ? promise[a] < promise[b] : a < b; });
  Collector all(problem.top_k, most, nullptr);
  // Waves of fixed pieces: each piece starts from the threshold before its wave, so nothing depends on the threads.
  constexpr int64_t kPieces = 16;
  for (int64_t begin = 0, wave = kPieces; begin < leading.size();
       begin += wave, wave = std::min<int64_t>(wave * 2, 8192)) {
    const double reach = static_cast<double>(all.most()) + bound.limit_value + bound.margin;
    if (promise[order[begin]] > reach) break;
    wave = std::min(wave, leading.size() - begin);
    const int64_t pieces = wave >= 512 ? kPieces : 1;
    const Solution worst = all.full() ? *all.threshold() : Solution{};
    std::vector<Collector> found(pieces, Collector(problem.top_k, most, all.full() ? &worst : nullptr));
    std::vector<Effort> efforts(pieces);
    parallel_for(pieces, 1, threads, [&](int64_t first, int64_t last, int) {
      for (int64_t piece = first; piece < last; ++piece) {
        Joiner joiner(problem, bound, halves, trees, found[piece], efforts[piece]);
        const int64_t stop = begin + wave * (piece + 1) / pieces;
        for (int64_t p = begin + wave * piece / pieces; p < stop; ++p) joiner.from(order[p]);
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

}  // namespace pynas::traversal
