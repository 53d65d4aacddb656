#include "common/ensemble_loss.h"

#include "cuda/reduce.cuh"
#include "cuda/widen.cuh"

namespace pynas::cuda {
namespace {

constexpr int kHeld = 8;   // words that a lane holds at a time: of one long row, or of several short ones
constexpr int kShort = 2;  // words of a short row
constexpr int kMaxWarps = 16;
constexpr int kBackwardThreads = 128;
constexpr int kAtOnce = 2;  // words that a lane of the backward pass loads before it uses the first

// Means of a word's elements.
template <class A, int W>
struct alignas(sizeof(A) * W < 16 ? sizeof(A) * W : 16) Means {
  A values[W];
};

template <class A>
__device__ A inverse_norm(A norm) {
  const A floor = static_cast<A>(kNormFloor);
  return 1 / (norm < floor ? floor : norm);
}

// A lane's part of a row: K words of W elements, 32 words apart.
template <class T, int W, int K>
struct Part {
  using A = Accumulate<T>;
  static constexpr int64_t tile = int64_t{kWarp} * K * W;  // elements
  Raw<T, W> words[K];

  static __device__ int64_t word(int64_t start, int k) { return start / W + k * kWarp + threadIdx.x % kWarp; }

  // Elements past the row's end become zeros.
  __device__ void read(const T* row, int64_t start, int64_t n, bool there) {
#pragma unroll
    for (int k = 0; k < K; ++k) words[k] = load_word<T, W>(row, word(start, k), there && word(start, k) < n / W);
  }

  // f(k, i, element)
  template <class F>
  __device__ void each(F f) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      A values[W];
      widen<T, W>(words[k], values);
#pragma unroll
      for (int i = 0; i < W; ++i) f(k, i, values[i]);
    }
  }

  __device__ A squares() const {
    A sum = 0;
    each([&](int, int, A x) { sum += x * x; });
    return sum;
  }
};

// The sum of squares of rows first, first + step, ... (R of them, those below `end`), into `sums`. With `fits`, the parts stay.
template <class T, int W, int K, bool fits>
__device__ void row_squares(const T* rows, int64_t stride, int64_t n, int64_t first, int64_t step, int64_t end,
                            Part<T, W, K>* parts, Accumulate<T>* sums) {
  constexpr int R = kHeld / K;
#pragma unroll
  for (int r = 0; r < R; ++r) sums[r] = 0;
  for (int64_t start = 0; start < n; start += Part<T, W, K>::tile) {
#pragma unroll
    for (int r = 0; r < R; ++r) parts[r].read(rows + (first + r * step) * stride, start, n, first + r * step < end);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r * step >= end) break;
      sums[r] += parts[r].squares();
    }
    if (fits) break;
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (first + r * step >= end) break;
    sums[r] = warp_sum(sums[r]);
  }
}

