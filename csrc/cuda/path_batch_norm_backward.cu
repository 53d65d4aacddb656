// Three kernels: sums of z_gradient and z_gradient * (x - mean) over chunks of a channel of a path, the gradients of weight and
// bias from them, and the gradients of x and the residual. z_gradient is the gradient in what the activation gets.
#include "cuda/path_batch_norm_affine.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

constexpr const char* kName = "path_batch_norm_backward";
constexpr int kThreads = 256;
// Words that a thread loads at once, of x, the gradient and the residual each.
constexpr int kReads = 2;
// Rows of a thread where the gradients are written.
constexpr int kRows = 16;
// Channels-last: bytes of a row of a tile at most.
constexpr int kRowBytes = 64;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What is read at one place.
template <class T, int N>
struct Read {
  Vector<T, N> x, gradient, residual;
};

// Reads words from element `first` on.
template <class T, int N>
struct Source {
  using Word = Vector<T, N>;
  const Word *x, *gradient, *residual;

  __device__ Source(const PathBatchNormBackwardArgs& args, int64_t first)
      : x(reinterpret_cast<const Word*>(static_cast<const T*>(args.x) + first)),
        gradient(reinterpret_cast<const Word*>(static_cast<const T*>(args.y_gradient) + first)),
        residual(args.residual == nullptr
                     ? nullptr
                     : reinterpret_cast<const Word*>(static_cast<const T*>(args.residual) + first)) {}

  __device__ Read<T, N> operator()(int64_t at) const {
    Read<T, N> read;
    read.x = x[at], read.gradient = gradient[at];
    if (residual != nullptr) read.residual = residual[at];
    return read;
  }
};

// x - mean and z_gradient of the elements of a word; by(i): the map of the channel of element i.
template <Activation activation, class T, int N, class By>
__device__ void take_apart(const Read<T, N>& read, bool with_residual, By by, Accumulate<T>* centred,
                           Accumulate<T>* gradient) {
  using A = Accumulate<T>;
  unpack(read.x, centred);
  unpack(read.gradient, gradient);
  A residual[N] = {};
  if (activation != Activation::none && with_residual) unpack(read.residual, residual);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Affine<A> map = by(i);
    centred[i] -= map.mean;
    if constexpr (activation != Activation::none)
      gradient[i] *= activate_gradient<activation>(centred[i] * map.scale + map.shift + residual[i]);
  }
}

template <class A>
__device__ Affine<A> map_of(const PathBatchNormBackwardArgs& args, int64_t path, int64_t channel) {
  const int64_t slice = path * args.channels + channel;
  return Affine<A>(args, channel, static_cast<const A*>(args.mean)[slice], static_cast<const A*>(args.var)[slice]);
}

// A block takes `chunk` elements of one channel of one path, contiguous. M divides S and the chunk.
template <class T, int M, Activation activation>
__global__ void __launch_bounds__(kThreads) sums_contiguous(PathBatchNormBackwardArgs args) {
  using A = Accumulate<T>;
  PYNAS_SHARED(double, scratch);
  const int64_t size = args.size / M, words = args.batch * size, chunk = args.chunk / M;
  const int64_t chunks = (words + chunk - 1) / chunk;
  const int64_t step_rows = kThreads / size, step_columns = kThreads % size, row = args.channels * size;
  const Source<T, M> source(args, 0);
  for (int64_t item = blockIdx.x; item < args.paths * args.channels * chunks; item += gridDim.x) {
    const int64_t slice = item / chunks, path = slice / args.channels, channel = slice % args.channels;
    const int64_t begin = item % chunks * chunk, end = begin + chunk < words ? begin + chunk : words;
    const Affine<A> map = map_of<A>(args, path, channel);
    // The position of the next word: stepped, since a division is slow.
    int64_t column = (begin + threadIdx.x) % size;
    int64_t next = (path * args.batch + (begin + threadIdx.x) / size) * row + channel * size + column;
    A sum = 0, product = 0;
    for_words<Read<T, M>, kReads>(
        threadIdx.x, static_cast<uint32_t>(end - begin), kThreads,
        [&](uint32_t) {
          const Read<T, M> read = source(next);
          column += step_columns;
          next += step_rows * row + step_columns;
          if (column >= size) column -= size, next += row - size;
          return read;
        },
        [&](uint32_t, const Read<T, M>& read) {
          A centred[M], gradient[M];
          take_apart<activation>(read, source.residual != nullptr, [&](int) { return map; }, centred, gradient);
#pragma unroll
          for (int i = 0; i < M; ++i) sum += gradient[i], product += gradient[i] * centred[i];
        });
    const double first = block_sum<double>(sum, scratch), second = block_sum<double>(product, scratch);
    if (threadIdx.x == 0) args.partial[2 * item] = first, args.partial[2 * item + 1] = second;
  }
}

