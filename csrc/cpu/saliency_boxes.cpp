#include "common/saliency_boxes.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Elements in a float sum at most, before it is added to a double.
constexpr int64_t kRun = 1024;

template <class T>
double absolute_products(const T* weight, const T* grad, int64_t n) {
  using A = Accumulate<T>;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kRun) {
    const int64_t end = n - begin < kRun ? n : begin + kRun;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const A product = load(weight[i]) * load(grad[i]);
      sum += product < 0 ? -product : product;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <class T>
void run(const SaliencyBoxesArgs& args) {
  const T *weight = static_cast<const T*>(args.weight), *grad = static_cast<const T*>(args.grad);
  parallel_for(args.row_cells, 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t cell = begin; cell < end; ++cell) {
      double* sums = args.boxes + cell * args.col_cells;
      for (int64_t j = 0; j < args.col_cells; ++j) sums[j] = 0;
      for (int64_t row = args.row_edges[cell]; row < args.row_edges[cell + 1]; ++row) {
        for (int64_t j = 0; j < args.col_cells; ++j) {
          const int64_t start = args.col_edges[j];
          sums[j] += absolute_products(weight + row * args.weight_stride + start, grad + row * args.grad_stride + start,
                                       args.col_edges[j + 1] - start);
        }
      }
    }
  });
  for (int64_t i = 0; i < args.row_cells; ++i) {
    double* sums = args.boxes + i * args.col_cells;
    double row = 0;
    for (int64_t j = 0; j < args.col_cells; ++j) {
      row += sums[j];
      sums[j] = row + (i > 0 ? sums[j - args.col_cells] : 0);
    }
  }
}

}  // namespace

void saliency_boxes(const SaliencyBoxesArgs& args) {
  dispatch(args.dtype, [&](auto zero) { run<decltype(zero)>(args); });
}

}  // namespace pynas::PYNAS_ISA
