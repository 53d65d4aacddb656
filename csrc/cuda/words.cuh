// Loops over 16-byte words, and sums over the rows of a row-major matrix.
#pragma once

#include "cuda/launch.cuh"

namespace pynas::cuda {

// Words that a thread loads before it uses the first: the compiler may not move a load before a store.
constexpr int kAhead = 4;

// Calls use(i, load(i)) for i = begin, begin + step, ... below end.
template <class Word, class Index, class Load, class Use>
__device__ void for_each_word(Index begin, Index end, Index step, Load load, Use use) {
  for (Index base = begin; base < end; base += kAhead * step) {
    Word words[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (base + k * step < end) words[k] = load(base + k * step);
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (base + k * step < end) use(base + k * step, words[k]);
  }
}

// Channels-last: the threads of a block as rows of `columns` words.
struct Grid {
  int columns;  // words of a row
  int rows;     // rows at a time
  int column, row;

  __device__ Grid(int64_t words, int most) {
    columns = words < most ? static_cast<int>(words) : most;
    rows = static_cast<int>(blockDim.x) / columns;
    column = static_cast<int>(threadIdx.x) % columns;
    row = static_cast<int>(threadIdx.x) / columns;
  }
};

// The sum of `values` over the rows of the grid: thread c < columns * N gets that of channel c. scratch: blockDim.x * N values.
template <int N, class A>
__device__ double column_sum(const Grid& grid, const A* values, bool active, A* scratch) {
  const int channels = grid.columns * N, thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (active && grid.row < grid.rows) {
#pragma unroll
    for (int i = 0; i < N; ++i) scratch[grid.row * channels + grid.column * N + i] = values[i];
  }
  __syncthreads();
  double sum = 0;
  if (thread < channels) {
    for (int row = 0; row < grid.rows; ++row) sum += scratch[row * channels + thread];
  }
  return sum;
}

}  // namespace pynas::cuda
