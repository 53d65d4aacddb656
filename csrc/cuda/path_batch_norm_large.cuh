// Channels of a path that no block can hold, and given statistics: x is read once for the sums, once to be normalised.
#pragma once

#include "cuda/path_batch_norm_affine.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {

constexpr int kThreads = 256;
// Rows of a thread in normalise.
constexpr int kRows = 16;

// The first element of a channel of a path, about which squares are summed.
template <class T>
__device__ Accumulate<T> origin(const PathBatchNormArgs& args, int64_t path, int64_t channel) {
  const int64_t start = path * args.batch * args.channels * args.size;
  return load(static_cast<const T*>(args.x)[start + channel * (args.channels_last ? 1 : args.size)]);
}

// Writes mean and variance from the sums of x - origin and of its squares.
template <class T>
__device__ void finish_statistics(const PathBatchNormArgs& args, int64_t path, int64_t channel, double sum,
                                  double squares) {
  const double n = static_cast<double>(args.batch * args.size), var = (squares - sum * sum / n) / n;
  const double about = origin<T>(args, path, channel);
  // Rounding may make it negative; NaN stays NaN.
  write_statistics<Accumulate<T>>(args, path * args.channels + channel, about + sum / n, var < 0 ? 0 : var);
}

// A block takes `chunk` elements of one channel of one path, contiguous. M divides S and the chunk.
template <class T, int M>
__global__ void __launch_bounds__(kThreads) moments_contiguous(PathBatchNormArgs args) {
  using A = Accumulate<T>;
  using Word = Vector<T, M>;
  PYNAS_SHARED(double, scratch);
  const int64_t size = args.size / M, words = args.batch * size, chunk = args.chunk / M;
  const int64_t chunks = (words + chunk - 1) / chunk;
  const int64_t step_rows = kThreads / size, step_columns = kThreads % size, row = args.channels * size;
  for (int64_t item = blockIdx.x; item < args.paths * args.channels * chunks; item += gridDim.x) {
    const int64_t slice = item / chunks, path = slice / args.channels, channel = slice % args.channels;
    const int64_t begin = item % chunks * chunk, end = begin + chunk < words ? begin + chunk : words;
    const A about = origin<T>(args, path, channel);
    // The position of the next word: stepped, since a division is slow.
    int64_t column = (begin + threadIdx.x) % size;
    const Word* next = static_cast<const Word*>(args.x) +
                       (path * args.batch + (begin + threadIdx.x) / size) * row + channel * size + column;
    A sum = 0, squares = 0;
    for_words<Word, kAhead>(
        threadIdx.x, static_cast<uint32_t>(end - begin), kThreads,
        [&](uint32_t) {
          const Word read = *next;
          column += step_columns;
          next += step_rows * row + step_columns;
          if (column >= size) column -= size, next += row - size;
          return read;
        },
        [&](uint32_t, const Word& read) {
          A values[M];
          unpack(read, values);
#pragma unroll
          for (int i = 0; i < M; ++i) {
            sum += values[i] - about;
            squares += (values[i] - about) * (values[i] - about);
          }
        });
    const double first = block_sum<double>(sum, scratch), second = block_sum<double>(squares, scratch);
    if (threadIdx.x == 0) args.partial[2 * item] = first, args.partial[2 * item + 1] = second;
  }
}

// A thread takes one channel of one path.
template <class T>
__global__ void statistics_contiguous(PathBatchNormArgs args) {
  const int64_t chunks = (args.batch * args.size + args.chunk - 1) / args.chunk;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, slices = args.paths * args.channels;
  for (int64_t slice = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; slice < slices; slice += step) {
    double sum = 0, squares = 0;
    for (int64_t i = slice * chunks; i < (slice + 1) * chunks; ++i) {
      sum += args.partial[2 * i];
      squares += args.partial[2 * i + 1];
    }
    finish_statistics<T>(args, slice / args.channels, slice % args.channels, sum, squares);
  }
}

