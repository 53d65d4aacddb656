#include "common/path_batch_norm.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Contiguous: elements of a channel that are copied to a buffer without the gaps between rows. Rows are often short (49
// elements at 7x7), and the elements after the last whole vector of a row cost as much as the vectors.
constexpr int64_t kBuffer = 4096;
// Lanes of a sum, few enough to stay in registers, before it is added to a double.
constexpr int kLanes = 32;
// Bytes of a cache line.
constexpr int64_t kLine = 64;
// Channels-last: channels whose sums stay in the first-level cache, and rows summed in float before the sums are added to
// doubles.
constexpr int64_t kTile = 512;
constexpr int64_t kRows = 128;
// Squares are summed about the mean of the path's first rows, this many.
constexpr int64_t kOriginRows = 8;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Sum of f(x[i]).
template <class A, class F>
double sum(const A* x, int64_t n, F f) {
  A lanes[kLanes] = {};
  double total = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lanes[j] += f(x[i + j]);
  }
  for (; i < n; ++i) total += f(x[i]);
  for (int j = 0; j < kLanes; ++j) total += lanes[j];
  return total;
}

// y = (x - mean) * scale + shift for one channel of one path.
template <class A>
struct Affine {
  A mean, scale, shift;
};

template <class A>
Affine<A> affine(const PathBatchNormArgs& args, int64_t path, int64_t channel) {
  const int64_t at = path * args.channels + channel;
  const A *weight = static_cast<const A*>(args.weight), *bias = static_cast<const A*>(args.bias);
  const double var = static_cast<const A*>(args.var)[at], scale = 1 / __builtin_sqrt(var + args.eps);
  return {static_cast<const A*>(args.mean)[at], static_cast<A>(weight ? scale * weight[channel] : scale),
          bias ? bias[channel] : A(0)};
}

// Contiguous: one channel of one path is B rows of S elements. They are cut into pieces of at most kBuffer elements: whole
// rows, or parts of one.
template <class T>
struct Channel {
  using A = Accumulate<T>;
  int64_t start, step, rows, size;  // the first row's offset; the next row is `step` elements on
  int64_t height, width;            // rows and elements of a row in a piece
  int64_t across, pieces;           // pieces in a row's length; in all

  Channel(const PathBatchNormArgs& args, int64_t path, int64_t channel)
      : start((path * args.batch * args.channels + channel) * args.size), step(args.channels * args.size),
        rows(args.batch), size(args.size), height(smaller(rows, size < kBuffer ? kBuffer / size : 1)),
        width(smaller(size, kBuffer)), across((size + width - 1) / width),
        pieces(across * ((rows + height - 1) / height)) {}

  // Calls f(offset in the tensor, position in the buffer, length) for every row of a piece; returns the piece's length.
  template <class F>
  int64_t each_row(int64_t piece, F f) const {
    const int64_t column = piece % across * width, length = smaller(width, size - column);
    const int64_t first = piece / across * height, last = smaller(rows, first + height);
    for (int64_t row = first; row < last; ++row) f(start + row * step + column, (row - first) * length, length);
    return (last - first) * length;
  }

  int64_t gather(const void* tensor, int64_t piece, A* buffer) const {
    return each_row(piece, [&](int64_t from, int64_t to, int64_t n) {
      const T* x = static_cast<const T*>(tensor) + from;
      // The next channel's row follows this row, and is prefetched here.
      for (int64_t i = 0; i < n; i += kLine / sizeof(T)) __builtin_prefetch(x + size + i);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) buffer[to + i] = load(x[i]);
    });
  }
  void add(const void* tensor, int64_t piece, A* buffer) const {
    each_row(piece, [&](int64_t from, int64_t to, int64_t n) {
      const T* x = static_cast<const T*>(tensor) + from;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) buffer[to + i] += load(x[i]);
    });
  }
  void scatter(const A* buffer, int64_t piece, void* tensor) const {
    each_row(piece, [&](int64_t to, int64_t from, int64_t n) {
      T* y = static_cast<T*>(tensor) + to;
      for (int64_t i = 0; i < n; i += kLine / sizeof(T)) __builtin_prefetch(y + size + i, 1);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) store(y[i], buffer[from + i]);
    });
  }
  // Sum of f over the channel. The last piece stays in the buffer.
  template <class F>
  double sum_pieces(const PathBatchNormArgs& args, A* buffer, bool gathered, F f) const {
    double total = 0;
    for (int64_t piece = 0; piece < pieces; ++piece)
      total += sum(buffer, gathered ? rows * size : gather(args.x, piece, buffer), f);
    return total;
  }
};

