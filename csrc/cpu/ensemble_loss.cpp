#include "common/ensemble_loss.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Rows per worker: at least about this many elements.
constexpr int64_t kGrain = 16384;

template <class T>
Accumulate<T> row_norm(const T* row, int64_t n) {
  Accumulate<T> total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) {
    const Accumulate<T> x = load(row[i]);
    total += x * x;
  }
  return static_cast<Accumulate<T>>(__builtin_sqrt(total));
}

template <class A>
A inverse_norm(A norm) {
  const A floor = static_cast<A>(kNormFloor);
  return 1 / (norm < floor ? floor : norm);
}

template <class T>
void ensemble(const EnsembleLossArgs& args, const T* target, Accumulate<T>* mean) {
  using A = Accumulate<T>;
  const int64_t n = args.size;
  for (int64_t i = 0; i < n; ++i) mean[i] = 0;
  for (int64_t path = 0; path < args.paths; ++path) {
    const T* row = target + path * args.batch * n;
    const A scale = (args.normalize ? inverse_norm(row_norm(row, n)) : A(1)) / static_cast<A>(args.paths);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) mean[i] += load(row[i]) * scale;
  }
  if (!args.renormalize) return;
  const A scale = inverse_norm(row_norm(mean, n));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) mean[i] *= scale;
}

// One online row against the mean: item = path * B + sample.
template <class T>
void compare(const EnsembleLossArgs& args, const T* row, const Accumulate<T>* mean, int64_t item) {
  using A = Accumulate<T>;
  const A norm = args.normalize ? row_norm(row, args.size) : A(1), inverse = inverse_norm(norm);
  A distance = 0, along = 0;
#pragma omp simd reduction(+ : distance, along)
  for (int64_t i = 0; i < args.size; ++i) {
    const A u = load(row[i]) * inverse, difference = u - mean[i];
    distance += difference * difference;
    along += u * difference;
  }
  static_cast<A*>(args.distance)[item] = distance;
  static_cast<A*>(args.inverse)[item] = inverse;
  static_cast<A*>(args.along)[item] = args.normalize && !(norm < static_cast<A>(kNormFloor)) ? along : A(0);
}

template <class T>
void run(const EnsembleLossArgs& args) {
  using A = Accumulate<T>;
  const T *online = static_cast<const T*>(args.online), *target = static_cast<const T*>(args.target);
  const int64_t n = args.size;
  parallel_for(args.batch, kGrain / (2 * args.paths * n + 1) + 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t sample = begin; sample < end; ++sample) {
      A* mean = static_cast<A*>(args.mean) + sample * n;
      ensemble(args, target + sample * n, mean);
      for (int64_t path = 0; path < args.paths; ++path) {
        const int64_t item = path * args.batch + sample;
        compare(args, online + item * n, mean, item);
      }
    }
  });
  for (int64_t path = 0; path < args.paths; ++path) {
    const A* distance = static_cast<const A*>(args.distance) + path * args.batch;
    double total = 0;
    for (int64_t sample = 0; sample < args.batch; ++sample) total += static_cast<double>(distance[sample]);
    static_cast<A*>(args.loss)[path] = static_cast<A>(total / static_cast<double>(args.batch));
  }
}

template <class T>
void run_backward(const EnsembleLossBackwardArgs& args) {
  using A = Accumulate<T>;
  const A *inverse = static_cast<const A*>(args.inverse), *along = static_cast<const A*>(args.along);
  const int64_t n = args.size;
  parallel_for(args.paths * args.batch, kGrain / (n + 1) + 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const A outer = 2 * static_cast<const A*>(args.gradient)[item / args.batch] / static_cast<A>(args.batch) * inverse[item];
      const A inner = inverse[item] * (1 - along[item]);
      const A* mean = static_cast<const A*>(args.mean) + item % args.batch * n;
      const T* row = static_cast<const T*>(args.online) + item * n;
      T* gradient = static_cast<T*>(args.online_gradient) + item * n;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) store(gradient[i], outer * (load(row[i]) * inner - mean[i]));
    }
  });
}

}  // namespace

void ensemble_loss(const EnsembleLossArgs& args) {
  dispatch(args.dtype, [&](auto zero) { run<decltype(zero)>(args); });
}

void ensemble_loss_backward(const EnsembleLossBackwardArgs& args) {
  dispatch(args.dtype, [&](auto zero) { run_backward<decltype(zero)>(args); });
}

}  // namespace pynas::PYNAS_ISA
