#include "cuda/knapsack_extend.cuh"

#include "cuda/scan.cuh"

namespace pynas::cuda::traversal {
namespace {

constexpr int64_t kNearTiles = 64;

// All sums of an entry and an option. In lexicographic order the option of the earlier block belongs to the outer loop.
struct Sums {
  Entries from;
  int64_t options;
  const int64_t* keys;                       // [1 + M, options]: losses, then each cost
  const int64_t* need;                       // [M, options]: the cost and the least cost of the blocks beyond
  const double *value, *least_value;         // [options]; with the least value of the blocks beyond
  const int32_t *joined_state, *open_state;  // [options], at both ends
  int64_t limit[kMostLimits];
  double greatest_value;
  int limits;
  bool leading;

  __host__ __device__ int64_t count() const { return from.size * options; }
  __device__ int64_t entry(int64_t outer, int64_t inner) const { return leading ? outer : inner; }
  __device__ int64_t option(int64_t outer, int64_t inner) const { return leading ? inner : outer; }

  // Whether the sum may be part of a solution within the window; `cut` becomes true when the window alone leaves it out.
  __device__ bool kept(int64_t e, int64_t i, bool& cut) const {
    if (from.state[e] != joined_state[i]) return false;
    if (from.value[e] + least_value[i] > greatest_value) return cut = true, false;
    for (int d = 0; d < limits; ++d)
      if (from.keys[(1 + d) * from.size + e] + need[d * options + i] > limit[d]) return false;
    return true;
  }

  // Calls use(e, i) for the sums that are kept among kRun from `first` on.
  template <class Use>
  __device__ bool each(int64_t first, Use use) const {
    bool cut = false;
    if (first >= count()) return cut;
    const int64_t inners = leading ? options : from.size;
    int64_t outer = first / inners, inner = first % inners;
    for (int64_t sum = first; sum < first + kRun && sum < count(); ++sum) {
      const int64_t e = entry(outer, inner), i = option(outer, inner);
      if (kept(e, i, cut)) use(e, i);
      if (++inner == inners) inner = 0, ++outer;
    }
    return cut;
  }
};

// counts [parts]: of the sums that are kept.
__global__ void count_sums(Sums sums, int64_t parts, int64_t* counts, unsigned char* any_cut) {
  PYNAS_SHARED(Prefix, scratch);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    int64_t own = 0;
    if (sums.each(part * kPart + threadIdx.x * kRun, [&](int64_t, int64_t) { ++own; })) *any_cut = 1;
    Prefix total;
    exclusive_prefix({kNone, own}, scratch, total);
    if (threadIdx.x == 0) counts[part] = total.count;
  }
}

__global__ void write_sums(Sums sums, int64_t parts, const int64_t* counts, Entries to, int32_t* parent,
                           int32_t* option) {
  PYNAS_SHARED(Prefix, scratch);
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    const int64_t first = part * kPart + threadIdx.x * kRun;
    int64_t own = 0;
    sums.each(first, [&](int64_t, int64_t) { ++own; });
    Prefix total;
    int64_t at = counts[part] + exclusive_prefix({kNone, own}, scratch, total).count;
    sums.each(first, [&](int64_t e, int64_t i) {
      for (int d = 0; d <= sums.limits; ++d)
        to.keys[d * to.size + at] = sums.from.keys[d * sums.from.size + e] + sums.keys[d * sums.options + i];
      to.value[at] = sums.from.value[e] + sums.value[i];
      to.state[at] = sums.open_state[i];
      parent[at] = static_cast<int32_t>(e);
      option[at] = static_cast<int32_t>(i);
      ++at;
    });
  }
}

// Some of the entries, by their positions.
struct Kept {
  const int32_t* position;  // [n]
  Entries from, to;
  const int32_t *parent_from, *option_from;
  int32_t *parent, *option;
};

__global__ void take_kept(Kept kept, int dims) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < kept.to.size; at += step) {
    const int32_t from = kept.position[at];
    for (int d = 0; d < dims; ++d) kept.to.keys[d * kept.to.size + at] = kept.from.keys[d * kept.from.size + from];
    kept.to.value[at] = kept.from.value[from];
    kept.to.state[at] = kept.from.state[from];
    kept.parent[at] = kept.parent_from[from];
    kept.option[at] = kept.option_from[from];
  }
}

// Takes the entries at `device.kept`.
Entries take(Device& device, const Entries& entries, const Level& level, int64_t count, int limits, EntriesMemory& to,
             Level& level_to) {
  const Kept kept{device.kept.data(),        entries,
                  to.get(count, limits),     level.parent.data(),
                  level.option.data(),       level_to.parent.get(count),
                  level_to.option.get(count)};
  launch(kName, take_kept, grid_size(parts_of(count)), kThreads, 0, device.stream, kept, 1 + limits);
  return kept.to;
}

