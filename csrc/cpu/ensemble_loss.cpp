#include "common/ensemble_loss.h"

#include "common/lane_sum.h"
#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Elements per worker, at least.
constexpr int64_t kGrain = 16384;

template <class T>
Accumulate<T> squared_norm(const T* row, int64_t n) {
  return lane_sum<Accumulate<T>>(n, [=](int64_t i) { return load(row[i]) * load(row[i]); });
}

template <class T>
Accumulate<T> row_norm(const T* row, int64_t n) {
  return static_cast<Accumulate<T>>(__builtin_sqrt(squared_norm(row, n)));
}

// Prefetches the next sample's row: the rows are too short for the processor to predict.
template <class T>
void prefetch(const T* row, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(row + i);
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
    prefetch(row + n, n);
    const A scale = (args.normalize ? inverse_norm(row_norm(row, n)) : A(1)) / static_cast<A>(args.paths);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) mean[i] += load(row[i]) * scale;
  }
  if (!args.renormalize) return;
  const A scale = inverse_norm(row_norm(mean, n));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) mean[i] *= scale;
}

// The distance of one online row to the mean, whose squared norm is `square`; item = path * B + sample.
template <class T>
void compare(const EnsembleLossArgs& args, const T* row, const Accumulate<T>* mean, Accumulate<T> square,
             int64_t item) {
  using A = Accumulate<T>;
  prefetch(row + args.size, args.size);
  const A norm = args.normalize ? row_norm(row, args.size) : A(1), inverse = inverse_norm(norm);
  const A distance = lane_sum<A>(args.size, [=](int64_t i) {
    const A difference = load(row[i]) * inverse - mean[i];
    return difference * difference;
  });
  const A along = (1 + distance - square) / 2;  // 2 u . (u - m) = |u|^2 + |u - m|^2 - |m|^2
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
      const A square = squared_norm(mean, n);
      for (int64_t path = 0; path < args.paths; ++path) {
        const int64_t item = path * args.batch + sample;
        compare(args, online + item * n, mean, square, item);
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
      const A outer =
          2 * static_cast<const A*>(args.gradient)[item / args.batch] / static_cast<A>(args.batch) * inverse[item];
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
