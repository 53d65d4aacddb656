#include "cpu/path_batch_norm_layout.h"

namespace pynas::PYNAS_ISA {
namespace {

// The gradient in x of one channel of one path: z_gradient * scale + (x - mean) * slope + shift, where z_gradient is the
// gradient in what the activation gets.
template <class A>
struct GradientMap {
  A scale, slope, shift;
};

// From the sums of z_gradient, which is the bias's gradient, and of z_gradient * (x - mean), which it writes as the weight's.
template <class A>
void write_sums(const PathBatchNormBackwardArgs& args, int64_t at, double sum, double product) {
  const double var = static_cast<const A*>(args.var)[at];
  static_cast<A*>(args.weight_gradient)[at] = static_cast<A>(product / __builtin_sqrt(var + args.eps));
  static_cast<A*>(args.bias_gradient)[at] = static_cast<A>(sum);
}

template <class A>
GradientMap<A> gradient_map(const PathBatchNormBackwardArgs& args, int64_t path, int64_t channel) {
  const int64_t at = path * args.channels + channel;
  const A scale = affine<A>(args, path, channel).scale;
  if (args.statistics_given) return {scale, A(0), A(0)};
  const double var = static_cast<const A*>(args.var)[at], factor = -scale / static_cast<double>(args.batch * args.size);
  return {scale,
          static_cast<A>(factor * static_cast<const A*>(args.weight_gradient)[at] / __builtin_sqrt(var + args.eps)),
          static_cast<A>(factor * static_cast<const A*>(args.bias_gradient)[at])};
}

// A piece of a channel: x - mean, and z_gradient.
template <class A>
struct Piece {
  A centred[kBuffer], gradient[kBuffer];
};

template <class T, Activation activation>
int64_t fill(const PathBatchNormBackwardArgs& args, const Channel<T>& channel, const Affine<Accumulate<T>>& by,
             int64_t index, Piece<Accumulate<T>>& piece) {
  using A = Accumulate<T>;
  const int64_t n = channel.gather(args.x, index, piece.centred);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) piece.centred[i] -= by.mean;
  channel.gather(args.y_gradient, index, piece.gradient);
  if constexpr (activation != Activation::none) {
    if (args.residual != nullptr) {
      A z[kBuffer];
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) z[i] = piece.centred[i] * by.scale + by.shift;
      channel.add(args.residual, index, z);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) piece.gradient[i] *= activate_gradient<activation>(z[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        piece.gradient[i] *= activate_gradient<activation>(piece.centred[i] * by.scale + by.shift);
    }
  }
  return n;
}

template <class T, Activation activation>
void channel_contiguous(const PathBatchNormBackwardArgs& args, int64_t path, int64_t index) {
  using A = Accumulate<T>;
  const Channel<T> channel(args, path, index);
  const Affine<A> by = affine<A>(args, path, index);
  Piece<A> piece;
  int64_t n = 0;
  double sum = 0, product = 0;
  for (int64_t i = 0; i < channel.pieces; ++i) {
    n = fill<T, activation>(args, channel, by, i, piece);
    sum += sum_over<A>(n, [&](int64_t k) { return piece.gradient[k]; });
    product += sum_over<A>(n, [&](int64_t k) { return piece.gradient[k] * piece.centred[k]; });
  }
  write_sums<A>(args, path * args.channels + index, sum, product);
  const GradientMap<A> map = gradient_map<A>(args, path, index);
  for (int64_t i = 0; i < channel.pieces; ++i) {
    if (channel.pieces > 1) n = fill<T, activation>(args, channel, by, i, piece);
    if (args.residual_gradient != nullptr) channel.scatter(piece.gradient, i, args.residual_gradient);
#pragma omp simd
    for (int64_t k = 0; k < n; ++k)
      piece.centred[k] = piece.gradient[k] * map.scale + (piece.centred[k] * map.slope + map.shift);
    channel.scatter(piece.centred, i, args.x_gradient);
  }
}

// Channels-last: where the first pass leaves z_gradient for the second. Without an activation it is y's gradient.
template <class T, Activation activation>
T* z_gradients(const PathBatchNormBackwardArgs& args) {
  if (activation == Activation::none) return const_cast<T*>(static_cast<const T*>(args.y_gradient));
  return static_cast<T*>(args.residual == nullptr ? args.x_gradient : args.residual_gradient);
}

// Adds z_gradient to sum, and z_gradient * (x - mean) to product, of n elements of R bands from element `first` on, which begin
// `step` elements apart.
template <Activation activation, bool with_residual, int R, class T, class A = Accumulate<T>>
void add_bands(const PathBatchNormBackwardArgs& args, int64_t first, int64_t step, int64_t n, const TileMaps<A>& maps,
               A* sum, A* product) {
  const T *x = static_cast<const T*>(args.x) + first, *y_gradient = static_cast<const T*>(args.y_gradient) + first;
  const T* residual = with_residual ? static_cast<const T*>(args.residual) + first : nullptr;
  T* kept = z_gradients<T, activation>(args) + first;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A sums = 0, products = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const int64_t at = r * step + i;
      const A centred = load(x[at]) - maps.mean[i];
      A gradient = load(y_gradient[at]);
      if constexpr (activation != Activation::none) {
        A z = centred * maps.scale[i] + maps.shift[i];
        if constexpr (with_residual) z += load(residual[at]);
        gradient *= activate_gradient<activation>(z);
        store(kept[at], gradient);
      }
      sums += gradient;
      products += gradient * centred;
    }
    sum[i] += sums;
    product[i] += products;
  }
}

