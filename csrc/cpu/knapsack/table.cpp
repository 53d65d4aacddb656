#include "cpu/knapsack/table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/interrupt.h"

namespace pynas::knapsack {
namespace {

constexpr double kMostSteps = 1LL << 33, kMostNumbers = 1LL << 26;  // seconds, and half a gigabyte

// The greatest common divisor of all costs.
int64_t unit_of(const Problem& problem) {
  int64_t unit = 0;
  for (const Block& block : problem.blocks)
    for (int64_t cost : block.cost) unit = std::gcd(unit, cost);
  return std::max<int64_t>(unit, 1);
}

// Rows of the table: row b has the least loss of the blocks from b on for every rest of the limit. Every `apart`-th is kept,
// and those between two are made again when they are needed.
class Table {
 public:
  Table(const Problem& problem, Effort& effort)
      : problem_(problem), effort_(effort), unit_(unit_of(problem)), size_(problem.limit[0] / unit_ + 1),
        apart_(static_cast<size_t>(std::ceil(std::sqrt(problem.blocks.size())))) {
    std::vector<int64_t> row(size_, 0);
    kept_.resize(problem.blocks.size() / apart_ + 2);
    for (size_t b = problem.blocks.size(); b > 0; --b) {
      if (b % apart_ == 0 || b == problem.blocks.size()) kept_[(b + apart_ - 1) / apart_] = row;
      row = before(b - 1, row);
    }
    least_ = row[size_ - 1];
  }

  std::optional<std::vector<int32_t>> first() {
    if (least_ >= kUnreachable) return std::nullopt;
    std::vector<int32_t> solution;
    int64_t rest = size_ - 1, loss = least_;
    for (size_t begin = 0; begin < problem_.blocks.size(); begin += apart_) {
      const size_t end = std::min(begin + apart_, problem_.blocks.size());
      // rows[j]: row end - j.
      std::vector<std::vector<int64_t>> rows{kept_[(end + apart_ - 1) / apart_]};
      for (size_t b = end; b > begin + 1; --b) rows.push_back(before(b - 1, rows.back()));
      for (size_t b = begin; b < end; ++b) {
        const Block& block = problem_.blocks[b];
        const std::vector<int64_t>& next = rows[end - b - 1];
        int64_t i = 0;
        while (block.cost[i] / unit_ > rest || block.loss[i] + next[rest - block.cost[i] / unit_] != loss) ++i;
        solution.push_back(static_cast<int32_t>(i));
        loss -= block.loss[i];
        rest -= block.cost[i] / unit_;
      }
    }
    return solution;
  }

 private:
  // Row b from row b + 1.
  std::vector<int64_t> before(size_t b, const std::vector<int64_t>& next) {
    const Block& block = problem_.blocks[b];
    std::vector<int64_t> row(size_, kUnreachable);
    for (int64_t i = 0; i < block.size(); ++i) {
      const int64_t cost = block.cost[i] / unit_, loss = block.loss[i];
      for (int64_t rest = cost; rest < size_; ++rest) row[rest] = std::min(row[rest], next[rest - cost] + loss);
      tick_(size_);
    }
    effort_.visited += size_;
    return row;
  }

  const Problem& problem_;
  Effort& effort_;
  const int64_t unit_, size_;
  const size_t apart_;
  std::vector<std::vector<int64_t>> kept_;  // by the row's number / apart, rounded up
  int64_t least_;
  Ticker tick_;
};

}  // namespace

bool fits_table(const Problem& problem, int64_t longest) {
  if (problem.top_k != 1 || problem.limits != 1 || problem.states != 1 || problem.limit[0] < 0) return false;
  const double size = static_cast<double>(problem.limit[0] / unit_of(problem)) + 1;
  double options = 0;
  for (const Block& block : problem.blocks) options += static_cast<double>(block.size());
  return size <= static_cast<double>(longest) && 2 * options * size <= kMostSteps && 2 * std::sqrt(problem.blocks.size()) * size <= kMostNumbers;
}

std::optional<std::vector<int32_t>> solve_by_table(const Problem& problem, Effort& effort) {
  return Table(problem, effort).first();
}

}  // namespace pynas::knapsack
