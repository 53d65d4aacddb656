// Partial choices over the leading or the trailing blocks, and a tree that finds the partners of one within all limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/traversal_problem.h"

namespace pynas::traversal {

// What still may become one of the top_k: every value must stay within `value`, whatever completes it.
struct Window {
  int64_t loss;  // greatest total loss of interest
  double value;  // the same for values: loss + multipliers . limit + margin
};

struct Effort {
  int64_t visited = 0, pruned = 0;
  bool cut = false;  // something was left out because of the window's loss
};

// Partial choices in lexicographic order of their indices; the position in the list is the rank in ties.
struct List {
  std::vector<int64_t> loss;   // [n]
  std::vector<int64_t> cost;   // [n, M]
  std::vector<double> value;   // [n]
  std::vector<int32_t> state;  // [n], the state at the open end
  // For each block taken in, outwards: the position in the list before, and the option.
  std::vector<std::vector<int32_t>> parent, option;

  int64_t size() const { return static_cast<int64_t>(loss.size()); }
};

List empty_list(int limits);

// Take in the next block, `b`, behind a leading list or before a trailing one. False, and the list as it was, when more
// than `most` partial choices remain.
bool extend(const Problem& problem, const Bound& bound, const Window& window, bool leading, size_t b, int64_t most,
            List& list, Effort& effort);

// A static box tree over the entries of one state: least loss, cost, value and rank per node.
class Tree {
 public:
  Tree(const Problem& problem, const List& list, int32_t state);

  struct Query {
    int64_t loss;               // greatest loss of a partner
    std::vector<int64_t> cost;  // [M], greatest costs
    double value;
  };

  // visit(rank, loss) for the partners within the query; it may lower query.loss. Returns the nodes looked at.
  template <class Visit>
  int64_t search(Query& query, Visit&& visit) const {
    if (rank_.empty()) return 0;
    int64_t looked = 0;
    int32_t stack[64];
    int top = 0;
    stack[top++] = 0;
    while (top > 0) {
      const Node& node = nodes_[stack[--top]];
      ++looked;
      if (!within(least_.data() + node.least, node.value, query)) continue;
      if (node.children != 0) {
        stack[top++] = node.children + 1;
        stack[top++] = node.children;
        continue;
      }
      for (int32_t e = node.begin; e < node.end; ++e) {
        if (within(keys_.data() + static_cast<int64_t>(e) * (limits_ + 1), -kInfinity, query))
          visit(rank_[e], keys_[static_cast<int64_t>(e) * (limits_ + 1)]);
      }
    }
    return looked;
  }

 private:
  struct Node {
    int32_t begin, end, children;  // children: the first of two, 0 at a leaf
    int64_t least;                 // where its least loss and costs are in least_
    double value;
  };

  bool within(const int64_t* key, double value, const Query& query) const {
    if (key[0] > query.loss || value > query.value) return false;
    for (int d = 0; d < limits_; ++d)
      if (key[d + 1] > query.cost[d]) return false;
    return true;
  }
  void build(const Problem& problem, const List& list, int32_t node, int depth);

  int limits_;
  std::vector<int32_t> rank_;  // [n] in the tree's order
  std::vector<int64_t> keys_;  // [n, 1 + M], loss and costs
  std::vector<Node> nodes_;
  std::vector<int64_t> least_;  // [nodes, 1 + M]
};

}  // namespace pynas::traversal
