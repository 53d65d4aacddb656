// parallel_for over [0, n) in contiguous chunks, on the threads of the OpenMP runtime that torch has loaded already: a
// second pool would fight with torch's spinning workers for the same cores. Without one, on threads started for the call.
#pragma once

#include <cstdint>

namespace pynas {

// Use the OpenMP runtime at `path` (already loaded in this process). False if it is not loaded or not libgomp-like.
bool use_openmp(const char* path);
const char* thread_backend();

// body(context, begin, end, worker): worker in [0, threads). Never throws; body must not throw.
using ParallelBody = void (*)(void* context, int64_t begin, int64_t end, int worker);
void parallel_run(int64_t n, int64_t grain, int threads, ParallelBody body, void* context);

// f(begin, end, worker). At most ceil(n / grain) workers; with one, f runs in the calling thread.
template <class F>
void parallel_for(int64_t n, int64_t grain, int threads, F&& f) {
  parallel_run(
      n, grain, threads,
      [](void* context, int64_t begin, int64_t end, int worker) {
        (*static_cast<F*>(context))(begin, end, worker);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace pynas
