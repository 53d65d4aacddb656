#include "cpu/path_batch_norm_layout.h"

namespace pynas::PYNAS_ISA {
namespace {

// Squares are summed about the mean of the path's first rows, this many.
constexpr int64_t kOriginRows = 8;

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
    write_statistics<A>(args, path * args.channels + index, mean, squares / n);
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
  tile.spread(origin);
}

// Adds x - origin to sum and its square to squares, of n elements of R bands, which begin `step` elements apart.
template <int R, class T, class A = Accumulate<T>>
void add_bands(const T* x, int64_t step, int64_t n, const A* origin, A* sum, A* squares) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A sums = 0, products = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const A centred = load(x[r * step + i]) - origin[i];
      sums += centred;
      products += centred * centred;
    }
    sum[i] += sums;
    squares[i] += products;
  }
}

template <class T>
void tile_moments(const PathBatchNormArgs& args, const Tile<T>& tile, int64_t chunks) {
  using A = Accumulate<T>;
  A origin[kTile], sum[kTile], squares[kTile];
  double total[kTile] = {}, total_squares[kTile] = {};
  const int64_t step = tile.fold * args.channels;
  const auto at = [&](int64_t row) { return static_cast<const T*>(args.x) + tile.at(args, row); };
  tile_origin(args, tile, origin);
  for (int64_t row = tile.begin; row < tile.end;) {
    const int64_t end = smaller(tile.end, row + kBands * tile.fold);
    for (int64_t i = 0; i < tile.band(); ++i) sum[i] = squares[i] = 0;
    for (; row + 4 * tile.fold <= end; row += 4 * tile.fold)
      add_bands<4>(at(row), step, tile.band(), origin, sum, squares);
    for (; row < end; row += tile.fold) add_bands<1>(at(row), step, tile.band(row), origin, sum, squares);
    tile.gather(sum, total);
    tile.gather(squares, total_squares);
  }
  tile.write_partial(args, chunks, total, total_squares);
}

template <class T>
void tile_statistics(const PathBatchNormArgs& args, const Tile<T>& tile, int64_t chunks) {
  using A = Accumulate<T>;
  const double n = static_cast<double>(args.batch * args.size);
  A origin[kTile];
  tile_origin(args, tile, origin);
  each_total(args, tile, chunks, [&](int64_t j, int64_t at, double sum, double squares) {
    const double var = (squares - sum * sum / n) / n;
    write_statistics<A>(args, at, origin[j] + sum / n,
                        var < 0 ? 0 : var);  // rounding may make it negative; NaN stays NaN
  });
}

template <class T, Activation activation>
void tile_normalise(const PathBatchNormArgs& args, const Tile<T>& tile) {
  using A = Accumulate<T>;
  const TileMaps<A> maps(args, tile);
  const A *mean = maps.mean, *scale = maps.scale, *shift = maps.shift;
  for (int64_t row = tile.begin; row < tile.end; row += tile.fold) {
    const int64_t n = tile.band(row);
    const T* in = static_cast<const T*>(args.x) + tile.at(args, row);
    T* out = static_cast<T*>(args.y) + tile.at(args, row);
    if (args.residual != nullptr) {
      const T* add = static_cast<const T*>(args.residual) + tile.at(args, row);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        store(out[i], activate<activation>((load(in[i]) - mean[i]) * scale[i] + shift[i] + load(add[i])));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        store(out[i], activate<activation>((load(in[i]) - mean[i]) * scale[i] + shift[i]));
    }
  }
}

template <class T, Activation activation>
void run_channels_last(const PathBatchNormArgs& args) {
  const int64_t rows = args.batch * args.size, chunks = (rows + args.chunk - 1) / args.chunk;
  if (!args.statistics_given) {
    for_each_tile<T>(args, args.chunk, false, [&](const Tile<T>& tile) { tile_moments(args, tile, chunks); });
    for_each_tile<T>(args, rows, false, [&](const Tile<T>& tile) { tile_statistics(args, tile, chunks); });
  }
  for_each_tile<T>(args, args.chunk, true, [&](const Tile<T>& tile) { tile_normalise<T, activation>(args, tile); });
}

}  // namespace

void path_batch_norm(const PathBatchNormArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      if (args.channels_last) return run_channels_last<T, activation>(args);
      for_each_channel(args, 16384,
                       [&](int64_t path, int64_t channel) { channel_contiguous<T, activation>(args, path, channel); });
    });
  });
}

}  // namespace pynas::PYNAS_ISA
