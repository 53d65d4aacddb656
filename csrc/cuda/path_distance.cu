#include "common/path_distance.h"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

using Kind = PathDistanceKind;

constexpr int kThreads = 256;
constexpr int kWords = 4;   // words of the target in a thread's registers
constexpr int kShared = 4;  // paths that share them

template <class T, Kind kind>
struct Sums {
  Accumulate<T> first = 0, second = 0, third = 0;

  __device__ void add(Accumulate<T> x, Accumulate<T> y) {
    if constexpr (kind == Kind::cosine) {
      first += x * y;
      second += x * x;
      third += y * y;
    } else if constexpr (kind == Kind::mse) {
      first += (x - y) * (x - y);
    } else {
      first += x < y ? y - x : x - y;
    }
  }
};

// Adds one tile, kThreads * kWords words, of each of up to kShared paths. A tile may end early, after `words` words.
template <class T, int N, Kind kind>
__device__ void add_tile(const T* target, const T* outputs, int64_t stride, int paths, int64_t words,
                         Sums<T, kind>* sums) {
  using Word = Vector<T, N>;
  Word kept[kWords];
#pragma unroll
  for (int k = 0; k < kWords; ++k) {
    const int64_t word = k * kThreads + static_cast<int>(threadIdx.x);
    if (word < words) kept[k] = reinterpret_cast<const Word*>(target)[word];
  }
#pragma unroll
  for (int path = 0; path < kShared; ++path) {
    if (path >= paths) break;
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      const int64_t word = k * kThreads + static_cast<int>(threadIdx.x);
      if (word >= words) continue;
      const Word read = reinterpret_cast<const Word*>(outputs + path * stride)[word];
#pragma unroll
      for (int i = 0; i < N; ++i) sums[path].add(load(read.values[i]), load(kept[k].values[i]));
    }
  }
}

// A block takes one chunk of one sample, for up to kShared paths.
template <class T, int N, Kind kind>
__global__ void partial_sums(PathDistanceArgs args) {
  PYNAS_SHARED(double, scratch);
  const int64_t chunks = (args.size + args.chunk - 1) / args.chunk, groups = (args.paths + kShared - 1) / kShared;
  const int64_t stride = args.batch * args.size, tile = static_cast<int64_t>(kThreads) * kWords * N;
  for (int64_t item = blockIdx.x; item < args.batch * chunks * groups; item += gridDim.x) {
    const int64_t part = item / groups, path = item % groups * kShared, sample = part / chunks;
    const int64_t start = part % chunks * args.chunk;
    const int64_t end = start + args.chunk < args.size ? start + args.chunk : args.size;
    const int paths = args.paths - path < kShared ? static_cast<int>(args.paths - path) : kShared;
    const T* target = static_cast<const T*>(args.target) + sample * args.size;
    const T* outputs = static_cast<const T*>(args.outputs) + path * stride + sample * args.size;
    Sums<T, kind> sums[kShared];
    for (int64_t at = start; at < end; at += tile)
      add_tile<T, N, kind>(target + at, outputs + at, stride, paths, (end - at) / N, sums);
#pragma unroll
    for (int k = 0; k < kShared; ++k) {
      if (k >= paths) break;
      double* partial = args.partial + ((path + k) * args.batch * chunks + part) * 3;
      const double first = block_sum<double>(sums[k].first, scratch);
      if (threadIdx.x == 0) partial[0] = first;
      if constexpr (kind == Kind::cosine) {
        const double second = block_sum<double>(sums[k].second, scratch);
        const double third = block_sum<double>(sums[k].third, scratch);
        if (threadIdx.x == 0) partial[1] = second, partial[2] = third;
      }
    }
  }
}

