// The part of CUDA that csrc/cuda uses, on the CPU: the tests compile the .cu files with the C++ compiler and this header.
//
// Blocks run one after the other, a block's threads as fibers that switch only at barriers and warp operations, in
// rising order in one block and in falling order in the next. Shared memory starts as 0xFF bytes (NaN, -1). A barrier
// that not all threads reach, and a shuffle that reads a lane that takes no part, end the process with a message.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 227 * 1024;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
// A request of more bytes than the environment's CUDA_HOST_MEMORY fails.
inline cudaError_t cudaMalloc(void** to, size_t bytes) {
  const char* most = getenv("CUDA_HOST_MEMORY");
  if (most != nullptr && bytes > strtoull(most, nullptr, 10)) return cudaErrorMemoryAllocation;
  *to = malloc(bytes);
  memset(*to, 0xFF, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  free(memory);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes > 0) memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}

namespace cuda_host {

// Where the running thread is. Set on every switch.
extern dim3 thread_index, block_index, block_size, grid_size;
extern unsigned char* shared_memory;

// Run `body` for every thread of every block. One launch at a time.
void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);

void synchronize_block();
// Every lane in `mask` gives a value and the lane whose value it wants.
uint64_t exchange(unsigned mask, uint64_t value, int source);
// Bit l: lane l is in `mask` and gave a true predicate.
unsigned ballot(unsigned mask, bool predicate);
int lane();

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_host

#define threadIdx (::cuda_host::thread_index)
#define blockIdx (::cuda_host::block_index)
#define blockDim (::cuda_host::block_size)
#define gridDim (::cuda_host::grid_size)
#define PYNAS_SHARED(T, name) T* name = reinterpret_cast<T*>(::cuda_host::shared_memory)

inline void __syncthreads() { cuda_host::synchronize_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_host::ballot(mask, false); }
inline unsigned __ballot_sync(unsigned mask, bool predicate) { return cuda_host::ballot(mask, predicate); }
inline int __any_sync(unsigned mask, bool predicate) { return cuda_host::ballot(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, bool predicate) { return cuda_host::ballot(mask, !predicate) == 0; }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return cuda_host::shuffle(mask, value, (cuda_host::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = cuda_host::lane(), source = lane ^ bits;
  return cuda_host::shuffle(mask, value, source / width > lane / width ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = cuda_host::lane(), source = lane + static_cast<int>(delta);
  return cuda_host::shuffle(mask, value, source / width > lane / width ? lane : source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = cuda_host::lane(), source = lane - static_cast<int>(delta);
  return cuda_host::shuffle(mask, value, source < lane / width * width ? lane : source);
}

// Fibers switch only at barriers, so plain reads and writes are atomic.
template <class T, class F>
T cuda_host_update(T* address, F f) {
  const T old = *address;
  *address = f(old);
  return old;
}
template <class T>
T atomicAdd(T* address, T value) {
  return cuda_host_update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* address, T value) {
  return cuda_host_update(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* address, T value) {
  return cuda_host_update(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicOr(T* address, T value) {
  return cuda_host_update(address, [=](T old) { return old | value; });
}
template <class T>
T atomicExch(T* address, T value) {
  return cuda_host_update(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, T compare, T value) {
  return cuda_host_update(address, [=](T old) { return old == compare ? value : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* address) {
  return *address;
}
using std::max;
using std::min;
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
