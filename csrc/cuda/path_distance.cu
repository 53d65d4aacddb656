#include "common/path_distance.h"

#include "cuda/reduce.cuh"
#include "cuda/widen.cuh"

namespace pynas::cuda {
namespace {

using Kind = PathDistanceKind;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kShared = 4;           // paths that share the words of the target in a thread's registers
constexpr int64_t kShortRow = 1024;  // elements of a row that one warp reads (cosine)
static_assert(kWarps * kShared == kWarp);

// Words of a row that a thread loads before it uses the first.
template <int N>
constexpr int kWords = N == 1 ? 2 : 1;

// Sums of a thread: one per path; for the cosine also the squares of each path and, last, those of the target.
template <class T, Kind kind>
struct Sums {
  static constexpr int count = kind == Kind::cosine ? 2 * kShared + 1 : kShared;
  Accumulate<T> values[count] = {};

  __device__ void add(int path, Accumulate<T> x, Accumulate<T> y) {
    if constexpr (kind == Kind::cosine) {
      values[path] += x * y;
      values[kShared + path] += x * x;
    } else if constexpr (kind == Kind::mse) {
      values[path] += (x - y) * (x - y);
    } else {
      values[path] += fabs(x - y);
    }
  }
};

// Sums of the target and of its squares, about the target's first element.
struct Moments {
  double origin, first = 0, second = 0;

  __device__ void add(double x) {
    first += x - origin;
    second += (x - origin) * (x - origin);
  }
};

// Adds a tile, kThreads * kWords or (short rows) 32 * kWords words, of each of up to kShared paths. A tile may end early, after
// `words` words: zeros add nothing to a sum. All loads come before the first use.
template <class T, int N, Kind kind, int step>
__device__ void add_tile(const T* target, const T* outputs, int64_t stride, int paths, int64_t words,
                         Sums<T, kind>& sums, bool with_moments, Moments& moments) {
  const int thread = static_cast<int>(threadIdx.x) % step;
  Raw<T, N> y[kWords<N>], x[kShared][kWords<N>];
#pragma unroll
  for (int k = 0; k < kWords<N>; ++k) {
    const int word = k * step + thread;
    y[k] = load_word<T, N>(target, word, word < words);
#pragma unroll
    for (int path = 0; path < kShared; ++path)
      x[path][k] = load_word<T, N>(outputs + path * stride, word, word < words && path < paths);
  }
#pragma unroll
  for (int k = 0; k < kWords<N>; ++k) {
    Accumulate<T> left[N], right[N];
    widen<T, N>(y[k], right);
    if constexpr (kind == Kind::cosine) {
#pragma unroll
      for (int i = 0; i < N; ++i) sums.values[2 * kShared] += right[i] * right[i];
    }
    if (kind == Kind::relative_l1 && with_moments && k * step + thread < words) {
#pragma unroll
      for (int i = 0; i < N; ++i) moments.add(right[i]);
    }
#pragma unroll
    for (int path = 0; path < kShared; ++path) {
      if (path >= paths) break;
      widen<T, N>(x[path][k], left);
#pragma unroll
      for (int i = 0; i < N; ++i) sums.add(path, left[i], right[i]);
    }
  }
}

// A warp's sums go to its row of `scratch`.
template <class T, Kind kind>
__device__ void write_sums(const Sums<T, kind>& sums, Accumulate<T>* scratch) {
#pragma unroll
  for (int k = 0; k < sums.count; ++k) {
    const Accumulate<T> sum = warp_sum(sums.values[k]);
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp * sums.count + k] = sum;
  }
}

// A block takes one chunk of one sample, for up to kShared paths.
template <class T, int N, Kind kind>
__global__ void __launch_bounds__(kThreads, 4) chunk_sums(PathDistanceArgs args) {
  PYNAS_SHARED(double, scratch);
  auto* rows = reinterpret_cast<Accumulate<T>*>(scratch + kWarp);
  constexpr int count = Sums<T, kind>::count;
  const int64_t chunks = (args.size + args.chunk - 1) / args.chunk, groups = (args.paths + kShared - 1) / kShared;
  const int64_t stride = args.batch * args.size, tile = static_cast<int64_t>(kThreads) * kWords<N> * N;
  for (int64_t item = blockIdx.x; item < args.batch * chunks * groups; item += gridDim.x) {
    const int64_t part = item / groups, path = item % groups * kShared, sample = part / chunks;
    const int64_t start = part % chunks * args.chunk;
    const int64_t end = start + args.chunk < args.size ? start + args.chunk : args.size;
    const int paths = args.paths - path < kShared ? static_cast<int>(args.paths - path) : kShared;
    const T* target = static_cast<const T*>(args.target) + sample * args.size;
    const T* outputs = static_cast<const T*>(args.outputs) + path * stride + sample * args.size;
    Sums<T, kind> sums;
    const bool first_group = kind == Kind::relative_l1 && path == 0;
    Moments moments{first_group ? static_cast<double>(load(static_cast<const T*>(args.target)[0])) : 0.0};
    for (int64_t at = start; at < end; at += tile)
      add_tile<T, N, kind, kThreads>(target + at, outputs + at, stride, paths, (end - at) / N, sums, first_group,
                                     moments);
    __syncthreads();
    write_sums(sums, rows);
    __syncthreads();
    const int k = static_cast<int>(threadIdx.x);
    if (k < count) {
      double sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += static_cast<double>(rows[warp * count + k]);
      double* partial = args.partial + (path * args.batch * chunks + part) * (kind == Kind::cosine ? 3 : 1);
      const int64_t step = args.batch * chunks * (kind == Kind::cosine ? 3 : 1);
      if (k < 2 * kShared && k % kShared < paths) partial[k % kShared * step + k / kShared] = sum;
      for (int other = 0; k == 2 * kShared && other < paths; ++other) partial[other * step + 2] = sum;
    }
    if (first_group) {
      const double first = block_sum(moments.first, scratch), second = block_sum(moments.second, scratch);
      if (threadIdx.x == 0) args.moments[2 * part] = first, args.moments[2 * part + 1] = second;
    }
  }
}

__device__ double cosine_distance(double product, double left, double right) {
  return 2 - 2 * product / (fmax(sqrt(left), kCosineFloor) * fmax(sqrt(right), kCosineFloor));
}

// Short rows, cosine: each warp of a block takes a sample, for up to kShared paths. The block writes their sum for each path.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, 4) row_distances(PathDistanceArgs args) {
  PYNAS_SHARED(Accumulate<T>, scratch);
  using RowSums = Sums<T, Kind::cosine>;
  const int64_t parts = (args.batch + kWarps - 1) / kWarps, groups = (args.paths + kShared - 1) / kShared;
  const int64_t stride = args.batch * args.size, tile = static_cast<int64_t>(kWarp) * kWords<N> * N;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t item = blockIdx.x; item < parts * groups; item += gridDim.x) {
    const int64_t part = item / groups, path = item % groups * kShared;
    const int64_t sample = part * kWarps + threadIdx.x / kWarp;
    const int paths = args.paths - path < kShared ? static_cast<int>(args.paths - path) : kShared;
    RowSums sums;
    Moments moments{0.0};
    for (int64_t at = 0; at < args.size && sample < args.batch; at += tile)
      add_tile<T, N, Kind::cosine, kWarp>(static_cast<const T*>(args.target) + sample * args.size + at,
                                          static_cast<const T*>(args.outputs) + path * stride + sample * args.size + at,
                                          stride, paths, (args.size - at) / N, sums, false, moments);
    __syncthreads();
    write_sums(sums, scratch);
    __syncthreads();
    if (threadIdx.x >= kWarp) continue;
    const Accumulate<T>* row = scratch + lane / kShared * RowSums::count;
    double distance = 0;
    if (part * kWarps + lane / kShared < args.batch)
      distance = cosine_distance(row[lane % kShared], row[kShared + lane % kShared], row[2 * kShared]);
    for (int offset = kShared; offset < kWarp; offset *= 2) distance += __shfl_xor_sync(0xffffffffu, distance, offset);
    if (lane < paths) args.partial[(path + lane) * parts + part] = distance;
  }
}