// The options of a block, on the GPU.
Sums upload_options(Device& device, ExtendMemory& memory, const knapsack::Problem& problem,
                    const knapsack::Bound& bound, bool leading, size_t b) {
  const knapsack::Block& block = problem.blocks[b];
  const int limits = problem.limits;
  const int64_t n = block.size();
  const auto& value_rest = leading ? bound.value_ahead[b + 1] : bound.value_behind[b];
  const auto& cost_rest = leading ? bound.cost_ahead[b + 1] : bound.cost_behind[b];
  const std::vector<int32_t>& joined = leading ? block.state_in : block.state_out;
  const std::vector<int32_t>& open = leading ? block.state_out : block.state_in;
  std::vector<int64_t> keys(block.loss), need(n * limits);
  std::vector<double> values(2 * n);
  std::vector<int32_t> states(joined);
  states.insert(states.end(), open.begin(), open.end());
  keys.resize(n * (1 + limits));
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < limits; ++d) {
      const int64_t cost = block.cost[i * limits + d];
      keys[(1 + d) * n + i] = cost;
      need[d * n + i] = cost + cost_rest[static_cast<int64_t>(open[i]) * limits + d];
    }
    values[i] = bound.value(problem, block, i);
    values[n + i] = values[i] + value_rest[open[i]];
  }
  int64_t* device_keys = memory.option_keys.get(n * (1 + limits));
  int64_t* device_need = memory.need.get(n * limits);
  double* device_values = memory.option_values.get(2 * n);
  int32_t* device_states = memory.option_states.get(2 * n);
  upload(device_keys, keys.data(), n * (1 + limits), device.stream);
  upload(device_need, need.data(), n * limits, device.stream);
  upload(device_values, values.data(), 2 * n, device.stream);
  upload(device_states, states.data(), 2 * n, device.stream);
  Sums sums{{}, n, device_keys, device_need, device_values, device_values + n, device_states, device_states + n,
            {}, 0, limits,      leading};
  for (int d = 0; d < limits; ++d) sums.limit[d] = problem.limit[d];
  return sums;
}

}  // namespace

bool extend(Device& device, ExtendMemory& memory, const knapsack::Problem& problem, const knapsack::Bound& bound,
            const knapsack::Window& window, bool leading, size_t b, int64_t longest, DeviceList& list,
            knapsack::Effort& effort) {
  constexpr size_t shared = kWarp * sizeof(Prefix);
  const int limits = problem.limits;
  Sums sums = upload_options(device, memory, problem, bound, leading, b);
  sums.from = list.entries;
  sums.greatest_value = window.value;
  if (sums.count() == 0) return list.entries.size = 0, list.levels.emplace_back(), true;
  const int64_t parts = parts_of(sums.count());
  int64_t* counts = device.counts.get(parts + 1);
  unsigned char* cut = device.flags.get(1);
  check(cudaMemsetAsync(cut, 0, 1, static_cast<cudaStream_t>(device.stream)), kName);
  launch(kName, count_sums, grid_size(parts), kThreads, shared, device.stream, sums, parts, counts, cut);
  sum_before(counts, parts, device.stream);
  const int64_t count = download(counts + parts, device.stream);
  effort.cut |= download(cut, device.stream) != 0;
  effort.visited += sums.count();
  effort.pruned += sums.count() - count;
  if (count > 4 * longest || count > std::numeric_limits<int32_t>::max()) return false;
  Entries all = memory.sums.entries.get(count, limits);
  launch(kName, write_sums, grid_size(parts), kThreads, shared, device.stream, sums, parts,
         static_cast<const int64_t*>(counts), all, memory.sums.level.parent.get(count),
         memory.sums.level.option.get(count));
  // Tiles are compared with themselves as long as that leaves less than half, then with those near them; where that leaves nearly
  // all, the rest is not worth the time.
  int64_t left = count;
  for (int64_t near = 1; all.size > 0;) {
    flag_undominated(device, memory.tiles, all, limits, problem.states, problem.top_k, near);
    left = keep_flagged(device, all.size);
    if (near == kNearTiles || 64 * left > 63 * all.size) break;
    if (2 * left > all.size) near = kNearTiles;
    all = take(device, all, memory.sums.level, left, limits, memory.fewer.entries, memory.fewer.level);
    std::swap(memory.sums, memory.fewer);
  }
  effort.pruned += count - left;
  if (left > longest) return false;
  list.entries = take(device, all, memory.sums.level, left, limits, list.memory, list.levels.emplace_back());
  return true;
}

}  // namespace pynas::cuda::traversal
