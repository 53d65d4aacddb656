#include "common/squeeze_excitation.h"

#include "common/lane_sum.h"
#include "common/math.h"
#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Channels-last: elements of a band, which is a row of up to kTile channels or, of few channels, as many rows as make about
// kBand elements; and bands in one partial sum.
constexpr int64_t kTile = 512, kBand = 64, kBands = 64;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// e^x, 0 or infinity where |x| is 87 or more; NaN stays NaN. The comparisons are of integers, which vectorise.
PYNAS_INLINE float exponential(float x) {
  const uint32_t bits = float_bits(x), size = bits & 0x7FFFFFFFu;
  const float limit = bits_float(bits >> 31 ? 0u : 0x7F800000u), value = bounded_exponential(x);
  return size > 0x7F800000u ? x : size < 0x42AE0000u ? value : limit;
}
PYNAS_INLINE double exponential(double x) { return __builtin_exp(x); }

template <class A>
PYNAS_INLINE A sigmoid(A x) {
  return A(1) / (A(1) + exponential(-x));
}

// The parts of `kept` from a sample on.
template <class A>
struct Kept {
  A *mean, *gate, *hidden, *squeezed;

  Kept(const SqueezeExcitation& args, void* kept, int64_t sample = 0)
      : mean(static_cast<A*>(kept) + sample * args.channels), gate(mean + args.batch * args.channels),
        hidden(static_cast<A*>(kept) + 2 * args.batch * args.channels + sample * args.reduced),
        squeezed(hidden + args.batch * args.reduced) {}
};

// Adds f(i) of the n elements of each of R bands, which begin `step` elements apart, to sums.
template <int R, class A, class F>
PYNAS_INLINE void add_bands(int64_t n, int64_t step, A* sums, F f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A sum = f(i);
#pragma GCC unroll 4
    for (int r = 1; r < R; ++r) sum += f(r * step + i);
    sums[i] += sum;
  }
}

// Sets sums[c] to the sum of f(i) over the elements i of channel c of a sample.
template <class A, class F>
void sum_space(const SqueezeExcitation& args, A* sums, F f) {
  const int64_t size = args.size, channels = args.channels;
  if (!args.channels_last) {
    for (int64_t c = 0; c < channels; ++c) sums[c] = lane_sum<A>(size, [=](int64_t i) { return f(c * size + i); });
    return;
  }
  for (int64_t channel = 0; channel < channels; channel += kTile, sums += kTile) {
    const int64_t width = smaller(kTile, channels - channel), fold = channels < kBand ? kBand / channels : 1;
    A band[kTile];
    for (int64_t j = 0; j < width; ++j) sums[j] = 0;
    for (int64_t row = 0; row < size;) {
      const int64_t end = smaller(size, row + kBands * fold), step = fold * channels;
      const auto at = [&] { return [f, from = row * channels + channel](int64_t i) { return f(from + i); }; };
      for (int64_t i = 0; i < fold * width; ++i) band[i] = 0;
      for (; row + 4 * fold <= end; row += 4 * fold) add_bands<4>(fold * width, step, band, at());
      for (; row < end; row += fold) add_bands<1>(smaller(fold, end - row) * width, step, band, at());
      for (int64_t i = 0; i < fold; ++i) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) sums[j] += band[i * width + j];
      }
    }
  }
}

// Calls f(i, by[c], plus[c]) for the elements i of each channel c of a sample.
template <class A, class F>
void each_element(const SqueezeExcitation& args, const A* by, const A* plus, F f) {
  const int64_t size = args.size, channels = args.channels;
  if (!args.channels_last) {
    for (int64_t c = 0; c < channels; ++c) {
      const A factor = by[c], shift = plus[c];
#pragma omp simd
      for (int64_t i = c * size; i < (c + 1) * size; ++i) f(i, factor, shift);
    }
    return;
  }
  for (int64_t channel = 0; channel < channels; channel += kTile) {
    const int64_t width = smaller(kTile, channels - channel), fold = channels < kBand ? kBand / channels : 1;
    A factors[kTile], shifts[kTile];
    for (int64_t i = 0; i < fold; ++i) {
      __builtin_memcpy(factors + i * width, by + channel, width * sizeof(A));
      __builtin_memcpy(shifts + i * width, plus + channel, width * sizeof(A));
    }
    for (int64_t row = 0; row < size; row += fold) {
      const int64_t from = row * channels + channel, n = smaller(fold, size - row) * width;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) f(from + i, factors[i], shifts[i]);
    }
  }
}

// Adds the sum over i < n of by[i * step] * rows[i, :] to `to` [width].
template <class A>
void add_rows(int64_t n, const A* by, int64_t step, const A* rows, int64_t width, A* to) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, rows += 4 * width) {
    const A a = by[i * step], b = by[(i + 1) * step], c = by[(i + 2) * step], d = by[(i + 3) * step];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j)
      to[j] += (a * rows[j] + b * rows[width + j]) + (c * rows[2 * width + j] + d * rows[3 * width + j]);
  }
  for (; i < n; ++i, rows += width) {
    const A a = by[i * step];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) to[j] += a * rows[j];
  }
}

// The sum of a * b.
template <class A>
A dot(int64_t n, const A* a, const A* b) {
  return lane_sum<A>(n, [=](int64_t i) { return a[i] * b[i]; });
}

