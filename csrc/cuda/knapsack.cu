// The exact search with its long lists on a GPU. The bound, the windows and short lists stay on the CPU; a list moves to the GPU
// when a step has many sums. A search that stops before its lists meet walks the blocks between them on the CPU.
#include <algorithm>
#include <memory>
#include <optional>

#include "common/interrupt.h"
#include "common/traversal.h"
#include "cpu/knapsack/ends.h"
#include "cuda/knapsack_extend.cuh"
#include "cuda/knapsack_join.cuh"

namespace pynas::cuda::traversal {
namespace {

// Makes a GPU the current one, until the end.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), kName);
    if (before_ != device) check(cudaSetDevice(device), kName);
    changed_ = before_ != device;
  }
  ~CurrentDevice() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();  // or the next launch would report it
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// What the rounds of a search share. The GPU is not touched before a step needs it.
struct Workplace {
  const TraverseArgs& args;
  std::optional<CurrentDevice> current;
  Device device;
  ExtendMemory extending;
  JoinMemory joining;

  Workplace(const TraverseArgs& args, void* stream) : args(args) {
    device.stream = stream;
    device.capacity = args.device_pairs;
    device.chunk = std::min<int64_t>(std::max<int64_t>(args.device_chunk, 1), kTile);
  }
  void enter() {
    if (!current) current.emplace(args.device);
  }
};

class DeviceEnds final : public knapsack::Ends {
 public:
  DeviceEnds(const knapsack::Problem& problem, const knapsack::Bound& bound, knapsack::Effort& effort, Workplace& work)
      : Ends(problem, bound, work.args.threads, effort), work_(work) {}

  int64_t size(bool leading) const override {
    const std::optional<DeviceList>& moved = moved_[leading];
    return moved ? moved->entries.size : Ends::size(leading);
  }

  std::vector<knapsack::Solution> join(int64_t greatest_loss) override {
    const bool on_device = moved_[0] || moved_[1] || is_large(size(true), size(false));
    if (begin() < end() || !on_device) {
      bring_back(true);
      bring_back(false);
      return Ends::join(greatest_loss);
    }
    const Entries leading = move(true).entries, trailing = move(false).entries;
    return traversal::join(work_.device, work_.joining, problem_, bound_, leading, trailing, greatest_loss, effort_);
  }

  std::vector<std::vector<int32_t>> trace(bool leading, std::vector<int32_t> entries) const override;

 protected:
  bool extend_list(const knapsack::Window& window, bool leading, size_t b, int64_t longest) override {
    if (!moved_[leading] && !is_large(size(leading), problem_.blocks[b].size()))
      return Ends::extend_list(window, leading, b, longest);
    return traversal::extend(work_.device, work_.extending, problem_, bound_, window, leading, b, longest,
                             move(leading), effort_);
  }

 private:
  bool is_large(int64_t some, int64_t others) const { return some * others >= work_.args.device_sums; }

  // The list, which is on the GPU from now on.
  DeviceList& move(bool leading) {
    if (moved_[leading]) return *moved_[leading];
    work_.enter();
    const knapsack::List& from = list(leading);
    const int64_t n = from.size();
    const int limits = problem_.limits;
    std::vector<int64_t> keys(from.loss);
    keys.resize(n * (1 + limits));
    for (int64_t e = 0; e < n; ++e)
      for (int d = 0; d < limits; ++d) keys[(1 + d) * n + e] = from.cost[e * limits + d];
    DeviceList& to = moved_[leading].emplace();
    to.entries = to.memory.get(n, limits);
    upload(to.entries.keys, keys.data(), n * (1 + limits), work_.device.stream);
    upload(to.entries.value, from.value.data(), n, work_.device.stream);
    upload(to.entries.state, from.state.data(), n, work_.device.stream);
    return to;
  }

  // Copies the entries of a list to the CPU, without their history.
  void bring_back(bool leading) {
    if (!moved_[leading]) return;
    const Entries& from = moved_[leading]->entries;
    knapsack::List& to = list(leading);
    const int64_t n = from.size;
    const int limits = problem_.limits;
    std::vector<int64_t> keys(n * (1 + limits));
    to.value.resize(n);
    to.state.resize(n);
    download(keys.data(), from.keys, n * (1 + limits), work_.device.stream);
    download(to.value.data(), from.value, n, work_.device.stream);
    download(to.state.data(), from.state, n, work_.device.stream);
    to.loss.assign(keys.begin(), keys.begin() + n);
    to.cost.resize(n * limits);
    for (int64_t e = 0; e < n; ++e)
      for (int d = 0; d < limits; ++d) to.cost[e * limits + d] = keys[(1 + d) * n + e];
  }

  Workplace& work_;
  std::optional<DeviceList> moved_[2];  // trailing, leading
};

__global__ void step_back(const int32_t* parent, const int32_t* option, int32_t* entries, int32_t* options, int64_t n) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; s < n; s += step) {
    options[s] = option[entries[s]];
    entries[s] = parent[entries[s]];
  }
}

std::vector<std::vector<int32_t>> DeviceEnds::trace(bool leading, std::vector<int32_t> entries) const {
  if (!moved_[leading] || entries.empty()) return Ends::trace(leading, std::move(entries));
  const auto n = static_cast<int64_t>(entries.size());
  void* stream = work_.device.stream;
  const std::vector<Level>& levels = moved_[leading]->levels;
  Memory<int32_t> memory;
  int32_t *at = memory.get(2 * n), *options = at + n;
  upload(at, entries.data(), n, stream);
  std::vector<std::vector<int32_t>> last(levels.size(), std::vector<int32_t>(entries.size()));
  for (size_t level = levels.size(); level-- > 0;) {
    pynas::check_interrupt();
    launch(kName, step_back, grid_size(parts_of(n)), kThreads, 0, stream,
           static_cast<const int32_t*>(levels[level].parent.data()),
           static_cast<const int32_t*>(levels[level].option.data()), at, options, n);
    download(last[level].data(), options, n, stream);
  }
  download(entries.data(), at, n, stream);
  std::vector<std::vector<int32_t>> all = Ends::trace(leading, std::move(entries));
  for (std::vector<int32_t>& level : last) all.push_back(std::move(level));
  return all;
}

}  // namespace
}  // namespace pynas::cuda::traversal

void pynas::cuda::traverse(const TraverseArgs& args, void* stream) {
  const Listening call;
  traversal::Workplace work(args, stream);
  const bool possible = 1 <= args.limit_count && args.limit_count <= traversal::kMostLimits;
  knapsack::solve(args,
                  [&](const knapsack::Problem& core, const knapsack::Bound& bound,
                      knapsack::Effort& effort) -> std::unique_ptr<knapsack::Ends> {
                    if (!possible) return std::make_unique<knapsack::Ends>(core, bound, args.threads, effort);
                    return std::make_unique<traversal::DeviceEnds>(core, bound, effort, work);
                  });
}
