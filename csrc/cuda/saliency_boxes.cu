#include "common/saliency_boxes.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;

// A block takes a cell; each of its eight warps takes every eighth row.
template <class T>
__global__ void cell_sums(SaliencyBoxesArgs args) {
  using A = Accumulate<T>;
  PYNAS_SHARED(double, scratch);
  for (int64_t cell = blockIdx.x; cell < args.row_cells * args.col_cells; cell += gridDim.x) {
    const int64_t i = cell / args.col_cells, j = cell % args.col_cells;
    double total = 0;
    for (int64_t row = args.row_edges[i] + threadIdx.x / kWarp; row < args.row_edges[i + 1]; row += kThreads / kWarp) {
      const T* weight = static_cast<const T*>(args.weight) + row * args.weight_stride;
      const T* grad = static_cast<const T*>(args.grad) + row * args.grad_stride;
      A sum = 0;
      for (int64_t col = args.col_edges[j] + threadIdx.x % kWarp; col < args.col_edges[j + 1]; col += kWarp) {
        const A product = load(weight[col]) * load(grad[col]);
        sum += product < 0 ? -product : product;
      }
      total += static_cast<double>(sum);
    }
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) args.cells[cell] = total;
  }
}

}  // namespace

void saliency_boxes(const SaliencyBoxesArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    launch("saliency_boxes", cell_sums<decltype(zero)>, grid_size(args.row_cells * args.col_cells), kThreads,
           kWarp * sizeof(double), stream, args);
  });
}

}  // namespace pynas::cuda
