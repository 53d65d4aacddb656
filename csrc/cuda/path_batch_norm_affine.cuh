// What all kernels of path_batch_norm share: the activation, and the map of a channel.
#pragma once

#include "common/path_batch_norm.h"
#include "cuda/words.cuh"

namespace pynas::cuda {

// One instruction each, within 2 ulp: 2^x, and 1 / x for 1 <= x; 0 above 2^126.
__device__ inline float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
__device__ inline float fast_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

// The activation of a value that is stored as T next: SiLU within 6e-7 of itself for float, 3e-6 for half types.
template <class T, Activation activation>
__device__ Accumulate<T> activate_for(Accumulate<T> x) {
  if constexpr (activation != Activation::silu || std::is_same_v<T, double>) {
    return activate<activation>(x);
  } else if constexpr (sizeof(T) == 2) {
    return x * fast_reciprocal(1 + fast_exp2(x * -1.44269504f));
  } else {
    // -x log2(e) as a sum of two floats. Clamped, so that no infinity meets its negative.
    const float bounded = fminf(fmaxf(-x, -87.0f), 87.0f), high = bounded * 1.44269502f;
    const float low = fmaf(bounded, 1.92596299e-8f, fmaf(bounded, 1.44269502f, -high)), power = fast_exp2(high);
    return x * fast_reciprocal(1 + fmaf(power, low * 0.693147181f, power));
  }
}

// (x - mean) * scale + shift for one channel.
template <class A>
struct alignas(sizeof(A) == 4 ? 16 : 8) Affine {
  A mean, scale, shift;

  __device__ Affine() {}
  __device__ Affine(const PathBatchNorm& args, int64_t channel, A mean, A var) : mean(mean) {
    const A *weight = static_cast<const A*>(args.weight), *bias = static_cast<const A*>(args.bias);
    scale = A(1) / sqrt(var + static_cast<A>(args.eps));
    if (weight != nullptr) scale *= weight[channel];
    shift = bias != nullptr ? bias[channel] : A(0);
  }
  __device__ A operator()(A x) const { return (x - mean) * scale + shift; }
};

// Words of x, y and the residual from element `first` on.
template <class T, int N>
struct Words {
  using Word = Vector<T, N>;
  const Word *x, *residual;
  Word* y;

  __device__ Words(const PathBatchNormArgs& args, int64_t first)
      : x(reinterpret_cast<const Word*>(static_cast<const T*>(args.x) + first)),
        residual(args.residual == nullptr ? nullptr
                                          : reinterpret_cast<const Word*>(static_cast<const T*>(args.residual) + first)),
        y(reinterpret_cast<Word*>(static_cast<T*>(args.y) + first)) {}
};

// Words of x that a thread loads at once.
constexpr int kAhead = 4;

// Writes the words of y at position(i) for i = begin, begin + step, ... below end: read(i) is the word of x, and by(i) gives the
// map of the channel of each of its elements. `ahead` words are read at once, half as many with a residual.
template <Activation activation, int ahead, class T, int N, class Position, class Read, class By>
__device__ void normalise_words(const Words<T, N>& memory, uint32_t begin, uint32_t end, uint32_t step,
                                Position position, Read read, By by) {
  using A = Accumulate<T>;
  using Word = Vector<T, N>;
  if (memory.residual == nullptr) {
    for_words<Word, ahead>(begin, end, step, read, [&](uint32_t i, const Word& word) {
      const auto map = by(i);
      A x[N];
      unpack(word, x);
#pragma unroll
      for (int k = 0; k < N; ++k) x[k] = activate_for<T, activation>(map(k)(x[k]));
      memory.y[position(i)] = pack<T, N>(x);
    });
    return;
  }
  struct Pair {
    Word x, residual;
  };
  for_words<Pair, (ahead + 1) / 2>(
      begin, end, step, [&](uint32_t i) { return Pair{read(i), memory.residual[position(i)]}; },
      [&](uint32_t i, const Pair& pair) {
        const auto map = by(i);
        A x[N], residual[N];
        unpack(pair.x, x);
        unpack(pair.residual, residual);
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = activate_for<T, activation>(map(k)(x[k]) + residual[k]);
        memory.y[position(i)] = pack<T, N>(x);
      });
}

}  // namespace pynas::cuda