template <class T, class A = Accumulate<T>>
void forward(const SqueezeExcitationArgs& args, int64_t sample) {
  const int64_t channels = args.channels, reduced = args.reduced, start = sample * channels * args.size;
  const T* x = static_cast<const T*>(args.x) + start;
  T* y = static_cast<T*>(args.y) + start;
  const auto [mean, gate, hidden, squeezed] = Kept<A>(args, args.kept, sample);
  sum_space(args, mean, [=](int64_t i) { return load(x[i]); });
  const A size = static_cast<A>(args.size);
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) mean[c] /= size;
  const A *weight = static_cast<const A*>(args.reduce_weight), *bias = static_cast<const A*>(args.reduce_bias);
  for (int64_t r = 0; r < reduced; ++r) hidden[r] = dot(channels, weight + r * channels, mean) + bias[r];
#pragma omp simd
  for (int64_t r = 0; r < reduced; ++r) squeezed[r] = hidden[r] / (A(1) + exponential(-hidden[r]));
  if (channels > 0) __builtin_memcpy(gate, args.expand_bias, channels * sizeof(A));
  add_rows(reduced, squeezed, 1, static_cast<const A*>(args.expand_weight), channels, gate);
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) gate[c] = sigmoid(gate[c]);
  each_element(args, gate, gate, [=](int64_t i, A by, A) { store(y[i], load(x[i]) * by); });
}

template <class T, class A = Accumulate<T>>
void backward(const SqueezeExcitationBackwardArgs& args, int64_t sample) {
  const int64_t channels = args.channels, reduced = args.reduced, start = sample * channels * args.size;
  const T *x = static_cast<const T*>(args.x) + start, *y_gradient = static_cast<const T*>(args.y_gradient) + start;
  T* x_gradient = static_cast<T*>(args.x_gradient) + start;
  const Kept<A> kept(args, args.kept, sample), gradient(args, args.kept_gradient, sample);
  const A *gate = kept.gate, *hidden = kept.hidden, *weight = static_cast<const A*>(args.expand_weight);
  sum_space(args, gradient.gate, [=](int64_t i) { return load(y_gradient[i]) * load(x[i]); });
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) gradient.gate[c] *= (A(1) - gate[c]) * gate[c];
  for (int64_t r = 0; r < reduced; ++r) gradient.hidden[r] = dot(channels, weight + r * channels, gradient.gate);
#pragma omp simd
  for (int64_t r = 0; r < reduced; ++r) {
    const A by = sigmoid(hidden[r]);
    gradient.hidden[r] *= by * (A(1) + hidden[r] * (A(1) - by));
  }
  for (int64_t c = 0; c < channels; ++c) gradient.mean[c] = 0;
  add_rows(reduced, gradient.hidden, 1, static_cast<const A*>(args.reduce_weight), channels, gradient.mean);
  const A size = static_cast<A>(args.size);
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) gradient.mean[c] /= size;
  each_element(args, gate, gradient.mean,
               [=](int64_t i, A by, A plus) { store(x_gradient[i], load(y_gradient[i]) * by + plus); });
}

// Sets to[j] to the sum over the samples of by[sample * step] * rows[sample, j].
template <class A>
void sum_samples(const SqueezeExcitation& args, const A* by, int64_t step, const A* rows, int64_t width, A* to) {
  for (int64_t j = 0; j < width; ++j) to[j] = 0;
  add_rows(args.batch, by, step, rows, width, to);
}

template <class A>
void weight_gradients(const SqueezeExcitationBackwardArgs& args) {
  const Kept<A> kept(args, args.kept), gradient(args, args.kept_gradient);
  A *reduce = static_cast<A*>(args.reduce_weight_gradient), *expand = static_cast<A*>(args.expand_weight_gradient);
  const int64_t channels = args.channels, grain = 16384 / (channels * args.batch + 1) + 1;
  parallel_for(args.reduced, grain, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      sum_samples(args, gradient.hidden + r, args.reduced, kept.mean, channels, reduce + r * channels);
      sum_samples(args, kept.squeezed + r, args.reduced, gradient.gate, channels, expand + r * channels);
    }
  });
  const A one = 1;
  sum_samples(args, &one, 0, gradient.hidden, args.reduced, static_cast<A*>(args.reduce_bias_gradient));
  sum_samples(args, &one, 0, gradient.gate, channels, static_cast<A*>(args.expand_bias_gradient));
}

template <class F>
void each_sample(const SqueezeExcitation& args, F f) {
  const int64_t grain = 16384 / (args.channels * args.size + 1) + 1;
  parallel_for(args.batch, grain, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t sample = begin; sample < end; ++sample) f(sample);
  });
}

}  // namespace

void squeeze_excitation(const SqueezeExcitationArgs& args) {
  dispatch(args.dtype,
           [&](auto zero) { each_sample(args, [&](int64_t sample) { forward<decltype(zero)>(args, sample); }); });
}

void squeeze_excitation_backward(const SqueezeExcitationBackwardArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    each_sample(args, [&](int64_t sample) { backward<decltype(zero)>(args, sample); });
    weight_gradients<Accumulate<decltype(zero)>>(args);
  });
}

}  // namespace pynas::PYNAS_ISA
