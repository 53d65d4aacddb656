// Prefixes over a block: the least value and a count.
#pragma once

#include "cuda/launch.cuh"

namespace pynas::cuda {

constexpr int64_t kNone = 0x7fffffffffffffff;

struct Prefix {
  int64_t least = kNone, count = 0;

  __device__ void add(const Prefix& next) {
    least = next.least < least ? next.least : least;
    count += next.count;
  }
};

// Returns the sum of `own` over the threads before this one; `total` becomes that over all. blockDim.x is a multiple of 32;
// scratch: 32 values of shared memory.
__device__ inline Prefix exclusive_prefix(const Prefix& own, Prefix* scratch, Prefix& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  Prefix sum = own;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Prefix other{__shfl_up_sync(0xffffffffu, sum.least, offset), __shfl_up_sync(0xffffffffu, sum.count, offset)};
    if (lane >= offset) sum.add(other);
  }
  __syncthreads();
  if (lane == kWarp - 1) scratch[warp] = sum;
  __syncthreads();
  Prefix before;
  total = Prefix{};
  for (int other = 0; other < static_cast<int>(blockDim.x) / kWarp; ++other) {
    if (other == warp) before = total;
    total.add(scratch[other]);
  }
  const Prefix left{__shfl_up_sync(0xffffffffu, sum.least, 1), __shfl_up_sync(0xffffffffu, sum.count, 1)};
  if (lane > 0) before.add(left);
  return before;
}

}  // namespace pynas::cuda
