// How the kernels of path_batch_norm go through memory: channel by channel where the layout is contiguous, by tiles of
// neighbouring channels where it is channels-last.
#pragma once

#include "common/parallel.h"
#include "common/path_batch_norm.h"

namespace pynas::PYNAS_ISA {
namespace {

// Contiguous: elements of a channel that are copied to a buffer without the gaps between rows. Rows are often short (49
// elements at 7x7), and the elements after the last whole vector of a row cost as much as the vectors.
constexpr int64_t kBuffer = 4096;
// Lanes of a sum, few enough to stay in registers, before it is added to a double.
constexpr int kLanes = 32;
// Bytes of a cache line.
constexpr int64_t kLine = 64;
// Channels-last: elements of a band whose sums stay in the first-level cache, and bands summed in float before the sums are
// added to doubles.
constexpr int64_t kTile = 512;
constexpr int64_t kBands = 128;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Sum of f(i).
template <class A, class F>
double sum_over(int64_t n, F f) {
  A lanes[kLanes] = {};
  double total = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lanes[j] += f(i + j);
  }
  for (; i < n; ++i) total += f(i);
  for (int j = 0; j < kLanes; ++j) total += lanes[j];
  return total;
}

// y = (x - mean) * scale + shift for one channel of one path.
template <class A>
struct Affine {
  A mean, scale, shift;
};

template <class A>
Affine<A> affine(const PathBatchNorm& args, int64_t path, int64_t channel) {
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

  Channel(const PathBatchNorm& args, int64_t path, int64_t channel)
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
  double sum_pieces(const PathBatchNorm& args, A* buffer, bool gathered, F f) const {
    double total = 0;
    for (int64_t piece = 0; piece < pieces; ++piece)
      total +=
          sum_over<A>(gathered ? rows * size : gather(args.x, piece, buffer), [&](int64_t i) { return f(buffer[i]); });
    return total;
  }
};

// Contiguous: calls f(path, channel) for all, in parallel; grain: elements of a thread's share at least.
template <class F>
void for_each_channel(const PathBatchNorm& args, int64_t grain, F f) {
  parallel_for(args.paths * args.channels, grain / (args.batch * args.size) + 1, args.threads,
               [&](int64_t begin, int64_t end, int) {
                 for (int64_t item = begin; item < end; ++item) f(item / args.channels, item % args.channels);
               });
}

// Channels-last: up to kTile neighbouring channels of the rows [begin, end) of one path. Memory is read row by row, once for
// the sums and once for y; the elements of a single channel are far apart. Of few channels, `fold` rows form one band, so that
// loops are long: band element i is of channel i % width.
template <class T>
struct Tile {
  int64_t path, begin, end, channel, width, fold;

  int64_t at(const PathBatchNorm& args, int64_t row) const {
    return (path * args.batch * args.size + row) * args.channels + channel;
  }
  int64_t band() const { return fold * width; }
  // Elements of the band that begins at `row`.
  int64_t band(int64_t row) const { return smaller(fold, end - row) * width; }

  // Repeats values of the tile's channels for the rows of a band.
  template <class A>
  void spread(A* values) const {
    for (int64_t i = 1; i < fold; ++i) __builtin_memcpy(values + i * width, values, width * sizeof(A));
  }
  // Adds sums over the elements of bands to those of the channels.
  template <class A>
  void gather(const A* sums, double* totals) const {
    for (int64_t i = 0; i < fold; ++i)
      for (int64_t j = 0; j < width; ++j) totals[j] += sums[i * width + j];
  }
  // Writes two sums of each channel over the tile's rows, as one of `chunks` pieces of all rows.
  void write_partial(const PathBatchNorm& args, int64_t chunks, const double* first, const double* second) const {
    for (int64_t j = 0; j < width; ++j) {
      const int64_t place = (path * args.channels + channel + j) * chunks + begin / args.chunk;
      args.partial[2 * place] = first[j];
      args.partial[2 * place + 1] = second[j];
    }
  }
};

// The maps of a tile's channels, for the elements of a band.
template <class A>
struct TileMaps {
  A mean[kTile], scale[kTile], shift[kTile];

  template <class T>
  TileMaps(const PathBatchNorm& args, const Tile<T>& tile) {
    for (int64_t j = 0; j < tile.width; ++j) {
      const Affine<A> by = affine<A>(args, tile.path, tile.channel + j);
      mean[j] = by.mean, scale[j] = by.scale, shift[j] = by.shift;
    }
    tile.spread(mean), tile.spread(scale), tile.spread(shift);
  }
};

// Calls f(channel of the tile, its place in [G, C], sum, sum) with both sums of each channel over all pieces of rows.
template <class T, class F>
void each_total(const PathBatchNorm& args, const Tile<T>& tile, int64_t chunks, F f) {
  for (int64_t j = 0; j < tile.width; ++j) {
    const int64_t at = tile.path * args.channels + tile.channel + j;
    double first = 0, second = 0;
    for (int64_t i = at * chunks; i < (at + 1) * chunks; ++i) {
      first += args.partial[2 * i];
      second += args.partial[2 * i + 1];
    }
    f(j, at, first, second);
  }
}

// Calls f(tile) for all tiles of all pieces of `length` rows, in parallel; backwards: the last first, which a cache may still
// have.
template <class T, class F>
void for_each_tile(const PathBatchNorm& args, int64_t length, bool backwards, F f) {
  const int64_t rows = args.batch * args.size, pieces = (rows + length - 1) / length;
  const int64_t grain = 16384 / (smaller(length, rows) * args.channels) + 1, items = args.paths * pieces;
  const int64_t fold = args.channels < kTile ? kTile / args.channels : 1;
  parallel_for(items, grain, args.threads, [&](int64_t first, int64_t last, int) {
    for (int64_t number = first; number < last; ++number) {
      const int64_t item = backwards ? items - 1 - number : number;
      const int64_t begin = item % pieces * length, end = smaller(rows, begin + length);
      for (int64_t channel = 0; channel < args.channels; channel += kTile)
        f(Tile<T>{item / pieces, begin, end, channel, smaller(kTile, args.channels - channel), fold});
    }
  });
}

}  // namespace
}  // namespace pynas::PYNAS_ISA
