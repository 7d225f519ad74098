// The kernels of two-dimensional FFT convolution: one thread block transforms an image, multiplies and transforms back.
#ifndef SUBQUAD_OPS_IMAGE_CONV_CUH_
#define SUBQUAD_OPS_IMAGE_CONV_CUH_

#include "packages/ops/csrc/image_fft.cuh"

namespace subquad {

// A plan, and how a block runs it: threads, the columns that are transformed together at most, images of a block.
template <int FIRST, int SECOND, int THREADS, int GROUP, int IMAGES>
struct ImageSetting {
  using Plan = ImagePlan<FIRST, SECOND>;
  static constexpr int kThreads = THREADS, kGroup = GROUP, kImages = IMAGES;
};

// exp(-2 pi i k / M) for every k.
template <int M>
struct RootTable {
  Root values[M];
  __host__ __device__ constexpr RootTable() : values() {
    for (int k = 0; k < M; ++k) values[k] = root_of_unity(k, M);
  }
};
template <int M>
__device__ constexpr RootTable<M> kRoots{};

// `batch * channel` images [height, width]; spectra [filter, column 0 .. M / 2, row frequency 0 .. M - 1].
struct ImageCall {
  Images input, other;      // other: what is correlated with the input
  const float2* spectrum;   // of the filter of a channel, or of an image
  const void* skip;         // [channel] in skip_dtype, or null
  void* output;             // images in the input's dtype, or spectra
  int batch, channel, skip_dtype, per_sample, conjugate;
  int count;  // images that lie channel after channel or batch * channel; of correlate: parts of the batch
  int group;  // columns that are transformed together
  ImageAxis height, width, other_height, other_width;
};

constexpr int kMostSharedBytes = 227 * 1024;  // of a block on compute capability 9.0

inline ImageAxis axis(const int32_t (&of)[4]) { return {of[0], of[1], of[2], of[3]}; }

inline ImageCall call_of(const SubquadOpsImages& given) {
  const int64_t area = static_cast<int64_t>(given.height[0]) * given.width[0];
  const int64_t other_area = static_cast<int64_t>(given.other_height[0]) * given.other_width[0];
  return {{given.input, area, given.dtype},
          {given.other, other_area, given.dtype},
          static_cast<const float2*>(given.spectrum),
          given.skip,
          given.output,
          static_cast<int>(given.batch),
          static_cast<int>(given.channel),
          given.skip_dtype,
          given.per_sample,
          given.conjugate,
          1,
          1,
          axis(given.height),
          axis(given.width),
          axis(given.other_height),
          axis(given.other_width)};
}

// Says what is wrong with a call.
inline int32_t check(const SubquadOpsImages& given) {
  if (given.input == nullptr || given.output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (given.batch < 1 || given.channel < 1 || given.batch * given.channel >= int64_t{1} << 31)
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.height[1] > given.size || given.width[1] > given.size) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.dtype < SUBQUAD_OPS_FLOAT32 || given.dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  return SUBQUAD_OPS_OK;
}

// A block's images: `first`, `first + stride`, … . Those of one channel are neighbours, so that they share its filter.
struct BlockImages {
  int64_t first, stride;
  int count;
};

template <class S>
__device__ __forceinline__ BlockImages images_of_block(const ImageCall& call) {
  const int along = call.count, outer = static_cast<int>(static_cast<int64_t>(call.batch) * call.channel / along);
  const int chunks = (along + S::kImages - 1) / S::kImages;
  const int from = blockIdx.x % chunks * S::kImages, channel = blockIdx.x / chunks;
  return {channel + static_cast<int64_t>(from) * outer, outer, along - from < S::kImages ? along - from : S::kImages};
}

// Transforms `count` pairs of rows back, the second pass being undone, and stores their samples; `rows_of` gives the image
// and the places of a pair's two rows.
template <class P, class Rows>
__device__ void store_pairs(const float2* rows, const ImageCall& call, int count, Rows&& rows_of) {
  constexpr float kScale = 0.5f / (static_cast<float>(P::kSize) * P::kSize);
  const int64_t area = static_cast<int64_t>(call.height.size) * call.width.size;
  for (int item = threadIdx.x; item < count * P::kSecond; item += blockDim.x) {
    const int j = item % P::kSecond, pair = item / P::kSecond;
    int64_t image;
    int upper, lower;
    rows_of(pair, image, upper, lower);
    const float skip = call.skip == nullptr ? 0.f : load_parameter(call.skip, image % call.channel, call.skip_dtype);
    float2 v[P::kFirst];
    unroll<P::kFirst>([&](auto q) { v[q] = rows[pair * P::kRow + q * P::kStep + j]; });
    dft<P::kFirst, true>(v);
    unroll<P::kFirst>([&](auto q) {
      const int column = j + q * P::kSecond - call.width.shift;
      if (column < 0 || column >= call.width.size) return;
      auto store = [&](int place, float value) {
        const int row = place - call.height.shift;
        if (row < 0 || row >= call.height.size) return;
        const int64_t element = image * area + static_cast<int64_t>(row) * call.width.size + column;
        value *= kScale;
        if (call.skip != nullptr) value += skip * load_parameter(call.input.base, element, call.input.dtype);
        store_sample(call.output, element, call.input.dtype, value);
      };
      store(upper, v[q].x);
      store(lower, v[q].y);
    });
  }
}

// Multiplies the spectrum of a column at the frequencies p, p + FIRST, … .
template <class P>
__device__ __forceinline__ void filter_column(float2 (&v)[P::kSecond], const float2* filter, bool conjugate) {
  unroll<P::kSecond>([&](auto j) {
    float2 h = filter[j * P::kFirst];
    if (conjugate) h.y = -h.y;
    v[j] = times<false>(v[j], h);
  });
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) convolve_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kSize;
  const BlockImages block = images_of_block<S>(call);
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  float2* work = rows + S::kImages * pairs * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  transform_rows<P>(rows, roots, call.input, block.first, block.stride, block.count, call.height, call.width);
  const int columns = block.count * P::kColumns;
  for (int start = 0; start < columns; start += call.group) {
    const int group = columns - start < call.group ? columns - start : call.group;
    auto place = [&](int column, int& frequency) {
      const int image = (start + column) / P::kColumns;
      frequency = start + column - image * P::kColumns;
      return image;
    };
    auto filter_of = [&](int image, int frequency) {
      const int64_t index = block.first + image * block.stride;
      const int64_t own = call.per_sample ? index : index % call.channel;
      return call.spectrum + (own * P::kColumns + frequency) * P::kSize;
    };
    for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
      const int j = item % P::kSecond, column = item / P::kSecond;
      int frequency;
      const int image = place(column, frequency);
      float2 v[P::kFirst];
      read_column<P>(v, rows + image * pairs * P::kRow, roots, frequency, j, blocks);
      if constexpr (P::kSecond > 1) {
        unroll<P::kFirst>([&](auto q) { work[column * P::kRow + q * P::kStep + j] = v[q]; });
      } else {
        const float2* filter = filter_of(image, frequency);
        unroll<P::kFirst>([&](auto q) {
          float2 h = filter[q];
          if (call.conjugate) h.y = -h.y;
          v[q] = times<false>(v[q], h);
        });
        write_column<P>(v, rows + image * pairs * P::kRow, frequency, j, blocks);
      }
    }
    __syncthreads();
    if constexpr (P::kSecond > 1) {
      for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
        const int p = item % P::kFirst, column = item / P::kFirst;
        int frequency;
        const int image = place(column, frequency);
        float2* at = work + column * P::kRow + p * P::kStep;
        float2 v[P::kSecond];
        unroll<P::kSecond>([&](auto j) { v[j] = at[j]; });
        dft<P::kSecond, false>(v);
        filter_column<P>(v, filter_of(image, frequency) + p, call.conjugate);
        dft<P::kSecond, true>(v);
        unroll<P::kSecond>([&](auto j) { at[j] = twiddled<true>(v[j], roots, p, j); });
      }
      __syncthreads();
      for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
        const int j = item % P::kSecond, column = item / P::kSecond;
        int frequency;
        const int image = place(column, frequency);
        float2 v[P::kFirst];
        unroll<P::kFirst>([&](auto q) { v[q] = work[column * P::kRow + q * P::kStep + j]; });
        write_column<P>(v, rows + image * pairs * P::kRow, frequency, j, blocks);
      }
      __syncthreads();
    }
  }
  invert_second_pass<P>(rows, roots, block.count * pairs);
  store_pairs<P>(rows, call, block.count * pairs, [&](int pair, int64_t& image, int& upper, int& lower) {
    const int index = pair / pairs;
    image = block.first + index * block.stride;
    upper = P::upper_row(pair - index * pairs);
    lower = upper + P::kSecond;
  });
}

