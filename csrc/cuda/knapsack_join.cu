#include "cuda/knapsack_join.cuh"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/interrupt.h"
#include "cuda/scan.cuh"

namespace pynas::cuda::traversal {
namespace {

// Items of a launch: from few, so that the worst pair of interest falls early, to what takes a second at most.
constexpr int64_t kFirstItems = 64, kMostItems = 8192;

// A block takes an item: a tile of leading entries, an entry a thread, and a chunk of the trailing tiles.
struct Join {
  Tiles leading, trailing;
  const int32_t* order;  // [leading.tiles], by the least value
  int64_t begin, end;    // items
  int64_t chunk;         // trailing tiles of an item, at most kTile
  int64_t limit[kMostLimits];
  double value_over;  // the greatest value - the greatest loss
  Pair worst;         // no later pair is of interest
  Pair* found;        // [capacity]
  int64_t capacity;
  int64_t*
      counters;    // pairs found, those past `capacity` counted but not written; tiles compared; the least loss found
  bool only_best;  // no pair above the least loss found is of interest
};

// The greatest loss of interest for leading entries from `position` on: a tie with the worst pair counts only before it.
__device__ inline int64_t greatest_from(const Join& args, int64_t greatest, int32_t position) {
  return greatest == args.worst.loss && position > args.worst.leading ? greatest - 1 : greatest;
}

// What a thread knows of its leading entry.
template <int M>
struct Open {
  int64_t loss, rest[M];  // rest: of the limits
  double value;
  int32_t position, state;
  bool there;

  __device__ Open(const Join& args, int64_t at) : there(at < args.leading.size) {
    const Tiles& tiles = args.leading;
    if (!there) at = 0;
    loss = tiles.keys[at];
    for (int d = 0; d < M; ++d) rest[d] = args.limit[d] - tiles.keys[(1 + d) * tiles.size + at];
    value = tiles.value[at];
    position = tiles.position[at];
    state = tiles.state[at];
  }

  // Whether an entry of the trailing tile may complete this one to a loss of at most `greatest`.
  __device__ bool may_join(const Join& args, int64_t tile, int64_t greatest) const {
    const Tiles& tiles = args.trailing;
    if (!there || state < tiles.first_state[tile] || state > tiles.last_state[tile]) return false;
    if (value + tiles.least_value[tile] > static_cast<double>(greatest) + args.value_over) return false;
    bool all = loss + tiles.least[tile] <= greatest;
#pragma unroll
    for (int d = 0; d < M; ++d) all &= tiles.least[(1 + d) * tiles.tiles + tile] <= rest[d];
    return all;
  }
};

// Whether any two entries of a leading and a trailing tile may join.
template <int M>
__device__ bool tiles_may_join(const Join& args, int64_t lead, int64_t trail) {
  const Tiles &leading = args.leading, &trailing = args.trailing;
  if (leading.first_state[lead] > trailing.last_state[trail] || leading.last_state[lead] < trailing.first_state[trail])
    return false;
  const int64_t greatest = greatest_from(args, args.worst.loss, leading.first_position[lead]);
  if (leading.least_value[lead] + trailing.least_value[trail] > static_cast<double>(greatest) + args.value_over)
    return false;
  bool all = leading.least[lead] + trailing.least[trail] <= greatest;
#pragma unroll
  for (int d = 0; d < M; ++d)
    all &= leading.least[(1 + d) * leading.tiles + lead] + trailing.least[(1 + d) * trailing.tiles + trail] <=
           args.limit[d];
  return all;
}

__device__ inline void write_pair(const Join& args, const Pair& pair) {
  const auto at = static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(args.counters), 1ull));
  if (at < args.capacity) args.found[at] = pair;
  if (args.only_best) atomicMin(reinterpret_cast<long long*>(args.counters + 2), static_cast<long long>(pair.loss));
}

