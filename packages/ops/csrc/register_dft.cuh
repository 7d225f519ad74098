// Discrete Fourier transforms of a thread's own registers, of any length with the prime factors 2, 3, 5 and 7.
#ifndef SUBQUAD_OPS_REGISTER_DFT_CUH_
#define SUBQUAD_OPS_REGISTER_DFT_CUH_

#include <cuda_runtime.h>

#include <utility>

namespace subquad {

struct Root {
  float re, im;
};

__host__ __device__ constexpr double taylor(double x, int from) {
  double term = 1.0, sum = 0.0;
  for (int n = 1; n <= from; ++n) term *= x / n;
  for (int n = from; n < 40; n += 2) {
    sum += term;
    term *= -x * x / ((n + 1) * (n + 2));
  }
  return sum;
}

// exp(-2 pi i k / n), rounded once.
__host__ __device__ constexpr Root root_of_unity(int k, int n) {
  const int folded = 2 * (k % n) > n ? k % n - n : k % n;  // an angle within half a turn
  const double angle = -6.283185307179586476925286766559 * folded / n;
  return {static_cast<float>(taylor(angle, 0)), static_cast<float>(taylor(angle, 1))};
}

// A number that the compiler knows, on the device too.
template <int N>
struct Number {
  static constexpr int value = N;
  __host__ __device__ constexpr operator int() const { return N; }
};

template <typename F, int... I>
__device__ __forceinline__ void unroll_over(F&& body, std::integer_sequence<int, I...>) {
  (body(Number<I>{}), ...);
}

// Calls body(0), body(1), … body(N - 1) with numbers that are known to the compiler.
template <int N, typename F>
__device__ __forceinline__ void unroll(F&& body) {
  unroll_over(body, std::make_integer_sequence<int, N>{});
}

__device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 minus(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }

// a * b, or a * conj(b).
template <bool CONJUGATE>
__device__ __forceinline__ float2 times(float2 a, float2 b) {
  const float im = CONJUGATE ? -b.y : b.y;
  return make_float2(a.x * b.x - a.y * im, a.x * im + a.y * b.x);
}

// v * exp(-2 pi i K / N), or its conjugate.
template <int K, int N, bool CONJUGATE>
__device__ __forceinline__ float2 turned(float2 v) {
  constexpr int kPart = K % N;
  if constexpr (kPart == 0) {
    return v;
  } else if constexpr (2 * kPart == N) {
    return make_float2(-v.x, -v.y);
  } else if constexpr ((4 * kPart == N && !CONJUGATE) || (4 * kPart == 3 * N && CONJUGATE)) {
    return make_float2(v.y, -v.x);
  } else if constexpr (4 * kPart == N || 4 * kPart == 3 * N) {
    return make_float2(-v.y, v.x);
  } else {
    constexpr Root kRoot = root_of_unity(kPart, N);
    return times<CONJUGATE>(v, make_float2(kRoot.re, kRoot.im));
  }
}

__host__ __device__ constexpr int first_factor(int n) { return n % 4 == 0 ? 4 : n % 2 == 0 ? 2 : n % 3 == 0 ? 3 : n % 5 == 0 ? 5 : n; }

template <int N, bool INVERSE>
__device__ __forceinline__ void dft(float2 (&v)[N]);

// An odd prime: sums and differences of the values that conjugate roots multiply.
template <int N, bool INVERSE>
__device__ __forceinline__ void prime_dft(float2 (&v)[N]) {
  constexpr int kHalf = (N - 1) / 2;
  float2 sums[kHalf], differences[kHalf], total = v[0];
  unroll<kHalf>([&](auto j) {
    sums[j] = plus(v[j + 1], v[N - 1 - j]);
    differences[j] = minus(v[j + 1], v[N - 1 - j]);
    total = plus(total, sums[j]);
  });
  const float2 first = v[0];
  v[0] = total;
  unroll<kHalf>([&](auto k) {
    float2 even = first, odd = make_float2(0.f, 0.f);
    unroll<kHalf>([&](auto j) {
      constexpr Root kRoot = root_of_unity((decltype(k)::value + 1) * (decltype(j)::value + 1), N);
      constexpr float kSine = INVERSE ? -kRoot.im : kRoot.im;
      even = make_float2(even.x + kRoot.re * sums[j].x, even.y + kRoot.re * sums[j].y);
      odd = make_float2(odd.x - kSine * differences[j].y, odd.y + kSine * differences[j].x);
    });
    v[k + 1] = plus(even, odd);
    v[N - 1 - k] = minus(even, odd);
  });
}

// v[k] = sum(v[n] * exp(-2 pi i n k / N) for n in 0 .. N - 1); with INVERSE the conjugate roots, without a factor.
template <int N, bool INVERSE>
__device__ __forceinline__ void dft(float2 (&v)[N]) {
  if constexpr (N == 1) {
    return;
  } else if constexpr (N == 2) {
    const float2 first = v[0];
    v[0] = plus(first, v[1]);
    v[1] = minus(first, v[1]);
  } else if constexpr (N == 4) {
    const float2 a = plus(v[0], v[2]), b = minus(v[0], v[2]), c = plus(v[1], v[3]);
    const float2 d = turned<1, 4, INVERSE>(minus(v[1], v[3]));
    v[0] = plus(a, c);
    v[1] = plus(b, d);
    v[2] = minus(a, c);
    v[3] = minus(b, d);
  } else if constexpr (N == 3 || N == 5 || N == 7) {
    prime_dft<N, INVERSE>(v);
  } else {
    constexpr int kOuter = first_factor(N), kInner = N / kOuter;
    static_assert(kInner > 1, "lengths have the prime factors 2, 3, 5 and 7");
    float2 parts[kOuter][kInner];
    unroll<kInner>([&](auto j) {
      float2 column[kOuter];
      unroll<kOuter>([&](auto i) { column[i] = v[kInner * i + j]; });
      dft<kOuter, INVERSE>(column);
      unroll<kOuter>([&](auto i) {
        constexpr int kTurns = decltype(i)::value * decltype(j)::value;
        parts[i][j] = turned<kTurns, N, INVERSE>(column[i]);
      });
    });
    unroll<kOuter>([&](auto i) {
      dft<kInner, INVERSE>(parts[i]);
      unroll<kInner>([&](auto j) { v[i + kOuter * j] = parts[i][j]; });
    });
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_REGISTER_DFT_CUH_