// The maps of the N channels of a word: of element `at` of a row and those after it, of which `run` neighbours are a channel's.
template <int N, class A>
__device__ void load_maps(const PathBatchNormArgs& args, int64_t path, int64_t at, int64_t run, Affine<A>* maps) {
  int64_t channel = at / run, place = at % run;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int64_t slice = path * args.channels + channel;
    if (i > 0 && place != 0)
      maps[i] = maps[i - 1];
    else
      maps[i] = Affine<A>(args, channel, static_cast<const A*>(args.mean)[slice], static_cast<const A*>(args.var)[slice]);
    if (++place == run) place = 0, ++channel;
  }
}

// Reads rows begin, begin + step, ... below end of a column of words, and writes them normalised.
template <Activation activation, class T, int N>
__device__ void normalise_rows(const Words<T, N>& memory, uint32_t begin, uint32_t end, uint32_t step, int64_t words,
                               const Affine<Accumulate<T>>* maps) {
  const auto map_of = [&](uint32_t i) { return maps[i]; };
  normalise_words<activation, kAhead>(
      memory, begin, end, step, [&](uint32_t row) { return row * words; },
      [&](uint32_t row) { return memory.x[row * words]; }, [&](uint32_t) { return map_of; });
}

// The paths as matrices of `rows` times `words` words. A block takes `columns` words of kRows * kThreads / columns rows.
template <class T, int N, Activation activation>
__global__ void __launch_bounds__(kThreads, 2) normalise(PathBatchNormArgs args, int64_t rows, int64_t words,
                                                      int columns) {
  const int64_t step = kThreads / columns, chunk = step * kRows;
  const int64_t tiles = (words + columns - 1) / columns, chunks = (rows + chunk - 1) / chunk;
  const int64_t items = args.paths * chunks * tiles, run = args.channels_last ? 1 : args.size;
  for (int64_t done = blockIdx.x; done < items; done += gridDim.x) {
    const int64_t item = items - 1 - done;  // the end of x first: the L2 cache may still have it
    const int64_t word = item % tiles * columns + threadIdx.x % columns, part = item / tiles % chunks;
    const int64_t path = item / tiles / chunks, begin = part * chunk;
    if (word >= words) continue;
    Affine<Accumulate<T>> maps[N];
    load_maps<N>(args, path, word * N, run, maps);
    const Words<T, N> memory(args, ((path * rows + begin) * words + word) * N);
    normalise_rows<activation>(memory, threadIdx.x / columns,
                               static_cast<uint32_t>(rows - begin < chunk ? rows - begin : chunk),
                               static_cast<uint32_t>(step), words, maps);
  }
}

// How large_channels_last divides its work.
struct Stream {
  int columns;         // words of a tile, a power of two up to 32 / N
  uint32_t chunks;     // pieces of a tile
  uint32_t tiles;      // of a path
  uint32_t steps;      // a step sums the chunks of tile number `step` and normalises those of the tile `lag` before it
  uint32_t lag;        // small enough that the L2 cache still has that tile
  uint32_t* counters;  // zeros: the next item, then for each tile the blocks that have summed it, one more with statistics
};

// Adds a chunk of a tile to the sums; the last block to do so writes the statistics. scratch: 4 * kThreads doubles.
template <class T, int N>
__device__ void sum_chunk(const PathBatchNormArgs& args, const Stream& stream, int64_t path, int64_t first,
                          uint32_t part, uint32_t* counter, double* scratch) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  const int64_t rows = args.batch * args.size, words = args.channels / N, begin = part * args.chunk;
  const int columns = stream.columns, tile = columns * N;
  const int64_t word = first + threadIdx.x % columns, channel = first * N + threadIdx.x % tile;
  const uint32_t count = static_cast<uint32_t>(rows - begin < args.chunk ? rows - begin : args.chunk);
  A about[N], sums[N] = {}, squares[N] = {};
