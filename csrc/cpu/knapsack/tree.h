// A box tree over the trailing list: it finds the entries that complete a partial solution within all limits.
#pragma once

#include <cstdint>
#include <vector>

#include "common/interrupt.h"
#include "cpu/knapsack/lists.h"

namespace pynas::knapsack {

// The entries of one boundary state. Every node holds the least loss, costs and value of the entries below it.
class Tree {
 public:
  Tree(const Problem& problem, const List& list, int32_t state);

  struct Query {
    int64_t loss;               // greatest loss
    std::vector<int64_t> cost;  // [M], greatest costs
    double value;               // greatest value; tested at nodes only
  };

  // visit(entry, loss) for the entries within the query, which `visit` may tighten. Returns the number of nodes visited.
  template <class Visit>
  int64_t search(Query& query, Visit&& visit) const {
    if (entry_.empty()) return 0;
    int64_t visited = 0;
    int32_t stack[64];
    int top = 0;
    stack[top++] = 0;
    while (top > 0) {
      const Node& node = nodes_[stack[--top]];
      ++visited;
      if (!within(least_.data() + node.least, node.value, query)) continue;
      if (node.children != 0) {
        stack[top++] = node.children + 1;
        stack[top++] = node.children;
        continue;
      }
      for (int32_t p = node.begin; p < node.end; ++p) {
        if (within(keys_.data() + static_cast<int64_t>(p) * (limits_ + 1), -kInfinity, query))
          visit(entry_[p], keys_[static_cast<int64_t>(p) * (limits_ + 1)]);
      }
    }
    return visited;
  }

 private:
  struct Node {
    int32_t begin, end;  // its entries
    int32_t children;    // the first of two; 0 at a leaf
    int64_t least;       // position of its least loss and costs in least_
    double value;        // least value
  };

  // Whether a loss and costs, `key`, and a value are within the query.
  bool within(const int64_t* key, double value, const Query& query) const {
    if (key[0] > query.loss || value > query.value) return false;
    for (int d = 0; d < limits_; ++d)
      if (key[d + 1] > query.cost[d]) return false;
    return true;
  }
  void build(const List& list, int32_t node, int depth);

  int limits_;
  Ticker tick_;
  std::vector<int32_t> entry_;  // [n], positions in the list, in the tree's order
  std::vector<int64_t> keys_;   // [n, 1 + M], loss and costs, in the tree's order
  std::vector<Node> nodes_;
  std::vector<int64_t> least_;  // [nodes, 1 + M]
};

}  // namespace pynas::knapsack