// Writes the spectra of images; `scale` halves what read_column doubles.
template <class S>
__global__ void __launch_bounds__(S::kThreads) transform_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kSize;
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  float2* work = rows + pairs * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  transform_rows<P>(rows, roots, call.input, blockIdx.x, 1, 1, call.height, call.width);
  float2* output = static_cast<float2*>(call.output) + static_cast<int64_t>(blockIdx.x) * P::kColumns * P::kSize;
  for (int start = 0; start < P::kColumns; start += call.group) {
    const int group = P::kColumns - start < call.group ? P::kColumns - start : call.group;
    for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
      const int j = item % P::kSecond, column = item / P::kSecond;
      float2 v[P::kFirst];
      read_column<P>(v, rows, roots, start + column, j, blocks);
      unroll<P::kFirst>([&](auto q) {
        if constexpr (P::kSecond > 1) {
          work[column * P::kRow + q * P::kStep + j] = v[q];
        } else {
          output[(start + column) * P::kSize + q] = make_float2(0.5f * v[q].x, 0.5f * v[q].y);
        }
      });
    }
    __syncthreads();
    if constexpr (P::kSecond > 1) {
      for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
        const int p = item % P::kFirst, column = item / P::kFirst;
        float2 v[P::kSecond];
        unroll<P::kSecond>([&](auto j) { v[j] = work[column * P::kRow + p * P::kStep + j]; });
        dft<P::kSecond, false>(v);
        unroll<P::kSecond>([&](auto j) {
          output[(start + column) * P::kSize + p + j * P::kFirst] = make_float2(0.5f * v[j].x, 0.5f * v[j].y);
        });
      }
      __syncthreads();
    }
  }
}

