#include "common/depthwise_conv.h"

#include "common/parallel.h"

namespace pynas::PYNAS_ISA {
namespace {

// Bytes of a vector register, and how many of them may hold sums beside what they are made from.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kSums = 28;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kSums = 13;
#else
constexpr int kVectorBytes = 16, kSums = 13;
#endif
// Bytes of a piece of x.
constexpr int64_t kPiece = 1 << 16;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t greater(int64_t a, int64_t b) { return a < b ? b : a; }

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes), may_alias));
};

// Neighbouring channels as vectors: some rows of x with the zeros around them, and of y_gradient.
template <class A>
struct Piece {
  using Vector = typename VectorOf<A>::type;
  static constexpr int lanes = kVectorBytes / sizeof(A);
  Vector x[kPiece / kVectorBytes], gradient[kPiece / kVectorBytes];

  // Fills a vector from the channels of one place.
  template <class T>
  static void load_lanes(const T* from, int64_t count, Vector& to) {
    A* lane = reinterpret_cast<A*>(&to);
    if (count == lanes) {
#pragma omp simd
      for (int i = 0; i < lanes; ++i) lane[i] = load(from[i]);
    } else {
      for (int i = 0; i < lanes; ++i) lane[i] = i < count ? load(from[i]) : A(0);
    }
  }

  template <class T>
  void fill(const DepthwiseWeightGradientArgs& args, int64_t image, int64_t channel, int64_t row, int64_t rows) {
    const int64_t count = smaller(lanes, args.channels - channel), wide = args.width + 2 * args.padding;
    const T* source = static_cast<const T*>(args.x) + image * args.height * args.width * args.channels + channel;
    Vector* to = x;
    for (int64_t h = row * args.stride - args.padding; h < (row + rows - 1) * args.stride - args.padding + args.kernel;
         ++h) {
      for (int64_t w = -args.padding; w < wide - args.padding; ++w, ++to) {
        const bool inside = h >= 0 && h < args.height && w >= 0 && w < args.width;
        if (inside) load_lanes(source + (h * args.width + w) * args.channels, count, *to);
        else *to = Vector{};
      }
    }
    source = static_cast<const T*>(args.y_gradient) + (image * args.out_height + row) * args.out_width * args.channels +
             channel;
    for (int64_t at = 0; at < rows * args.out_width; ++at) load_lanes(source + at * args.channels, count, gradient[at]);
  }
};

// Adds the sums for the kernel's rows first .. first + R - 1 over a piece to `totals` [K * K, lanes].
template <int K, int R, class A>
void add_rows(const DepthwiseWeightGradientArgs& args, const Piece<A>& piece, int64_t rows, int first, double* totals) {
  using Vector = typename Piece<A>::Vector;
  const int64_t wide = args.width + 2 * args.padding;
  Vector sums[R][K] = {};
  for (int64_t h = 0; h < rows; ++h) {
    const Vector *x = piece.x + (h * args.stride + first) * wide, *gradient = piece.gradient + h * args.out_width;
    for (int64_t w = 0; w < args.out_width; ++w, x += args.stride) {
      const Vector by = gradient[w];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) sums[i][j] += by * x[i * wide + j];
    }
  }
  constexpr int lanes = Piece<A>::lanes;
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < K; ++j)
      for (int lane = 0; lane < lanes; ++lane) totals[((first + i) * K + j) * lanes + lane] += sums[i][j][lane];
}

// Of as many rows of the kernel at a time as the registers can sum.
template <int K, class A>
void add_piece(const DepthwiseWeightGradientArgs& args, const Piece<A>& piece, int64_t rows, double* totals) {
  constexpr int most = kSums / K, R = most < 1 ? 1 : most < K ? most : K;
  int first = 0;
  for (; first + R <= K; first += R) add_rows<K, R>(args, piece, rows, first, totals);
  if constexpr (K % R != 0) add_rows<K, K % R>(args, piece, rows, first, totals);
}

// The sums of neighbouring channels over some images.
template <class T, int K>
void sum_images(const DepthwiseWeightGradientArgs& args, int64_t chunk, int64_t channel) {
  using A = Accumulate<T>;
  constexpr int lanes = Piece<A>::lanes;
  Piece<A> piece;
  double totals[K * K * lanes] = {};
  const int64_t fit = kPiece / (kVectorBytes * (args.width + 2 * args.padding));  // rows of x
  const int64_t most = greater((fit - K) / args.stride + 1, 1);
  for (int64_t image = chunk * args.images; image < smaller(args.batch, (chunk + 1) * args.images); ++image) {
    for (int64_t row = 0; row < args.out_height; row += most) {
      const int64_t rows = smaller(most, args.out_height - row);
      piece.template fill<T>(args, image, channel, row, rows);
      add_piece<K>(args, piece, rows, totals);
    }
  }
  for (int i = 0; i < K * K; ++i)
    for (int64_t lane = 0; lane < smaller(lanes, args.channels - channel); ++lane)
      args.partial[(chunk * K * K + i) * args.channels + channel + lane] = totals[i * lanes + lane];
}

template <class T, int K>
void run(const DepthwiseWeightGradientArgs& args) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = Piece<A>::lanes;
  const int64_t chunks = (args.batch + args.images - 1) / args.images, blocks = (args.channels + lanes - 1) / lanes;
  parallel_for(chunks * blocks, 1, args.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) sum_images<T, K>(args, item / blocks, item % blocks * lanes);
  });
  for (int64_t i = 0; i < K * K; ++i) {
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      double sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        sum += args.partial[(chunk * K * K + i) * args.channels + channel];
      static_cast<A*>(args.weight_gradient)[channel * K * K + i] = static_cast<A>(sum);
    }
  }
}

}  // namespace

void depthwise_weight_gradient(const DepthwiseWeightGradientArgs& args) {
  dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    args.kernel == 5 ? run<T, 5>(args) : run<T, 7>(args);
  });
}

}  // namespace pynas::PYNAS_ISA