// A block sums one chunk of the target and of its squares, about the target's first element.
template <class T>
__global__ void target_moments(PathDistanceArgs args) {
  PYNAS_SHARED(double, scratch);
  const int64_t chunks = (args.size + args.chunk - 1) / args.chunk;
  const T* target = static_cast<const T*>(args.target);
  const double origin = load(target[0]);
  for (int64_t item = blockIdx.x; item < args.batch * chunks; item += gridDim.x) {
    const int64_t start = item % chunks * args.chunk;
    const int64_t end = start + args.chunk < args.size ? start + args.chunk : args.size;
    double first = 0, second = 0;
    for (int64_t i = start + threadIdx.x; i < end; i += blockDim.x) {
      const double x = static_cast<double>(load(target[item / chunks * args.size + i])) - origin;
      first += x;
      second += x * x;
    }
    first = block_sum(first, scratch);
    second = block_sum(second, scratch);
    if (threadIdx.x == 0) args.moments[2 * item] = first, args.moments[2 * item + 1] = second;
  }
}

// The sum of the n values values[0], values[step], ..., by the whole block.
__device__ double strided_sum(const double* values, int64_t n, int64_t step, double* scratch) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += values[i * step];
  return block_sum(sum, scratch);
}

__device__ double cosine_sum(const PathDistanceArgs& args, const double* partial, int64_t chunks, double* scratch) {
  double total = 0;
  for (int64_t sample = threadIdx.x; sample < args.batch; sample += blockDim.x) {
    double product = 0, left = 0, right = 0;
    for (int64_t i = sample * chunks; i < (sample + 1) * chunks; ++i) {
      product += partial[3 * i];
      left += partial[3 * i + 1];
      right += partial[3 * i + 2];
    }
    total += 2 - 2 * product / (fmax(sqrt(left), kCosineFloor) * fmax(sqrt(right), kCosineFloor));
  }
  return block_sum(total, scratch);
}

// A block takes a path.
template <class T, Kind kind>
__global__ void finish(PathDistanceArgs args) {
  PYNAS_SHARED(double, scratch);
  const int64_t chunks = (args.size + args.chunk - 1) / args.chunk, parts = args.batch * chunks;
  const double n = static_cast<double>(args.batch * args.size);
  for (int64_t path = blockIdx.x; path < args.paths; path += gridDim.x) {
    const double* partial = args.partial + path * parts * 3;
    double distance;
    if constexpr (kind == Kind::cosine) {
      distance = cosine_sum(args, partial, chunks, scratch) / static_cast<double>(args.batch);
    } else {
      distance = strided_sum(partial, parts, 3, scratch) / n;
    }
    if constexpr (kind == Kind::relative_l1) {
      const double first = strided_sum(args.moments, parts, 2, scratch);
      const double squares = strided_sum(args.moments + 1, parts, 2, scratch) - first * first / n;
      // Rounding may make it negative; NaN stays NaN.
      distance /= sqrt((squares > 0 ? squares : squares * 0) / (n - 1));
    }
    if (threadIdx.x == 0) static_cast<Accumulate<T>*>(args.distances)[path] = static_cast<Accumulate<T>>(distance);
  }
}

template <class T, int N, Kind kind>
void run(const PathDistanceArgs& args, void* stream) {
  constexpr const char* name = "path_distance";
  constexpr size_t shared = kWarp * sizeof(double);
  const int64_t parts = (args.size + args.chunk - 1) / args.chunk * args.batch;
  const int64_t groups = (args.paths + kShared - 1) / kShared;
  launch(name, partial_sums<T, N, kind>, grid_size(parts * groups), kThreads, shared, stream, args);
  if (kind == Kind::relative_l1) launch(name, target_moments<T>, grid_size(parts), kThreads, shared, stream, args);
  launch(name, finish<T, kind>, grid_size(args.paths), kThreads, shared, stream, args);
}

template <class T, int N>
void run_kind(const PathDistanceArgs& args, void* stream) {
  switch (args.kind) {
    case Kind::relative_l1: return run<T, N, Kind::relative_l1>(args, stream);
    case Kind::mse: return run<T, N, Kind::mse>(args, stream);
    case Kind::cosine: return run<T, N, Kind::cosine>(args, stream);
  }
}

}  // namespace

void path_distance(const PathDistanceArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = 16 / sizeof(T);
    const bool wide = vector_width<T>(args.size, args.outputs, args.target) == width && args.chunk % width == 0;
    wide ? run_kind<T, width>(args, stream) : run_kind<T, 1>(args, stream);
  });
}

}  // namespace pynas::cuda
