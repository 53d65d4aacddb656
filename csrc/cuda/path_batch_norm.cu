// Two algorithms. One block reads a channel of a path once if it fits shared memory (fused). Otherwise many blocks sum its
// chunks, and further kernels combine the sums and normalise (moments, statistics, normalise).
#include "common/path_batch_norm.h"

#include "cuda/reduce.cuh"
#include "cuda/words.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;
// Bytes of shared memory of a block at most: two blocks per multiprocessor on Hopper.
constexpr int64_t kShared = 110 * 1024;
// Bytes of neighbouring channels in a block, fused and channels-last: two sectors of memory, or one where two do not fit.
constexpr int kTileBytes[] = {64, 32};

// y = act((x - mean) * scale + shift + residual) for one channel.
template <class A>
struct Affine {
  A mean, scale, shift;

  __device__ Affine() {}
  __device__ Affine(const PathBatchNormArgs& args, int64_t channel, A mean, A var) : mean(mean) {
    const A *weight = static_cast<const A*>(args.weight), *bias = static_cast<const A*>(args.bias);
    scale = A(1) / sqrt(var + static_cast<A>(args.eps));
    if (weight != nullptr) scale *= weight[channel];
    shift = bias != nullptr ? bias[channel] : A(0);
  }
  __device__ Affine(const PathBatchNormArgs& args, int64_t path, int64_t channel)
      : Affine(args, channel, static_cast<const A*>(args.mean)[path * args.channels + channel],
               static_cast<const A*>(args.var)[path * args.channels + channel]) {}

  template <Activation activation>
  __device__ A operator()(A x, A residual) const {
    return activate<activation>((x - mean) * scale + shift + residual);
  }
};

// The word of the residual for word `at` of x; zeros without a residual (all bits 0 mean 0 in every dtype).
template <class Word>
__device__ Word residual_word(const PathBatchNormArgs& args, int64_t at) {
  if (args.residual == nullptr) return Word{};
  return static_cast<const Word*>(args.residual)[at];
}

template <class A>
__device__ void write_statistics(const PathBatchNormArgs& args, int64_t at, double mean, double var) {
  static_cast<A*>(args.mean)[at] = static_cast<A>(mean);
  static_cast<A*>(args.var)[at] = static_cast<A>(var);
}

// A block takes one channel of one path, contiguous: B rows of S elements.
template <class T, int N, Activation activation>
__global__ void fused_contiguous(PathBatchNormArgs args) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  PYNAS_SHARED(double, scratch);
  Word* cache = reinterpret_cast<Word*>(scratch + kWarp);
  const unsigned size = static_cast<unsigned>(args.size / N), words = static_cast<unsigned>(args.batch) * size;
  const double n = static_cast<double>(args.batch * args.size);
  for (int64_t item = blockIdx.x; item < args.paths * args.channels; item += gridDim.x) {
    const int64_t path = item / args.channels, channel = item % args.channels;
    const auto position = [&](unsigned word) {
      return ((path * args.batch + word / size) * args.channels + channel) * size + word % size;
    };
    A sum = 0;
    for_each_word<Word, unsigned>(
        threadIdx.x, words, kThreads, [&](unsigned word) { return static_cast<const Word*>(args.x)[position(word)]; },
        [&](unsigned word, const Word& read) {
          cache[word] = read;
#pragma unroll
          for (int i = 0; i < N; ++i) sum += load(read.values[i]);
        });
    const A mean = static_cast<A>(block_sum<double>(sum, scratch) / n);
    A squares = 0;
    // Every thread reads only words that it wrote itself.
    for (unsigned word = threadIdx.x; word < words; word += kThreads) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A centered = load(cache[word].values[i]) - mean;
        squares += centered * centered;
      }
    }
    const A var = static_cast<A>(block_sum<double>(squares, scratch) / n);
    if (threadIdx.x == 0) write_statistics<A>(args, item, mean, var);
    const Affine<A> by(args, channel, mean, var);
    for_each_word<Word, unsigned>(
        threadIdx.x, words, kThreads, [&](unsigned word) { return residual_word<Word>(args, position(word)); },
        [&](unsigned word, const Word& add) {
          Word y;
#pragma unroll
          for (int i = 0; i < N; ++i)
            store(y.values[i], by.template operator()<activation>(load(cache[word].values[i]), load(add.values[i])));
          static_cast<Word*>(args.y)[position(word)] = y;
        });
  }
}

