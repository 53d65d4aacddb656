// Launches a kernel, and holds constants and types of all kernels. A block has at most 1024 threads, a warp 32.
//
// The tests compile the .cu files for the CPU too (tests/cuda_host). So kernels use only the part of CUDA that this shim
// offers: launch() instead of <<<>>>, PYNAS_SHARED, __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync, __any_sync,
// __all_sync, atomicAdd/Max/Min/CAS/Exch, __ldg and the mathematics of <cmath>. All threads of a block must reach each barrier.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/dtype.h"

#if defined(__CUDACC__)
// PYNAS_SHARED(float, scratch): `float* scratch`, the dynamic shared memory of the block, aligned to 16 bytes.
#define PYNAS_SHARED(T, name)                                  \
  extern __shared__ __align__(16) unsigned char pynas_shared[]; \
  T* name = reinterpret_cast<T*>(pynas_shared)
#endif

namespace pynas::cuda {

constexpr int kWarp = 32;
// Most blocks of a launch: kernels loop over their items in steps of gridDim.x.
constexpr int64_t kMaxBlocks = 1 << 30;

inline unsigned grid_size(int64_t items) { return static_cast<unsigned>(items < kMaxBlocks ? items : kMaxBlocks); }

inline void check(cudaError_t error, const char* operation) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would report it again
  throw std::runtime_error(std::string("[") + operation + "] CUDA error: " + cudaGetErrorString(error));
}

// Bytes of shared memory that a block of the current device may use.
inline int64_t shared_memory_limit(const char* operation) {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), operation);
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), operation);
  return bytes;
}

// Runs kernel<<<grid, block, shared, stream>>>(arguments...), and throws the error of the launch. An empty grid is not one for
// CUDA, so nothing runs.
template <class... Parameters, class... Arguments>
void launch(const char* operation, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, void* stream,
            Arguments... arguments) {
  if (grid.x == 0) return;
  if (shared > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          operation);
  }
#if defined(__CUDACC__)
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
#else
  cuda_host::launch(grid, block, shared, [=] { kernel(arguments...); });
#endif
  check(cudaGetLastError(), operation);
}

// N elements loaded or stored as one word of at most 16 bytes; the address must be a multiple of it.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};

// Elements in a 16-byte word if every row of `size` elements starts on one, else 1.
template <class T>
int vector_width(int64_t size, const void* first, const void* second = nullptr, const void* third = nullptr) {
  constexpr int width = 16 / sizeof(T);
  const uintptr_t addresses =
      reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second) | reinterpret_cast<uintptr_t>(third);
  return size % width == 0 && addresses % 16 == 0 ? width : 1;
}

}  // namespace pynas::cuda
