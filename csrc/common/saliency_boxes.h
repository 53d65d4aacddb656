// Sums of abs(weight * grad) over the cells of a grid (PreNAS eq. 4). Each element is read once; the sum over a prefix box is
// a sum of cells.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

struct SaliencyBoxesArgs {
  const void* weight;        // [R, C] of dtype, rows weight_stride elements apart
  const void* grad;          // [R, C] of dtype, rows grad_stride elements apart
  const int64_t* row_edges;  // [row_cells + 1], ascending, within [0, R]
  const int64_t* col_edges;  // [col_cells + 1], ascending, within [0, C]
  double* cells;             // [row_cells, col_cells]
  int64_t weight_stride;
  int64_t grad_stride;
  int64_t row_cells;
  int64_t col_cells;
  DType dtype;
  int threads;
};

namespace cuda {
void saliency_boxes(const SaliencyBoxesArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(saliency_boxes, SaliencyBoxesArgs)
