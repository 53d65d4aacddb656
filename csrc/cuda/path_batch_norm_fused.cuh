// A block holds whole channels of a path in shared memory: x is read once.
#pragma once

#include "cuda/path_batch_norm_affine.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {

// Most threads of a block, of which two shall fit a multiprocessor: contiguous, channels-last.
constexpr int kMostThreads = 512, kMostLastThreads = 384;
// Words of shared memory, and of the residual beside half as many, that a thread loads at once.
constexpr int kCachedAhead = 2;

// i / divisor, for i * divisor below 2^32.
struct Divider {
  uint32_t divisor, factor;

  __device__ explicit Divider(uint32_t divisor) : divisor(divisor), factor(0xFFFFFFFFu / divisor + 1) {}
  __device__ uint32_t operator()(uint32_t i) const {
    return divisor == 1 ? i : static_cast<uint32_t>(static_cast<uint64_t>(i) * factor >> 32);
  }
};

// Contiguous: the channels of a block, and how its threads sum them.
struct Tile {
  int channels;
  int team;   // threads of a channel, a multiple of a warp; blockDim.x, or less, is a multiple
  int lanes;  // threads of the team side by side in a row, a power of two
};

// The sum over a team. With more than one warp, all threads of the block take part.
template <class A>
__device__ double team_sum(A value, int team, A* partial) {
  value = warp_sum(value);
  if (team == kWarp) return value;
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  const int warps = team / kWarp, first = static_cast<int>(threadIdx.x) / team * warps;
  double sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += partial[first + warp];
  return sum;
}

// A block takes tile.channels neighbouring channels of one path, contiguous: B rows of as many * S elements, a multiple of N.
// M divides S and N: M elements belong to one channel.
template <class T, int N, int M, Activation activation>
__global__ void __launch_bounds__(kMostThreads, 2) fused_contiguous(PathBatchNormArgs args, Tile tile) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  using Unit = Vector<T, M>;
  PYNAS_SHARED(Affine<A>, by);  // one more than there are channels
  A* partial = reinterpret_cast<A*>(by + tile.channels + 1);
  Word* cache = reinterpret_cast<Word*>(partial + 2 * kWarp + (tile.channels % 2 == 0 && sizeof(A) == 8 ? 1 : 0));
  const uint32_t batch = static_cast<uint32_t>(args.batch), size = static_cast<uint32_t>(args.size);
  const uint32_t channels = static_cast<uint32_t>(args.channels), most = tile.channels;
  const uint32_t tiles = (channels + most - 1) / most, path = blockIdx.x / tiles, first = blockIdx.x % tiles * most;
  const uint32_t count = channels - first < most ? channels - first : most;
  const uint32_t width = count * size / N, words = batch * width;
  const uint32_t gap = static_cast<uint32_t>(args.channels * args.size / N) - width;  // words between two rows of the tile
  const Words<T, N> memory(args, (static_cast<int64_t>(path) * batch * channels + first) * size);
  const Divider row_of(width);
  for_words<Word, kAhead>(
      threadIdx.x, words, blockDim.x, [&](uint32_t word) { return memory.x[word + row_of(word) * gap]; },
      [&](uint32_t word, const Word& read) { cache[word] = read; });
  __syncthreads();

  const uint32_t units = size / M, lanes = tile.lanes, teams = blockDim.x / tile.team;
  const uint32_t member = threadIdx.x % tile.team, column = member % lanes, row = member / lanes;
  const uint32_t rows = tile.team / lanes;  // at a time
  const double inverse = 1.0 / static_cast<double>(args.batch * args.size);
  // One round, or teams of one warp: then no barrier is in it.
  for (uint32_t base = 0; base < most; base += teams) {
    const uint32_t channel = base + threadIdx.x / tile.team, end = channel < count ? batch : 0;
    const Unit* start = reinterpret_cast<const Unit*>(cache) + channel * units;
    const auto sum_over = [&](auto term) {
      A sum = 0;
      for (uint32_t b = row; b < end; b += rows) {
#pragma unroll 4
        for (uint32_t unit = column; unit < units; unit += lanes) {
          A values[M];
          unpack(start[b * count * units + unit], values);
#pragma unroll
          for (int i = 0; i < M; ++i) sum += term(values[i]);
        }
      }
      return sum;
    };
    const A sum = sum_over([](A x) { return x; });
    const A mean = static_cast<A>(team_sum(sum, tile.team, partial) * inverse);
    const A squares = sum_over([&](A x) { return (x - mean) * (x - mean); });
    const A var = static_cast<A>(team_sum(squares, tile.team, partial + kWarp) * inverse);
    if (member == 0 && channel < count) {
      by[channel] = Affine<A>(args, first + channel, mean, var);
      write_statistics<A>(args, static_cast<int64_t>(path) * channels + first + channel, mean, var);
    }
  }
  __syncthreads();

  const Divider channel_of(M == N ? units : size);
  const auto normalise = [&](auto map_of) {
    normalise_words<activation, kCachedAhead>(
        memory, threadIdx.x, words, blockDim.x, [&](uint32_t word) { return word + row_of(word) * gap; },
        [&](uint32_t word) { return cache[word]; },
        [&](uint32_t word) { return map_of(word - row_of(word) * width); });
  };
  if constexpr (M == N) {
    normalise([&](uint32_t at) { return [map = by[channel_of(at)]](uint32_t) { return map; }; });
  } else if (size >= N) {  // an element of the word at `at` belongs to one of two channels
    normalise([&](uint32_t at) {
      const uint32_t channel = channel_of(at * N), left = (channel + 1) * size - at * N;
      return [left, map = by[channel], next = by[channel + 1]](uint32_t i) { return i < left ? map : next; };
    });
  } else {
    normalise([&](uint32_t at) { return [=](uint32_t i) { return by[channel_of(at * N + i)]; }; });
  }
}

