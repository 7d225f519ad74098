// Two-dimensional Fourier transforms of real images inside one thread block.
//
// Two rows of an image become the real and the imaginary part of one complex row, so the rows of a transform of M x M take
// M / 2 complex rows at most, and only those that hold samples are stored. A row keeps its frequencies in the order in
// which the first pass leaves them; slots k and M - k of it hold what columns k and M - k need, so a column replaces what
// it has read and nothing is ever moved. A transform of M = FIRST * SECOND takes two passes: FIRST values SECOND apart in a
// thread's registers, then SECOND neighbours. The inverse undoes the passes in turn.
#ifndef SUBQUAD_OPS_IMAGE_FFT_CUH_
#define SUBQUAD_OPS_IMAGE_FFT_CUH_

#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/register_dft.cuh"

namespace subquad {

template <int FIRST, int SECOND>
struct ImagePlan {
  static constexpr int kFirst = FIRST, kSecond = SECOND, kSize = FIRST * SECOND, kColumns = kSize / 2 + 1;
  static constexpr int kStep = SECOND % 4 == 0 ? SECOND + 1 : SECOND;  // neighbours of a block in different banks
  static constexpr int kRow = FIRST * kStep + 1;                      // odd, so that rows are too
  static_assert(FIRST % 2 == 0, "a thread holds both rows of a pair");
  static_assert(SECOND > 1, "two passes");

  __host__ __device__ static constexpr int slot(int frequency) {
    return frequency % FIRST * kStep + frequency / FIRST;
  }
  // Blocks of 2 * SECOND rows that hold `rows` rows, and the pairs of rows in them.
  __host__ __device__ static constexpr int blocks(int rows) { return (rows + 2 * SECOND - 1) / (2 * SECOND); }
  __host__ __device__ static constexpr int pairs(int rows) { return blocks(rows) * SECOND; }
  // Row `pair` of the stored ones is made of this row of the image and of the one SECOND below it.
  __device__ static int upper_row(int pair) { return pair + pair / SECOND * SECOND; }
};

// Where the samples of one axis lie in the transform: sample s at s + shift, up to extent; with a period also at
// s + shift +- period.
struct ImageAxis {
  int size, extent, shift, period;

