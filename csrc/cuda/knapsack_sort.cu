// Sums of counts, a stable radix sort, and the positions of flags: by parts of kPart items, in their order.
#include "cuda/knapsack_device.cuh"
#include "cuda/scan.cuh"

namespace pynas::cuda::traversal {
namespace {

constexpr int kDigitBits = 4, kDigits = 1 << kDigitBits;

__global__ void __launch_bounds__(1024) sum_counts_before(int64_t* counts, int64_t n) {
  PYNAS_SHARED(Prefix, scratch);
  int64_t carry = 0;
  for (int64_t start = 0; start < n; start += blockDim.x) {
    const int64_t at = start + threadIdx.x;
    Prefix total;
    const Prefix before = exclusive_prefix({kNone, at < n ? counts[at] : 0}, scratch, total);
    if (at < n) counts[at] = carry + before.count;
    carry += total.count;
  }
  if (threadIdx.x == 0) counts[n] = carry;
}

__device__ int digit_of(uint64_t code, int bit) { return static_cast<int>(code >> bit) & (kDigits - 1); }

// counts [kDigits, parts]: of each digit in each part.
__global__ void count_digits(const uint64_t* codes, int64_t n, int bit, int64_t parts, int64_t* counts) {
  PYNAS_SHARED(int, own);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    if (threadIdx.x < kDigits) own[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = part * kPart + threadIdx.x; i < (part + 1) * kPart && i < n; i += kThreads)
      atomicAdd(&own[digit_of(codes[i], bit)], 1);
    __syncthreads();
    if (threadIdx.x < kDigits) counts[threadIdx.x * parts + part] = own[threadIdx.x];
    __syncthreads();
  }
}

struct Sorted {
  const uint64_t* codes;
  const int32_t* order;
  uint64_t* codes_to;
  int32_t* order_to;
};

// `before` [kDigits, parts]: the place of the first item of each digit in each part.
__global__ void move_by_digit(Sorted items, int64_t n, int bit, int64_t parts, const int64_t* before) {
  PYNAS_SHARED(Prefix, scratch);
  auto* places = reinterpret_cast<int*>(scratch + kWarp);  // [kDigits, kThreads]
  int* starts = places + kDigits * kThreads;               // of each digit, in this part
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    const int64_t first = part * kPart + thread * kRun;
    for (int d = 0; d < kDigits; ++d) places[d * kThreads + thread] = 0;
    for (int64_t i = first; i < first + kRun && i < n; ++i) ++places[digit_of(items.codes[i], bit) * kThreads + thread];
    __syncthreads();
    // A thread sums kDigits neighbouring counts, which are those of one digit.
    static_assert(kThreads % kDigits == 0);
    int sums[kDigits], sum = 0;
    for (int k = 0; k < kDigits; ++k) {
      sums[k] = sum;
      sum += places[thread * kDigits + k];
    }
    Prefix total;
    const int earlier = static_cast<int>(exclusive_prefix({kNone, sum}, scratch, total).count);
    for (int k = 0; k < kDigits; ++k) places[thread * kDigits + k] = earlier + sums[k];
    __syncthreads();
    if (thread < kDigits) starts[thread] = places[thread * kThreads];
    __syncthreads();
    for (int64_t i = first; i < first + kRun && i < n; ++i) {
      const int digit = digit_of(items.codes[i], bit);
      const int64_t to = before[digit * parts + part] + places[digit * kThreads + thread]++ - starts[digit];
      items.codes_to[to] = items.codes[i];
      items.order_to[to] = items.order[i];
    }
    __syncthreads();
  }
}

__device__ int flags_from(const unsigned char* flags, int64_t first, int64_t n) {
  int count = 0;
  for (int64_t i = first; i < first + kRun && i < n; ++i) count += flags[i] != 0;
  return count;
}

__global__ void count_flags(const unsigned char* flags, int64_t n, int64_t parts, int64_t* counts) {
  PYNAS_SHARED(Prefix, scratch);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    Prefix total;
    exclusive_prefix({kNone, flags_from(flags, part * kPart + threadIdx.x * kRun, n)}, scratch, total);
    if (threadIdx.x == 0) counts[part] = total.count;
  }
}

__global__ void write_flagged(const unsigned char* flags, int64_t n, int64_t parts, const int64_t* counts,
                              int32_t* kept) {
  PYNAS_SHARED(Prefix, scratch);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    const int64_t first = part * kPart + threadIdx.x * kRun;
    Prefix total;
    int64_t to = counts[part] + exclusive_prefix({kNone, flags_from(flags, first, n)}, scratch, total).count;
    for (int64_t i = first; i < first + kRun && i < n; ++i)
      if (flags[i] != 0) kept[to++] = static_cast<int32_t>(i);
  }
}

}  // namespace

void sum_before(int64_t* counts, int64_t n, void* stream) {
  launch(kName, sum_counts_before, 1u, n > kThreads ? 1024 : kThreads, kWarp * sizeof(Prefix), stream, counts, n);
}

void sort_codes(Device& device, int32_t* order, int64_t n, int bits) {
  constexpr size_t shared = kWarp * sizeof(Prefix) + kDigits * (kThreads + 1) * sizeof(int);
  const int64_t parts = parts_of(n);
  int64_t* counts = device.counts.get(kDigits * parts + 1);
  Sorted items{device.codes.data(), order, device.other_codes.get(n), device.other_order.get(n)};
  // An even number of moves, so that the last one ends where the first one started.
  for (int bit = 0, move = 0; bit < bits || move % 2 == 1; bit += kDigitBits, ++move) {
    launch(kName, count_digits, grid_size(parts), kThreads, kDigits * sizeof(int), device.stream, items.codes, n, bit,
           parts, counts);
    sum_before(counts, kDigits * parts, device.stream);
    launch(kName, move_by_digit, grid_size(parts), kThreads, shared, device.stream, items, n, bit, parts,
           static_cast<const int64_t*>(counts));
    items = {items.codes_to, items.order_to, const_cast<uint64_t*>(items.codes), const_cast<int32_t*>(items.order)};
  }
}

int64_t keep_flagged(Device& device, int64_t n) {
  constexpr size_t shared = kWarp * sizeof(Prefix);
  const int64_t parts = parts_of(n);
  int64_t* counts = device.counts.get(parts + 1);
  const unsigned char* flags = device.flags.data();
  launch(kName, count_flags, grid_size(parts), kThreads, shared, device.stream, flags, n, parts, counts);
  sum_before(counts, parts, device.stream);
  launch(kName, write_flagged, grid_size(parts), kThreads, shared, device.stream, flags, n, parts,
         static_cast<const int64_t*>(counts), device.kept.get(n));
  return download(counts + parts, device.stream);
}

}  // namespace pynas::cuda::traversal