template <int M>
__global__ void join_tiles(Join args) {
  PYNAS_SHARED(Prefix, scratch);
  auto* keys = reinterpret_cast<int64_t*>(scratch + kWarp);  // [1 + M, kTile]
  int64_t* now = keys + (1 + M) * kTile;                     // pairs found, the greatest loss of interest
  auto* positions = reinterpret_cast<int32_t*>(now + 2);
  int32_t *states = positions + kTile, *candidates = states + kTile;
  const Tiles& trailing = args.trailing;
  const int64_t chunks = (trailing.tiles + args.chunk - 1) / args.chunk;
  for (int64_t item = args.begin + blockIdx.x; item < args.end; item += gridDim.x) {
    const int64_t lead = args.order[item / chunks], base = item % chunks * args.chunk, own = base + threadIdx.x;
    const Open<M> open(args, lead * kTile + threadIdx.x);
    const bool possible = threadIdx.x < args.chunk && own < trailing.tiles && tiles_may_join<M>(args, lead, own);
    Prefix total;
    const Prefix before = exclusive_prefix({kNone, possible}, scratch, total);
    if (possible) candidates[before.count] = static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x == 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(args.counters + 1), static_cast<unsigned long long>(total.count));
    __syncthreads();
    for (int64_t k = 0; k < total.count; ++k) {
      const int64_t tile = base + candidates[k], at = tile * kTile + threadIdx.x;
      if (threadIdx.x == 0) {
        now[0] = static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(args.counters), 0ull));
        now[1] = args.worst.loss;
        if (args.only_best) {
          const int64_t least =
              atomicMin(reinterpret_cast<long long*>(args.counters + 2), static_cast<long long>(kNone));
          now[1] = least < now[1] ? least : now[1];
        }
      }
      if (at < trailing.size) {
        for (int d = 0; d <= M; ++d) keys[d * kTile + threadIdx.x] = trailing.keys[d * trailing.size + at];
        positions[threadIdx.x] = trailing.position[at];
        states[threadIdx.x] = trailing.state[at];
      }
      __syncthreads();
      const int64_t greatest = greatest_from(args, now[1], open.position), left = trailing.size - tile * kTile;
      const bool full = now[0] > args.capacity;  // the pairs will be looked for again
      const int count = left < kTile ? static_cast<int>(left) : kTile;
      if (__any_sync(0xffffffffu, !full && open.may_join(args, tile, greatest))) {
        const int64_t room = open.there ? greatest - open.loss : -1;
        for (int j = 0; j < count; ++j) {
          if (keys[j] > room) continue;
          bool all = states[j] == open.state;
#pragma unroll
          for (int d = 0; d < M; ++d) all &= keys[(1 + d) * kTile + j] <= open.rest[d];
          const Pair pair{open.loss + keys[j], open.position, positions[j]};
          if (all && !(args.worst < pair)) write_pair(args, pair);
        }
      }
      __syncthreads();
      if (full) break;
    }
    __syncthreads();
  }
}

// The least top_k pairs, in no order, and the worst of them.
class Best {
 public:
  Best(int64_t top_k, const Pair& worst) : top_k_(static_cast<size_t>(top_k)), worst_(worst) {}

  void add(const std::vector<Pair>& pairs) {
    pairs_.insert(pairs_.end(), pairs.begin(), pairs.end());
    if (pairs_.size() < top_k_) return;
    std::nth_element(pairs_.begin(), pairs_.begin() + (top_k_ - 1), pairs_.end());
    pairs_.resize(top_k_);
    worst_ = pairs_.back();
  }
  const Pair& worst() const { return worst_; }
  std::vector<Pair>& pairs() { return pairs_; }

 private:
  size_t top_k_;
  Pair worst_;
  std::vector<Pair> pairs_;
};