template <class T, Activation activation>
void channel_contiguous(const PathBatchNormArgs& args, int64_t path, int64_t index) {
  using A = Accumulate<T>;
  const Channel<T> channel(args, path, index);
  A buffer[kBuffer];
  bool gathered = false;  // the whole channel is in the buffer
  if (!args.statistics_given) {
    const double n = static_cast<double>(args.batch * args.size);
    const A mean = static_cast<A>(channel.sum_pieces(args, buffer, false, [](A x) { return x; }) / n);
    gathered = channel.pieces == 1;
    const double squares = channel.sum_pieces(args, buffer, gathered, [=](A x) { return (x - mean) * (x - mean); });
    static_cast<A*>(args.mean)[path * args.channels + index] = mean;
    static_cast<A*>(args.var)[path * args.channels + index] = static_cast<A>(squares / n);
  }
  const Affine<A> by = affine<A>(args, path, index);
  for (int64_t piece = 0; piece < channel.pieces; ++piece) {
    const int64_t n = gathered ? args.batch * args.size : channel.gather(args.x, piece, buffer);
    if (args.residual != nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) buffer[i] = (buffer[i] - by.mean) * by.scale + by.shift;
      channel.add(args.residual, piece, buffer);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) buffer[i] = activate<activation>(buffer[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) buffer[i] = activate<activation>((buffer[i] - by.mean) * by.scale + by.shift);
    }
    channel.scatter(buffer, piece, args.y);
  }
}

// Channels-last: up to kTile neighbouring channels of the rows [begin, end) of one path. Memory is read row by row, once for
// the sums and once for y; the elements of a single channel are far apart.
template <class T>
struct Tile {
  int64_t path, begin, end, channel, width;

  int64_t at(const PathBatchNormArgs& args, int64_t row) const {
    return (path * args.batch * args.size + row) * args.channels + channel;
  }
};

// The mean of the path's first rows.
template <class T>
void tile_origin(const PathBatchNormArgs& args, const Tile<T>& tile, Accumulate<T>* origin) {
  using A = Accumulate<T>;
  const int64_t rows = smaller(kOriginRows, args.batch * args.size);
  for (int64_t j = 0; j < tile.width; ++j) origin[j] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = static_cast<const T*>(args.x) + tile.at(args, row);
#pragma omp simd
    for (int64_t j = 0; j < tile.width; ++j) origin[j] += load(x[j]) / static_cast<A>(rows);
  }
}

// Adds x[row, j] - origin[j] to sum[j] and its square to squares[j].
template <class T>
void add_rows(const T* x, int64_t rows, int64_t step, int64_t width, const Accumulate<T>* origin, Accumulate<T>* sum,
              Accumulate<T>* squares) {
  using A = Accumulate<T>;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const T *r0 = x + row * step, *r1 = r0 + step, *r2 = r1 + step, *r3 = r2 + step;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const A a = load(r0[j]) - origin[j], b = load(r1[j]) - origin[j];
      const A c = load(r2[j]) - origin[j], d = load(r3[j]) - origin[j];
      sum[j] += (a + b) + (c + d);
      squares[j] += (a * a + b * b) + (c * c + d * d);
    }
  }
  for (; row < rows; ++row) {
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const A a = load(x[row * step + j]) - origin[j];
      sum[j] += a;
      squares[j] += a * a;
    }
  }
}

template <class T>
void tile_moments(const PathBatchNormArgs& args, const Tile<T>& tile, int64_t chunks) {
  using A = Accumulate<T>;
  A origin[kTile], sum[kTile], squares[kTile];
  double total[kTile] = {}, total_squares[kTile] = {};
  tile_origin(args, tile, origin);
  for (int64_t row = tile.begin; row < tile.end; row += kRows) {
    for (int64_t j = 0; j < tile.width; ++j) sum[j] = squares[j] = 0;
    add_rows(static_cast<const T*>(args.x) + tile.at(args, row), smaller(kRows, tile.end - row), args.channels,
             tile.width, origin, sum, squares);
    for (int64_t j = 0; j < tile.width; ++j) {
      total[j] += sum[j];
      total_squares[j] += squares[j];
    }
  }
  for (int64_t j = 0; j < tile.width; ++j) {
    const int64_t at = (tile.path * args.channels + tile.channel + j) * chunks + tile.begin / args.chunk;
    args.partial[2 * at] = total[j];
    args.partial[2 * at + 1] = total_squares[j];
  }
}

