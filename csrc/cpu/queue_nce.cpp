#include "common/queue_nce.h"

#include "common/math.h"
#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// e^x for x <= 0, and 0 below -87, which does not change a sum that contains 1. NaN stays NaN.
template <class A>
PYNAS_INLINE A exponential(A x) {
  const A inside = bounded_exponential(x);
  return x < A(-87) ? A(0) : inside + (x - x);
}

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

void queue_nce(const QueueNceArgs& args) { args.dtype == DType::float64 ? run<double>(args) : run<float>(args); }

}  // namespace pynas::PYNAS_ISA