// The leading tiles by their least value, up to its rounding, and position: the worst pair of interest falls early.
const int32_t* order_tiles(Device& device, JoinMemory& memory, const Tiles& leading, double margin) {
  std::vector<double> value(leading.tiles);
  std::vector<int32_t> position(leading.tiles), order(leading.tiles);
  download(value.data(), leading.least_value, leading.tiles, device.stream);
  download(position.data(), leading.first_position, leading.tiles, device.stream);
  for (double& each : value) each = std::floor(each / (4 * margin));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return value[a] != value[b] ? value[a] < value[b] : position[a] < position[b];
  });
  int32_t* to = memory.order.get(leading.tiles);
  upload(to, order.data(), leading.tiles, device.stream);
  return to;
}

void launch_join(const Join& args, int limits, void* stream) {
  static_assert(kMostLimits == 4);
  const auto run = [&](auto kernel) {
    const size_t shared =
        kWarp * sizeof(Prefix) + sizeof(int64_t) * ((1 + limits) * kTile + 2) + 3 * kTile * sizeof(int32_t);
    launch(kName, kernel, grid_size(args.end - args.begin), kTile, shared, stream, args);
  };
  if (limits == 1) run(join_tiles<1>);
  else if (limits == 2) run(join_tiles<2>);
  else if (limits == 3) run(join_tiles<3>);
  else run(join_tiles<4>);
}

}  // namespace

std::vector<knapsack::Solution> join(Device& device, JoinMemory& memory, const knapsack::Problem& problem,
                                     const knapsack::Bound& bound, const Entries& leading, const Entries& trailing,
                                     int64_t greatest_loss, knapsack::Effort& effort) {
  if (leading.size == 0 || trailing.size == 0) return {};
  constexpr int32_t last = std::numeric_limits<int32_t>::max();
  Join args{};
  args.leading = make_tiles(device, memory.leading, leading, problem.limits, problem.states);
  args.trailing = make_tiles(device, memory.trailing, trailing, problem.limits, problem.states);
  args.order = order_tiles(device, memory, args.leading, bound.margin);
  args.chunk = device.chunk;
  for (int d = 0; d < problem.limits; ++d) args.limit[d] = problem.limit[d];
  args.value_over = bound.limit_value + bound.margin;
  // More than top_k, so that each pass that finds too many pairs narrows what the next one looks for.
  args.capacity = std::max(device.capacity, 8 * problem.top_k);
  args.found = memory.found.get(args.capacity);
  args.counters = memory.counters.get(3);
  args.only_best = problem.top_k == 1;
  Best best(problem.top_k, {greatest_loss, last, last});
  args.worst = best.worst();
  const int64_t items = args.leading.tiles * ((args.trailing.tiles + args.chunk - 1) / args.chunk);
  int64_t wave = kFirstItems;
  for (int64_t begin = 0; begin < items;) {
    pynas::check_interrupt();
    args.begin = begin;
    args.end = std::min(begin + wave, items);
    int64_t counters[3] = {0, 0, args.worst.loss};
    upload(args.counters, counters, 3, device.stream);
    launch_join(args, problem.limits, device.stream);
    download(counters, args.counters, 3, device.stream);
    std::vector<Pair> found(std::min(counters[0], args.capacity));
    download(found.data(), args.found, static_cast<int64_t>(found.size()), device.stream);
    if (counters[0] > args.capacity) {
      // The items are done again, for the pairs up to the worst of the best that are known by now.
      Best known = best;
      known.add(found);
      args.worst = known.worst();
      continue;
    }
    best.add(found);
    args.worst = best.worst();
    effort.visited += counters[1] * kTile;
    begin = args.end;
    wave = std::min(2 * wave, kMostItems);
  }
  std::sort(best.pairs().begin(), best.pairs().end());
  std::vector<knapsack::Solution> solutions;
  for (const Pair& pair : best.pairs()) solutions.push_back({pair.loss, pair.leading, {}, pair.trailing});
  return solutions;
}

}  // namespace pynas::cuda::traversal
