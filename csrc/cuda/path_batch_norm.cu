// Three algorithms. Blocks that hold whole channels of a path in shared memory read x once (fused). Where they do not fit, x is
// read twice: channels-last by one kernel that normalises a tile while the L2 cache still has it, contiguous by three.
#include "cuda/path_batch_norm_fused.cuh"
#include "cuda/path_batch_norm_large.cuh"

namespace pynas::cuda {
namespace {

constexpr const char* kName = "path_batch_norm";

// Tunables, measured on an H100.
// Bytes of shared memory of a block, if it can be: two blocks per multiprocessor.
constexpr int64_t kShared = 112 * 1024;
// Fused, contiguous: as many channels as fit so many bytes, at most kMostChannels.
constexpr int64_t kTileBytes = 26 * 1024;
constexpr int kMostChannels = 16;
// Channels-last: bytes of a row of a tile at most, two sectors of memory.
constexpr int kRowBytes = 64;
// Large, channels-last: blocks at once, and bytes that are read between the sums of a tile and its normalisation.
constexpr int64_t kStreamBlocks = 132 * 3, kLagBytes = 8 << 20;

// Threads of a block whose tile has so many bytes.
int threads_for(int64_t bytes) { return bytes > 64 * 1024 ? kMostThreads : bytes > 32 * 1024 ? 256 : 128; }
int last_threads_for(int64_t bytes, bool half) {
  return bytes > 64 * 1024 || (bytes > 32 * 1024 && !half) ? kMostLastThreads : 256;
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int power_of_two_from(int64_t least) {
  int power = 1;
  while (power < least) power *= 2;
  return power;
}

// The lanes of a row that let `threads` threads visit `rows` rows of `units` in the fewest steps.
int best_lanes(int threads, int64_t rows, int64_t units) {
  int best = threads;
  int64_t fewest = INT64_MAX;
  for (int lanes = threads; lanes > 0; lanes /= 2) {
    const int64_t steps = ceil_divide(units, lanes) * ceil_divide(rows, threads / lanes);
    if (steps < fewest) fewest = steps, best = lanes;
    if (lanes <= 8 && steps == fewest) break;
  }
  return best;
}

// Words of a row in a tile, channels-last.
template <class T, int N>
int tile_columns(int64_t words) {
  int columns = kRowBytes / static_cast<int>(sizeof(T) * N);
  if (columns > kWarp / N) columns = kWarp / N;
  const int all = power_of_two_from(words);
  return columns < all ? columns : all;
}

template <class T, int N, int M, Activation activation>
bool launch_contiguous(const PathBatchNormArgs& args, void* stream, int channels, int64_t limit) {
  using A = Accumulate<T>;
  const int64_t bytes = args.batch * args.size * channels * sizeof(T);
  const int64_t shared = bytes + (channels + 1) * sizeof(Affine<A>) + (2 * kWarp + 1) * sizeof(A);
  const int64_t blocks = args.paths * ceil_divide(args.channels, channels);
  // The kernel counts blocks and the words of a path in 32 bits, and divides elements by multiplication.
  if (shared > limit || blocks > kMaxBlocks || args.batch * args.channels * args.size / N > UINT32_MAX) return false;
  if (M < N && bytes / sizeof(T) > UINT16_MAX) return false;
  const int threads = threads_for(bytes);
  Tile tile{channels, threads / channels, 0};
  if (tile.team < kWarp) tile.team = kWarp;
  tile.lanes = best_lanes(tile.team, args.batch, args.size / M);
  launch(kName, fused_contiguous<T, N, M, activation>, grid_size(blocks), threads, shared, stream, args, tile);
  return true;
}

// Launches the fused kernel. False if a channel of a path does not fit.
template <class T, int N, Activation activation>
bool run_contiguous(const PathBatchNormArgs& args, void* stream, int64_t limit) {
  // Channels whose elements, of one sample, are whole words.
  int channels = 1;
  while (channels * args.size % N != 0) channels *= 2;
  const int64_t bytes = args.batch * args.size * static_cast<int64_t>(sizeof(T));
  while (channels < kMostChannels && channels < args.channels && 2 * channels * bytes <= kTileBytes) channels *= 2;
  if (args.size % N == 0) return launch_contiguous<T, N, N, activation>(args, stream, channels, limit);
  if constexpr (N > 2) {
    if (args.size % (N / 2) == 0) return launch_contiguous<T, N, N / 2, activation>(args, stream, channels, limit);
  }
  return launch_contiguous<T, N, 1, activation>(args, stream, channels, limit);
}

template <class T, int N, Activation activation>
bool run_channels_last(const PathBatchNormArgs& args, void* stream) {
  using A = Accumulate<T>;
  const int64_t rows = args.batch * args.size, words = args.channels / N;
  if (rows > UINT16_MAX || words > INT32_MAX / 8) return false;
  const int columns = tile_columns<T, N>(words), channels = columns * N;
  const int64_t bytes = ceil_divide(rows * channels * sizeof(T), 16) * 16;
  const int threads = last_threads_for(bytes, sizeof(T) == 2);
  const int64_t shared = bytes + channels * (sizeof(Affine<A>) + 2 * threads / kWarp * sizeof(A));
  const int64_t blocks = args.paths * ceil_divide(words, columns);
  if (shared > kShared || blocks > kMaxBlocks) return false;
  launch(kName, fused_channels_last<T, N, activation>, grid_size(blocks), threads, shared, stream, args, columns);
  return true;
}

template <class T, int N, Activation activation>
void run_large_channels_last(const PathBatchNormArgs& args, void* stream) {
  const int64_t rows = args.batch * args.size, words = args.channels / N, chunks = ceil_divide(rows, args.chunk);
  Stream plan;
  plan.columns = tile_columns<T, N>(words);
  plan.chunks = static_cast<uint32_t>(chunks);
  plan.tiles = static_cast<uint32_t>(ceil_divide(words, plan.columns));
  plan.lag = static_cast<uint32_t>(1 + kLagBytes / (rows * plan.columns * static_cast<int64_t>(sizeof(T)) * N));
  const int64_t tiles = args.paths * plan.tiles;
  if (plan.lag > tiles) plan.lag = static_cast<uint32_t>(tiles);
  plan.steps = static_cast<uint32_t>(tiles) + plan.lag;
  plan.counters = reinterpret_cast<uint32_t*>(args.partial + 2 * args.paths * args.channels * chunks);
  check(cudaMemsetAsync(plan.counters, 0, (1 + tiles) * sizeof(uint32_t), static_cast<cudaStream_t>(stream)), kName);
  const int64_t items = 2 * chunks * plan.steps;
  launch(kName, large_channels_last<T, N, activation>, grid_size(items < kStreamBlocks ? items : kStreamBlocks), kThreads,
         (4 * kThreads + 1) * sizeof(double), stream, args, plan);
}

template <class T, int M>
void run_statistics(const PathBatchNormArgs& args, void* stream) {
  const int64_t slices = args.paths * args.channels, chunks = ceil_divide(args.batch * args.size, args.chunk);
  launch(kName, moments_contiguous<T, M>, grid_size(slices * chunks), kThreads, kWarp * sizeof(double), stream, args);
  launch(kName, statistics_contiguous<T>, grid_size(ceil_divide(slices, kThreads)), kThreads, 0, stream, args);
}

template <class T, int N, Activation activation>
void run_normalise(const PathBatchNormArgs& args, void* stream) {
  const int64_t rows = args.channels_last ? args.batch * args.size : args.batch;
  const int64_t words = (args.channels_last ? args.channels : args.channels * args.size) / N;
  int columns = kThreads;
  for (int fewer = kThreads / 2; fewer >= 4; fewer /= 2)
    if (ceil_divide(words, fewer) * fewer < ceil_divide(words, columns) * columns) columns = fewer;
  const int64_t chunks = ceil_divide(rows, kRows * kThreads / columns);
  launch(kName, normalise<T, N, activation>, grid_size(args.paths * chunks * ceil_divide(words, columns)), kThreads, 0,
         stream, args, rows, words, columns);
}

template <class T, int N, Activation activation>
void run(const PathBatchNormArgs& args, void* stream) {
  if (args.statistics_given) return run_normalise<T, N, activation>(args, stream);
  if (args.channels_last) {
    if (!run_channels_last<T, N, activation>(args, stream)) run_large_channels_last<T, N, activation>(args, stream);
    return;
  }
  const int64_t most = shared_memory_limit(kName);
  if (run_contiguous<T, N, activation>(args, stream, most)) return;
  if (N > 1 && run_contiguous<T, 1, activation>(args, stream, most)) return;
  if (args.size % N == 0 && args.chunk % N == 0)
    run_statistics<T, N>(args, stream);
  else
    run_statistics<T, 1>(args, stream);
  run_normalise<T, N, activation>(args, stream);
}

}  // namespace

void path_batch_norm(const PathBatchNormArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = 16 / sizeof(T);
    const int64_t row = args.channels_last ? args.channels : args.channels * args.size;
    const bool wide = vector_width<T>(row, args.x, args.y, args.residual) == width;
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      wide ? run<T, width, activation>(args, stream) : run<T, 1, activation>(args, stream);
    });
  });
}

}  // namespace pynas::cuda
