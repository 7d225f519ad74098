// Two-dimensional FFT convolution of images whose rows do not fit into one block: rows, columns and rows again in three
// kernels, with the transforms of the rows [image, row, column 0 .. M / 2] in device memory in between.
#ifndef SUBQUAD_OPS_IMAGE_LARGE_CUH_
#define SUBQUAD_OPS_IMAGE_LARGE_CUH_

#include "packages/ops/csrc/image_conv.cuh"

namespace subquad {

// A plan; the threads of a block, the pairs of rows and the columns that it transforms together.
template <int FIRST, int SECOND>
struct LargeSetting {
  using Plan = ImagePlan<FIRST, SECOND>;
  static constexpr int kThreads = 256, kPairs = 8, kGroup = 16;
};

// Some images of a call, counted with the samples of a channel as neighbours, so that they share its filter.
struct LargeCall {
  ImageCall call;
  float2* scratch;  // [count, height extent, columns]
  int64_t first;
  int count;

  __device__ __forceinline__ int64_t image(int index) const {
    const int64_t n = first + index;
    return n % call.batch * call.channel + n / call.batch;
  }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads) large_rows_kernel(LargeCall large) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const ImageCall& call = large.call;
  const int chunks = (call.height.extent + 2 * S::kPairs - 1) / (2 * S::kPairs);
  const int index = blockIdx.x / chunks, top = blockIdx.x % chunks * 2 * S::kPairs;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  const int64_t start = large.image(index) * call.input.stride;
  transform_pairs<P>(rows, roots, call.input, call.width, S::kPairs, [&](int pair, int64_t& upper, int64_t& lower) {
    const int a = call.height.sample(top + 2 * pair), b = call.height.sample(top + 2 * pair + 1);
    upper = a < 0 ? -1 : start + static_cast<int64_t>(a) * call.width.size;
    lower = b < 0 ? -1 : start + static_cast<int64_t>(b) * call.width.size;
  });
  float2* output = large.scratch + (static_cast<int64_t>(index) * call.height.extent + top) * P::kColumns;
  for (int item = threadIdx.x; item < S::kPairs * P::kColumns; item += blockDim.x) {
    const int pair = item / P::kColumns, frequency = item % P::kColumns;
    const float2 a = rows[pair * P::kRow + P::slot(frequency)];
    const float2 b = rows[pair * P::kRow + P::slot(frequency == 0 ? 0 : P::kSize - frequency)];
    float2* to = output + 2 * pair * P::kColumns + frequency;
    if (top + 2 * pair < call.height.extent) *to = make_float2(a.x + b.x, a.y - b.y);
    if (top + 2 * pair + 1 < call.height.extent) to[P::kColumns] = make_float2(a.y + b.y, b.x - a.x);
  }
}

// Transforms columns; FILTER: multiplies and transforms them back in place, else writes their halves as spectra.
template <class S, bool FILTER>
__global__ void __launch_bounds__(S::kThreads) large_columns_kernel(LargeCall large) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *work = roots + P::kRow;
  const ImageCall& call = large.call;
  constexpr int kChunks = (P::kColumns + S::kGroup - 1) / S::kGroup;
  const int index = blockIdx.x / kChunks, start = blockIdx.x % kChunks * S::kGroup;
  const int group = P::kColumns - start < S::kGroup ? P::kColumns - start : S::kGroup;
  const int64_t image = large.image(index);
  float2* columns = large.scratch + static_cast<int64_t>(index) * call.height.extent * P::kColumns + start;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  for (int item = threadIdx.x; item < S::kGroup * P::kSecond; item += blockDim.x) {
    const int column = item % S::kGroup, j = item / S::kGroup;
    if (column >= group) continue;
    float2 v[P::kFirst];
    unroll<P::kFirst>([&](auto q) {
      const int row = j + q * P::kSecond;
      v[q] = row < call.height.extent ? columns[row * P::kColumns + column] : make_float2(0.f, 0.f);
    });
    dft<P::kFirst, false>(v);
    float2* to = work + column * P::kRow + j;
    unroll<P::kFirst>([&](auto q) { to[q * P::kStep] = twiddled<false>(v[q], roots[q * P::kStep + j], q); });
  }
  __syncthreads();
  const int64_t own = FILTER && !call.per_sample ? image % call.channel : image;
  const int64_t place = (own * P::kColumns + start) * P::kSize;
  for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
    const int p = item % P::kFirst, column = item / P::kFirst;
    float2* at = work + column * P::kRow + p * P::kStep;
    float2 v[P::kSecond];
    unroll<P::kSecond>([&](auto j) { v[j] = at[j]; });
    dft<P::kSecond, false>(v);
    if constexpr (FILTER) {
      filter_column<P>(v, call.spectrum + place + column * P::kSize + p, call.conjugate);
      dft<P::kSecond, true>(v);
      unroll<P::kSecond>([&](auto j) { at[j] = twiddled<true>(v[j], roots[p * P::kStep + j], j); });
    } else {
      float2* to = static_cast<float2*>(call.output) + place + column * P::kSize + p;
      unroll<P::kSecond>([&](auto j) { to[j * P::kFirst] = make_float2(0.5f * v[j].x, 0.5f * v[j].y); });
    }
  }
  if constexpr (FILTER) {
    __syncthreads();
    for (int item = threadIdx.x; item < S::kGroup * P::kSecond; item += blockDim.x) {
      const int column = item % S::kGroup, j = item / S::kGroup;
      if (column >= group) continue;
      float2 v[P::kFirst];
      unroll<P::kFirst>([&](auto q) { v[q] = work[column * P::kRow + q * P::kStep + j]; });
      dft<P::kFirst, true>(v);
      unroll<P::kFirst>([&](auto q) {
        const int row = j + q * P::kSecond;
        if (row < call.height.extent) columns[row * P::kColumns + column] = v[q];
      });
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) large_results_kernel(LargeCall large) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const ImageCall& call = large.call;
  const int chunks = (call.height.extent + 2 * S::kPairs - 1) / (2 * S::kPairs);
  const int index = blockIdx.x / chunks, top = blockIdx.x % chunks * 2 * S::kPairs;
  const float2* input = large.scratch + (static_cast<int64_t>(index) * call.height.extent + top) * P::kColumns;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  for (int item = threadIdx.x; item < S::kPairs * P::kColumns; item += blockDim.x) {
    const int pair = item / P::kColumns, frequency = item % P::kColumns;
    const float2* from = input + 2 * pair * P::kColumns + frequency;
    float2 a = make_float2(0.f, 0.f), b = a;
    if (top + 2 * pair < call.height.extent) a = *from;
    if (top + 2 * pair + 1 < call.height.extent) b = from[P::kColumns];
    rows[pair * P::kRow + P::slot(frequency)] = make_float2(a.x - b.y, a.y + b.x);
    if (frequency > 0 && 2 * frequency < P::kSize)
      rows[pair * P::kRow + P::slot(P::kSize - frequency)] = make_float2(a.x + b.y, b.x - a.y);
  }
  __syncthreads();
  invert_second_pass<P>(rows, roots, S::kPairs);
  const int64_t image_of_block = large.image(index);
  constexpr float kScale = 0.5f / (static_cast<float>(P::kSize) * P::kSize);
  store_pairs<P>(rows, call, kScale, S::kPairs, [&](int pair, int64_t& image, int& upper, int& lower) {
    image = image_of_block;
    upper = top + 2 * pair < call.height.extent ? top + 2 * pair : P::kSize;
    lower = top + 2 * pair + 1 < call.height.extent ? top + 2 * pair + 1 : P::kSize;
  });
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_IMAGE_LARGE_CUH_
