#include "cpu/knapsack/problem.h"

#include <algorithm>
#include <numeric>

#include "common/interrupt.h"
#include "cpu/knapsack/filter.h"

namespace pynas::knapsack {
namespace {

// The positions of block b's undominated options.
std::vector<int32_t> undominated_options(const TraverseArgs& args, int64_t b) {
  const int64_t begin = args.offsets[b], end = args.offsets[b + 1];
  std::vector<int32_t> group;
  if (args.states > 1)
    for (int64_t row = begin; row < end; ++row)
      group.push_back(static_cast<int32_t>(args.state_in[row] * args.states + args.state_out[row]));
  return undominated({end - begin, static_cast<int>(args.limit_count), args.losses + begin,
                      args.costs + begin * args.limit_count, group.empty() ? nullptr : group.data()},
                     1);
}

// The options `kept` of block b. Shifts are subtracted from their losses and costs.
Block shifted(const TraverseArgs& args, int64_t b, const std::vector<int32_t>& kept, int64_t loss_shift,
              const std::vector<int64_t>& cost_shift) {
  Block block;
  block.index = kept;
  for (int32_t i : kept) {
    const int64_t row = args.offsets[b] + i;
    block.loss.push_back(args.losses[row] - loss_shift);
    for (int64_t d = 0; d < args.limit_count; ++d)
      block.cost.push_back(args.costs[row * args.limit_count + d] - cost_shift[d]);
    block.state_in.push_back(args.states > 1 ? static_cast<int32_t>(args.state_in[row]) : 0);
    block.state_out.push_back(args.states > 1 ? static_cast<int32_t>(args.state_out[row]) : 0);
  }
  return block;
}

// Appends block b to both problems and shifts the limits of `whole`.
void add_block(const TraverseArgs& args, int64_t b, Problems& problems, Effort& effort) {
  const int64_t begin = args.offsets[b], end = args.offsets[b + 1];
  const std::vector<int32_t> front = undominated_options(args, b);
  const int64_t loss_shift = *std::min_element(args.losses + begin, args.losses + end);
  std::vector<int64_t> cost_shift(args.limit_count);
  for (int64_t d = 0; d < args.limit_count; ++d) {
    int64_t least = args.costs[begin * args.limit_count + d];
    for (int64_t row = begin; row < end; ++row) least = std::min(least, args.costs[row * args.limit_count + d]);
    cost_shift[d] = least;
    problems.whole.limit[d] -= least;
  }
  problems.front.blocks.push_back(shifted(args, b, front, loss_shift, cost_shift));
  if (args.top_k == 1) {
    problems.whole.blocks.push_back(problems.front.blocks.back());
    effort.pruned += end - begin - static_cast<int64_t>(front.size());
  } else {
    std::vector<int32_t> all(end - begin);
    std::iota(all.begin(), all.end(), 0);
    problems.whole.blocks.push_back(shifted(args, b, all, loss_shift, cost_shift));
  }
}

// Sets the step of the losses to their greatest common divisor, and lowers each limit to a multiple of its costs' own.
void use_common_divisors(Problem& problem) {
  problem.step = 0;
  std::vector<int64_t> cost_steps(problem.limits);
  for (const Block& block : problem.blocks) {
    for (int64_t i = 0; i < block.size() && problem.step != 1; ++i)
      problem.step = std::gcd(problem.step, block.loss[i]);
    for (int d = 0; d < problem.limits; ++d)
      for (int64_t i = 0; i < block.size() && cost_steps[d] != 1; ++i)
        cost_steps[d] = std::gcd(cost_steps[d], block.cost[i * problem.limits + d]);
  }
  problem.step = std::max<int64_t>(problem.step, 1);
  for (int d = 0; d < problem.limits; ++d)
    if (cost_steps[d] > 1 && problem.limit[d] > 0) problem.limit[d] -= problem.limit[d] % cost_steps[d];
}

}  // namespace

Block Block::subset(const std::vector<int32_t>& kept, int limits) const {
  Block block;
  for (int32_t i : kept) {
    block.index.push_back(index[i]);
    block.loss.push_back(loss[i]);
    for (int d = 0; d < limits; ++d) block.cost.push_back(cost[static_cast<int64_t>(i) * limits + d]);
    block.state_in.push_back(state_in[i]);
    block.state_out.push_back(state_out[i]);
  }
  return block;
}

Problems read(const TraverseArgs& args, Effort& effort) {
  const Problem empty{static_cast<int>(args.limit_count),
                      static_cast<int>(args.states),
                      args.top_k,
                      {args.limits, args.limits + args.limit_count},
                      {},
                      1};
  Problems problems{empty, empty};
  for (int64_t b = 0; b < args.block_count; ++b) {
    check_interrupt();
    add_block(args, b, problems, effort);
  }
  use_common_divisors(problems.whole);
  problems.front.limit = problems.whole.limit;
  return problems;
}

}  // namespace pynas::knapsack
