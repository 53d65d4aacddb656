// Element types, numbered as Python passes them. Arithmetic is in float (double for double): load() and store() convert.
//
// Everything here is inlined or has internal linkage. csrc/cpu is built once per instruction set, and of a function with
// external linkage the linker would keep one copy, perhaps with instructions that this processor lacks.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define PYNAS_INLINE static __host__ __device__ __forceinline__
#else
#define PYNAS_INLINE static inline __attribute__((always_inline, unused))
#endif

namespace pynas {

enum class DType : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3, int64 = 4 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type of sums over T, and of per-channel parameters and statistics of T.
template <class T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <class T>
using Accumulate = typename AccumulateType<T>::type;

PYNAS_INLINE uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
PYNAS_INLINE float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Conversions without branches, so that loops vectorise (after Maratyszcza's FP16). They round to nearest even and keep NaN
// and infinity.
PYNAS_INLINE float half_to_float(uint16_t half) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#else
  const uint32_t word = static_cast<uint32_t>(half) << 16, doubled = word + word;
  const float normal = bits_float((doubled >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = bits_float((doubled >> 17) | (126u << 23)) - 0.5f;
  const uint32_t magnitude = doubled < (1u << 27) ? float_bits(subnormal) : float_bits(normal);
  return bits_float((word & 0x80000000u) | magnitude);
#endif
}
PYNAS_INLINE uint16_t float_to_half(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
#else
  const uint32_t word = float_bits(value), doubled = word + word;
  float base = bits_float(word & 0x7FFFFFFFu) * 0x1.0p+112f * 0x1.0p-110f;
  uint32_t bias = doubled & 0xFF000000u;
  bias = bias < 0x71000000u ? 0x71000000u : bias;
  base = bits_float((bias >> 1) + 0x07800000u) + base;
  const uint32_t bits = float_bits(base), magnitude = ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
  return static_cast<uint16_t>(((word & 0x80000000u) >> 16) | (doubled > 0xFF000000u ? 0x7E00u : magnitude));
#endif
}

PYNAS_INLINE float bfloat16_to_float(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }
PYNAS_INLINE uint16_t float_to_bfloat16(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
  return rounded;
#else
  const uint32_t word = float_bits(value), rounded = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((word & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
#endif
}

PYNAS_INLINE float load(float value) { return value; }
PYNAS_INLINE double load(double value) { return value; }
PYNAS_INLINE float load(Half value) { return half_to_float(value.bits); }
PYNAS_INLINE float load(BFloat16 value) { return bfloat16_to_float(value.bits); }

// Sets `to` to the value, rounded to its type.
PYNAS_INLINE void store(float& to, float value) { to = value; }
PYNAS_INLINE void store(double& to, double value) { to = value; }
PYNAS_INLINE void store(Half& to, float value) { to.bits = float_to_half(value); }
PYNAS_INLINE void store(BFloat16& to, float value) { to.bits = float_to_bfloat16(value); }

// Calls f(T{}) for the floating-point type T of `dtype`: dispatch(args.dtype, [&](auto zero) { using T = decltype(zero); }).
template <class F>
void dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    default: return;
  }
}

}  // namespace pynas
