// Sums over a warp and over a block, in an order that does not depend on timing.
#pragma once

#include "cuda/launch.cuh"

namespace pynas::cuda {

// Every lane gets the sum. All 32 lanes take part.
template <class T>
__device__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <class T>
__device__ T warp_max(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// Every thread gets the sum. blockDim.x is a multiple of 32, blockDim.y and z are 1; scratch: 32 values of shared memory.
template <class T>
__device__ T block_sum(T value, T* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_sum(value);
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : T(0));
}

}  // namespace pynas::cuda