// A block takes `most` words of neighbouring channels of one path, all B * S rows.
template <class T, int N, Activation activation>
__global__ void fused_channels_last(PathBatchNormArgs args, int most) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  PYNAS_SHARED(A, scratch);
  A *means = scratch + kThreads * N, *vars = means + most * N;
  Word* cache = reinterpret_cast<Word*>(vars + most * N);
  const int64_t words = args.channels / N, tiles = (words + most - 1) / most, rows = args.batch * args.size;
  const Grid grid(words, most);
  for (int64_t item = blockIdx.x; item < args.paths * tiles; item += gridDim.x) {
    const int64_t path = item / tiles, first = item % tiles * grid.columns, word = first + grid.column;
    const bool active = word < words && grid.row < grid.rows;
    const int64_t owned = first * N + threadIdx.x;  // the channel whose statistics this thread writes
    const bool owns = threadIdx.x < grid.columns * N && owned < args.channels;
    const int64_t begin = active ? grid.row : rows;
    A sums[N] = {};
    for_each_word<Word, int64_t>(
        begin, rows, grid.rows,
        [&](int64_t row) { return static_cast<const Word*>(args.x)[(path * rows + row) * words + word]; },
        [&](int64_t row, const Word& read) {
          cache[row * grid.columns + grid.column] = read;
#pragma unroll
          for (int i = 0; i < N; ++i) sums[i] += load(read.values[i]);
        });
    const double mean = column_sum<N>(grid, sums, active, scratch) / static_cast<double>(rows);
    if (threadIdx.x < grid.columns * N) means[threadIdx.x] = static_cast<A>(mean);
    __syncthreads();
    A squares[N] = {};
    for (int64_t row = begin; row < rows; row += grid.rows) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A centered = load(cache[row * grid.columns + grid.column].values[i]) - means[grid.column * N + i];
        squares[i] += centered * centered;
      }
    }
    const double var = column_sum<N>(grid, squares, active, scratch) / static_cast<double>(rows);
    if (threadIdx.x < grid.columns * N) vars[threadIdx.x] = static_cast<A>(var);
    if (owns) write_statistics<A>(args, path * args.channels + owned, mean, var);
    __syncthreads();
    if (active) {
      Affine<A> by[N];
#pragma unroll
      for (int i = 0; i < N; ++i)
        by[i] = Affine<A>(args, word * N + i, means[grid.column * N + i], vars[grid.column * N + i]);
      for_each_word<Word, int64_t>(
          begin, rows, grid.rows,
          [&](int64_t row) { return residual_word<Word>(args, (path * rows + row) * words + word); },
          [&](int64_t row, const Word& add) {
            const Word read = cache[row * grid.columns + grid.column];
            Word y;
#pragma unroll
            for (int i = 0; i < N; ++i)
              store(y.values[i], by[i].template operator()<activation>(load(read.values[i]), load(add.values[i])));
            static_cast<Word*>(args.y)[(path * rows + row) * words + word] = y;
          });
    }
    __syncthreads();
  }
}

// The first element of a channel of a path, about which squares are summed.
template <class T>
__device__ Accumulate<T> origin(const PathBatchNormArgs& args, int64_t path, int64_t channel) {
  const int64_t start = path * args.batch * args.channels * args.size;
  return load(static_cast<const T*>(args.x)[start + channel * (args.channels_last ? 1 : args.size)]);
}

