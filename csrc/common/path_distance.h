// Distance of every path's outputs to one target, in one pass over the outputs.
//
// Rows are cut into chunks of `chunk` elements. The kernels write a sum (cosine: three) per path, sample and chunk to
// `partial`, and add these in index order: the result does not depend on the number of threads or their timing.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

enum class PathDistanceKind : int { relative_l1 = 0, mse = 1, cosine = 2 };

struct PathDistanceArgs {
  const void* outputs;  // [G, B, N] of dtype
  const void* target;   // [B, N] of dtype
  double* partial;      // [G, B, ceil(N / chunk), 3], workspace
  double* moments;      // [B, ceil(N / chunk), 2], workspace: sums of target - its first element, and of the squares
  void* distances;      // [G], float (double for double)
  int64_t paths;        // G
  int64_t batch;        // B
  int64_t size;         // N
  int64_t chunk;
  PathDistanceKind kind;
  DType dtype;
  int threads;
};

// Norms of the cosine are clamped to at least this, as in torch.nn.functional.cosine_similarity.
constexpr double kCosineFloor = 1e-8;

namespace cuda {
void path_distance(const PathDistanceArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(path_distance, PathDistanceArgs)
