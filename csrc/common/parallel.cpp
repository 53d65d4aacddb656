#include "common/parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "common/interrupt.h"

namespace pynas {
namespace {

// The C entries of libgomp, stable since GCC 4.9, which LLVM's libomp has too.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using GompThreadNum = int (*)();
GompParallel gomp_parallel = nullptr;
GompThreadNum gomp_thread_num = nullptr;
GompThreadNum gomp_num_threads = nullptr;

struct Job {
  const int64_t n;
  const int workers;
  const ParallelBody body;
  void* const context;
  Listening* const call = listening();
  std::mutex mutex = {};
  std::condition_variable finished = {};
  int left = workers;
  std::exception_ptr error = nullptr;  // the first

  // Runs the worker's chunk; no exception may pass through the OpenMP runtime.
  void chunk(int worker) {
    Listening* const before = listening();
    listening() = call;
    std::exception_ptr thrown;
    try {
      const int64_t begin = n * worker / workers, end = n * (worker + 1) / workers;
      if (begin < end) body(context, begin, end, worker);
    } catch (...) {
      thrown = std::current_exception();
    }
    listening() = before;
    const std::lock_guard<std::mutex> lock(mutex);
    if (error == nullptr) error = thrown;
    if (--left == 0) finished.notify_all();
  }

  // The caller waits for the others; in a call that listens it goes on asking, which the others cannot do.
  void wait() {
    if (call == nullptr) return;
    std::unique_lock<std::mutex> lock(mutex);
    while (left > 0) {
      finished.wait_for(lock, std::chrono::milliseconds(50));
      lock.unlock();
      call->ask();
      lock.lock();
    }
  }
};

void run_openmp(void* data) {
  Job& job = *static_cast<Job*>(data);
  // The runtime may start fewer threads than workers (nested regions): each takes every team-th chunk.
  const int team = gomp_num_threads(), thread = gomp_thread_num();
  for (int worker = thread; worker < job.workers; worker += team) job.chunk(worker);
  if (thread == 0) job.wait();
}

}  // namespace

bool use_openmp(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return false;
  auto* parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
  auto* thread_num = reinterpret_cast<GompThreadNum>(dlsym(library, "omp_get_thread_num"));
  auto* num_threads = reinterpret_cast<GompThreadNum>(dlsym(library, "omp_get_num_threads"));
  if (parallel == nullptr || thread_num == nullptr || num_threads == nullptr) return false;
  gomp_parallel = parallel;
  gomp_thread_num = thread_num;
  gomp_num_threads = num_threads;
  return true;
}

const char* thread_backend() { return gomp_parallel != nullptr ? "openmp (torch's)" : "std::thread"; }

void parallel_run(int64_t n, int64_t grain, int threads, ParallelBody body, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (n + grain - 1) / grain;
  Job job{n, static_cast<int>(std::min<int64_t>(std::max(threads, 1), chunks)), body, context};
  if (job.workers <= 1) {
    body(context, 0, n, 0);
    return;
  }
  if (gomp_parallel != nullptr) {
    gomp_parallel(run_openmp, &job, static_cast<unsigned>(job.workers), 0);
  } else {
    std::vector<std::thread> team;
    team.reserve(job.workers - 1);
    for (int worker = 1; worker < job.workers; ++worker) team.emplace_back([&job, worker] { job.chunk(worker); });
    job.chunk(0);
    job.wait();
    for (auto& thread : team) thread.join();
  }
  if (job.error != nullptr) std::rethrow_exception(job.error);
  check_interrupt();  // the wait may have heard of one when all bodies were done
}

}  // namespace pynas
