#include "common/pareto.h"
#include "cuda/scan.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 4096;  // rights per block: enough to share a left, few enough for many blocks
constexpr int kRun = 8;           // consecutive values of a thread in a running minimum
using Word = long long;           // the type of the 64-bit atomics

__global__ void fill(int64_t* values, int64_t size, int64_t value) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) values[i] = value;
}

// A block takes a left and a chunk of the rights. Neighbouring threads read neighbouring rights.
template <int M, class F>
__device__ void each_pair(const ParetoPairsArgs& args, F f) {
  const int64_t chunks = (args.rights + kChunk - 1) / kChunk;
  for (int64_t item = blockIdx.x; item < args.lefts * chunks; item += gridDim.x) {
    const int64_t l = item / chunks, begin = item % chunks * kChunk, loss = args.left_loss[l];
    const int64_t end = begin + kChunk < args.rights ? begin + kChunk : args.rights;
    int64_t cost[M];
    for (int d = 0; d < M; ++d) cost[d] = args.left_cost[l * M + d] - args.least[d];
    for (int64_t r = begin + threadIdx.x; r < end; r += blockDim.x) {
      int64_t bucket = (cost[0] + args.right_cost[r * M]) >> args.shift[0];
      if (M == 2) bucket = bucket << args.bits | (cost[M - 1] + args.right_cost[r * M + M - 1]) >> args.shift[M - 1];
      f(l * args.rights + r, bucket, loss + args.right_loss[r]);
    }
  }
}

template <int M>
__global__ void bucket_minimum(ParetoPairsArgs args) {
  each_pair<M>(args, [&](int64_t, int64_t bucket, int64_t loss) {
    // Most pairs do not lower the minimum: a plain read comes before the atomic. A stale value only costs an atomic.
    if (loss < args.floor[bucket]) atomicMin(reinterpret_cast<Word*>(args.floor + bucket), static_cast<Word>(loss));
  });
}

template <int M>
__global__ void survivors(ParetoPairsArgs args) {
  each_pair<M>(args, [&](int64_t pair, int64_t bucket, int64_t loss) {
    const int64_t side = int64_t{1} << args.bits, lower = M == 1 ? bucket - 1 : bucket - side - 1;
    const bool least = M == 1 ? bucket == 0 : bucket < side || bucket % side == 0;
    if (!least && loss >= args.floor[lower]) return;
    const auto at = static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(args.count), 1ull));
    if (at < args.capacity) args.pairs[at] = pair;
  });
}

// Replaces a line of `size` values, `step` apart, by their inclusive running minimum. A block takes a line; there are `lines`
// lines, `apart` from each other.
__global__ void running_minima(int64_t* table, int64_t lines, int64_t apart, int64_t size, int64_t step) {
  PYNAS_SHARED(Prefix, scratch);
  for (int64_t line = blockIdx.x; line < lines; line += gridDim.x) {
    int64_t* values = table + line * apart;
    Prefix before;
    for (int64_t start = 0; start < size; start += static_cast<int64_t>(blockDim.x) * kRun) {
      const int64_t first = start + static_cast<int64_t>(threadIdx.x) * kRun;
      int64_t kept[kRun];
      Prefix own, total;
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        kept[k] = first + k < size ? values[(first + k) * step] : kNone;
        own.add({kept[k], 0});
      }
      Prefix least = exclusive_prefix(own, scratch, total);
      least.add(before);
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        least.add({kept[k], 0});
        if (first + k < size) values[(first + k) * step] = least.least;
      }
      before.add(total);
    }
  }
}

template <int M>
void run(const ParetoPairsArgs& args, void* stream) {
  constexpr const char* name = "pareto_pairs";
  const int64_t side = int64_t{1} << args.bits, size = M == 1 ? side : side * side;
  const unsigned grid = grid_size(args.lefts * ((args.rights + kChunk - 1) / kChunk));
  const size_t scratch = kWarp * sizeof(Prefix);
  const unsigned threads = side < 8192 ? 64 : 1024;
  launch(name, fill, grid_size((size + kThreads - 1) / kThreads), kThreads, 0, stream, args.floor, size, kNone);
  launch(name, fill, 1u, kThreads, 0, stream, args.count, int64_t{1}, int64_t{0});
  launch(name, bucket_minimum<M>, grid, kThreads, 0, stream, args);
  launch(name, running_minima, grid_size(size / side), threads, scratch, stream, args.floor, size / side, side, side,
         int64_t{1});
  if (M == 2)
    launch(name, running_minima, grid_size(side), threads, scratch, stream, args.floor, side, int64_t{1}, side, side);
  launch(name, survivors<M>, grid, kThreads, 0, stream, args);
}

}  // namespace

void pareto_pairs(const ParetoPairsArgs& args, void* stream) {
  args.costs == 1 ? run<1>(args, stream) : run<2>(args, stream);
}

}  // namespace pynas::cuda
