// Lagrangian bound, then the few options near it: list the partial choices of both ends and join them. Where the lists
// grow too long, look at a narrower window of losses first; the window of the last round holds a proof.
#include "common/traversal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/traversal_filter.h"
#include "cpu/traversal_join.h"
#include "cpu/traversal_lists.h"
#include "cpu/traversal_problem.h"

namespace pynas {
namespace traversal {
namespace {

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

// Greatest common divisors: of the losses, so that "less" means less by a step, and of each cost, to lower the limits.
void use_steps(Problem& problem) {
  problem.step = 0;
  std::vector<int64_t> steps(problem.limits);
  for (const Block& block : problem.blocks) {
    for (int64_t i = 0; i < block.size() && problem.step != 1; ++i)
      problem.step = std::gcd(problem.step, block.loss[i]);
    for (int d = 0; d < problem.limits; ++d)
      for (int64_t i = 0; i < block.size() && steps[d] != 1; ++i)
        steps[d] = std::gcd(steps[d], block.cost[i * problem.limits + d]);
  }
  problem.step = std::max<int64_t>(problem.step, 1);
  for (int d = 0; d < problem.limits; ++d)
    if (steps[d] > 1 && problem.limit[d] > 0) problem.limit[d] -= problem.limit[d] % steps[d];
}

struct Problems {
  Problem pool;   // every option that may be in the answer
  Problem front;  // the undominated ones, enough for the bound
};

Problems read(const TraversalArguments& a, Effort& effort) {
  Problem empty{static_cast<int>(a.limits), static_cast<int>(a.states), a.top_k, {a.limit, a.limit + a.limits}, {}, 1};
  Problems problems{empty, empty};
  for (int64_t b = 0; b < a.blocks; ++b) {
    const Pool pool = pool_of(a, b);
    const std::vector<int32_t> front = undominated(pool.candidates, 1);
    const int64_t* losses = pool.candidates.losses;
    const int64_t loss_shift = *std::min_element(losses, losses + pool.candidates.count);
    std::vector<int64_t> cost_shift(a.limits);
    for (int64_t d = 0; d < a.limits; ++d) {
      int64_t least = pool.candidates.costs[d];
      for (int64_t i = 0; i < pool.candidates.count; ++i)
        least = std::min(least, pool.candidates.costs[i * a.limits + d]);
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
  if (a.top_k == 1) problems.pool.blocks = problems.front.blocks;
  use_steps(problems.pool);
  problems.front.limit = problems.pool.limit;
  return problems;
}

// Whether an option can be part of a solution within the window.
bool near_enough(const Problem& problem, const Bound& bound, const Window& window, size_t b, int64_t i,
                 Effort& effort) {
  const Block& block = problem.blocks[b];
  const int limits = problem.limits;
  const int64_t in = block.in[i], out = block.out[i];
  if (bound.behind[b][in] + bound.value(problem, block, i) + bound.ahead[b + 1][out] > window.value) {
    effort.cut = true;
    return false;
  }
  for (int d = 0; d < limits; ++d) {
    const int64_t rest = bound.cost_behind[b][in * limits + d] + bound.cost_ahead[b + 1][out * limits + d];
    if (rest + block.cost[i * limits + d] > problem.limit[d]) return false;
  }
  return true;
}

// The options that the solutions within the window may use.
Problem core_of(const Problem& problem, const Bound& bound, const Window& window, Effort& effort) {
  Problem core{problem.limits, problem.states, problem.top_k, problem.limit, {}, problem.step};
  for (size_t b = 0; b < problem.blocks.size(); ++b) {
    std::vector<int32_t> near;
    for (int64_t i = 0; i < problem.blocks[b].size(); ++i)
      if (near_enough(problem, bound, window, b, i, effort)) near.push_back(static_cast<int32_t>(i));
    Block block = problem.blocks[b].subset(near, problem.limits);
    if (problem.top_k > 1) {
      std::vector<int32_t> group;
      for (int64_t i = 0; i < block.size(); ++i) group.push_back(block.in[i] * problem.states + block.out[i]);
      const Candidates all{block.size(), problem.limits, block.loss.data(), block.cost.data(), group.data()};
      block = block.subset(undominated(all, problem.top_k), problem.limits);
    }
    effort.pruned += problem.blocks[b].size() - block.size();
    core.blocks.push_back(std::move(block));
  }
  return core;
}

// Lists of both ends, the shorter one extended first. False when blocks remain between that neither can take in.
bool build(const Problem& core, const Bound& bound, const Window& window, int64_t most, Halves& halves,
           Effort& effort) {
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

// A window of losses above `floor` to begin with: about as wide as holds 512 top_k choices, were there no limits. The
// count of choices whose excess over the bound sums to the window or less is near sum_j e_j(n_b - 1) / j!, with n_b the
// options of block b that exceed it by no more, and e_j the elementary symmetric polynomials.
int64_t first_window(const Problem& problem, const Bound& bound, int64_t floor, int64_t greatest) {
  const size_t count = problem.blocks.size();
  std::vector<std::vector<double>> near(count, std::vector<double>(64));  // [B][e]: options with an excess below 2^e
  for (size_t b = 0; b < count; ++b) {
    const Block& block = problem.blocks[b];
    for (int64_t i = 0; i < block.size(); ++i) {
      const double total =
          bound.behind[b][block.in[i]] + bound.value(problem, block, i) + bound.ahead[b + 1][block.out[i]];
      int exponent = 0;
      std::frexp(total - bound.limit_value - static_cast<double>(floor), &exponent);
      ++near[b][std::min(std::max(exponent, 0), 63)];
    }
    for (int e = 1; e < 64; ++e) near[b][e] += near[b][e - 1];
  }
  for (int e = 62; e > 0; --e) {
    if (floor + (int64_t{1} << e) > greatest) continue;
    std::vector<double> symmetric(count + 1);
    symmetric[0] = 1;
    for (size_t b = 0; b < count; ++b)
      for (size_t j = b + 1; j > 0; --j) symmetric[j] += symmetric[j - 1] * std::max(near[b][e] - 1, 0.0) / j;
    if (std::accumulate(symmetric.begin(), symmetric.end(), 0.0) <= 512.0 * problem.top_k) return int64_t{1} << e;
  }
  return 1;
}

// Which window of losses to look at, round after round. Losses count from the least of each block.
struct Schedule {
  int64_t floor, greatest;  // no total is less or more
  int64_t known;            // the k-th loss is no more than this
  int64_t most;             // the window of this round
  int64_t proven;           // the widest window done
  int64_t longest;          // partial choices per list in this round
  int64_t limit;            // and at most
  double rounding;          // a window no wider than this leaves nothing out

  // The lists were too long: a narrower window, or longer lists. False when neither is left to try.
  bool narrow() {
    if (static_cast<double>(most - floor) <= rounding) {
      const bool longer = longest < limit;
      longest = limit;
      return longer;
    }
    const int64_t narrower = floor + (most - floor) / 4;
    if (longest < limit) {
      most = narrower;
      if (most <= proven) longest = std::min(limit, longest * 8), most = known;
      return true;
    }
    const int64_t least = std::max(floor + 4 * (proven - floor), floor + (greatest >> 24) + 1);
    if (most <= least) return false;
    most = std::max(narrower, least);
    return true;
  }

  // The window did not hold top_k solutions: a wider one.
  void widen() {
    proven = most;
    most = std::min(known, floor + 2 * std::max<int64_t>(proven - floor, 1));
    longest = std::min(limit, longest * 8);
  }
};

Schedule first_round(const Problem& problem, const Bound& bound, int64_t limit) {
  int64_t greatest = 0;
  for (const Block& block : problem.blocks) greatest += *std::max_element(block.loss.begin(), block.loss.end());
  const auto floor = static_cast<int64_t>(std::max(0.0, std::min(bound.least, static_cast<double>(greatest))));
  const int64_t longest = std::min(limit, 4096 + 4 * problem.top_k);
  if (problem.top_k == 1 && !bound.choice.empty())
    return {floor, greatest, bound.choice_loss, bound.choice_loss, floor, longest, limit, 4 * bound.margin};
  const int64_t most = std::min(greatest, floor + first_window(problem, bound, floor, greatest));
  return {floor, greatest, greatest, most, floor, longest, limit, 4 * bound.margin};
}

void solve(const TraversalArguments& a, const TraversalResult& result) {
  Effort effort;
  const Problems problems = read(a, effort);
  const Bound bound = lagrangian_bound(problems.front, problems.pool);
  std::copy(bound.multiplier.begin(), bound.multiplier.end(), result.multipliers);
  result.multipliers[a.limits] = bound.least;
  Schedule schedule = first_round(problems.pool, bound, a.longest);
  for (result.counts[3] = 1;; ++result.counts[3]) {
    const double value = static_cast<double>(schedule.most) + bound.limit_value + bound.margin;
    const Window window{schedule.most, value};
    effort.cut = false;
    const Problem core = core_of(problems.pool, bound, window, effort);
    Halves halves;
    if (!build(core, bound, window, schedule.longest, halves, effort) && schedule.narrow()) continue;
    const std::vector<Solution> found = join(core, bound, halves, schedule.known, a.threads, effort);
    const bool full = static_cast<int64_t>(found.size()) >= a.top_k;
    if ((full && found.back().loss <= schedule.most) || !effort.cut || schedule.most >= schedule.greatest) {
      for (size_t s = 0; s < found.size(); ++s) write(core, halves, found[s], result.indices + s * a.blocks);
      result.counts[0] = static_cast<int64_t>(found.size());
      break;
    }
    if (full) schedule.known = std::min(schedule.known, found.back().loss);
    schedule.widen();
  }
  result.counts[1] = effort.visited;
  result.counts[2] = effort.pruned;
}

}  // namespace
}  // namespace traversal

void cpu::traverse(const TraversalArguments& arguments, const TraversalResult& result) {
  traversal::solve(arguments, result);
}

}  // namespace pynas
