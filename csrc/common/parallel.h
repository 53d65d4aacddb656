// parallel_for over [0, n) in contiguous chunks, on the threads of the OpenMP runtime that torch has loaded: a second pool
// would compete with torch's spinning workers for the same cores. Without such a runtime, each call starts threads.
#pragma once

#include <cstdint>

namespace pynas {

// Uses the OpenMP runtime at `path`, which this process has loaded. False if it has not, or libgomp's entries are missing.
bool use_openmp(const char* path);
const char* thread_backend();

// Runs body(context, begin, end, worker) with worker in [0, threads). The first exception of a body is thrown at the end.
// In a call that listens (common/interrupt.h), the bodies do.
using ParallelBody = void (*)(void* context, int64_t begin, int64_t end, int worker);
void parallel_run(int64_t n, int64_t grain, int threads, ParallelBody body, void* context);

// Runs f(begin, end, worker) on at most ceil(n / grain) workers; a single one is the calling thread.
template <class F>
void parallel_for(int64_t n, int64_t grain, int threads, F&& f) {
  parallel_run(
      n, grain, threads,
      [](void* context, int64_t begin, int64_t end, int worker) { (*static_cast<F*>(context))(begin, end, worker); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace pynas
