// The lists of both ends, which grow until they meet. This class keeps them on the CPU; csrc/cuda/knapsack_ends.cuh keeps
// those that are long on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/knapsack/join.h"

namespace pynas::knapsack {

class Ends {
 public:
  Ends(const Problem& problem, const Bound& bound, int threads, Effort& effort)
      : problem_(problem), bound_(bound), effort_(effort), threads_(threads),
        halves_{0, problem.blocks.size(), empty_list(problem.limits), empty_list(problem.limits)} {}
  virtual ~Ends() = default;
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;

  // The blocks between the lists are [begin, end).
  size_t begin() const { return halves_.begin; }
  size_t end() const { return halves_.end; }

  virtual int64_t size(bool leading) const { return list(leading).size(); }
  // Extends a list by the next block between them. False, and the lists stay as they were, when more than `longest` partial
  // solutions remain.
  bool extend(const Window& window, bool leading, int64_t longest);
  // The least top_k solutions of a loss of at most `greatest_loss`, in order.
  virtual std::vector<Solution> join(int64_t greatest_loss);
  // For each block in a list, in the order of extension: the options of these entries of the list.
  virtual std::vector<std::vector<int32_t>> trace(bool leading, std::vector<int32_t> entries) const;

 protected:
  virtual bool extend_list(const Window& window, bool leading, size_t b, int64_t longest);
  List& list(bool leading) { return leading ? halves_.leading : halves_.trailing; }
  const List& list(bool leading) const { return leading ? halves_.leading : halves_.trailing; }

  const Problem& problem_;
  const Bound& bound_;
  Effort& effort_;
  const int threads_;
  Halves halves_;
};

// Makes the empty lists of a round.
using MakeEnds = std::function<std::unique_ptr<Ends>(const Problem&, const Bound&, Effort&)>;

// The exact search, with its lists where `make_ends` has them.
void solve(const TraverseArgs& args, const MakeEnds& make_ends);

}  // namespace pynas::knapsack
