// Elementary functions in loops that vectorise; std::exp would be a call per element.
#pragma once

#include "common/dtype.h"

namespace pynas {

// e^x within 1 ulp for |x| <= 87, e^87 or e^-87 beyond, and an arbitrary number for NaN.
PYNAS_INLINE float bounded_exponential(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  // Clamped as an integer, since GCC turns a comparison of floats into branches and copies all that follows.
  const uint32_t bits = float_bits(x), limit = 0x42AE0000u, size = bits & 0x7FFFFFFFu;
  x = bits_float((bits & 0x80000000u) | (size < limit ? size : limit));
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to the integer n, in the low bits of the sum.
  const float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;  // Cephes expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * bits_float((float_bits(shifted) << 23) + 0x3F800000u);
#endif
}
PYNAS_INLINE double bounded_exponential(double x) { return __builtin_exp(x); }

// x / (1 + e^-x); NaN stays NaN.
template <class A>
PYNAS_INLINE A silu(A x) {
  return x / (A(1) + bounded_exponential(-x));
}

}  // namespace pynas
