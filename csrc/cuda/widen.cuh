// Words of several elements in whole registers, and their elements as numbers to compute with.
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"

namespace pynas::cuda {

// N elements as they are in memory. As integers of 32 bits: the compiler would take a word of Half apart on every move.
template <class T, int N>
using Raw = std::conditional_t<sizeof(T) * N % 4 == 0, Vector<uint32_t, (sizeof(T) * N + 3) / 4>, Vector<uint16_t, N>>;

// The word at `index`, or zeros.
template <class T, int N>
__device__ Raw<T, N> load_word(const T* row, int64_t index, bool there = true) {
  Raw<T, N> word{};
  if (there) word = reinterpret_cast<const Raw<T, N>*>(row)[index];
  return word;
}

template <class T, int N>
__device__ void widen(const Raw<T, N>& word, Accumulate<T>* to) {
  if constexpr (std::is_same_v<T, BFloat16> && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      to[2 * i] = bits_float(word.values[i] << 16);
      to[2 * i + 1] = bits_float(word.values[i] & 0xFFFF0000u);
    }
  } else {
    T elements[N];
    memcpy(elements, &word, sizeof elements);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = load(elements[i]);
  }
}

}  // namespace pynas::cuda
