#include "common/queue_nce.h"

#include <cmath>

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// exp(x) for x <= 0 in two units in the last place, branch-free so that loops over it vectorise (Cephes' polynomial);
// 0 below -87, where the true value is under 2^-125. NaN stays NaN.
PYNAS_INLINE float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;  // whole = round(x / ln 2)
  const float r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return x < -87.0f ? 0.0f : p * bits_float((float_bits(shifted) - 0x4B400000u + 127u) << 23);
}
PYNAS_INLINE double exponential(double x) { return std::exp(x); }

template <class T>
T row_maximum(const T* row, int64_t n, T start) {
  T best = start;
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < n; ++i) best = row[i] > best ? row[i] : best;
  return best;
}

template <class T>
void run(const QueueNceArgs& args) {
  T *maximum = static_cast<T*>(args.maximum), *total = static_cast<T*>(args.total);
  T *accumulated = static_cast<T*>(args.accumulated), *logits = static_cast<T*>(args.logits);
  parallel_for(args.batch, 8192 / (args.chunk + 1) + 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      T* row = logits + item * args.chunk;
      const T best = row_maximum(row, args.chunk, maximum[item]), rescale = exponential(maximum[item] - best);
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < args.chunk; ++i) {
        row[i] = exponential(row[i] - best);
        sum += row[i];
      }
      total[item] = total[item] * rescale + sum;
      maximum[item] = best;
      if (accumulated == nullptr || rescale == 1) continue;
#pragma omp simd
      for (int64_t i = 0; i < args.size; ++i) accumulated[item * args.size + i] *= rescale;
    }
  });
}

}  // namespace

void queue_nce(const QueueNceArgs& args) {
  args.dtype == DType::float64 ? run<double>(args) : run<float>(args);
}

}  // namespace pynas::PYNAS_ISA