// A block takes `chunk` elements of one channel of one path, contiguous.
template <class T, int N>
__global__ void moments_contiguous(PathBatchNormArgs args) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  PYNAS_SHARED(double, scratch);
  const int64_t size = args.size / N, words = args.batch * size, chunk = args.chunk / N;
  const int64_t chunks = (args.batch * args.size + args.chunk - 1) / args.chunk;
  for (int64_t item = blockIdx.x; item < args.paths * args.channels * chunks; item += gridDim.x) {
    const int64_t slice = item / chunks, path = slice / args.channels, channel = slice % args.channels;
    const int64_t begin = item % chunks * chunk, end = begin + chunk < words ? begin + chunk : words;
    const A about = origin<T>(args, path, channel);
    A sum = 0, squares = 0;
#pragma unroll 4
    for (int64_t word = begin + threadIdx.x; word < end; word += kThreads) {
      const int64_t at = ((path * args.batch + word / size) * args.channels + channel) * size + word % size;
      const Word read = static_cast<const Word*>(args.x)[at];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A shifted = load(read.values[i]) - about;
        sum += shifted;
        squares += shifted * shifted;
      }
    }
    const double first = block_sum<double>(sum, scratch), second = block_sum<double>(squares, scratch);
    if (threadIdx.x == 0) args.partial[2 * item] = first, args.partial[2 * item + 1] = second;
  }
}

// A block takes `chunk` rows of up to a warp of words, channels-last.
template <class T, int N>
__global__ void moments_channels_last(PathBatchNormArgs args) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  PYNAS_SHARED(A, scratch);
  const int64_t words = args.channels / N, tiles = (words + kWarp - 1) / kWarp, rows = args.batch * args.size;
  const int64_t chunks = (rows + args.chunk - 1) / args.chunk;
  const Grid grid(words, kWarp);
  for (int64_t item = blockIdx.x; item < args.paths * tiles * chunks; item += gridDim.x) {
    const int64_t part = item % chunks, path = item / chunks / tiles, first = item / chunks % tiles * grid.columns;
    const int64_t word = first + grid.column, stop = (part + 1) * args.chunk;
    const bool active = word < words && grid.row < grid.rows;
    A about[N], sums[N] = {}, squares[N] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) about[i] = active ? origin<T>(args, path, word * N + i) : A(0);
    const int64_t begin = active ? part * args.chunk + grid.row : rows;
#pragma unroll 4
    for (int64_t row = begin; row < (stop < rows ? stop : rows); row += grid.rows) {
      const Word read = static_cast<const Word*>(args.x)[(path * rows + row) * words + word];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A shifted = load(read.values[i]) - about[i];
        sums[i] += shifted;
        squares[i] += shifted * shifted;
      }
    }
    const double total = column_sum<N>(grid, sums, active, scratch);
    const double total_squares = column_sum<N>(grid, squares, active, scratch);
    const int64_t channel = first * N + threadIdx.x;
    if (threadIdx.x < grid.columns * N && channel < args.channels) {
      double* partial = args.partial + ((path * args.channels + channel) * chunks + part) * 2;
      partial[0] = total, partial[1] = total_squares;
    }
  }
}

// A thread takes one channel of one path.
template <class T>
__global__ void statistics(PathBatchNormArgs args) {
  const double n = static_cast<double>(args.batch * args.size);
  const int64_t chunks = (args.batch * args.size + args.chunk - 1) / args.chunk;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, slices = args.paths * args.channels;
  for (int64_t slice = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; slice < slices; slice += step) {
    double sum = 0, squares = 0;
    for (int64_t i = slice * chunks; i < (slice + 1) * chunks; ++i) {
      sum += args.partial[2 * i];
      squares += args.partial[2 * i + 1];
    }
    const double var = (squares - sum * sum / n) / n;
    const double about = origin<T>(args, slice / args.channels, slice % args.channels);
    // Rounding may make it negative; NaN stays NaN.
    write_statistics<Accumulate<T>>(args, slice, about + sum / n, var < 0 ? 0 : var);
  }
}

