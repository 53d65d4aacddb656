// Lagrangian bound, then the few options near it: list the partial choices of both ends and join them. Where the lists
// grow too long, look at a narrower window of losses first; the window of the last round holds a proof.
#include "common/traversal.h"

#include <algorithm>
#include <numeric>

#include "cpu/traversal_filter.h"
#include "cpu/traversal_join.h"
#include "cpu/traversal_lists.h"
#include "cpu/traversal_problem.h"

namespace pynas {
namespace traversal {
namespace {

constexpr int64_t kLongest = int64_t{1} << 20;  // partial choices per list: bounds the memory

// One block's pool as candidates of the dominance filter.
struct Pool {
  std::vector<int32_t> group;
  Candidates candidates;
};

Pool pool_of(const TraversalArguments& a, int64_t b) {
  const int64_t begin = a.offsets[b], count = a.offsets[b + 1] - begin;
  Pool pool{{}, {count, static_cast<int>(a.limits), a.losses + begin, a.costs + begin * a.limits, nullptr}};
  if (a.states > 1) {
    for (int64_t i = begin; i < begin + count; ++i)
      pool.group.push_back(static_cast<int32_t>(a.state_in[i] * a.states + a.state_out[i]));
    pool.candidates.group = pool.group.data();
  }
  return pool;
}

// The options `kept` of block b, shifted so that the least loss and costs of the whole pool are 0.
Block take(const TraversalArguments& a, int64_t b, const std::vector<int32_t>& kept, int64_t loss_shift,
           const std::vector<int64_t>& cost_shift) {
  Block block;
  block.index = kept;
  for (int32_t i : kept) {
    const int64_t row = a.offsets[b] + i;
    block.loss.push_back(a.losses[row] - loss_shift);
    for (int64_t d = 0; d < a.limits; ++d) block.cost.push_back(a.costs[row * a.limits + d] - cost_shift[d]);
    block.in.push_back(a.states > 1 ? static_cast<int32_t>(a.state_in[row]) : 0);
    block.out.push_back(a.states > 1 ? static_cast<int32_t>(a.state_out[row]) : 0);
  }
  return block;
}

struct Problems {
  Problem pool;   // every option that may be in the answer
  Problem front;  // the undominated ones, enough for the bound
};

Problems read(const TraversalArguments& a, Effort& effort) {
  Problem empty{static_cast<int>(a.limits), static_cast<int>(a.states), a.top_k, {a.limit, a.limit + a.limits}, {}, {}};
  Problems problems{empty, empty};
  for (int64_t b = 0; b < a.blocks; ++b) {
    const Pool pool = pool_of(a, b);
    const std::vector<int32_t> front = undominated(pool.candidates, 1);
    const int64_t* losses = pool.candidates.losses;
    const int64_t loss_shift = *std::min_element(losses, losses + pool.candidates.count);
    std::vector<int64_t> cost_shift(a.limits);
    for (int64_t d = 0; d < a.limits; ++d) {
      int64_t least = pool.candidates.costs[d];
      for (int64_t i = 0; i < pool.candidates.count; ++i) least = std::min(least, pool.candidates.costs[i * a.limits + d]);
      cost_shift[d] = least;
      problems.pool.limit[d] -= least;
    }
    problems.front.blocks.push_back(take(a, b, front, loss_shift, cost_shift));
    if (a.top_k > 1) {
      std::vector<int32_t> whole(pool.candidates.count);
      std::iota(whole.begin(), whole.end(), 0);
      problems.pool.blocks.push_back(take(a, b, whole, loss_shift, cost_shift));
    } else {
      effort.pruned += pool.candidates.count - static_cast<int64_t>(front.size());
    }
  }
  problems.front.limit = problems.pool.limit;
  if (a.top_k == 1) problems.pool.blocks = problems.front.blocks;
  return problems;
}

// The options that a solution within the window may use.
Problem core_of(const Problem& problem, const Bound& bound, const Window& window, Effort& effort) {
  Problem core{problem.limits, problem.states, problem.top_k, problem.limit, {}, {}};
  const int limits = problem.limits;
  for (size_t b = 0; b < problem.blocks.size(); ++b) {
    const Block& block = problem.blocks[b];
    Block near;
    std::vector<int32_t> group;
    for (int64_t i = 0; i < block.size(); ++i) {
      const int32_t in = block.in[i], out = block.out[i];
      if (bound.behind[b][in] + bound.value(problem, block, i) + bound.ahead[b + 1][out] > window.value) {
        effort.cut = true;
        ++effort.pruned;
        continue;
      }
      bool reachable = true;
      for (int d = 0; d < limits; ++d)
        reachable &= bound.cost_behind[b][in * limits + d] + block.cost[i * limits + d] +
                         bound.cost_ahead[b + 1][out * limits + d] <= problem.limit[d];
      if (!reachable) {
        ++effort.pruned;
        continue;
      }
      near.index.push_back(static_cast<int32_t>(i));
      near.loss.push_back(block.loss[i]);
      near.cost.insert(near.cost.end(), block.cost.begin() + i * limits, block.cost.begin() + (i + 1) * limits);
      near.in.push_back(in);
      near.out.push_back(out);
      group.push_back(in * problem.states + out);
    }
    std::vector<int32_t> kept(near.size());
    std::iota(kept.begin(), kept.end(), 0);
    if (problem.top_k > 1) {
      kept = undominated({near.size(), limits, near.loss.data(), near.cost.data(), group.data()}, problem.top_k);
      effort.pruned += near.size() - static_cast<int64_t>(kept.size());
    }
    Block block_core;
    for (int32_t i : kept) {
      block_core.index.push_back(block.index[near.index[i]]);
      block_core.loss.push_back(near.loss[i]);
      block_core.cost.insert(block_core.cost.end(), near.cost.begin() + i * limits, near.cost.begin() + (i + 1) * limits);
      block_core.in.push_back(near.in[i]);
      block_core.out.push_back(near.out[i]);
    }
    core.blocks.push_back(std::move(block_core));
  }
  return core;
}

// Lists of both ends, the shorter one extended first. False when blocks remain between that neither can take in.
bool build(const Problem& core, const Bound& bound, const Window& window, int64_t most, Halves& halves, Effort& effort) {
  halves = {0, core.blocks.size(), empty_list(core.limits), empty_list(core.limits)};
  bool open[2] = {true, true};
  while (halves.begin < halves.end && (open[0] || open[1])) {
    const auto size = [&](bool leading) {
      const List& list = leading ? halves.leading : halves.trailing;
      return list.size() * core.blocks[leading ? halves.begin : halves.end - 1].size();
    };
    const bool leading = !open[1] || (open[0] && size(true) <= size(false));
    const size_t b = leading ? halves.begin : halves.end - 1;
    List& list = leading ? halves.leading : halves.trailing;
    const bool taken = size(leading) <= 64 * most && extend(core, bound, window, leading, b, most, list, effort);
    if (!taken) open[leading ? 0 : 1] = false;
    else if (leading) ++halves.begin;
    else --halves.end;
  }
  return halves.begin == halves.end;
}

void write(const Problem& core, const Halves& halves, const Solution& solution, int64_t* indices) {
  int32_t entry = solution.leading;
  for (size_t b = halves.begin; b-- > 0;) {
    indices[b] = core.blocks[b].index[halves.leading.option[b][entry]];
    entry = halves.leading.parent[b][entry];
  }
  for (size_t b = halves.begin; b < halves.end; ++b)
    indices[b] = core.blocks[b].index[solution.middle[b - halves.begin]];
  entry = solution.trailing;
  for (size_t b = halves.end; b < core.blocks.size(); ++b) {
    const size_t level = core.blocks.size() - 1 - b;
    indices[b] = core.blocks[b].index[halves.trailing.option[level][entry]];
    entry = halves.trailing.parent[level][entry];
  }
}

// The greatest total loss there is.
int64_t greatest_loss(const Problem& problem) {
  int64_t total = 0;
  for (const Block& block : problem.blocks) total += *std::max_element(block.loss.begin(), block.loss.end());
  return total;
}

void solve(const TraversalArguments& a, const TraversalResult& result) {
  Effort effort;
  const Problems problems = read(a, effort);
  const Bound bound = lagrangian_bound(problems.front);
  for (int d = 0; d < problems.pool.limits; ++d) result.multipliers[d] = bound.multiplier[d];
  result.multipliers[a.limits] = bound.least;
  const int64_t greatest = greatest_loss(problems.pool);
  const int64_t floor = static_cast<int64_t>(std::max(0.0, std::min(bound.least, static_cast<double>(greatest))));
  int64_t known = a.top_k == 1 && !bound.choice.empty() ? bound.choice_loss : greatest;  // an upper bound on the k-th loss
  int64_t longest = std::min(kLongest, 4096 + 4 * a.top_k), proven = floor, most = known, rounds = 0;
  while (true) {
    const Window window{most, static_cast<double>(most) + bound.limit_value + bound.margin};
    ++rounds;
    effort.cut = false;
    const Problem core = core_of(problems.pool, bound, window, effort);
    Halves halves;
    const bool whole = build(core, bound, window, longest, halves, effort);
    if (!whole && longest < kLongest) {
      most = floor + (most - floor) / 4;
      if (most <= proven) longest = std::min(kLongest, longest * 8), most = known;
      continue;
    }
    if (!whole && most > std::max(4 * (proven - floor) + floor, floor + (greatest >> 24) + 1)) {
      most = std::max(floor + (most - floor) / 4, floor + (greatest >> 24) + 1);
      continue;
    }
    const std::vector<Solution> found = join(core, bound, halves, known, a.threads, effort);
    const bool full = static_cast<int64_t>(found.size()) >= a.top_k;
    if ((full && found.back().loss <= most) || !effort.cut || most >= greatest) {
      for (size_t s = 0; s < found.size(); ++s) write(core, halves, found[s], result.indices + s * a.blocks);
      result.counts[0] = static_cast<int64_t>(found.size());
      break;
    }
    if (full) known = std::min(known, found.back().loss);
    proven = most;
    most = known;
    longest = std::min(kLongest, longest * 8);
  }
  result.counts[1] = effort.visited;
  result.counts[2] = effort.pruned;
  result.counts[3] = rounds;
}

}  // namespace
}  // namespace traversal

void traverse_cpu(const TraversalArguments& arguments, const TraversalResult& result) { traversal::solve(arguments, result); }

}  // namespace pynas
