// The exact search of the multiple-choice knapsack. The Lagrangian bound leaves few options in the window of losses; the
// partial solutions of both ends are listed and joined. Round after round the window changes, until one proves the answer.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "common/interrupt.h"
#include "cpu/knapsack/ends.h"
#include "cpu/knapsack/filter.h"
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
bool list_both_ends(const Problem& core, const Window& window, int64_t longest, Ends& ends) {
  bool leading_open = true, trailing_open = true;
  while (ends.begin() < ends.end() && (leading_open || trailing_open)) {
    check_interrupt();
    const int64_t leading_size = ends.size(true) * core.blocks[ends.begin()].size();
    const int64_t trailing_size = ends.size(false) * core.blocks[ends.end() - 1].size();
    const bool leading = !trailing_open || (leading_open && leading_size <= trailing_size);
    const bool extended =
        (leading ? leading_size : trailing_size) <= 64 * longest && ends.extend(window, leading, longest);
    if (!extended) (leading ? leading_open : trailing_open) = false;
  }
  return ends.begin() == ends.end();
}

// Writes the solutions' indices in every block, [solutions, B].
void write(const Problem& core, const Ends& ends, const std::vector<Solution>& solutions, int64_t* indices) {
  const size_t count = core.blocks.size();
  std::vector<int32_t> leading, trailing;
  for (const Solution& solution : solutions) {
    leading.push_back(solution.leading);
    trailing.push_back(solution.trailing);
  }
  const std::vector<std::vector<int32_t>> first = ends.trace(true, std::move(leading));
  const std::vector<std::vector<int32_t>> last = ends.trace(false, std::move(trailing));
  for (size_t s = 0; s < solutions.size(); ++s) {
    for (size_t b = 0; b < count; ++b) {
      const int32_t option = b < ends.begin() ? first[b][s]
                             : b < ends.end() ? solutions[s].middle[b - ends.begin()]
                                              : last[count - 1 - b][s];
      indices[s * count + b] = core.blocks[b].index[option];
    }
  }
}

// The best solution by the table, as one without lists.
std::vector<Solution> by_table(const Problem& core, Effort& effort) {
  std::optional<std::vector<int32_t>> options = solve_by_table(core, effort);
  if (!options) return {};
  int64_t loss = 0;
  for (size_t b = 0; b < options->size(); ++b) loss += core.blocks[b].loss[(*options)[b]];
  return {{loss, 0, std::move(*options), 0}};
}

}  // namespace

void solve(const TraverseArgs& args, const MakeEnds& make_ends) {
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
    const std::unique_ptr<Ends> ends = make_ends(core, bound, effort);
    const bool tabled = args.counts[3] > 1 && fits_table(core, schedule.longest);
    if (!tabled && !list_both_ends(core, window, schedule.longest, *ends) && schedule.narrow()) continue;
    const std::vector<Solution> found = tabled ? by_table(core, effort) : ends->join(schedule.known_loss);
    const bool full = static_cast<int64_t>(found.size()) >= args.top_k;
    if ((full && found.back().loss <= window.loss) || !effort.cut || window.loss >= schedule.greatest_loss) {
      write(core, *ends, found, args.indices);
      args.counts[0] = static_cast<int64_t>(found.size());
      break;
    }
    if (full) schedule.known_loss = std::min(schedule.known_loss, found.back().loss);
    schedule.widen();
  }
  args.counts[1] = effort.visited;
  args.counts[2] = effort.pruned;
}

}  // namespace pynas::knapsack

void pynas::cpu::traverse(const TraverseArgs& args) {
  const Listening call;
  knapsack::solve(args, [&](const knapsack::Problem& core, const knapsack::Bound& bound, knapsack::Effort& effort) {
    return std::make_unique<knapsack::Ends>(core, bound, args.threads, effort);
  });
}
