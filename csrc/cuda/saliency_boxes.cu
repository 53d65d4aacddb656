#include "common/saliency_boxes.h"

#include "cuda/reduce.cuh"
#include "cuda/widen.cuh"

namespace pynas::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 2;  // rows of a word that a thread loads before it uses the first
constexpr int kCells = 64;  // cells of an axis in one launch
constexpr int kPrefixThreads = 512;

// Some neighbouring cells of an axis, cut into strips of at most `length` rows or columns. Passed by value: the edges are in the
// memory of the host.
struct Axis {
  int64_t edges[kCells + 1];
  int strips[kCells + 1];  // before each cell; the last is their number
  int cells, length;
  int64_t first_cell, first_strip;

  Axis(const int64_t* all, int64_t first, int64_t last, int64_t strip_length, int64_t strips_before)
      : cells(static_cast<int>(last - first)), length(static_cast<int>(strip_length)), first_cell(first),
        first_strip(strips_before) {
    strips[0] = 0;
    for (int i = 0; i <= cells; ++i) {
      edges[i] = all[first + i];
      if (i > 0) strips[i] = strips[i - 1] + static_cast<int>((edges[i] - edges[i - 1] + length - 1) / length);
    }
  }

  __device__ void range(int strip, int64_t& begin, int64_t& end) const {
    int cell = 0;
    while (strips[cell + 1] <= strip) ++cell;
    begin = edges[cell] + static_cast<int64_t>(strip - strips[cell]) * length;
    end = begin + length < edges[cell + 1] ? begin + length : edges[cell + 1];
  }
};

// A block takes a strip of rows of a strip of columns. Words at the ends of the columns may hold elements that do not count.
template <class T, int W>
__global__ void strip_sums(SaliencyBoxesArgs args, Axis rows, Axis cols, int64_t col_strips) {
  using A = Accumulate<T>;
  PYNAS_SHARED(double, scratch);
  const int thread = static_cast<int>(threadIdx.x), across = cols.strips[cols.cells];
  for (int64_t item = blockIdx.x; item < static_cast<int64_t>(rows.strips[rows.cells]) * across; item += gridDim.x) {
    const int row_strip = static_cast<int>(item / across), col_strip = static_cast<int>(item % across);
    int64_t row_begin, row_end, begin, end;
    rows.range(row_strip, row_begin, row_end);
    cols.range(col_strip, begin, end);
    const int64_t first = begin / W, last = (end + W - 1) / W;
    int bits = 0;  // 2^bits threads share a row
    while ((kThreads >> bits) > 1 && (int64_t{1} << bits) < last - first) ++bits;
    const int apart = kThreads >> bits;  // rows at a time
    A sum = 0;
    for (int64_t word = first + thread % (1 << bits); word < last; word += 1 << bits) {
      const bool whole = word * W >= begin && (word + 1) * W <= end;
      for (int64_t row = row_begin + (thread >> bits); row < row_end; row += kAtOnce * apart) {
        Raw<T, W> left[kAtOnce], right[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int64_t at = row + k * apart;
          left[k] = load_word<T, W>(static_cast<const T*>(args.weight) + at * args.weight_stride, word, at < row_end);
          right[k] = load_word<T, W>(static_cast<const T*>(args.grad) + at * args.grad_stride, word, at < row_end);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          A x[W], y[W];
          widen<T, W>(left[k], x);
          widen<T, W>(right[k], y);
#pragma unroll
          for (int i = 0; i < W; ++i) {
            const A product = fabs(x[i] * y[i]);
            sum += whole || (word * W + i >= begin && word * W + i < end) ? product : A(0);
          }
        }
      }
    }
    const double total = block_sum(static_cast<double>(sum), scratch);
    if (thread == 0) args.partial[(rows.first_strip + row_strip) * col_strips + cols.first_strip + col_strip] = total;
  }
}

// A block takes a cell and adds its strips.
__global__ void cell_sums(SaliencyBoxesArgs args, Axis rows, Axis cols, int64_t col_strips) {
  PYNAS_SHARED(double, scratch);
  for (int cell = static_cast<int>(blockIdx.x); cell < rows.cells * cols.cells; cell += gridDim.x) {
    const int i = cell / cols.cells, j = cell % cols.cells;
    const int across = cols.strips[j + 1] - cols.strips[j], down = rows.strips[i + 1] - rows.strips[i];
    const double* corner =
        args.partial + (rows.first_strip + rows.strips[i]) * col_strips + cols.first_strip + cols.strips[j];
    double total = 0;
#pragma unroll 4
    for (int k = static_cast<int>(threadIdx.x); k < down * across; k += kThreads)
      total += corner[k / across * col_strips + k % across];
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) args.boxes[(rows.first_cell + i) * args.col_cells + cols.first_cell + j] = total;
  }
}

// Replaces the n values, `step` apart, by their running sums.
__device__ void running_sum(double* values, int64_t n, int64_t step) {
  constexpr int ahead = 8;
  double sum = 0;
  for (int64_t first = 0; first < n; first += ahead) {
    double kept[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k)
      if (first + k < n) kept[k] = values[(first + k) * step];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      if (first + k >= n) break;
      values[(first + k) * step] = sum += kept[k];
    }
  }
}

// One block turns the sums of cells into sums of boxes.
__global__ void box_sums(double* boxes, int64_t rows, int64_t cols) {
  for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) running_sum(boxes + j, rows, cols);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) running_sum(boxes + i * cols, cols, 1);
}

int64_t strips(const int64_t* edges, int64_t cells, int64_t length) {
  int64_t count = 0;
  for (int64_t i = 0; i < cells; ++i) count += (edges[i + 1] - edges[i] + length - 1) / length;
  return count;
}

template <class T, int W>
void run(const SaliencyBoxesArgs& args, void* stream) {
  constexpr const char* name = "saliency_boxes";
  constexpr size_t scratch = kWarp * sizeof(double);
  const int64_t col_strips = strips(args.col_edges, args.col_cells, args.strip_cols);
  int64_t rows_before = 0;
  for (int64_t i = 0; i < args.row_cells; i += kCells) {
    const Axis rows(args.row_edges, i, i + kCells < args.row_cells ? i + kCells : args.row_cells, args.strip_rows,
                    rows_before);
    int64_t cols_before = 0;
    for (int64_t j = 0; j < args.col_cells; j += kCells) {
      const Axis cols(args.col_edges, j, j + kCells < args.col_cells ? j + kCells : args.col_cells, args.strip_cols,
                      cols_before);
      const int64_t items = static_cast<int64_t>(rows.strips[rows.cells]) * cols.strips[cols.cells];
      launch(name, strip_sums<T, W>, grid_size(items), kThreads, scratch, stream, args, rows, cols, col_strips);
      launch(name, cell_sums, grid_size(rows.cells * cols.cells), kThreads, scratch, stream, args, rows, cols,
             col_strips);
      cols_before += cols.strips[cols.cells];
    }
    rows_before += rows.strips[rows.cells];
  }
  launch(name, box_sums, 1u, kPrefixThreads, 0, stream, args.boxes, args.row_cells, args.col_cells);
}

}  // namespace

void saliency_boxes(const SaliencyBoxesArgs& args, void* stream) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int W = 16 / sizeof(T);
    // Then every word that holds an element of a cell lies before the last edge.
    const bool wide = vector_width<T>(args.col_edges[args.col_cells], args.weight, args.grad) == W &&
                      args.weight_stride % W == 0 && args.grad_stride % W == 0;
    wide ? run<T, W>(args, stream) : run<T, 1>(args, stream);
  });
}

}  // namespace pynas::cuda