// A block takes a sample, its warps every so many paths. Each warp adds its rows in registers; the block adds the warps' sums
// in their order. `fits`: a row is one tile, and is read once.
template <class T, int W, int K, bool fits>
__global__ void __launch_bounds__(kMaxWarps* kWarp) forward(EnsembleLossArgs args) {
  using A = Accumulate<T>;
  PYNAS_SHARED(A, scratch);  // 32 values, then a tile per warp
  constexpr int R = kHeld / K;
  constexpr int64_t tile = Part<T, W, K>::tile;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t n = args.size, paths = args.paths, stride = args.batch * n;
  A* sums = scratch + kWarp;
  for (int64_t sample = blockIdx.x; sample < args.batch; sample += gridDim.x) {
    const T *target = static_cast<const T*>(args.target) + sample * n,
            *online = static_cast<const T*>(args.online) + sample * n;
    A* mean = static_cast<A*>(args.mean) + sample * n;
    A* norms = static_cast<A*>(args.distance) + sample;  // workspace: the norm of a path's target at norms[path * B]
    A mean_squares = 0;
    Part<T, W, K> parts[R];
    A squares[R];
    if (!fits && args.normalize) {
      for (int64_t path = warp; path < paths; path += warps * R) {
        row_squares<T, W, K, fits>(target, stride, n, path, warps, paths, parts, squares);
#pragma unroll
        for (int r = 0; r < R; ++r)
          if (lane == 0 && path + r * warps < paths) norms[(path + r * warps) * args.batch] = sqrt(squares[r]);
      }
      __syncwarp();
    }
    for (int64_t start = 0; start < n; start += tile) {
      Means<A, W> sum[K] = {};
      for (int64_t path = warp; path < paths; path += warps * R) {
        if (fits) {
          row_squares<T, W, K, fits>(target, stride, n, path, warps, paths, parts, squares);
        } else {
#pragma unroll
          for (int r = 0; r < R; ++r)
            parts[r].read(target + (path + r * warps) * stride, start, n, path + r * warps < paths);
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
          if (path + r * warps >= paths) break;
          A scale = 1;
          if (args.normalize) scale = inverse_norm(fits ? sqrt(squares[r]) : norms[(path + r * warps) * args.batch]);
          scale /= static_cast<A>(paths);
          parts[r].each([&](int k, int i, A x) { sum[k].values[i] += x * scale; });
        }
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < K; ++k) reinterpret_cast<Means<A, W>*>(sums + warp * tile)[k * kWarp + lane] = sum[k];
      __syncthreads();
      for (int64_t i = threadIdx.x; i < tile && start + i < n; i += blockDim.x) {
        A total = 0;
        for (int other = 0; other < warps; ++other) total += sums[other * tile + i];
        mean[start + i] = total;
        sums[i] = total;
        mean_squares += total * total;
      }
    }
    if (args.renormalize) {
      const A scale = inverse_norm(sqrt(block_sum(mean_squares, scratch)));
      for (int64_t start = 0; start < n; start += tile) {
        for (int64_t i = threadIdx.x; i < tile && start + i < n; i += blockDim.x) {
          mean[start + i] *= scale;
          if (fits) sums[i] *= scale;
        }
      }
    }
    __syncthreads();
    for (int64_t path = warp; path < paths; path += warps * R) {
      A inverse[R], distance[R] = {}, along[R] = {};
      bool constant[R];
      if (fits || args.normalize) row_squares<T, W, K, fits>(online, stride, n, path, warps, paths, parts, squares);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const A norm = args.normalize ? sqrt(squares[r]) : A(1);
        inverse[r] = inverse_norm(norm);
        constant[r] = !args.normalize || norm < static_cast<A>(kNormFloor);
      }
      for (int64_t start = 0; start < n; start += tile) {
#pragma unroll
        for (int r = 0; r < R; ++r)
          if (!fits) parts[r].read(online + (path + r * warps) * stride, start, n, path + r * warps < paths);
        const A* means = fits ? sums : mean;
#pragma unroll
        for (int k = 0; k < K; ++k) {
          const int64_t word = Part<T, W, K>::word(start, k);
          if (word >= n / W) break;
          const Means<A, W> m = reinterpret_cast<const Means<A, W>*>(means)[word];
#pragma unroll
          for (int r = 0; r < R; ++r) {
            A x[W];
            widen<T, W>(parts[r].words[k], x);
#pragma unroll
            for (int i = 0; i < W; ++i) {
              const A u = x[i] * inverse[r], difference = u - m.values[i];
              distance[r] += difference * difference;
              along[r] += u * difference;
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int64_t item = (path + r * warps) * args.batch + sample;
        if (path + r * warps >= paths) break;
        distance[r] = warp_sum(distance[r]);
        along[r] = warp_sum(along[r]);
        if (lane > 0) continue;
        static_cast<A*>(args.distance)[item] = distance[r];
        static_cast<A*>(args.inverse)[item] = inverse[r];
        static_cast<A*>(args.along)[item] = constant[r] ? A(0) : along[r];
      }
    }
    __syncthreads();
  }
}

// A block takes a path.
template <class A>
__global__ void mean_distance(const A* distance, A* loss, int64_t paths, int64_t batch) {
  PYNAS_SHARED(double, scratch);
  for (int64_t path = blockIdx.x; path < paths; path += gridDim.x) {
    double total = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < batch; i += blockDim.x) total += static_cast<double>(distance[path * batch + i]);
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) loss[path] = static_cast<A>(total / static_cast<double>(batch));
  }
}