template <class T, Activation activation, bool with_residual>
void tile_sums(const PathBatchNormBackwardArgs& args, const Tile<T>& tile, int64_t chunks) {
  using A = Accumulate<T>;
  const TileMaps<A> maps(args, tile);
  A sum[kTile], product[kTile];
  double total[kTile] = {}, total_product[kTile] = {};
  const int64_t step = tile.fold * args.channels;
  for (int64_t row = tile.begin; row < tile.end;) {
    const int64_t end = smaller(tile.end, row + kBands * tile.fold);
    for (int64_t i = 0; i < tile.band(); ++i) sum[i] = product[i] = 0;
    for (; row + 4 * tile.fold <= end; row += 4 * tile.fold)
      add_bands<activation, with_residual, 4, T>(args, tile.at(args, row), step, tile.band(), maps, sum, product);
    for (; row < end; row += tile.fold)
      add_bands<activation, with_residual, 1, T>(args, tile.at(args, row), step, tile.band(row), maps, sum, product);
    tile.gather(sum, total);
    tile.gather(product, total_product);
  }
  tile.write_partial(args, chunks, total, total_product);
}

template <class T>
void tile_gradients(const PathBatchNormBackwardArgs& args, const Tile<T>& tile, const T* z_gradients) {
  using A = Accumulate<T>;
  A mean[kTile], scale[kTile], slope[kTile], shift[kTile];
  for (int64_t j = 0; j < tile.width; ++j) {
    const GradientMap<A> map = gradient_map<A>(args, tile.path, tile.channel + j);
    mean[j] = static_cast<const A*>(args.mean)[tile.path * args.channels + tile.channel + j];
    scale[j] = map.scale, slope[j] = map.slope, shift[j] = map.shift;
  }
  tile.spread(mean), tile.spread(scale), tile.spread(slope), tile.spread(shift);
  for (int64_t row = tile.begin; row < tile.end; row += tile.fold) {
    const int64_t at = tile.at(args, row), n = tile.band(row);
    const T *x = static_cast<const T*>(args.x) + at, *gradient = z_gradients + at;
    T* to = static_cast<T*>(args.x_gradient) + at;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
      store(to[i], load(gradient[i]) * scale[i] + ((load(x[i]) - mean[i]) * slope[i] + shift[i]));
  }
}

template <class T, Activation activation, bool with_residual>
void run_tiles(const PathBatchNormBackwardArgs& args) {
  const int64_t rows = args.batch * args.size, chunks = (rows + args.chunk - 1) / args.chunk;
  for_each_tile<T>(args, args.chunk, false,
                   [&](const Tile<T>& tile) { tile_sums<T, activation, with_residual>(args, tile, chunks); });
  for_each_tile<T>(args, rows, false, [&](const Tile<T>& tile) {
    each_total(args, tile, chunks, [&](int64_t, int64_t at, double sum, double product) {
      write_sums<Accumulate<T>>(args, at, sum, product);
    });
  });
  for_each_tile<T>(args, args.chunk, true,
                   [&](const Tile<T>& tile) { tile_gradients<T>(args, tile, z_gradients<T, activation>(args)); });
}

template <class T, Activation activation>
void run_channels_last(const PathBatchNormBackwardArgs& args) {
  if constexpr (activation != Activation::none)
    if (args.residual != nullptr) return run_tiles<T, activation, true>(args);
  run_tiles<T, activation, false>(args);
}

}  // namespace

void path_batch_norm_backward(const PathBatchNormBackwardArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(args.activation, [&](auto tag) {
      constexpr Activation activation = decltype(tag)::value;
      if (args.channels_last) return run_channels_last<T, activation>(args);
      for_each_channel(args, 8192,
                       [&](int64_t path, int64_t channel) { channel_contiguous<T, activation>(args, path, channel); });
    });
  });
}

}  // namespace pynas::PYNAS_ISA