#pragma unroll
  for (int i = 0; i < N; ++i) about[i] = word < words ? origin<T>(args, path, word * N + i) : A(0);
  const Words<T, N> memory(args, ((path * rows + begin) * words + word) * N);
  for_words<Word, kAhead>(
      threadIdx.x / columns, word < words ? count : 0, kThreads / columns,
      [&](uint32_t row) { return memory.x[row * words]; },
      [&](uint32_t, const Word& read) {
        A values[N];
        unpack(read, values);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          sums[i] += values[i] - about[i];
          squares[i] += (values[i] - about[i]) * (values[i] - about[i]);
        }
      });
  A *first_sums = reinterpret_cast<A*>(scratch), *second_sums = first_sums + kThreads;
  warp_column_sums<N>(sums, columns, first_sums);
  warp_column_sums<N>(squares, columns, second_sums);
  __syncthreads();
  if (threadIdx.x < tile && channel < args.channels) {
    double* partial = args.partial + ((path * stream.chunks + part) * args.channels + channel) * 2;
    partial[0] = sum_of_warps(first_sums, tile, threadIdx.x);
    partial[1] = sum_of_warps(second_sums, tile, threadIdx.x);
    __threadfence();
  }
  __syncthreads();
  uint32_t* last = reinterpret_cast<uint32_t*>(scratch);
  if (threadIdx.x == 0) *last = atomicAdd(counter, 1u) + 1 == stream.chunks;
  __syncthreads();
  if (*last == 0) return;
  __threadfence();
  double sum = 0, square = 0;
  const int teams = kThreads / tile, team = threadIdx.x / tile;
  if (channel < args.channels) {
#pragma unroll 4
    for (uint32_t i = team; i < stream.chunks; i += teams) {
      const double* partial = args.partial + ((path * stream.chunks + i) * args.channels + channel) * 2;
      sum += partial[0];
      square += partial[1];
    }
  }
  scratch[kThreads + threadIdx.x] = sum, scratch[2 * kThreads + threadIdx.x] = square;
  __syncthreads();
  if (threadIdx.x < tile && channel < args.channels) {
    for (int i = 1; i < teams; ++i) {
      sum += scratch[kThreads + i * tile + threadIdx.x];
      square += scratch[2 * kThreads + i * tile + threadIdx.x];
    }
    finish_statistics<T>(args, path, channel, sum, square);
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(counter, 1u);
}

// Sums a tile and normalises an earlier one, chunk by chunk in turn. Blocks take items in their order, so that one which
// waits for statistics waits for blocks that run already.
template <class T, int N, Activation activation>
__global__ void __launch_bounds__(kThreads, 3) large_channels_last(PathBatchNormArgs args, Stream stream) {
  PYNAS_SHARED(double, scratch);
  uint32_t* taken = reinterpret_cast<uint32_t*>(scratch + 4 * kThreads);
  const int64_t rows = args.batch * args.size, words = args.channels / N;
  const uint32_t tiles = static_cast<uint32_t>(args.paths) * stream.tiles, pairs = 2 * stream.chunks;
  for (;;) {
    __syncthreads();
    if (threadIdx.x == 0) *taken = atomicAdd(stream.counters, 1u);
    __syncthreads();
    const uint32_t item = *taken, step = item / pairs, part = item % pairs / 2;
    if (step >= stream.steps) return;
    const bool sums = item % 2 == 0;
    if (sums ? step >= tiles : step < stream.lag) continue;
    const uint32_t tile = sums ? step : step - stream.lag;
    const int64_t path = tile / stream.tiles, first = static_cast<int64_t>(tile % stream.tiles) * stream.columns;
    uint32_t* counter = stream.counters + 1 + tile;
    if (sums) {
      sum_chunk<T, N>(args, stream, path, first, part, counter, scratch);
      continue;
    }
    if (threadIdx.x == 0) {
      while (atomicAdd(counter, 0u) <= stream.chunks) {
      }
      __threadfence();
    }
    __syncthreads();
    const int64_t word = first + threadIdx.x % stream.columns, begin = part * args.chunk;
    if (word >= words) continue;
    Affine<Accumulate<T>> maps[N];
    load_maps<N>(args, path, word * N, 1, maps);
    const Words<T, N> memory(args, ((path * rows + begin) * words + word) * N);
    normalise_rows<activation>(memory, threadIdx.x / stream.columns,
                               static_cast<uint32_t>(rows - begin < args.chunk ? rows - begin : args.chunk),
                               kThreads / stream.columns, words, maps);
  }
}

}  // namespace pynas::cuda
