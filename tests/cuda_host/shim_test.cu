// Kernels that test the host shim itself: `shim_test NAME` runs one and exits with 0 if its result is right.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/reduce.cuh"

using namespace pynas::cuda;

namespace {

#define EXPECT(condition) \
  if (!(condition)) std::printf("failed: %s, line %d\n", #condition, __LINE__), std::exit(3)

__global__ void indices(int* out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] += block * 1000 + thread;
}

__global__ void sums(double* out) {
  PYNAS_SHARED(double, scratch);
  const double sum = block_sum<double>(threadIdx.x + 1.0, scratch);
  out[threadIdx.x] = sum + warp_max<int>(threadIdx.x) / 1e6;
}

__global__ void shuffles(int* out) {
  const int lane = threadIdx.x % 32;
  EXPECT(__shfl_sync(~0u, lane, 5) == 5);
  EXPECT(__shfl_sync(~0u, lane, 5, 8) == lane / 8 * 8 + 5);
  EXPECT(__shfl_down_sync(~0u, lane, 1) == (lane == 31 ? 31 : lane + 1));
  EXPECT(__shfl_down_sync(~0u, lane, 3, 16) == (lane % 16 > 12 ? lane : lane + 3));
  EXPECT(__shfl_up_sync(~0u, lane, 2) == (lane < 2 ? lane : lane - 2));
  EXPECT(__shfl_xor_sync(~0u, lane * 1.5, 16) == (lane ^ 16) * 1.5);
  EXPECT(__ballot_sync(~0u, lane % 2 == 0) == 0x55555555u);
  EXPECT(__any_sync(~0u, lane == 7) && !__any_sync(~0u, false));
  EXPECT(__all_sync(~0u, true) && !__all_sync(~0u, lane != 7));
  if (lane < 4) EXPECT(__shfl_sync(0xFu, lane, 3) == 3);
  __syncwarp();
  atomicAdd(&out[0], 1);
  atomicMax(&out[1], static_cast<int>(threadIdx.x));
  out[2 + threadIdx.x] = atomicCAS(&out[2 + threadIdx.x], 0, 9);
}

// Threads may leave before the others meet.
__global__ void leave_early(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(~0u, static_cast<int>(threadIdx.x), threadIdx.x < 32 ? 1 : 0);
}

__global__ void missing_barrier(int* out) {
  __shared__ int shared[64];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void half_a_barrier() {
  if (threadIdx.x < 16) __shfl_sync(~0u, 1, 0);
  if (threadIdx.x >= 16) __syncthreads();
}

__global__ void absent_lane() {
  if (threadIdx.x < 16) __shfl_sync(0xFFFFu, 1, 20);
}

__global__ void unset(float* out) {
  PYNAS_SHARED(float, shared);
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void past_the_end() {
  PYNAS_SHARED(float, shared);
  shared[threadIdx.x + 1] = 0;
}

void run(const char* name) {
  std::vector<int> ints(4 * 3 * 2 * 60);
  std::vector<double> doubles(64);
  std::vector<float> floats(64);
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("indices")) {
    launch(name, indices, dim3(4, 3, 2), dim3(5, 4, 3), 0, nullptr, ints.data());
    for (int i = 0; i < 4 * 3 * 2 * 60; ++i) EXPECT(ints[i] == i / 60 * 1000 + i % 60);
  } else if (is("sums")) {
    launch(name, sums, 3, 64, kWarp * sizeof(double), nullptr, doubles.data());
    for (int i = 0; i < 64; ++i) EXPECT(doubles[i] == 64 * 65 / 2 + (i < 32 ? 31 : 63) / 1e6);
  } else if (is("shuffles")) {
    launch(name, shuffles, 2, 64, 0, nullptr, ints.data());
    EXPECT(ints[0] == 128 && ints[1] == 63);
  } else if (is("leave_early")) {
    launch(name, leave_early, 2, 64, 0, nullptr, ints.data());
    for (int i = 0; i < 40; ++i) EXPECT(ints[i] == (i < 32 ? i ^ 1 : i));
  } else if (is("missing_barrier")) {
    launch(name, missing_barrier, 1, 64, 0, nullptr, ints.data());
    for (int i = 0; i < 64; ++i) EXPECT(ints[i] == 63 - i);
  } else if (is("half_a_barrier")) {
    launch(name, half_a_barrier, 1, 32, 0, nullptr);
  } else if (is("absent_lane")) {
    launch(name, absent_lane, 1, 32, 0, nullptr);
  } else if (is("unset")) {
    launch(name, unset, 1, 64, 64 * sizeof(float), nullptr, floats.data());
    for (const float value : floats) EXPECT(value != value);
  } else if (is("past_the_end")) {
    launch(name, past_the_end, 1, 64, 64 * sizeof(float), nullptr);
  } else {
    std::exit(4);
  }
}

}  // namespace

int main(int, char** argv) { run(argv[1]); }