template <class T>
void tile_statistics(const PathBatchNormArgs& args, const Tile<T>& tile, int64_t chunks) {
  using A = Accumulate<T>;
  const double n = static_cast<double>(args.batch * args.size);
  A origin[kTile];
  tile_origin(args, tile, origin);
  for (int64_t j = 0; j < tile.width; ++j) {
    const int64_t at = tile.path * args.channels + tile.channel + j;
    double sum = 0, squares = 0;
    for (int64_t i = at * chunks; i < (at + 1) * chunks; ++i) {
      sum += args.partial[2 * i];
      squares += args.partial[2 * i + 1];
    }
    const double var = (squares - sum * sum / n) / n;
    static_cast<A*>(args.mean)[at] = static_cast<A>(origin[j] + sum / n);
    static_cast<A*>(args.var)[at] = static_cast<A>(var < 0 ? 0 : var);  // rounding may make it negative; NaN stays NaN
  }
}

template <class T, Activation activation>
void tile_normalise(const PathBatchNormArgs& args, const Tile<T>& tile) {
  using A = Accumulate<T>;
  A mean[kTile], scale[kTile], shift[kTile];
  for (int64_t j = 0; j < tile.width; ++j) {
    const Affine<A> by = affine<A>(args, tile.path, tile.channel + j);
    mean[j] = by.mean, scale[j] = by.scale, shift[j] = by.shift;
  }
  for (int64_t row = tile.begin; row < tile.end; ++row) {
    const T* in = static_cast<const T*>(args.x) + tile.at(args, row);
    T* out = static_cast<T*>(args.y) + tile.at(args, row);
    if (args.residual != nullptr) {
      const T* add = static_cast<const T*>(args.residual) + tile.at(args, row);
#pragma omp simd
      for (int64_t j = 0; j < tile.width; ++j)
        store(out[j], activate<activation>((load(in[j]) - mean[j]) * scale[j] + shift[j] + load(add[j])));
    } else {
#pragma omp simd
      for (int64_t j = 0; j < tile.width; ++j)
        store(out[j], activate<activation>((load(in[j]) - mean[j]) * scale[j] + shift[j]));
    }
  }
}

// Calls f(tile) for all tiles of all pieces of `length` rows, in parallel.
template <class T, class F>
void for_each_tile(const PathBatchNormArgs& args, int64_t length, F f) {
  const int64_t rows = args.batch * args.size, pieces = (rows + length - 1) / length;
  const int64_t grain = 16384 / (smaller(length, rows) * args.channels) + 1;
  parallel_for(args.paths * pieces, grain, args.threads, [&](int64_t first, int64_t last, int) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t begin = item % pieces * length, end = smaller(rows, begin + length);
      for (int64_t channel = 0; channel < args.channels; channel += kTile)
        f(Tile<T>{item / pieces, begin, end, channel, smaller(kTile, args.channels - channel)});
    }
  });
}

template <class T, Activation activation>
void run_channels_last(const PathBatchNormArgs& args) {
  const int64_t rows = args.batch * args.size, chunks = (rows + args.chunk - 1) / args.chunk;
  if (!args.statistics_given) {
    for_each_tile<T>(args, args.chunk, [&](const Tile<T>& tile) { tile_moments(args, tile, chunks); });
    for_each_tile<T>(args, rows, [&](const Tile<T>& tile) { tile_statistics(args, tile, chunks); });
  }
  for_each_tile<T>(args, args.chunk, [&](const Tile<T>& tile) { tile_normalise<T, activation>(args, tile); });
}

template <class T, Activation activation>
void run_contiguous(const PathBatchNormArgs& args) {
  const int64_t grain = 16384 / (args.batch * args.size) + 1;
  parallel_for(args.paths * args.channels, grain, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      channel_contiguous<T, activation>(args, item / args.channels, item % args.channels);
  });
}

}  // namespace

void path_batch_norm(const PathBatchNormArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      args.channels_last ? run_channels_last<T, activation>(args) : run_contiguous<T, activation>(args);
    });
  });
}

}  // namespace pynas::PYNAS_ISA