// Writes, for each part of the batch, the sum over its images of conj(spectrum of input) * spectrum of other.
template <class S>
__global__ void __launch_bounds__(S::kThreads) correlate_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kSize;
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  const int other_pairs = P::pairs(call.other_height.extent), other_blocks = P::blocks(call.other_height.extent);
  float2* other_rows = rows + pairs * P::kRow;
  float2* work = other_rows + other_pairs * P::kRow;
  float2* other_work = work + call.group * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  const int channel = blockIdx.x % call.channel, part = blockIdx.x / call.channel;
  float2* output = static_cast<float2*>(call.output) + static_cast<int64_t>(blockIdx.x) * P::kColumns * P::kSize;
  for (int sample = part; sample < call.batch; sample += call.count) {
    const int64_t image = static_cast<int64_t>(sample) * call.channel + channel;
    transform_rows<P>(rows, roots, call.input, image, 1, 1, call.height, call.width);
    transform_rows<P>(other_rows, roots, call.other, image, 1, 1, call.other_height, call.other_width);
    auto add = [&](float2* to, float2 x, float2 y) {
      const float2 product = times<true>(y, x);
      float2 sum = sample == part ? make_float2(0.f, 0.f) : *to;
      *to = make_float2(sum.x + 0.25f * product.x, sum.y + 0.25f * product.y);
    };
    for (int start = 0; start < P::kColumns; start += call.group) {
      const int group = P::kColumns - start < call.group ? P::kColumns - start : call.group;
      for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
        const int j = item % P::kSecond, column = item / P::kSecond;
        float2 v[P::kFirst], w[P::kFirst];
        read_column<P>(v, rows, roots, start + column, j, blocks);
        if constexpr (P::kSecond > 1) unroll<P::kFirst>([&](auto q) { work[column * P::kRow + q * P::kStep + j] = v[q]; });
        read_column<P>(w, other_rows, roots, start + column, j, other_blocks);
        unroll<P::kFirst>([&](auto q) {
          if constexpr (P::kSecond > 1) {
            other_work[column * P::kRow + q * P::kStep + j] = w[q];
          } else {
            add(output + (start + column) * P::kSize + q, v[q], w[q]);
          }
        });
      }
      __syncthreads();
      if constexpr (P::kSecond > 1) {
        for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
          const int p = item % P::kFirst, column = item / P::kFirst, at = column * P::kRow + p * P::kStep;
          float2 v[P::kSecond], w[P::kSecond];
          unroll<P::kSecond>([&](auto j) { v[j] = work[at + j]; });
          dft<P::kSecond, false>(v);
          unroll<P::kSecond>([&](auto j) { w[j] = other_work[at + j]; });
          dft<P::kSecond, false>(w);
          unroll<P::kSecond>([&](auto j) {
            add(output + (start + column) * P::kSize + p + j * P::kFirst, v[j], w[j]);
          });
        }
        __syncthreads();
      }
    }
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_IMAGE_CONV_CUH_
