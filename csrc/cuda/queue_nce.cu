#include "common/queue_nce.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ T block_max(T value, T* scratch) {
  const int lane = threadIdx.x % kWarp;
  value = warp_max(value);
  __syncthreads();
  if (lane == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_max(scratch[lane % (kThreads / kWarp)]);
}

// A block takes a row.
template <class T>
__global__ void update(QueueNceArgs args) {
  PYNAS_SHARED(T, scratch);
  T *maximum = static_cast<T*>(args.maximum), *total = static_cast<T*>(args.total);
  for (int64_t item = blockIdx.x; item < args.batch; item += gridDim.x) {
    T* row = static_cast<T*>(args.logits) + item * args.chunk;
    const T before = maximum[item];
    T best = before;
    for (int64_t i = threadIdx.x; i < args.chunk; i += kThreads) best = row[i] > best ? row[i] : best;
    best = block_max(best, scratch);
    T sum = 0;
    for (int64_t i = threadIdx.x; i < args.chunk; i += kThreads) {
      row[i] = exp(row[i] - best);
      sum += row[i];
    }
    sum = block_sum(sum, scratch);
    const T rescale = exp(before - best);
    if (threadIdx.x == 0) {
      total[item] = total[item] * rescale + sum;
      maximum[item] = best;
    }
    if (args.accumulated == nullptr || rescale == 1) continue;
    T* accumulated = static_cast<T*>(args.accumulated) + item * args.size;
    for (int64_t i = threadIdx.x; i < args.size; i += kThreads) accumulated[i] *= rescale;
  }
}

}  // namespace

void queue_nce(const QueueNceArgs& args, void* stream) {
  const bool wide = args.dtype == DType::float64;
  launch("queue_nce", wide ? update<double> : update<float>, grid_size(args.batch), kThreads,
         kWarp * (wide ? sizeof(double) : sizeof(float)), stream, args);
}

}  // namespace pynas::cuda