// A block takes `columns` words of `chunk` rows of one path, channels-last.
template <class T, int N, Activation activation>
__global__ void __launch_bounds__(kThreads) sums_channels_last(PathBatchNormBackwardArgs args, int columns) {
  using A = Accumulate<T>;
  PYNAS_SHARED(A, sums);
  const int tile = columns * N;
  A* products = sums + kThreads / kWarp * tile;
  const int64_t rows = args.batch * args.size, words = args.channels / N;
  const int64_t tiles = (words + columns - 1) / columns, chunks = (rows + args.chunk - 1) / args.chunk;
  for (int64_t item = blockIdx.x; item < args.paths * chunks * tiles; item += gridDim.x) {
    const int64_t part = item / tiles, path = part / chunks, begin = part % chunks * args.chunk;
    const int64_t first = item % tiles * columns, word = first + threadIdx.x % columns;
    const uint32_t count = static_cast<uint32_t>(rows - begin < args.chunk ? rows - begin : args.chunk);
    Affine<A> maps[N];
    if (word < words)
      for (int i = 0; i < N; ++i) maps[i] = map_of<A>(args, path, word * N + i);
    const Source<T, N> source(args, ((path * rows + begin) * words + word) * N);
    A sum[N] = {}, product[N] = {};
    for_words<Read<T, N>, kReads>(
        threadIdx.x / columns, word < words ? count : 0, kThreads / columns,
        [&](uint32_t row) { return source(row * words); },
        [&](uint32_t, const Read<T, N>& read) {
          A centred[N], gradient[N];
          take_apart<activation>(read, source.residual != nullptr, [&](int i) { return maps[i]; }, centred, gradient);
#pragma unroll
          for (int i = 0; i < N; ++i) sum[i] += gradient[i], product[i] += gradient[i] * centred[i];
        });
    __syncthreads();
    warp_column_sums<N>(sum, columns, sums);
    warp_column_sums<N>(product, columns, products);
    __syncthreads();
    const int64_t channel = first * N + threadIdx.x;
    if (threadIdx.x < tile && channel < args.channels) {
      double* partial = args.partial + (part * args.channels + channel) * 2;
      partial[0] = sum_of_warps(sums, tile, threadIdx.x);
      partial[1] = sum_of_warps(products, tile, threadIdx.x);
    }
  }
}

// A thread takes one channel of one path.
template <class A>
__global__ void write_parameters(PathBatchNormBackwardArgs args, int64_t chunks) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, slices = args.paths * args.channels;
  for (int64_t slice = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; slice < slices; slice += step) {
    const int64_t path = slice / args.channels, channel = slice % args.channels;
    const double* partial =
        args.partial + 2 * (args.channels_last ? path * chunks * args.channels + channel : slice * chunks);
    const int64_t next = 2 * (args.channels_last ? args.channels : 1);
    double sum = 0, product = 0;
    for (int64_t i = 0; i < chunks; ++i) {
      sum += partial[i * next];
      product += partial[i * next + 1];
    }
    const double var = static_cast<const A*>(args.var)[slice];
    static_cast<A*>(args.weight_gradient)[slice] = static_cast<A>(product / sqrt(var + args.eps));
    static_cast<A*>(args.bias_gradient)[slice] = static_cast<A>(sum);
  }
}

// The gradient in x of a channel of a path: z_gradient * forward.scale + (x - mean) * slope + shift.
template <class A>
struct GradientMap {
  Affine<A> forward;
  A slope, shift;

  __device__ GradientMap() {}
  __device__ GradientMap(const PathBatchNormBackwardArgs& args, int64_t path, int64_t channel)
      : forward(map_of<A>(args, path, channel)), slope(0), shift(0) {
    if (args.statistics_given) return;
    const int64_t slice = path * args.channels + channel;
    const A var = static_cast<const A*>(args.var)[slice];
    const A factor = -forward.scale / static_cast<A>(args.batch * args.size);
    slope = factor * static_cast<const A*>(args.weight_gradient)[slice] / sqrt(var + static_cast<A>(args.eps));
    shift = factor * static_cast<const A*>(args.bias_gradient)[slice];
  }
};

