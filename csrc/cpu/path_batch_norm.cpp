#include "common/path_batch_norm.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Float sums run over at most this many elements of four rows before they join a double.
constexpr int64_t kBlock = 512;
// Channels-last: channels whose sums are kept in the first-level cache, and rows that are added up in float before they
// join doubles.
constexpr int64_t kTile = 512;
constexpr int64_t kRows = 128;
// Squares are summed about the mean of this many first rows of the path.
constexpr int64_t kOriginRows = 8;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Sum of f over n elements of each of four rows; four at once hide the latency of the additions.
template <class T, class F>
double sum_of_four(const T* x, int64_t step, int64_t n, F f) {
  using A = Accumulate<T>;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t length = smaller(n - begin, kBlock);
    const T *r0 = x + begin, *r1 = r0 + step, *r2 = r1 + step, *r3 = r2 + step;
    A block = 0;
#pragma omp simd reduction(+ : block)
    for (int64_t i = 0; i < length; ++i) block += (f(load(r0[i])) + f(load(r1[i]))) + (f(load(r2[i])) + f(load(r3[i])));
    total += block;
  }
  return total;
}

// Sum of f over `rows` rows of n elements, `step` apart. A single long row is taken as four.
template <class T, class F>
double sum(const T* x, int64_t rows, int64_t step, int64_t n, F f) {
  double total = 0;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) total += sum_of_four(x + row * step, step, n, f);
  for (; row < rows; ++row) {
    const T* last = x + row * step;
    total += sum_of_four(last, n / 4, n / 4, f);
    for (int64_t i = n / 4 * 4; i < n; ++i) total += f(load(last[i]));
  }
  return total;
}

// What one channel of one path is normalised by.
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

// Contiguous: the B rows of S elements that are one channel of one path.
template <class T, Activation activation>
void channel_contiguous(const PathBatchNormArgs& args, int64_t path, int64_t channel) {
  using A = Accumulate<T>;
  const int64_t step = args.channels * args.size, start = path * args.batch * step + channel * args.size;
  const T* x = static_cast<const T*>(args.x) + start;
  const int64_t at = path * args.channels + channel, size = args.size;
  if (!args.statistics_given) {
    const double n = static_cast<double>(args.batch * size);
    const A mean = static_cast<A>(sum(x, args.batch, step, size, [](A v) { return v; }) / n);
    const double squares = sum(x, args.batch, step, size, [=](A v) { return (v - mean) * (v - mean); });
    static_cast<A*>(args.mean)[at] = mean;
    static_cast<A*>(args.var)[at] = static_cast<A>(squares / n);
  }
  const Affine<A> by = affine<A>(args, path, channel);
  for (int64_t b = 0; b < args.batch; ++b) {
    const T* in = x + b * step;
    T* out = static_cast<T*>(args.y) + start + b * step;
    if (args.residual != nullptr) {
      const T* add = static_cast<const T*>(args.residual) + start + b * step;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i)
        store(out[i], activate<activation>((load(in[i]) - by.mean) * by.scale + by.shift + load(add[i])));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i)
        store(out[i], activate<activation>((load(in[i]) - by.mean) * by.scale + by.shift));
    }
  }
}

// Channels-last: up to kTile neighbouring channels of the rows [begin, end) of one path. Memory is read row by row, twice
// in all (sums, then y): a channel by itself would be scattered over it.
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

// sum[j], squares[j] += those of x[row, j] - origin[j].
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
    static_cast<A*>(args.var)[at] = static_cast<A>(var < 0 ? 0 : var);  // less than nothing by rounding; NaN stays
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

// f(tile) for all tiles of all pieces of `length` rows, in parallel.
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
