// Loops over 16-byte words, and sums over the rows of a matrix whose columns lie side by side.
#pragma once

#include "cuda/launch.cuh"

namespace pynas::cuda {

// Words that a thread loads before it uses the first: the compiler may not move loads over stores by itself.
constexpr int kAhead = 4;

// use(i, word i) for i = begin, begin + step, ... below end; load(i) gives the word.
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

// Channels-last: a block's threads as rows of `columns` words.
struct Grid {
  int columns;  // words of a row that the block takes
  int rows;     // rows that it takes at a time
  int column, row;

  __device__ Grid(int64_t words, int most) {
    columns = words < most ? static_cast<int>(words) : most;
    rows = static_cast<int>(blockDim.x) / columns;
    column = static_cast<int>(threadIdx.x) % columns;
    row = static_cast<int>(threadIdx.x) / columns;
  }
};

// Sums `values` over the rows of the grid: thread c < columns * N gets the sum of channel c. scratch: blockDim.x * N values.
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
