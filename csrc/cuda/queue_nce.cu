#include "common/queue_nce.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWords = 4;  // words that a thread loads before it uses the first

template <class T>
__device__ T block_max(T value, T* scratch) {
  const int lane = threadIdx.x % kWarp;
  value = warp_max(value);
  __syncthreads();
  if (lane == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_max(scratch[lane % (kThreads / kWarp)]);
}

// f(words, their number, place of the first) for the words of a thread: kThreads apart, up to kWords at a time.
template <class T, int W, class F>
__device__ void for_words(T* row, int64_t begin, int64_t end, F f) {
  auto* words = reinterpret_cast<Vector<T, W>*>(row);
  for (int64_t first = begin / W + threadIdx.x; first < end / W; first += kThreads * kWords) {
    Vector<T, W> kept[kWords];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kWords; ++k)
      if (first + k * kThreads < end / W) kept[k] = words[first + k * kThreads], count = k + 1;
    f(kept, count, words + first);
  }
}

// A block takes one slice of a row: its maximum, and the sum of exponentials about that.
template <class T, int W>
__global__ void slice_sums(QueueNceArgs args) {
  PYNAS_SHARED(T, scratch);
  const int64_t slices = (args.chunk + args.slice - 1) / args.slice;
  for (int64_t item = blockIdx.x; item < args.batch * slices; item += gridDim.x) {
    const int64_t begin = item % slices * args.slice;
    const int64_t end = begin + args.slice < args.chunk ? begin + args.slice : args.chunk;
    T best = static_cast<const T*>(args.maximum)[item / slices], sum = 0;
    for_words<T, W>(static_cast<T*>(args.logits) + item / slices * args.chunk, begin, end,
                    [&](const Vector<T, W>* words, int count, Vector<T, W>*) {
                      const T before = best;
#pragma unroll
                      for (int k = 0; k < kWords; ++k)
                        for (int i = 0; k < count && i < W; ++i)
                          best = words[k].values[i] > best ? words[k].values[i] : best;
                      sum *= exp(before - best);
#pragma unroll
                      for (int k = 0; k < kWords; ++k)
                        for (int i = 0; k < count && i < W; ++i) sum += exp(words[k].values[i] - best);
                    });
    const T most = block_max(best, scratch);
    sum = block_sum(sum * exp(best - most), scratch);
    if (threadIdx.x > 0) continue;
    static_cast<T*>(args.slices)[2 * item] = most;
    static_cast<T*>(args.slices)[2 * item + 1] = sum;
  }
}

// A block takes one slice of a row. That of the first slice brings the row's maximum, total and accumulated sum up to date; the
// other blocks may find the maximum from before or from after that, and come to the same maximum with either.
template <class T, int W>
__global__ void exponentials(QueueNceArgs args) {
  const int64_t slices = (args.chunk + args.slice - 1) / args.slice;
  T *maximum = static_cast<T*>(args.maximum), *total = static_cast<T*>(args.total);
  for (int64_t item = blockIdx.x; item < args.batch * slices; item += gridDim.x) {
    const int64_t row = item / slices, begin = item % slices * args.slice;
    const int64_t end = begin + args.slice < args.chunk ? begin + args.slice : args.chunk;
    const T *sums = static_cast<const T*>(args.slices) + 2 * row * slices, before = maximum[row];
    T best = before;
    for (int64_t slice = 0; slice < slices; ++slice) best = sums[2 * slice] > best ? sums[2 * slice] : best;
    for_words<T, W>(static_cast<T*>(args.logits) + row * args.chunk, begin, end,
                    [&](Vector<T, W>* words, int count, Vector<T, W>* to) {
#pragma unroll
                      for (int k = 0; k < kWords; ++k) {
                        if (k >= count) break;
#pragma unroll
                        for (int i = 0; i < W; ++i) words[k].values[i] = exp(words[k].values[i] - best);
                        to[k * kThreads] = words[k];
                      }
                    });
    if (begin > 0) continue;
    const T rescale = exp(before - best);
    __syncthreads();
    if (threadIdx.x == 0) {
      T sum = total[row] * rescale;
      for (int64_t slice = 0; slice < slices; ++slice) sum += sums[2 * slice + 1] * exp(sums[2 * slice] - best);
      total[row] = sum;
      maximum[row] = best;
    }
    if (args.accumulated == nullptr || rescale == 1) continue;
    T* accumulated = static_cast<T*>(args.accumulated) + row * args.size;
    for (int64_t i = threadIdx.x; i < args.size; i += kThreads) accumulated[i] *= rescale;
  }
}

template <class T>
void run(const QueueNceArgs& args, void* stream) {
  constexpr int W = 16 / sizeof(T);
  const bool wide = vector_width<T>(args.chunk, args.logits) == W && args.slice % W == 0;
  const unsigned grid = grid_size(args.batch * ((args.chunk + args.slice - 1) / args.slice));
  launch("queue_nce", wide ? slice_sums<T, W> : slice_sums<T, 1>, grid, kThreads, kWarp * sizeof(T), stream, args);
  launch("queue_nce", wide ? exponentials<T, W> : exponentials<T, 1>, grid, kThreads, 0, stream, args);
}

}  // namespace

void queue_nce(const QueueNceArgs& args, void* stream) {
  args.dtype == DType::float64 ? run<double>(args, stream) : run<float>(args, stream);
}

}  // namespace pynas::cuda