// A warp takes a row.
template <class T, int W>
__global__ void backward(EnsembleLossBackwardArgs args) {
  using A = Accumulate<T>;
  constexpr int warps = kBackwardThreads / kWarp;
  const int64_t n = args.size, items = args.paths * args.batch, words = n / W;
  for (int64_t item = blockIdx.x * int64_t{warps} + threadIdx.x / kWarp; item < items;
       item += gridDim.x * int64_t{warps}) {
    const T* online = static_cast<const T*>(args.online) + item * n;
    auto* gradient = reinterpret_cast<Vector<T, W>*>(static_cast<T*>(args.online_gradient) + item * n);
    const A* mean = static_cast<const A*>(args.mean) + item % args.batch * n;
    const A inverse = static_cast<const A*>(args.inverse)[item], along = static_cast<const A*>(args.along)[item];
    const A outer = 2 * static_cast<const A*>(args.gradient)[item / args.batch] / static_cast<A>(args.batch) * inverse;
    for (int64_t first = threadIdx.x % kWarp; first < words; first += kWarp * kAtOnce) {
      Raw<T, W> x[kAtOnce];
      Means<A, W> m[kAtOnce] = {};
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t word = first + k * kWarp;
        x[k] = load_word<T, W>(online, word, word < words);
        if (word < words) m[k] = reinterpret_cast<const Means<A, W>*>(mean)[word];
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k * kWarp >= words) break;
        A values[W];
        Vector<T, W> result;
        widen<T, W>(x[k], values);
#pragma unroll
        for (int i = 0; i < W; ++i)
          store(result.values[i], outer * (values[i] * (inverse * (1 - along)) - m[k].values[i]));
        gradient[first + k * kWarp] = result;
      }
    }
  }
}

// As many warps as have paths to take, and as have room for their sums.
template <class T, int W, int K, bool fits>
void run(const EnsembleLossArgs& args, void* stream) {
  using A = Accumulate<T>;
  constexpr int64_t tile = Part<T, W, K>::tile, rows = kHeld / K,
                    most = 8192 / tile < kMaxWarps ? 8192 / tile : kMaxWarps;
  const int64_t wanted = (args.paths + rows - 1) / rows;
  const int64_t warps = wanted < most ? (wanted < 2 ? 2 : wanted) : most;
  launch("ensemble_loss", forward<T, W, K, fits>, grid_size(args.batch), static_cast<unsigned>(warps * kWarp),
         (kWarp + warps * tile) * sizeof(A), stream, args);
  launch("ensemble_loss", mean_distance<A>, grid_size(args.paths), args.batch < 1024 ? 128 : 1024,
         kWarp * sizeof(double), stream, static_cast<const A*>(args.distance), static_cast<A*>(args.loss), args.paths,
         args.batch);
}

}  // namespace

void ensemble_loss(const EnsembleLossArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int W = 16 / sizeof(T);
    const int64_t words = args.size / W;
    if (vector_width<T>(args.size, args.online, args.target) != W) {
      args.size <= kWarp * kHeld ? run<T, 1, kHeld, true>(args, stream) : run<T, 1, kHeld, false>(args, stream);
    } else if (words <= kWarp * kShort) {
      run<T, W, kShort, true>(args, stream);
    } else {
      words <= kWarp * kHeld ? run<T, W, kHeld, true>(args, stream) : run<T, W, kHeld, false>(args, stream);
    }
  });
}

void ensemble_loss_backward(const EnsembleLossBackwardArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int W = 16 / sizeof(T), warps = kBackwardThreads / kWarp;
    const bool wide = vector_width<T>(args.size, args.online, args.online_gradient) == W;
    launch("ensemble_loss", wide ? backward<T, W> : backward<T, 1>,
           grid_size((args.paths * args.batch + warps - 1) / warps), kBackwardThreads, 0, stream, args);
  });
}

}  // namespace pynas::cuda