// The sum of the n values values[0], values[step], ..., by the whole block.
__device__ double strided_sum(const double* values, int64_t n, int64_t step, double* scratch) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += values[i * step];
  return block_sum(sum, scratch);
}

__device__ double cosine_sum(const PathDistanceArgs& args, const double* partial, int64_t chunks, double* scratch) {
  double total = 0;
  for (int64_t sample = threadIdx.x; sample < args.batch; sample += kThreads) {
    double product = 0, left = 0, right = 0;
    for (int64_t i = sample * chunks; i < (sample + 1) * chunks; ++i) {
      product += partial[3 * i];
      left += partial[3 * i + 1];
      right += partial[3 * i + 2];
    }
    total += cosine_distance(product, left, right);
  }
  return block_sum(total, scratch);
}

// A block takes a path, of which there are `parts` partial sums.
template <class T, Kind kind>
__global__ void finish(PathDistanceArgs args, int64_t parts, bool short_rows) {
  PYNAS_SHARED(double, scratch);
  const double n = static_cast<double>(kind == Kind::cosine ? args.batch : args.batch * args.size);
  for (int64_t path = blockIdx.x; path < args.paths; path += gridDim.x) {
    double distance;
    if (kind == Kind::cosine && !short_rows) {
      distance = cosine_sum(args, args.partial + path * parts * 3, parts / args.batch, scratch) / n;
    } else {
      distance = strided_sum(args.partial + path * parts, parts, 1, scratch) / n;
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
  constexpr size_t rows = kWarps * Sums<T, kind>::count * sizeof(Accumulate<T>), shared = kWarp * sizeof(double);
  const int64_t groups = (args.paths + kShared - 1) / kShared;
  const bool short_rows = kind == Kind::cosine && args.size <= kShortRow;
  const int64_t parts =
      short_rows ? (args.batch + kWarps - 1) / kWarps : (args.size + args.chunk - 1) / args.chunk * args.batch;
  if (short_rows) {
    launch(name, row_distances<T, N>, grid_size(parts * groups), kThreads, rows, stream, args);
  } else {
    launch(name, chunk_sums<T, N, kind>, grid_size(parts * groups), kThreads, shared + rows, stream, args);
  }
  launch(name, finish<T, kind>, grid_size(args.paths), kThreads, shared, stream, args, parts, short_rows);
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

void path_distance(const PathDistanceArgs& given, void* stream) {
  PathDistanceArgs args = given;
  if (args.kind != Kind::cosine) {  // the rows do not matter
    args.size *= args.batch;
    args.batch = 1;
  }
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = 16 / sizeof(T);
    const bool wide = vector_width<T>(args.size, args.outputs, args.target) == width && args.chunk % width == 0;
    wide ? run_kind<T, width>(args, stream) : run_kind<T, 1>(args, stream);
  });
}

}  // namespace pynas::cuda
