#include "common/ensemble_loss.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarpsPerBlock = kThreads / kWarp;

// A warp takes a row. A lane always takes the elements of the same positions, so it reads what it wrote to `mean` without a
// barrier.
template <class T, int W, class F>
__device__ void for_vectors(const T* row, int64_t n, F f) {
  for (int64_t i = threadIdx.x % kWarp; i < n / W; i += kWarp) f(i, reinterpret_cast<const Vector<T, W>*>(row)[i]);
}

template <class T, int W>
__device__ Accumulate<T> row_norm(const T* row, int64_t n) {
  Accumulate<T> total = 0;
  for_vectors<T, W>(row, n, [&](int64_t, Vector<T, W> x) {
    for (int j = 0; j < W; ++j) total += load(x.values[j]) * load(x.values[j]);
  });
  return sqrt(warp_sum(total));
}

template <class A>
__device__ A inverse_norm(A norm) {
  const A floor = static_cast<A>(kNormFloor);
  return 1 / (norm < floor ? floor : norm);
}

template <class T, int W>
__device__ void ensemble(const EnsembleLossArgs& args, const T* target, Accumulate<T>* mean) {
  using A = Accumulate<T>;
  const int64_t n = args.size;
  auto* means = reinterpret_cast<Vector<A, W>*>(mean);
  for (int64_t path = 0; path < args.paths; ++path) {
    const T* row = target + path * args.batch * n;
    const A scale = (args.normalize ? inverse_norm(row_norm<T, W>(row, n)) : A(1)) / static_cast<A>(args.paths);
    for_vectors<T, W>(row, n, [&](int64_t i, Vector<T, W> x) {
      Vector<A, W> sum = path == 0 ? Vector<A, W>{} : means[i];
      for (int j = 0; j < W; ++j) sum.values[j] += load(x.values[j]) * scale;
      means[i] = sum;
    });
  }
  if (!args.renormalize) return;
  const A scale = inverse_norm(row_norm<A, W>(mean, n));
  for_vectors<A, W>(mean, n, [&](int64_t i, Vector<A, W> x) {
    for (int j = 0; j < W; ++j) x.values[j] *= scale;
    means[i] = x;
  });
}

template <class T, int W>
__device__ void compare(const EnsembleLossArgs& args, const T* row, const Accumulate<T>* mean, int64_t item) {
  using A = Accumulate<T>;
  const A norm = args.normalize ? row_norm<T, W>(row, args.size) : A(1), inverse = inverse_norm(norm);
  A distance = 0, along = 0;
  for_vectors<T, W>(row, args.size, [&](int64_t i, Vector<T, W> x) {
    const Vector<A, W> m = reinterpret_cast<const Vector<A, W>*>(mean)[i];
    for (int j = 0; j < W; ++j) {
      const A u = load(x.values[j]) * inverse, difference = u - m.values[j];
      distance += difference * difference;
      along += u * difference;
    }
  });
  distance = warp_sum(distance);
  along = warp_sum(along);
  if (threadIdx.x % kWarp != 0) return;
  static_cast<A*>(args.distance)[item] = distance;
  static_cast<A*>(args.inverse)[item] = inverse;
  static_cast<A*>(args.along)[item] = args.normalize && !(norm < static_cast<A>(kNormFloor)) ? along : A(0);
}

template <class T, int W>
__global__ void forward(EnsembleLossArgs args) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  for (int64_t sample = first; sample < args.batch; sample += static_cast<int64_t>(gridDim.x) * kWarpsPerBlock) {
    auto* mean = static_cast<Accumulate<T>*>(args.mean) + sample * args.size;
    ensemble<T, W>(args, static_cast<const T*>(args.target) + sample * args.size, mean);
    for (int64_t path = 0; path < args.paths; ++path) {
      const int64_t item = path * args.batch + sample;
      compare<T, W>(args, static_cast<const T*>(args.online) + item * args.size, mean, item);
    }
  }
}

// A block takes a path.
template <class A>
__global__ void mean_distance(const A* distance, A* loss, int64_t paths, int64_t batch) {
  PYNAS_SHARED(double, scratch);
  for (int64_t path = blockIdx.x; path < paths; path += gridDim.x) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < batch; i += kThreads) total += static_cast<double>(distance[path * batch + i]);
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) loss[path] = static_cast<A>(total / static_cast<double>(batch));
  }
}

template <class T, int W>
__global__ void backward(EnsembleLossBackwardArgs args) {
  using A = Accumulate<T>;
  const int64_t n = args.size, items = args.paths * args.batch;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  for (int64_t item = first; item < items; item += static_cast<int64_t>(gridDim.x) * kWarpsPerBlock) {
    const A inverse = static_cast<const A*>(args.inverse)[item];
    const A inner = inverse * (1 - static_cast<const A*>(args.along)[item]);
    const A outer = 2 * static_cast<const A*>(args.gradient)[item / args.batch] / static_cast<A>(args.batch) * inverse;
    const auto* mean = reinterpret_cast<const Vector<A, W>*>(static_cast<const A*>(args.mean) + item % args.batch * n);
    auto* gradient = reinterpret_cast<Vector<T, W>*>(static_cast<T*>(args.online_gradient) + item * n);
    for_vectors<T, W>(static_cast<const T*>(args.online) + item * n, n, [&](int64_t i, Vector<T, W> x) {
      const Vector<A, W> m = mean[i];
      for (int j = 0; j < W; ++j) store(x.values[j], outer * (load(x.values[j]) * inner - m.values[j]));
      gradient[i] = x;
    });
  }
}

dim3 warps_grid(int64_t rows) { return grid_size((rows + kWarpsPerBlock - 1) / kWarpsPerBlock); }

}  // namespace

void ensemble_loss(const EnsembleLossArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulate<T>;
    constexpr int W = 16 / sizeof(T);
    const bool wide = vector_width<T>(args.size, args.online, args.target) == W;
    launch("ensemble_loss", wide ? forward<T, W> : forward<T, 1>, warps_grid(args.batch), kThreads, 0, stream, args);
    launch("ensemble_loss", mean_distance<A>, grid_size(args.paths), kThreads, kWarp * sizeof(double), stream,
           static_cast<const A*>(args.distance), static_cast<A*>(args.loss), args.paths, args.batch);
  });
}

void ensemble_loss_backward(const EnsembleLossBackwardArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int W = 16 / sizeof(T);
    const bool wide = vector_width<T>(args.size, args.online, args.online_gradient) == W;
    launch("ensemble_loss", wide ? backward<T, W> : backward<T, 1>, warps_grid(args.paths * args.batch), kThreads, 0,
           stream, args);
  });
}

}  // namespace pynas::cuda
