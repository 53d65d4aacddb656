// The scheduler of the host shim: fibers, barriers, warp operations.
#include "cuda_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(CUDA_HOST_UCONTEXT)
// Saves the stack pointer to *from and goes on at `to`. swapcontext would enter the kernel every time.
extern "C" void cuda_host_switch(void** from, void* to);
asm(R"(
.text
.type cuda_host_switch, @function
cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_host_switch, .-cuda_host_switch
)");
#else
#include <ucontext.h>
#endif

namespace cuda_host {

dim3 thread_index, block_index, block_size, grid_size;
unsigned char* shared_memory = nullptr;

namespace {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "cuda_host: %s (block %u, thread %u)\n", message, block_index.x, thread_index.x);
  std::abort();
}

// A place to switch to: a fiber's stack, or the scheduler's own.
struct Context {
  std::unique_ptr<unsigned char[]> stack;
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;
#if defined(__x86_64__) && !defined(CUDA_HOST_UCONTEXT)
  void* pointer = nullptr;

  void prepare(void (*entry)()) {
    // Six saved registers, the entry to return to, and a word so that the entry finds the stack aligned as after a call.
    auto top = reinterpret_cast<uintptr_t>(stack.get() + kStack) & ~uintptr_t{15};
    auto** slots = reinterpret_cast<void**>(top) - 8;
    std::fill(slots, slots + 8, nullptr);
    slots[6] = reinterpret_cast<void*>(entry);
    pointer = slots;
  }
  void go(Context& to) { cuda_host_switch(&pointer, to.pointer); }
#else
  ucontext_t state;

  void prepare(void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack.get();
    state.uc_stack.ss_size = kStack;
    makecontext(&state, entry, 0);
  }
  void go(Context& to) { swapcontext(&state, &to.state); }
#endif

  // Leave this context for `to`; `last`: never to come back.
  void switch_to(Context& to, bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack, to.bottom, to.size);
    go(to);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    (void)last;
    go(to);
#endif
  }
};

enum class State { ready, block, exchange, ballot, done };

struct Fiber {
  Context context;
  State state = State::done;
  dim3 index;
  unsigned mask = 0;    // of the warp operation waited for
  uint64_t value = 0;   // given, then the result
  int source = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::deque<int> ready;
  Context scheduler;
  const std::function<void()>* body = nullptr;
  int threads = 0, running = 0, live = 0, waiting = 0;
  bool falling = false;

  void make_ready(int id) {
    fibers[id].state = State::ready;
    ready.push_back(id);
  }

  // f(id) for id in [begin, end), in this block's order.
  template <class F>
  void each(int begin, int end, F f) {
    for (int i = begin; i < end; ++i) f(falling ? begin + end - 1 - i : i);
  }

  void wait(State state) {
    Fiber& self = fibers[running];
    self.state = state;
    release(running);
    self.context.switch_to(scheduler);
  }

  // Makes ready the threads that waited only for the thread `id`, which has just stopped.
  void release(int id) {
    if (fibers[id].state == State::block) ++waiting;
    if (waiting == live && live > 0) {
      waiting = 0;
      each(0, threads, [&](int other) {
        if (fibers[other].state == State::block) make_ready(other);
      });
    }
    const int first = id / kWarp * kWarp, last = std::min(first + kWarp, threads);
    for (int other = first; other < last; ++other) {
      if (fibers[other].state == State::exchange || fibers[other].state == State::ballot) finish_warp(first, last, other);
    }
  }

  // Does the warp operation that the thread `id` waits for, if all its lanes have reached it.
  void finish_warp(int first, int last, int id) {
    const unsigned mask = fibers[id].mask;
    const State state = fibers[id].state;
    unsigned there = 0, votes = 0;
    uint64_t given[kWarp];
    for (int other = first; other < last; ++other) {
      const Fiber& fiber = fibers[other];
      if ((mask >> (other - first) & 1u) == 0 || fiber.state == State::done) continue;
      if (fiber.state != state || fiber.mask != mask) return;
      there |= 1u << (other - first);
      votes |= static_cast<unsigned>(fiber.value & 1u) << (other - first);
      given[other - first] = fiber.value;
    }
    each(first, last, [&](int other) {
      Fiber& fiber = fibers[other];
      if ((there >> (other - first) & 1u) == 0) return;
      if (state == State::exchange && (there >> fiber.source & 1u) == 0) fail("a shuffle reads a lane that takes no part");
      fiber.value = state == State::ballot ? votes : given[fiber.source];
      make_ready(other);
    });
  }

  void run();
};

Block block;

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler.bottom, &block.scheduler.size);
#endif
  (*block.body)();
  Fiber& self = block.fibers[block.running];
  self.state = State::done;
  --block.live;
  block.release(block.running);
  self.context.switch_to(block.scheduler, true);
}

void Block::run() {
  live = threads;
  waiting = 0;
  for (int id = 0; id < threads; ++id) {
    Context& context = fibers[id].context;
    if (context.stack == nullptr) context.stack.reset(new unsigned char[kStack]);
    context.bottom = context.stack.get();
    context.size = kStack;
    context.fake_stack = nullptr;
    context.prepare(fiber_main);
    const auto x = static_cast<unsigned>(id);
    fibers[id].index = dim3(x % block_size.x, x / block_size.x % block_size.y, x / block_size.x / block_size.y);
  }
  each(0, threads, [&](int id) { make_ready(id); });
  while (!ready.empty()) {
    running = ready.front();
    ready.pop_front();
    thread_index = fibers[running].index;
    scheduler.switch_to(fibers[running].context);
  }
  if (live > 0) fail("threads wait for ever: not all of them reached a barrier or a warp operation");
}

}  // namespace

void launch(dim3 grid, dim3 size, size_t shared, const std::function<void()>& body) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  grid_size = grid;
  block_size = size;
  block.threads = static_cast<int>(size.x * size.y * size.z);
  if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535)
    fail("a grid has 1 to 2^31 - 1 by 65535 by 65535 blocks");
  if (block.threads < 1 || block.threads > 1024) fail("a block has 1 to 1024 threads");
  if (shared > 227 * 1024) fail("a block has at most 227 KiB of shared memory");
  if (block.fibers.size() < static_cast<size_t>(block.threads)) block.fibers.resize(block.threads);
  block.body = &body;
  // Exactly as many bytes as asked for, so that the address sanitizer sees an access past them.
  const std::unique_ptr<unsigned char[]> memory(new unsigned char[shared]);
  shared_memory = memory.get();
  for (block_index.z = 0; block_index.z < grid.z; ++block_index.z) {
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
      for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
        memset(shared_memory, 0xFF, shared);
        block.run();
        block.falling = !block.falling;
      }
    }
  }
}

int lane() { return block.running % kWarp; }

void synchronize_block() { block.wait(State::block); }

uint64_t exchange(unsigned mask, uint64_t value, int source) {
  Fiber& self = block.fibers[block.running];
  if ((mask >> lane() & 1u) == 0) fail("a lane takes part in a shuffle that its mask leaves out");
  self.mask = mask;
  self.value = value;
  self.source = source;
  block.wait(State::exchange);
  return self.value;
}

unsigned ballot(unsigned mask, bool predicate) {
  Fiber& self = block.fibers[block.running];
  if ((mask >> lane() & 1u) == 0) fail("a lane takes part in a vote that its mask leaves out");
  self.mask = mask;
  self.value = predicate;
  block.wait(State::ballot);
  return static_cast<unsigned>(self.value);
}

}  // namespace cuda_host