// A thread takes a word. Index is the smallest integer type that counts all words, since 64-bit divisions are slow.
template <class T, int N, Activation activation, class Index>
__global__ void normalise(PathBatchNormArgs args, Index words) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  const Index channels = static_cast<Index>(args.channels), batch = static_cast<Index>(args.batch);
  const Index size = static_cast<Index>(args.channels_last ? args.size : args.size / N);
  for (Index at = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; at < words;
       at += static_cast<Index>(gridDim.x) * kThreads) {
    const Word read = static_cast<const Word*>(args.x)[at], add = residual_word<Word>(args, at);
    Word y;
    if (args.channels_last) {
      const Index row = at / (channels / N), channel = at % (channels / N) * N, path = row / size / batch;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Affine<A> by(args, static_cast<int64_t>(path), static_cast<int64_t>(channel + i));
        store(y.values[i], by.template operator()<activation>(load(read.values[i]), load(add.values[i])));
      }
    } else {
      const Index row = at / size, channel = row % channels, path = row / channels / batch;
      const Affine<A> by(args, static_cast<int64_t>(path), static_cast<int64_t>(channel));
#pragma unroll
      for (int i = 0; i < N; ++i)
        store(y.values[i], by.template operator()<activation>(load(read.values[i]), load(add.values[i])));
    }
    static_cast<Word*>(args.y)[at] = y;
  }
}

constexpr const char* kName = "path_batch_norm";

template <class T, int N>
void run_statistics(const PathBatchNormArgs& args, void* stream) {
  using A = Accumulate<T>;
  const int64_t rows = args.batch * args.size, chunks = (rows + args.chunk - 1) / args.chunk;
  if (args.channels_last) {
    const int64_t tiles = (args.channels / N + kWarp - 1) / kWarp;
    launch(kName, moments_channels_last<T, N>, grid_size(args.paths * tiles * chunks), kThreads,
           kThreads * N * sizeof(A), stream, args);
  } else {
    launch(kName, moments_contiguous<T, N>, grid_size(args.paths * args.channels * chunks), kThreads,
           kWarp * sizeof(double), stream, args);
  }
  const int64_t blocks = (args.paths * args.channels + kThreads - 1) / kThreads;
  launch(kName, statistics<T>, grid_size(blocks), kThreads, 0, stream, args);
}

// Launches the fused kernel. False if a channel of a path does not fit.
template <class T, int N, Activation activation>
bool run_fused(const PathBatchNormArgs& args, void* stream) {
  using A = Accumulate<T>;
  const int64_t rows = args.batch * args.size, most = shared_memory_limit(kName),
                limit = most < kShared ? most : kShared;
  if (!args.channels_last) {
    const int64_t shared = kWarp * sizeof(double) + rows * sizeof(T);
    if (shared > limit) return false;
    launch(kName, fused_contiguous<T, N, activation>, grid_size(args.paths * args.channels), kThreads, shared, stream,
           args);
    return true;
  }
  for (const int bytes : kTileBytes) {
    const int words = bytes / static_cast<int>(sizeof(T) * N);
    const int64_t shared = (kThreads * N + 2 * words * N) * sizeof(A) + rows * bytes;
    if (shared > limit) continue;
    const int64_t tiles = (args.channels / N + words - 1) / words;
    launch(kName, fused_channels_last<T, N, activation>, grid_size(args.paths * tiles), kThreads, shared, stream, args,
           words);
    return true;
  }
  return false;
}

template <class T, int N, Activation activation>
void run(const PathBatchNormArgs& args, void* stream) {
  if (!args.statistics_given) {
    if (run_fused<T, N, activation>(args, stream)) return;
    run_statistics<T, N>(args, stream);
  }
  const int64_t words = args.paths * args.batch * args.size * args.channels / N;
  const int64_t blocks = (words + kThreads - 1) / kThreads;
  if (words < (int64_t{1} << 31)) {
    launch(kName, normalise<T, N, activation, uint32_t>, grid_size(blocks), kThreads, 0, stream, args,
           static_cast<uint32_t>(words));
  } else {
    launch(kName, normalise<T, N, activation, uint64_t>, grid_size(blocks), kThreads, 0, stream, args,
           static_cast<uint64_t>(words));
  }
}

}  // namespace

void path_batch_norm(const PathBatchNormArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = 16 / sizeof(T);
    const int64_t row = args.channels_last ? args.channels : args.size;
    const bool wide = vector_width<T>(row, args.x, args.y, args.residual) == width && args.chunk % width == 0;
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      wide ? run<T, width, activation>(args, stream) : run<T, 1, activation>(args, stream);
    });
  });
}

}  // namespace pynas::cuda
