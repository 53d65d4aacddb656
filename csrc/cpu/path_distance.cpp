#include "common/path_distance.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Lanes of a sum, few enough to stay in registers, over at most kBlock elements before it is added to a double.
constexpr int kLanes = 32;
constexpr int64_t kBlock = 4096;

struct Sums {
  double first = 0, second = 0, third = 0;
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

PYNAS_INLINE float absolute(float x) { return __builtin_fabsf(x); }
PYNAS_INLINE double absolute(double x) { return __builtin_fabs(x); }

// Sum of term(a[i], b[i]).
template <class T, class Term>
double sum(const T* a, const T* b, int64_t n, Term term) {
  using A = Accumulate<T>;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = smaller(n, begin + kBlock);
    A lanes[kLanes] = {}, rest = 0;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
#pragma omp simd
      for (int j = 0; j < kLanes; ++j) lanes[j] += term(load(a[i + j]), load(b[i + j]));
    }
    for (; i < end; ++i) rest += term(load(a[i]), load(b[i]));
    for (int j = 0; j < kLanes; ++j) total += lanes[j];
    total += rest;
  }
  return total;
}

// Dot product and both squared norms.
template <class T>
Sums cosine_sums(const T* a, const T* b, int64_t n) {
  using A = Accumulate<T>;
  Sums total;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = smaller(n, begin + kBlock);
    A product = 0, left = 0, right = 0;
#pragma omp simd reduction(+ : product, left, right)
    for (int64_t i = begin; i < end; ++i) {
      const A x = load(a[i]), y = load(b[i]);
      product += x * y;
      left += x * x;
      right += y * y;
    }
    total.first += product;
    total.second += left;
    total.third += right;
  }
  return total;
}

template <class T>
Sums chunk_sums(PathDistanceKind kind, const T* a, const T* b, int64_t n) {
  using A = Accumulate<T>;
  switch (kind) {
    case PathDistanceKind::relative_l1: return {sum(a, b, n, [](A x, A y) { return absolute(x - y); }), 0, 0};
    case PathDistanceKind::mse: return {sum(a, b, n, [](A x, A y) { return (x - y) * (x - y); }), 0, 0};
    default: return cosine_sums(a, b, n);
  }
}

template <class T>
void target_moments(const PathDistanceArgs& args, int64_t chunks) {
  const T* target = static_cast<const T*>(args.target);
  const double origin = load(target[0]);
  parallel_for(args.batch * chunks, 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t start = item % chunks * args.chunk;
      const int64_t n = smaller(args.size - start, args.chunk);
      const T* row = target + item / chunks * args.size + start;
      double first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
      for (int64_t i = 0; i < n; ++i) {
        const double x = static_cast<double>(load(row[i])) - origin;
        first += x;
        second += x * x;
      }
      args.moments[2 * item] = first;
      args.moments[2 * item + 1] = second;
    }
  });
}

// Sample standard deviation (divided by n - 1) of the whole target.
double standard_deviation(const PathDistanceArgs& args, int64_t chunks) {
  const double n = static_cast<double>(args.batch * args.size);
  double first = 0, second = 0;
  for (int64_t i = 0; i < args.batch * chunks; ++i) {
    first += args.moments[2 * i];
    second += args.moments[2 * i + 1];
  }
  const double squares = second - first * first / n;
  return __builtin_sqrt((squares > 0 ? squares : squares * 0) / (n - 1));
}

double mean_cosine(const PathDistanceArgs& args, const double* partial, int64_t chunks) {
  double total = 0;
  for (int64_t sample = 0; sample < args.batch; ++sample) {
    Sums sums;
    for (int64_t i = sample * chunks; i < (sample + 1) * chunks; ++i) {
      sums.first += partial[3 * i];
      sums.second += partial[3 * i + 1];
      sums.third += partial[3 * i + 2];
    }
    const double left = __builtin_sqrt(sums.second), right = __builtin_sqrt(sums.third);
    total += 2 - 2 * sums.first /
                     ((left < kCosineFloor ? kCosineFloor : left) * (right < kCosineFloor ? kCosineFloor : right));
  }
  return total / static_cast<double>(args.batch);
}

template <class T>
void finish(const PathDistanceArgs& args, int64_t chunks) {
  const double n = static_cast<double>(args.batch * args.size);
  const double scale = args.kind == PathDistanceKind::relative_l1 ? n * standard_deviation(args, chunks) : n;
  for (int64_t path = 0; path < args.paths; ++path) {
    const double* partial = args.partial + path * args.batch * chunks * 3;
    double distance = 0;
    if (args.kind == PathDistanceKind::cosine) {
      distance = mean_cosine(args, partial, chunks);
    } else {
      for (int64_t i = 0; i < args.batch * chunks; ++i) distance += partial[3 * i];
      distance /= scale;
    }
    static_cast<Accumulate<T>*>(args.distances)[path] = static_cast<Accumulate<T>>(distance);
  }
}

template <class T>
void run(const PathDistanceArgs& args) {
  const T *outputs = static_cast<const T*>(args.outputs), *target = static_cast<const T*>(args.target);
  const int64_t chunks = (args.size + args.chunk - 1) / args.chunk, work = smaller(args.size, args.chunk);
  // Paths are innermost, so that a chunk of the target stays in the second-level cache for all of them.
  parallel_for(args.batch * chunks * args.paths, 32768 / work + 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t path = item % args.paths, part = item / args.paths, sample = part / chunks;
      const int64_t start = part % chunks * args.chunk;
      const int64_t n = smaller(args.size - start, args.chunk);
      const Sums sums = chunk_sums(args.kind, outputs + (path * args.batch + sample) * args.size + start,
                                   target + sample * args.size + start, n);
      double* partial = args.partial + (path * args.batch * chunks + part) * 3;
      partial[0] = sums.first;
      partial[1] = sums.second;
      partial[2] = sums.third;
    }
  });
  if (args.kind == PathDistanceKind::relative_l1) target_moments<T>(args, chunks);
  finish<T>(args, chunks);
}

}  // namespace

void path_distance(const PathDistanceArgs& args) {
  dispatch(args.dtype, [&](auto zero) { run<decltype(zero)>(args); });
}

}  // namespace pynas::PYNAS_ISA
