// What the exact search holds on a GPU: memory that grows with its lists, and the lists themselves.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.cuh"

namespace pynas::cuda::traversal {

constexpr const char* kName = "traverse";
constexpr int kMostLimits = 4;  // with more, the search stays on the CPU
constexpr int kThreads = 256;
constexpr int kRun = 8;  // consecutive items of a thread
constexpr int64_t kPart = kThreads * kRun;
constexpr int64_t kMostBytes = int64_t{1} << 46;

inline int64_t parts_of(int64_t items) { return (items + kPart - 1) / kPart; }

// Memory of the GPU, which grows and is freed in the end.
template <class T>
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), held_(std::exchange(other.held_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(held_, other.held_);
    return *this;
  }
  ~Memory() { free(); }

  // The address of `count` elements or more. What they held is lost when there were fewer.
  T* get(int64_t count) {
    if (count <= held_ && data_ != nullptr) return data_;
    free();
    const bool possible = count >= 0 && count < kMostBytes / static_cast<int64_t>(sizeof(T));
    const size_t bytes = possible ? static_cast<size_t>(count > 0 ? count : 1) * sizeof(T) : 0;
    const cudaError_t error =
        possible ? cudaMalloc(reinterpret_cast<void**>(&data_), bytes) : cudaErrorMemoryAllocation;
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // or the next launch would report it
      data_ = nullptr;
      throw std::runtime_error(
          "[traverse] expected " + std::to_string(bytes) +
          " bytes free on the GPU for the lists of the search, got fewer; give a lower `longest`, or "
          "search on the CPU with device=\"cpu\"");
    }
    check(error, kName);
    held_ = count;
    return data_;
  }
  T* data() const { return data_; }

 private:
  // Without memory, the GPU is not touched: even to free nothing would start it.
  void free() {
    if (data_ != nullptr) cudaFree(std::exchange(data_, nullptr));
    held_ = 0;
  }

  T* data_ = nullptr;
  int64_t held_ = 0;
};

template <class T>
void upload(T* to, const T* from, int64_t count, void* stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyHostToDevice,
                        static_cast<cudaStream_t>(stream)),
        kName);
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), kName);  // callers free `from` at once
}

// Waits for the stream.
template <class T>
void download(T* to, const T* from, int64_t count, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyDeviceToHost, on), kName);
  check(cudaStreamSynchronize(on), kName);
}
template <class T>
T download(const T* from, void* stream) {
  T value;
  download(&value, from, 1, stream);
  return value;
}

// Partial solutions in the lexicographic order of their indices.
struct Entries {
  int64_t size;
  int64_t* keys;   // [1 + M, n]: losses, then each cost
  double* value;   // [n]
  int32_t* state;  // [n]
};

struct EntriesMemory {
  Memory<int64_t> keys;
  Memory<double> value;
  Memory<int32_t> state;

  Entries get(int64_t size, int limits) {
    return {size, keys.get(size * (1 + limits)), value.get(size), state.get(size)};
  }
};

// A step of the search has its launches on a stream, and the memory it needs for a while.
struct Device {
  void* stream;
  int64_t capacity;  // pairs that the join writes before it narrows what it looks for
  int64_t chunk;     // tiles of the trailing list that a block looks through, at most kTile
  Memory<int64_t> counts;
  Memory<uint64_t> codes, other_codes;
  Memory<int32_t> other_order, kept;
  Memory<unsigned char> flags;
  Memory<int64_t> ranges;
};

// Replaces counts [n] by the sums of those before each, and writes the sum of all as counts [n].
void sum_before(int64_t* counts, int64_t n, void* stream);

// Sorts `device.codes` [n], of which only the lowest bits count, with `order` [n], which starts as 0 .. n - 1. Stable.
void sort_codes(Device& device, int32_t* order, int64_t n, int bits);

// The positions of the flags that are set among `device.flags` [n], ascending, in `device.kept`; returns their number.
int64_t keep_flagged(Device& device, int64_t n);

}  // namespace pynas::cuda::traversal