// A block takes `columns` words of neighbouring channels of one path, channels-last, all B * S rows.
template <class T, int N, Activation activation>
__global__ void __launch_bounds__(kMostLastThreads, 2) fused_channels_last(PathBatchNormArgs args, int columns) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  const int tile = columns * N, warps = static_cast<int>(blockDim.x) / kWarp;
  PYNAS_SHARED(Word, cache);
  const uint32_t rows = static_cast<uint32_t>(args.batch * args.size);
  Affine<A>* by = reinterpret_cast<Affine<A>*>(cache + (rows * columns * sizeof(Word) + 15) / 16 * 16 / sizeof(Word));
  A *sums = reinterpret_cast<A*>(by + tile), *squares = sums + warps * tile;
  const uint32_t words = static_cast<uint32_t>(args.channels / N), tiles = (words + columns - 1) / columns;
  const uint32_t path = blockIdx.x / tiles, first = blockIdx.x % tiles * columns;
  const uint32_t column = threadIdx.x % columns, begin = threadIdx.x / columns, step = blockDim.x / columns;
  const uint32_t end = first + column < words ? rows : 0;
  const int64_t channel = static_cast<int64_t>(first) * N + threadIdx.x;  // whose statistics this thread computes
  const bool owns = threadIdx.x < tile && channel < args.channels;
  const Words<T, N> memory(args, static_cast<int64_t>(path) * rows * args.channels + (first + column) * N);
  const double inverse = 1.0 / static_cast<double>(rows);

  A values[N], total[N] = {};
  for_words<Word, kAhead>(
      begin, end, step, [&](uint32_t row) { return memory.x[static_cast<int64_t>(row) * words]; },
      [&](uint32_t row, const Word& read) {
        cache[row * columns + column] = read;
        unpack(read, values);
#pragma unroll
        for (int i = 0; i < N; ++i) total[i] += values[i];
      });
  warp_column_sums<N>(total, columns, sums);
  __syncthreads();
  if (owns) by[threadIdx.x].mean = static_cast<A>(sum_of_warps(sums, tile, threadIdx.x) * inverse);
  __syncthreads();
  A mean[N];
#pragma unroll
  for (int i = 0; i < N; ++i) mean[i] = by[column * N + i].mean, total[i] = 0;
  // Every thread reads only words that it wrote itself.
#pragma unroll 2
  for (uint32_t row = begin; row < end; row += step) {
    unpack(cache[row * columns + column], values);
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] += (values[i] - mean[i]) * (values[i] - mean[i]);
  }
  warp_column_sums<N>(total, columns, squares);
  __syncthreads();
  if (owns) {
    const A own = by[threadIdx.x].mean, var = static_cast<A>(sum_of_warps(squares, tile, threadIdx.x) * inverse);
    by[threadIdx.x] = Affine<A>(args, channel, own, var);
    write_statistics<A>(args, path * args.channels + channel, own, var);
  }
  __syncthreads();
  Affine<A> maps[N];
#pragma unroll
  for (int i = 0; i < N; ++i) maps[i] = by[column * N + i];
  const auto map_of = [&](uint32_t i) { return maps[i]; };
  normalise_words<activation, kCachedAhead>(
      memory, begin, end, step, [&](uint32_t row) { return static_cast<int64_t>(row) * words; },
      [&](uint32_t row) { return cache[row * columns + column]; }, [&](uint32_t) { return map_of; });
}

}  // namespace pynas::cuda