// The paths as matrices of `rows` times `words` words. A block takes `columns` words of kRows * kThreads / columns rows.
template <class T, int N, Activation activation>
__global__ void __launch_bounds__(kThreads)
    gradients(PathBatchNormBackwardArgs args, int64_t rows, int64_t words, int columns) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  const int64_t step = kThreads / columns, chunk = step * kRows;
  const int64_t tiles = (words + columns - 1) / columns, chunks = (rows + chunk - 1) / chunk;
  const int64_t items = args.paths * chunks * tiles, run = args.channels_last ? 1 : args.size;
  for (int64_t done = blockIdx.x; done < items; done += gridDim.x) {
    const int64_t item = items - 1 - done;  // the end first: the L2 cache may still have it
    const int64_t word = item % tiles * columns + threadIdx.x % columns, part = item / tiles % chunks;
    const int64_t path = item / tiles / chunks, begin = part * chunk;
    if (word >= words) continue;
    GradientMap<A> maps[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t element = word * N + i;
      maps[i] = i > 0 && element % run != 0 ? maps[i > 0 ? i - 1 : 0] : GradientMap<A>(args, path, element / run);
    }
    const int64_t first = ((path * rows + begin) * words + word) * N;
    const Source<T, N> source(args, first);
    Word* to = reinterpret_cast<Word*>(static_cast<T*>(args.x_gradient) + first);
    Word* residual = reinterpret_cast<Word*>(static_cast<T*>(args.residual_gradient) + first);
    for_words<Read<T, N>, kReads>(
        threadIdx.x / columns, static_cast<uint32_t>(rows - begin < chunk ? rows - begin : chunk),
        static_cast<uint32_t>(step), [&](uint32_t row) { return source(row * words); },
        [&](uint32_t row, const Read<T, N>& read) {
          A centred[N], gradient[N];
          take_apart<activation>(
              read, source.residual != nullptr, [&](int i) { return maps[i].forward; }, centred, gradient);
          if (args.residual_gradient != nullptr) residual[row * words] = pack<T, N>(gradient);
#pragma unroll
          for (int i = 0; i < N; ++i)
            gradient[i] = gradient[i] * maps[i].forward.scale + (centred[i] * maps[i].slope + maps[i].shift);
          to[row * words] = pack<T, N>(gradient);
        });
  }
}

// Words of a row in a tile of sums_channels_last: a power of two up to 32 / N.
template <class T, int N>
int tile_columns(int64_t words) {
  int columns = 1;
  while (columns < words && columns * N < kWarp && columns * N * static_cast<int>(sizeof(T)) < kRowBytes) columns *= 2;
  return columns;
}

template <class T, int N, Activation activation>
void run(const PathBatchNormBackwardArgs& args, void* stream) {
  using A = Accumulate<T>;
  const int64_t rows = args.channels_last ? args.batch * args.size : args.batch;
  const int64_t words = (args.channels_last ? args.channels : args.channels * args.size) / N;
  const int64_t slices = args.paths * args.channels, chunks = ceil_divide(args.batch * args.size, args.chunk);
  if (args.channels_last) {
    const int columns = tile_columns<T, N>(words);
    launch(kName, sums_channels_last<T, N, activation>, grid_size(args.paths * chunks * ceil_divide(words, columns)),
           kThreads, 2 * kThreads / kWarp * columns * N * sizeof(A), stream, args, columns);
  } else if (args.size % N == 0 && args.chunk % N == 0) {
    launch(kName, sums_contiguous<T, N, activation>, grid_size(slices * chunks), kThreads, kWarp * sizeof(double),
           stream, args);
  } else {
    launch(kName, sums_contiguous<T, 1, activation>, grid_size(slices * chunks), kThreads, kWarp * sizeof(double),
           stream, args);
  }
  launch(kName, write_parameters<A>, grid_size(ceil_divide(slices, kThreads)), kThreads, 0, stream, args, chunks);
  int columns = kThreads;
  for (int fewer = kThreads / 2; fewer >= 4; fewer /= 2)
    if (ceil_divide(words, fewer) * fewer < ceil_divide(words, columns) * columns) columns = fewer;
  launch(kName, gradients<T, N, activation>,
         grid_size(args.paths * ceil_divide(rows, kRows * kThreads / columns) * ceil_divide(words, columns)), kThreads,
         0, stream, args, rows, words, columns);
}

}  // namespace

void path_batch_norm_backward(const PathBatchNormBackwardArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = 16 / sizeof(T);
    const int64_t row = args.channels_last ? args.channels : args.channels * args.size;
    const bool wide = vector_width<T>(row, args.x, args.y_gradient, args.residual) == width &&
                      vector_width<T>(row, args.x_gradient, args.residual_gradient) == width;
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      wide ? run<T, width, activation>(args, stream) : run<T, 1, activation>(args, stream);
    });
  });
}

}  // namespace pynas::cuda
