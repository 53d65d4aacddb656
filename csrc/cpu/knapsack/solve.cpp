// The exact search of the multiple-choice knapsack. The Lagrangian bound leaves few options in the window of losses; the
// partial solutions of both ends are listed and joined. Round after round the window changes, until one proves the answer.
#include <algorithm>

#include "common/interrupt.h"
#include "cpu/knapsack/filter.h"
#include "cpu/knapsack/join.h"
#include "cpu/knapsack/table.h"

namespace pynas::knapsack {
namespace {

// Whether a solution within the window and the limits may use option i of block b.
bool may_be_used(const Problem& problem, const Bound& bound, const Window& window, size_t b, int64_t i,
                 Effort& effort) {
  const Block& block = problem.blocks[b];
  const int limits = problem.limits;
  const int64_t in = block.state_in[i], out = block.state_out[i];
  if (bound.value_behind[b][in] + bound.value(problem, block, i) + bound.value_ahead[b + 1][out] > window.value) {
    effort.cut = true;
    return false;
  }
  for (int d = 0; d < limits; ++d) {
    const int64_t rest = bound.cost_behind[b][in * limits + d] + bound.cost_ahead[b + 1][out * limits + d];
    if (rest + block.cost[i * limits + d] > problem.limit[d]) return false;
  }
  return true;
}

// The problem without the options that no solution within the window needs.
Problem core_of(const Problem& problem, const Bound& bound, const Window& window, Effort& effort) {
  Problem core{problem.limits, problem.states, problem.top_k, problem.limit, {}, problem.step};
  for (size_t b = 0; b < problem.blocks.size(); ++b) {
    std::vector<int32_t> kept;
    for (int64_t i = 0; i < problem.blocks[b].size(); ++i)
      if (may_be_used(problem, bound, window, b, i, effort)) kept.push_back(static_cast<int32_t>(i));
    Block block = problem.blocks[b].subset(kept, problem.limits);
    if (problem.top_k > 1) {
      std::vector<int32_t> group;
      for (int64_t i = 0; i < block.size(); ++i)
        group.push_back(block.state_in[i] * problem.states + block.state_out[i]);
      const Points options{block.size(), problem.limits, block.loss.data(), block.cost.data(), group.data()};
      block = block.subset(undominated(options, problem.top_k), problem.limits);
    }
    effort.pruned += problem.blocks[b].size() - block.size();
    core.blocks.push_back(std::move(block));
  }
  return core;
}

// Extends the lists of both ends, the shorter one first. False when blocks remain that neither list can take.
bool list_both_ends(const Problem& core, const Bound& bound, const Window& window, int64_t longest, Halves& halves,
                    Effort& effort) {
  halves = {0, core.blocks.size(), empty_list(core.limits), empty_list(core.limits)};
  bool leading_open = true, trailing_open = true;
  while (halves.begin < halves.end && (leading_open || trailing_open)) {
    check_interrupt();
    const int64_t leading_size = halves.leading.size() * core.blocks[halves.begin].size();
    const int64_t trailing_size = halves.trailing.size() * core.blocks[halves.end - 1].size();
    const bool leading = !trailing_open || (leading_open && leading_size <= trailing_size);
    const size_t b = leading ? halves.begin : halves.end - 1;
    const bool extended =
        (leading ? leading_size : trailing_size) <= 64 * longest &&
        extend(core, bound, window, leading, b, longest, leading ? halves.leading : halves.trailing, effort);
    if (!extended) (leading ? leading_open : trailing_open) = false;
    else if (leading) ++halves.begin;
    else --halves.end;
  }
  return halves.begin == halves.end;
}

// Writes the solution's index in every block.
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

// The best solution by the table, as one without lists.
std::vector<Solution> by_table(const Problem& core, Halves& halves, Effort& effort) {
  halves = {0, core.blocks.size(), empty_list(core.limits), empty_list(core.limits)};
  std::optional<std::vector<int32_t>> options = solve_by_table(core, effort);
  if (!options) return {};
  int64_t loss = 0;
  for (size_t b = 0; b < options->size(); ++b) loss += core.blocks[b].loss[(*options)[b]];
  return {{loss, 0, std::move(*options), 0}};
}

void solve(const TraverseArgs& args) {
  Effort effort;
  const Problems problems = read(args, effort);
  const Bound bound = lagrangian_bound(problems);
  std::copy(bound.multiplier.begin(), bound.multiplier.end(), args.multipliers);
  args.multipliers[args.limit_count] = bound.least_loss;
  Schedule schedule = first_round(problems.whole, bound, args.longest);
  for (args.counts[3] = 1;; ++args.counts[3]) {
    check_interrupt();
    const Window window = schedule.window(bound);
    effort.cut = false;
    const Problem core = core_of(problems.whole, bound, window, effort);
    Halves halves;
    const bool tabled = args.counts[3] > 1 && fits_table(core, schedule.longest);
    if (!tabled && !list_both_ends(core, bound, window, schedule.longest, halves, effort) && schedule.narrow()) continue;
    const std::vector<Solution> found = tabled
                                            ? by_table(core, halves, effort)
                                            : join(core, bound, halves, schedule.known_loss, args.threads, effort);
    const bool full = static_cast<int64_t>(found.size()) >= args.top_k;
    if ((full && found.back().loss <= window.loss) || !effort.cut || window.loss >= schedule.greatest_loss) {
      for (size_t s = 0; s < found.size(); ++s) write(core, halves, found[s], args.indices + s * args.block_count);
      args.counts[0] = static_cast<int64_t>(found.size());
      break;
    }
    if (full) schedule.known_loss = std::min(schedule.known_loss, found.back().loss);
    schedule.widen();
  }
  args.counts[1] = effort.visited;
  args.counts[2] = effort.pruned;
}

}  // namespace
}  // namespace pynas::knapsack

void pynas::cpu::traverse(const TraverseArgs& args) {
  const Listening call;
  knapsack::solve(args);
}
