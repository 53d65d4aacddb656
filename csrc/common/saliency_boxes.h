// Sums of abs(weight * grad) over the prefix boxes of a grid (PreNAS eq. 4). Each element is read once, for its cell of the
// grid; the sum over a box is a sum of cells.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

struct SaliencyBoxesArgs {
  const void* weight;        // [R, C] of dtype, rows weight_stride elements apart
  const void* grad;          // [R, C] of dtype, rows grad_stride elements apart
  const int64_t* row_edges;  // [row_cells + 1], rising from 0, within [0, R]; in the memory of the host
  const int64_t* col_edges;  // [col_cells + 1], rising from 0, within [0, C]; in the memory of the host
  double* boxes;             // [row_cells, col_cells]: the sum over [:row_edges[i + 1], :col_edges[j + 1]]
  double* partial;           // workspace of CUDA: a sum for every strip of rows of every strip of columns
  int64_t weight_stride;
  int64_t grad_stride;
  int64_t row_cells;
  int64_t col_cells;
  int64_t strip_rows;  // CUDA cuts each cell into strips of at most so many rows
  int64_t strip_cols;  // and columns
  DType dtype;
  int threads;
};

namespace cuda {
void saliency_boxes(const SaliencyBoxesArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(saliency_boxes, SaliencyBoxesArgs)
