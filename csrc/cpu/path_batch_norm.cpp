#include "common/path_batch_norm.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Float sums run over at most this many elements of four rows before they join a double.
constexpr int64_t kBlock = 512;
// Channels that the channels-last loops take at a time: few enough that all rows of them fit the second-level cache.
constexpr int64_t kTile = 64;
// Rows whose channel sums are added up in float before they join the doubles.
constexpr int64_t kRows = 128;

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

// Channels-last: up to kTile neighbouring channels of all rows of one path.
template <class T>
struct Tile {
  using A = Accumulate<T>;
  const T* x;     // the first row's first channel; the next row is `step` elements on
  int64_t rows;   // B * S
  int64_t step;   // C
  int64_t width;  // channels

  // total[j] = sum over rows of f(x[row, j], j).
  template <class F>
  void sum(double* total, F f) const {
    for (int64_t j = 0; j < width; ++j) total[j] = 0;
    for (int64_t begin = 0; begin < rows; begin += kRows) {
      const int64_t end = smaller(rows, begin + kRows);
      A block[kTile] = {};
      int64_t row = begin;
      for (; row + 4 <= end; row += 4) {
        const T *r0 = x + row * step, *r1 = r0 + step, *r2 = r1 + step, *r3 = r2 + step;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j)
          block[j] += (f(load(r0[j]), j) + f(load(r1[j]), j)) + (f(load(r2[j]), j) + f(load(r3[j]), j));
      }
      for (; row < end; ++row) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) block[j] += f(load(x[row * step + j]), j);
      }
      for (int64_t j = 0; j < width; ++j) total[j] += block[j];
    }
  }
};

template <class T>
void tile_statistics(const PathBatchNormArgs& args, const Tile<T>& tile, int64_t path, int64_t channel) {
  using A = Accumulate<T>;
  A* mean = static_cast<A*>(args.mean) + path * args.channels + channel;
  A* var = static_cast<A*>(args.var) + path * args.channels + channel;
  const double n = static_cast<double>(tile.rows);
  double total[kTile];
  A center[kTile];
  tile.sum(total, [](A v, int64_t) { return v; });
  for (int64_t j = 0; j < tile.width; ++j) mean[j] = center[j] = static_cast<A>(total[j] / n);
  tile.sum(total, [&](A v, int64_t j) { return (v - center[j]) * (v - center[j]); });
  for (int64_t j = 0; j < tile.width; ++j) var[j] = static_cast<A>(total[j] / n);
}

template <class T, Activation activation>
void channels_last(const PathBatchNormArgs& args, int64_t path, int64_t channel, int64_t width) {
  using A = Accumulate<T>;
  const int64_t rows = args.batch * args.size, step = args.channels, start = path * rows * step + channel;
  const Tile<T> tile{static_cast<const T*>(args.x) + start, rows, step, width};
  if (!args.statistics_given) tile_statistics(args, tile, path, channel);
  A mean[kTile], scale[kTile], shift[kTile];
  for (int64_t j = 0; j < width; ++j) {
    const Affine<A> by = affine<A>(args, path, channel + j);
    mean[j] = by.mean, scale[j] = by.scale, shift[j] = by.shift;
  }
  for (int64_t row = 0; row < rows; ++row) {
    const T* in = tile.x + row * step;
    T* out = static_cast<T*>(args.y) + start + row * step;
    if (args.residual != nullptr) {
      const T* add = static_cast<const T*>(args.residual) + start + row * step;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        store(out[j], activate<activation>((load(in[j]) - mean[j]) * scale[j] + shift[j] + load(add[j])));
    } else {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        store(out[j], activate<activation>((load(in[j]) - mean[j]) * scale[j] + shift[j]));
    }
  }
}

template <class T, Activation activation>
void run(const PathBatchNormArgs& args) {
  const int64_t width = args.channels_last ? kTile : 1, tiles = (args.channels + width - 1) / width;
  const int64_t grain = 16384 / (args.batch * args.size * width) + 1;
  parallel_for(args.paths * tiles, grain, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t path = item / tiles, channel = item % tiles * width;
      if (args.channels_last) {
        channels_last<T, activation>(args, path, channel, smaller(width, args.channels - channel));
      } else {
        channel_contiguous<T, activation>(args, path, channel);
      }
    }
  });
}

}  // namespace

void path_batch_norm(const PathBatchNormArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(args.activation, [&](auto tag) { run<T, decltype(tag)::value>(args); });
  });
}

}  // namespace pynas::PYNAS_ISA
