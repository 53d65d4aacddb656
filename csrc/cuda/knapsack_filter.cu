// The dominance filter. A point's dominators are no greater in loss and costs, so they come before it on the curve: a block
// compares its tile with the tiles before it, nearest first, whose boxes may hold one.
#include "cuda/knapsack_tiles.cuh"
#include "cuda/reduce.cuh"
#include "cuda/scan.cuh"

namespace pynas::cuda::traversal {
namespace {

// A point with the costs in registers.
template <int M>
struct Point {
  int64_t loss = 0, cost[M];
  int32_t position = 0, state = 0;
};

// A tile in shared memory.
template <int M>
struct SharedTile {
  int64_t* keys;  // [1 + M, kTile]
  int32_t *position, *state;

  __device__ void load(const Tiles& tiles, int64_t tile) const {
    const int64_t at = tile * kTile + threadIdx.x;
    if (at >= tiles.size) return;
    for (int d = 0; d <= M; ++d) keys[d * kTile + threadIdx.x] = tiles.keys[d * tiles.size + at];
    position[threadIdx.x] = tiles.position[at];
    state[threadIdx.x] = tiles.state[at];
  }

  // The dominators of the point among the first `count`, no more than `enough`.
  __device__ int64_t dominators(const Point<M>& point, int count, int64_t enough) const {
    int64_t found = 0;
    for (int j = 0; j < count && found < enough; ++j) {
      if (keys[j] > point.loss || state[j] != point.state) continue;
      bool all = keys[j] < point.loss || position[j] < point.position;
#pragma unroll
      for (int d = 0; d < M; ++d) all &= keys[(1 + d) * kTile + j] <= point.cost[d];
      found += all;
    }
    return found;
  }
};

// Whether the box of tile `other` may hold a dominator of a point of tile `tile`.
template <int M>
__device__ bool may_dominate(const Tiles& tiles, int64_t other, int64_t tile) {
  if (tiles.first_state[other] > tiles.last_state[tile] || tiles.last_state[other] < tiles.first_state[tile])
    return false;
  bool all = true;
#pragma unroll
  for (int d = 0; d <= M; ++d) all &= tiles.least[d * tiles.tiles + other] <= tiles.most[d * tiles.tiles + tile];
  return all;
}

template <int M>
__global__ void flag_tiles(Tiles tiles, int64_t top_k, int64_t near_tiles, unsigned char* flags) {
  PYNAS_SHARED(Prefix, scratch);
  auto* keys = reinterpret_cast<int64_t*>(scratch + kWarp);
  auto* positions = reinterpret_cast<int32_t*>(keys + (1 + M) * kTile);
  const SharedTile<M> shared{keys, positions, positions + kTile};
  int32_t* near = positions + 2 * kTile;
  for (int64_t tile = blockIdx.x; tile < tiles.tiles; tile += gridDim.x) {
    const int64_t at = tile * kTile + threadIdx.x;
    const bool there = at < tiles.size;
    Point<M> point;
    if (there) {
      point.loss = tiles.keys[at];
      for (int d = 0; d < M; ++d) point.cost[d] = tiles.keys[(1 + d) * tiles.size + at];
      point.position = tiles.position[at];
      point.state = tiles.state[at];
    }
    int64_t dominators = 0, compared = 0;
    bool done = false;
    for (int64_t base = tile; base >= 0 && !done; base -= kTile) {
      const int64_t other = base - threadIdx.x;
      const bool possible = other >= 0 && may_dominate<M>(tiles, other, tile);
      Prefix total;
      const Prefix before = exclusive_prefix({kNone, possible}, scratch, total);
      if (possible) near[before.count] = static_cast<int32_t>(threadIdx.x);
      __syncthreads();
      for (int64_t k = 0; k < total.count && !done; ++k) {
        const int64_t with = base - near[k], left = tiles.size - with * kTile;
        shared.load(tiles, with);
        __syncthreads();
        if (there && dominators < top_k)
          dominators += shared.dominators(point, left < kTile ? static_cast<int>(left) : kTile, top_k - dominators);
        // Its barriers also keep the tile until all threads are done with it.
        const int open = block_sum<int>(there && dominators < top_k, reinterpret_cast<int*>(scratch));
        done = open == 0 || ++compared >= near_tiles;
      }
      __syncthreads();
    }
    if (there) flags[point.position] = dominators < top_k;
  }
}

template <int M>
void flag(Device& device, const Tiles& tiles, int64_t top_k, int64_t near) {
  constexpr size_t shared = kWarp * sizeof(Prefix) + kTile * ((1 + M) * sizeof(int64_t) + 3 * sizeof(int32_t));
  launch(kName, flag_tiles<M>, grid_size(tiles.tiles), kTile, shared, device.stream, tiles, top_k,
         near + 2 * top_k / kTile, device.flags.get(tiles.size));
}

}  // namespace

void flag_undominated(Device& device, TilesMemory& memory, const Entries& entries, int limits, int states,
                      int64_t top_k, int64_t near) {
  static_assert(kMostLimits == 4);
  const Tiles tiles = make_tiles(device, memory, entries, limits, states);
  if (limits == 1) flag<1>(device, tiles, top_k, near);
  else if (limits == 2) flag<2>(device, tiles, top_k, near);
  else if (limits == 3) flag<3>(device, tiles, top_k, near);
  else flag<4>(device, tiles, top_k, near);
}

}  // namespace pynas::cuda::traversal
