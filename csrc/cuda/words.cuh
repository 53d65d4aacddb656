// Loops over words of elements, their conversion, and sums over the rows of a row-major matrix.
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"

namespace pynas::cuda {

// Calls use(i, load(i)) for i = begin, begin + step, ... below end. A thread loads `ahead` words before it uses the first: the
// compiler may not move a load before a store.
template <class Word, int ahead, class Load, class Use>
__device__ void for_words(uint32_t begin, uint32_t end, uint32_t step, Load load, Use use) {
  for (uint32_t base = begin; base < end; base += ahead * step) {
    Word words[ahead];
    if (base + (ahead - 1) * step < end) {
#pragma unroll
      for (int k = 0; k < ahead; ++k) words[k] = load(base + k * step);
#pragma unroll
      for (int k = 0; k < ahead; ++k) use(base + k * step, words[k]);
    } else {
#pragma unroll
      for (int k = 0; k < ahead - 1; ++k)
        if (base + k * step < end) words[k] = load(base + k * step);
#pragma unroll
      for (int k = 0; k < ahead - 1; ++k)
        if (base + k * step < end) use(base + k * step, words[k]);
    }
  }
}

// The elements of a word in the accumulate type, and back. Bfloat16 in pairs, since the compiler spends two instructions each.
template <class T, int N>
__device__ void unpack(Vector<T, N> word, Accumulate<T>* values) {
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = load(word.values[i]);
}
template <int N>
__device__ void unpack(Vector<BFloat16, N> word, float* values) {
  if constexpr (N % 2 == 0) {
    uint32_t pairs[N / 2];
    memcpy(pairs, &word, sizeof word);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      values[2 * i] = bits_float(pairs[i] << 16);
      values[2 * i + 1] = bits_float(pairs[i] & 0xFFFF0000u);
    }
  } else {
    values[0] = load(word.values[0]);
  }
}
#if defined(__CUDA_ARCH__)
template <class T>
__device__ uint32_t pack_pair(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#else
template <class T>
uint32_t pack_pair(float low, float high);
#endif
template <class T, int N>
__device__ Vector<T, N> pack(const Accumulate<T>* values) {
  Vector<T, N> word;
#if defined(__CUDA_ARCH__)
  constexpr bool paired = sizeof(T) == 2 && N % 2 == 0;
#else
  constexpr bool paired = false;
#endif
  if constexpr (paired) {
    uint32_t pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
    memcpy(&word, pairs, sizeof word);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) store(word.values[i], values[i]);
  }
  return word;
}

// Threads as rows of `columns` words, a power of two up to 32 / N: thread t has column t % columns.
//
// Sums each thread's N values over the rows of its warp: partial[warp * columns * N + channel] holds them after it.
template <int N, class A>
__device__ void warp_column_sums(A (&values)[N], int columns, A* partial) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Each step halves the values that a lane holds: it keeps one half, and gives the other to its partner.
#pragma unroll
  for (int half = N / 2, offset = kWarp / 2; half > 0; half /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A give = upper ? values[i] : values[i + half], keep = upper ? values[i + half] : values[i];
      values[i] = keep + __shfl_xor_sync(0xffffffffu, give, offset);
    }
  }
  constexpr int lanes = kWarp / N;  // that hold the same one of the N values
  for (int offset = lanes / 2; offset >= columns; offset /= 2)
    values[0] += __shfl_xor_sync(0xffffffffu, values[0], offset);
  if ((lane & (lanes - columns)) == 0)
    partial[warp * columns * N + lane % columns * N + lane / lanes] = values[0];
}

// The sum of a channel over the warps. After a barrier.
template <class A>
__device__ double sum_of_warps(const A* partial, int channels, int channel) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  double sum = 0;
#pragma unroll 8
  for (int warp = 0; warp < warps; ++warp) sum += partial[warp * channels + channel];
  return sum;
}

}  // namespace pynas::cuda
