#include "cpu/knapsack/ends.h"

#include <utility>

namespace pynas::knapsack {

bool Ends::extend(const Window& window, bool leading, int64_t longest) {
  if (!extend_list(window, leading, leading ? halves_.begin : halves_.end - 1, longest)) return false;
  leading ? ++halves_.begin : --halves_.end;
  return true;
}

bool Ends::extend_list(const Window& window, bool leading, size_t b, int64_t longest) {
  return knapsack::extend(problem_, bound_, window, leading, b, longest, list(leading), effort_);
}

std::vector<Solution> Ends::join(int64_t greatest_loss) {
  return knapsack::join(problem_, bound_, halves_, greatest_loss, threads_, effort_);
}

std::vector<std::vector<int32_t>> Ends::trace(bool leading, std::vector<int32_t> entries) const {
  const List& from = list(leading);
  std::vector<std::vector<int32_t>> options(from.option.size(), std::vector<int32_t>(entries.size()));
  for (size_t level = options.size(); level-- > 0;) {
    for (size_t s = 0; s < entries.size(); ++s) {
      options[level][s] = from.option[level][entries[s]];
      entries[s] = from.parent[level][entries[s]];
    }
  }
  return options;
}

}  // namespace pynas::knapsack
