#include "cuda/knapsack_tiles.cuh"

#include <algorithm>

#include "cuda/reduce.cuh"
#include "cuda/scan.cuh"

namespace pynas::cuda::traversal {
namespace {

constexpr int kCodeBits = 48;  // at most, aside from the state's

__global__ void start_ranges(int64_t* ranges, int dims) {
  const int d = static_cast<int>(threadIdx.x);
  if (d < dims) ranges[2 * d] = kNone, ranges[2 * d + 1] = -kNone;
}

// ranges [dims, 2]: the least and the greatest key of each.
__global__ void find_ranges(Entries entries, int dims, int64_t* ranges) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int d = 0; d < dims; ++d) {
    const int64_t* keys = entries.keys + d * entries.size;
    int64_t less = -kNone, more = -kNone;  // the greatest -key and key
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < entries.size; i += step) {
      less = -keys[i] > less ? -keys[i] : less;
      more = keys[i] > more ? keys[i] : more;
    }
    less = warp_max(less);
    more = warp_max(more);
    if (threadIdx.x % kWarp != 0) continue;
    atomicMin(reinterpret_cast<long long*>(ranges + 2 * d), static_cast<long long>(-less));
    atomicMax(reinterpret_cast<long long*>(ranges + 2 * d + 1), static_cast<long long>(more));
  }
}

struct Curve {
  int dims, bits, used;  // bits of each dimension
  int64_t least[1 + kMostLimits];
  int shift[1 + kMostLimits];
};

__global__ void write_codes(Entries entries, Curve curve, uint64_t* codes, int32_t* order) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < entries.size; i += step) {
    uint64_t code = 0;
    for (int d = 0; d < curve.dims; ++d) {
      const auto place = static_cast<uint64_t>((entries.keys[d * entries.size + i] - curve.least[d]) >> curve.shift[d]);
      for (int bit = 0; bit < curve.bits; ++bit) code |= (place >> bit & 1) << (bit * curve.dims + d);
    }
    codes[i] = code | static_cast<uint64_t>(entries.state[i]) << curve.used;
    order[i] = static_cast<int32_t>(i);
  }
}

struct TilesOut {
  int32_t* position;
  Entries sorted;
  int64_t *least, *most;
  double* least_value;
  int32_t *first_state, *last_state, *first_position;
};

// The least over the block; scratch: 32 values.
template <class T>
__device__ T block_least(T value, T* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = -warp_max(-value);
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  T least = scratch[0];
  for (int other = 1; other < kTile / kWarp; ++other) least = scratch[other] < least ? scratch[other] : least;
  return least;
}

__global__ void fill_tiles(Entries entries, int dims, int64_t tiles, TilesOut out) {
  PYNAS_SHARED(int64_t, scratch);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t at = tile * kTile + threadIdx.x;
    const bool there = at < entries.size;
    // Threads past the end hold the last entry, which changes no least value.
    const int32_t from = out.position[there ? at : entries.size - 1];
    for (int d = 0; d < dims; ++d) {
      const int64_t key = entries.keys[d * entries.size + from];
      if (there) out.sorted.keys[d * entries.size + at] = key;
      const int64_t least = block_least(key, scratch), most = -block_least(-key, scratch);
      if (threadIdx.x == 0) out.least[d * tiles + tile] = least, out.most[d * tiles + tile] = most;
    }
    const double value = entries.value[from];
    const int32_t state = entries.state[from];
    if (there) out.sorted.value[at] = value, out.sorted.state[at] = state;
    const double least_value = block_least(value, reinterpret_cast<double*>(scratch));
    const int32_t first = block_least(state, reinterpret_cast<int32_t*>(scratch));
    const int32_t last = -block_least(-state, reinterpret_cast<int32_t*>(scratch));
    const int32_t position = block_least(from, reinterpret_cast<int32_t*>(scratch));
    if (threadIdx.x != 0) continue;
    out.least_value[tile] = least_value;
    out.first_state[tile] = first;
    out.last_state[tile] = last;
    out.first_position[tile] = position;
  }
}

int bits_of(uint64_t value) {
  int bits = 0;
  while (bits < 64 && value >> bits != 0) ++bits;
  return bits;
}

}  // namespace

Tiles make_tiles(Device& device, TilesMemory& memory, const Entries& entries, int limits, int states) {
  const int dims = 1 + limits;
  const int64_t n = entries.size, tiles = (n + kTile - 1) / kTile;
  int64_t* ranges = device.ranges.get(2 * dims);
  const unsigned blocks = static_cast<unsigned>(parts_of(n) < 1024 ? parts_of(n) : 1024);
  launch(kName, start_ranges, 1u, kWarp, 0, device.stream, ranges, dims);
  launch(kName, find_ranges, blocks, kThreads, 0, device.stream, entries, dims, ranges);
  std::vector<int64_t> range(2 * dims);
  download(range.data(), ranges, 2 * dims, device.stream);
  Curve curve{dims, kCodeBits / dims, 0, {}, {}};
  for (int d = 0; d < dims; ++d) {
    const int bits = bits_of(static_cast<uint64_t>(range[2 * d + 1] - range[2 * d]));
    curve.least[d] = range[2 * d];
    curve.shift[d] = bits > curve.bits ? bits - curve.bits : 0;
    curve.used = std::max(curve.used, dims * (bits - curve.shift[d]));
  }
  TilesOut out{memory.position.get(n),        memory.sorted.get(n, limits),    memory.least.get(dims * tiles),
               memory.most.get(dims * tiles), memory.least_value.get(tiles),   memory.first_state.get(tiles),
               memory.last_state.get(tiles),  memory.first_position.get(tiles)};
  launch(kName, write_codes, grid_size(parts_of(n)), kThreads, 0, device.stream, entries, curve, device.codes.get(n),
         out.position);
  const int state_bits = states > 1 ? bits_of(states - 1) : 0;
  if (tiles > 1) sort_codes(device, out.position, n, std::min(curve.used + state_bits, 64));
  launch(kName, fill_tiles, grid_size(tiles), kTile, kWarp * sizeof(int64_t), device.stream, entries, dims, tiles, out);
  return {n,         tiles,    out.position,    out.sorted.keys, out.sorted.value, out.sorted.state,
          out.least, out.most, out.least_value, out.first_state, out.last_state,   out.first_position};
}

}  // namespace pynas::cuda::traversal