  // The sample at a place, or -1.
  __device__ __forceinline__ int sample(int place) const {
    int s = place - shift;
    s = s < 0 ? s + period : s >= size ? s - period : s;
    return place < extent && s >= 0 && s < size ? s : -1;
  }
};

// v times a root of those of INDEX, all 1 for the first, or its conjugate.
template <bool CONJUGATE, int INDEX>
__device__ __forceinline__ float2 twiddled(float2 v, const float2& root, Number<INDEX>) {
  return INDEX == 0 ? v : times<CONJUGATE>(v, root);
}

// Images of one type: image i starts at element i * stride.
struct Images {
  const void* base;
  int64_t stride;
  int32_t dtype;
};

// Calls body with a number of the type of a dtype: one branch in front of many loads or stores, which can then be under way
// together.
template <class Body>
__device__ __forceinline__ void with_type(int32_t dtype, Body&& body) {
  if (dtype == SUBQUAD_OPS_FLOAT32) {
    body(float{});
  } else if (dtype == SUBQUAD_OPS_BFLOAT16) {
    body(__nv_bfloat16{});
  } else {
    body(__half{});
  }
}

// A sample of a row that starts at an element, 0 where there is none.
template <typename T>
__device__ __forceinline__ float sample_of(const Images& images, int64_t start, int sample) {
  return start < 0 || sample < 0 ? 0.f : to_float(static_cast<const T*>(images.base)[start + sample]);
}

// Transforms `count` pairs of rows into `rows` [pair, kRow]; `starts_of` gives the elements at which the two rows of a pair
// start, -1 for a row of zeros.
template <class P, class Starts>
__device__ void transform_pairs(float2* rows, const float2* roots, const Images& source, ImageAxis width, int count,
                                Starts&& starts_of) {
  for (int item = threadIdx.x; item < count * P::kSecond; item += blockDim.x) {
    const int j = item % P::kSecond, pair = item / P::kSecond;
    int64_t upper, lower;
    starts_of(pair, upper, lower);
    float2 v[P::kFirst];
    with_type(source.dtype, [&](auto kind) {
      using T = decltype(kind);
      unroll<P::kFirst>([&](auto q) {
        const int sample = width.sample(j + q * P::kSecond);
        v[q] = make_float2(sample_of<T>(source, upper, sample), sample_of<T>(source, lower, sample));
      });
    });
    dft<P::kFirst, false>(v);
    float2* to = rows + pair * P::kRow + j;
    unroll<P::kFirst>([&](auto q) { to[q * P::kStep] = twiddled<false>(v[q], roots[q * P::kStep + j], q); });
  }
  __syncthreads();
  for (int item = threadIdx.x; item < count * P::kFirst; item += blockDim.x) {
    float2* at = rows + item / P::kFirst * P::kRow + item % P::kFirst * P::kStep;
    float2 v[P::kSecond];
    unroll<P::kSecond>([&](auto j) { v[j] = at[j]; });
    dft<P::kSecond, false>(v);
    unroll<P::kSecond>([&](auto j) { at[j] = v[j]; });
  }
  __syncthreads();
}

// Transforms the rows of the images from, from + step, … (`count` of them) into `rows` [image, pair, kRow].
template <class P>
__device__ void transform_rows(float2* rows, const float2* roots, const Images& source, int64_t from, int64_t step,
                               int count, ImageAxis height, ImageAxis width) {
  const int pairs = P::pairs(height.extent);
  transform_pairs<P>(rows, roots, source, width, count * pairs, [&](int pair, int64_t& first, int64_t& second) {
    const int image = pair / pairs, upper = P::upper_row(pair - image * pairs);
    const int a = height.sample(upper), b = height.sample(upper + P::kSecond);
    const int64_t start = (from + image * step) * source.stride;
    first = a < 0 ? -1 : start + static_cast<int64_t>(a) * width.size;
    second = b < 0 ? -1 : start + static_cast<int64_t>(b) * width.size;
  });
}

// Undoes the second pass over `rows` complex rows.
template <class P>
__device__ void invert_second_pass(float2* rows, const float2* roots, int count) {
  for (int item = threadIdx.x; item < count * P::kFirst; item += blockDim.x) {
    const int p = item % P::kFirst;
    float2* at = rows + item / P::kFirst * P::kRow + p * P::kStep;
    float2 v[P::kSecond];
    unroll<P::kSecond>([&](auto j) { v[j] = at[j]; });
    dft<P::kSecond, true>(v);
    unroll<P::kSecond>([&](auto j) { at[j] = twiddled<true>(v[j], roots[p * P::kStep + j], j); });
  }
  __syncthreads();
}

// The first pass of column `frequency` over the rows j, j + SECOND, … of an image: reads their pairs apart and transforms.
template <class P>
__device__ __forceinline__ void read_column(float2 (&v)[P::kFirst], const float2* rows, const float2* roots, int frequency,
                                            int j, int blocks) {
  const float2* own = rows + j * P::kRow + P::slot(frequency);
  const float2* mirrored = rows + j * P::kRow + P::slot(frequency == 0 ? 0 : P::kSize - frequency);
  unroll<P::kFirst / 2>([&](auto s) {
    float2 a = make_float2(0.f, 0.f), b = a;
    if (s < blocks) {
      a = own[s * P::kSecond * P::kRow];
      b = mirrored[s * P::kSecond * P::kRow];
    }
    v[2 * s] = make_float2(a.x + b.x, a.y - b.y);      // twice the upper row's transform
    v[2 * s + 1] = make_float2(a.y + b.y, b.x - a.x);  // twice the lower row's
  });
  dft<P::kFirst, false>(v);
  unroll<P::kFirst>([&](auto q) { v[q] = twiddled<false>(v[q], roots[q * P::kStep + j], q); });
}

// Undoes read_column, but for the factor 2.
template <class P>
__device__ __forceinline__ void write_column(float2 (&v)[P::kFirst], float2* rows, int frequency, int j, int blocks) {
  float2* own = rows + j * P::kRow + P::slot(frequency);
  float2* mirrored = rows + j * P::kRow + P::slot(frequency == 0 ? 0 : P::kSize - frequency);
  dft<P::kFirst, true>(v);
  unroll<P::kFirst / 2>([&](auto s) {
    if (s < blocks) {
      const float2 a = v[2 * s], b = v[2 * s + 1];
      own[s * P::kSecond * P::kRow] = make_float2(a.x - b.y, a.y + b.x);
      mirrored[s * P::kSecond * P::kRow] = make_float2(a.x + b.y, b.x - a.y);
    }
  });
}

// Lays exp(-2 pi i p j / M), which stands between the passes, where a row has its slot j of block p.
template <class P>
__device__ void copy_roots(float2* roots, const Root* table) {
  for (int item = threadIdx.x; item < P::kSize; item += blockDim.x) {
    const int p = item / P::kSecond, j = item % P::kSecond;
    roots[p * P::kStep + j] = make_float2(table[p * j].re, table[p * j].im);
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_IMAGE_FFT_CUH_
