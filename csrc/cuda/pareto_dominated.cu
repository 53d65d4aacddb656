// Marks the dominated among sorted points by divide and conquer over their positions, from the first bit of a position to the
// last. Before the step of a bit, a segment holds the points of 2^(bit + 1) neighbouring positions in order of the second
// cost. Its left half dominates into its right half where the least left loss so far is no greater; then it splits in two.
#include "common/pareto.h"
#include "cuda/scan.cuh"

namespace pynas::cuda {
namespace {

constexpr int kRun = 8;  // consecutive points of a thread
constexpr int kThreads = static_cast<int>(kParetoTile) / kRun;
constexpr int kTileBits = 11;
static_assert(kParetoTile == 1 << kTileBits);

// The step of one bit for the points at places [first, first + kRun) of the sequence. S: the type of a position.
template <class S>
struct Step {
  const S* from;
  const int64_t* loss;  // by position
  int64_t points;       // in the sequence
  int64_t apart;  // greater than every loss: later segments have lower keys, so that none is mixed with one before
  int bit;

  __device__ bool right(S position) const { return position >> bit & 1; }
  __device__ int64_t key(int64_t place, S position) const { return loss[position] - (place >> (bit + 1)) * apart; }

  // The least key of the left points among them, and their number.
  __device__ Prefix sum(int64_t first) const {
    Prefix own;
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (first + k >= points) break;
      if (!right(from[first + k])) own.add({key(first + k, from[first + k]), 1});
    }
    return own;
  }

  // `before`: the sum over all earlier places.
  template <class Mark>
  __device__ void apply(int64_t first, Prefix before, S* to, Mark mark) const {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      const int64_t place = first + k;
      if (place >= points) break;
      const S position = from[place];
      const int64_t lefts =
          before.count - (place >> (bit + 1) << bit);  // earlier in this segment: those before it are full
      if (right(position)) {
        if (before.least <= key(place, position)) mark(position);
        to[place + (int64_t{1} << bit) - lefts] = position;
      } else {
        to[(place >> (bit + 1) << (bit + 1)) + lefts] = position;
        before.add({key(place, position), 1});
      }
    }
  }
};

__device__ Step<int64_t> whole_step(const ParetoDominatedArgs& args, const int64_t* from, int bit) {
  return {from, args.loss, args.points, args.points, bit};
}

// A block sums a tile. Without a sequence (one cost) every earlier point with a loss no greater dominates.
__global__ void sum_tiles(ParetoDominatedArgs args, const int64_t* from, int bit) {
  PYNAS_SHARED(Prefix, scratch);
  const int64_t first = blockIdx.x * kParetoTile + threadIdx.x * kRun;
  Prefix own, total;
  if (from != nullptr) {
    own = whole_step(args, from, bit).sum(first);
  } else {
    for (int64_t i = first; i < first + kRun && i < args.points; ++i) own.add({args.loss[i], 0});
  }
  exclusive_prefix(own, scratch, total);
  if (threadIdx.x == 0) reinterpret_cast<Prefix*>(args.partial)[blockIdx.x] = total;
}

// One block replaces the sums of tiles by those over all earlier tiles.
__global__ void sum_before(Prefix* tiles, int64_t n) {
  PYNAS_SHARED(Prefix, scratch);
  Prefix carry;
  for (int64_t start = 0; start < n; start += blockDim.x) {
    const int64_t at = start + threadIdx.x;
    Prefix total, before = exclusive_prefix(at < n ? tiles[at] : Prefix{}, scratch, total);
    before.add(carry);
    if (at < n) tiles[at] = before;
    carry.add(total);
  }
}

__global__ void apply_tiles(ParetoDominatedArgs args, const int64_t* from, int64_t* to, int bit) {
  PYNAS_SHARED(Prefix, scratch);
  const int64_t first = blockIdx.x * kParetoTile + threadIdx.x * kRun;
  Prefix own, total;
  if (from != nullptr) {
    const Step<int64_t> step = whole_step(args, from, bit);
    own = exclusive_prefix(step.sum(first), scratch, total);
    own.add(reinterpret_cast<const Prefix*>(args.partial)[blockIdx.x]);
    step.apply(first, own, to, [&](int64_t position) { args.dominated[position] = true; });
    return;
  }
  for (int64_t i = first; i < first + kRun && i < args.points; ++i) own.add({args.loss[i], 0});
  own = exclusive_prefix(own, scratch, total);
  own.add(reinterpret_cast<const Prefix*>(args.partial)[blockIdx.x]);
  for (int64_t i = first; i < first + kRun && i < args.points; ++i) {
    args.dominated[i] = own.least <= args.loss[i];
    own.add({args.loss[i], 0});
  }
}

// The last kTileBits steps. A block holds a tile, whose places and positions are then the same, in shared memory.
__global__ void finish_tiles(ParetoDominatedArgs args, const int64_t* from) {
  PYNAS_SHARED(Prefix, scratch);
  auto* loss = reinterpret_cast<int64_t*>(scratch + kWarp);
  auto *now = reinterpret_cast<int*>(loss + kParetoTile), *next = now + kParetoTile;
  const int64_t begin = blockIdx.x * kParetoTile;
  const int64_t points = args.points - begin < kParetoTile ? args.points - begin : kParetoTile;
  for (int64_t i = threadIdx.x; i < points; i += kThreads) {
    loss[i] = args.loss[begin + i];
    now[i] = static_cast<int>(from[begin + i] - begin);
  }
  __syncthreads();
  for (int bit = kTileBits - 1; bit >= 0; --bit) {
    const Step<int> step{now, loss, points, args.points, bit};
    const int64_t first = static_cast<int64_t>(threadIdx.x) * kRun;
    Prefix total;
    const Prefix before = exclusive_prefix(step.sum(first), scratch, total);
    step.apply(first, before, next, [&](int position) { args.dominated[begin + position] = true; });
    int* const swap = now;
    now = next;
    next = swap;
    __syncthreads();
  }
}

}  // namespace

void pareto_dominated(const ParetoDominatedArgs& args, void* stream) {
  constexpr const char* name = "pareto_dominated";
  constexpr size_t scratch = kWarp * sizeof(Prefix);
  const int64_t tiles = (args.points + kParetoTile - 1) / kParetoTile;
  const auto grid = static_cast<unsigned>(tiles);
  int64_t *now = args.sequence, *next = args.spare;
  const auto step = [&](int bit) {
    launch(name, sum_tiles, grid, kThreads, scratch, stream, args, static_cast<const int64_t*>(now), bit);
    launch(name, sum_before, 1u, 1024, scratch, stream, reinterpret_cast<Prefix*>(args.partial), tiles);
    launch(name, apply_tiles, grid, kThreads, scratch, stream, args, static_cast<const int64_t*>(now), next, bit);
  };
  if (args.sequence == nullptr) return step(0);
  int bits = kTileBits;
  while ((args.points - 1) >> bits > 0) ++bits;
  for (int bit = bits - 1; bit >= kTileBits; --bit) {
    step(bit);
    int64_t* const swap = now;
    now = next;
    next = swap;
  }
  constexpr size_t shared = scratch + kParetoTile * (sizeof(int64_t) + 2 * sizeof(int));
  launch(name, finish_tiles, grid, kThreads, shared, stream, args, static_cast<const int64_t*>(now));
}

}  // namespace pynas::cuda
