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
  static constexpr int kTogether = IMAGES > 1 ? IMAGES / 2 : 1;  // of correlate_images_kernel
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
  ImageAxis height, width, other_height, other_width;  // the other's: of the output, where that is images
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

// Stores the samples of a pair of rows in the type T of the input, plus skip times the input's.
template <class P, typename T>
__device__ __forceinline__ void store_row(const ImageCall& call, float2 (&v)[P::kFirst], int j, int64_t image, int upper,
                                          int lower, float skip) {
  const int64_t start = image * call.other_height.size * call.other_width.size;
  const int a = call.other_height.sample(upper), b = call.other_height.sample(lower);
  const int64_t first = start + static_cast<int64_t>(a) * call.other_width.size;
  const int64_t second = start + static_cast<int64_t>(b) * call.other_width.size;
  if (skip != 0.f) {
    unroll<P::kFirst>([&](auto q) {
      const int column = call.other_width.sample(j + q * P::kSecond);
      v[q].x = fmaf(skip, sample_of<T>(call.input, a < 0 ? -1 : first, column), v[q].x);
      v[q].y = fmaf(skip, sample_of<T>(call.input, b < 0 ? -1 : second, column), v[q].y);
    });
  }
  T* output = static_cast<T*>(call.output);
  unroll<P::kFirst>([&](auto q) {
    const int column = call.other_width.sample(j + q * P::kSecond);
    if (column >= 0 && a >= 0) output[first + column] = from_float<T>(v[q].x);
    if (column >= 0 && b >= 0) output[second + column] = from_float<T>(v[q].y);
  });
}

// Transforms `count` pairs of rows back, the second pass being undone, and stores their samples; `rows_of` gives the image
// and the places of a pair's two rows.
template <class P, class Rows>
__device__ void store_pairs(const float2* rows, const ImageCall& call, float scale, int count, Rows&& rows_of) {
  for (int item = threadIdx.x; item < count * P::kSecond; item += blockDim.x) {
    const int j = item % P::kSecond, pair = item / P::kSecond;
    int64_t image;
    int upper, lower;
    rows_of(pair, image, upper, lower);
    const float skip = call.skip == nullptr ? 0.f : load_parameter(call.skip, image % call.channel, call.skip_dtype);
    float2 v[P::kFirst];
    unroll<P::kFirst>([&](auto q) { v[q] = rows[pair * P::kRow + q * P::kStep + j]; });
    dft<P::kFirst, true>(v);
    unroll<P::kFirst>([&](auto q) { v[q] = make_float2(v[q].x * scale, v[q].y * scale); });
    with_type(call.input.dtype, [&](auto kind) {
      store_row<P, decltype(kind)>(call, v, j, image, upper, lower, skip);
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

// What the kernels do with `group` columns from `start` on of `images` images [image, pair, kRow], one image's columns after
// the other's: `work` [column, kRow] gets their first pass, or gives back what undoes it.
template <class P>
__device__ void read_columns(float2* work, const float2* rows, const float2* roots, int pairs, int blocks, int start,
                             int group) {
  for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
    const int j = item % P::kSecond, column = item / P::kSecond, image = (start + column) / P::kColumns;
    float2 v[P::kFirst];
    read_column<P>(v, rows + image * pairs * P::kRow, roots, start + column - image * P::kColumns, j, blocks);
    unroll<P::kFirst>([&](auto q) { work[column * P::kRow + q * P::kStep + j] = v[q]; });
  }
}

template <class P>
__device__ void write_columns(const float2* work, float2* rows, int pairs, int blocks, int start, int group) {
  for (int item = threadIdx.x; item < group * P::kSecond; item += blockDim.x) {
    const int j = item % P::kSecond, column = item / P::kSecond, image = (start + column) / P::kColumns;
    float2 v[P::kFirst];
    unroll<P::kFirst>([&](auto q) { v[q] = work[column * P::kRow + q * P::kStep + j]; });
    write_column<P>(v, rows + image * pairs * P::kRow, start + column - image * P::kColumns, j, blocks);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) convolve_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const BlockImages block = images_of_block<S>(call);
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  float2* work = rows + S::kImages * pairs * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  transform_rows<P>(rows, roots, call.input, block.first, block.stride, block.count, call.height, call.width);
  const int columns = block.count * P::kColumns;
  for (int start = 0; start < columns; start += call.group) {
    const int group = columns - start < call.group ? columns - start : call.group;
    read_columns<P>(work, rows, roots, pairs, blocks, start, group);
    __syncthreads();
    for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
      const int p = item % P::kFirst, column = item / P::kFirst, image = (start + column) / P::kColumns;
      const int64_t index = block.first + image * block.stride, filter = call.per_sample ? index : index % call.channel;
      const int64_t place = filter * P::kColumns + start + column - image * P::kColumns;
      float2* at = work + column * P::kRow + p * P::kStep;
      float2 v[P::kSecond];
      unroll<P::kSecond>([&](auto j) { v[j] = at[j]; });
      dft<P::kSecond, false>(v);
      filter_column<P>(v, call.spectrum + place * P::kSize + p, call.conjugate);
      dft<P::kSecond, true>(v);
      unroll<P::kSecond>([&](auto j) { at[j] = twiddled<true>(v[j], roots[p * P::kStep + j], j); });
    }
    __syncthreads();
    write_columns<P>(work, rows, pairs, blocks, start, group);
    __syncthreads();
  }
  invert_second_pass<P>(rows, roots, block.count * pairs);
  constexpr float kScale = 0.5f / (static_cast<float>(P::kSize) * P::kSize);
  store_pairs<P>(rows, call, kScale, block.count * pairs, [&](int pair, int64_t& image, int& upper, int& lower) {
    const int index = pair / pairs;
    image = block.first + index * block.stride;
    upper = P::upper_row(pair - index * pairs);
    lower = upper + P::kSecond;
  });
}

// Writes the spectra of images, which are half of what read_column reads.
template <class S>
__global__ void __launch_bounds__(S::kThreads) transform_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  float2* work = rows + pairs * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  transform_rows<P>(rows, roots, call.input, blockIdx.x, 1, 1, call.height, call.width);
  float2* output = static_cast<float2*>(call.output) + static_cast<int64_t>(blockIdx.x) * P::kColumns * P::kSize;
  for (int start = 0; start < P::kColumns; start += call.group) {
    const int group = P::kColumns - start < call.group ? P::kColumns - start : call.group;
    read_columns<P>(work, rows, roots, pairs, blocks, start, group);
    __syncthreads();
    for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
      const int p = item % P::kFirst, column = item / P::kFirst;
      float2 v[P::kSecond];
      unroll<P::kSecond>([&](auto j) { v[j] = work[column * P::kRow + p * P::kStep + j]; });
      dft<P::kSecond, false>(v);
      float2* to = output + (start + column) * P::kSize + p;
      unroll<P::kSecond>([&](auto j) { to[j * P::kFirst] = make_float2(0.5f * v[j].x, 0.5f * v[j].y); });
    }
    __syncthreads();
  }
}

// Writes the images of which spectra, each a sum over `count` parts, are the transforms.
template <class S>
__global__ void __launch_bounds__(S::kThreads) invert_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const int blocks = P::blocks(P::kSize), pairs = P::pairs(P::kSize);
  float2* work = rows + pairs * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  const int64_t images = static_cast<int64_t>(call.batch) * call.channel;
  for (int start = 0; start < P::kColumns; start += call.group) {
    const int group = P::kColumns - start < call.group ? P::kColumns - start : call.group;
    for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
      const int p = item % P::kFirst, column = item / P::kFirst;
      float2 v[P::kSecond];
      unroll<P::kSecond>([&](auto j) { v[j] = make_float2(0.f, 0.f); });
      for (int part = 0; part < call.count; ++part) {
        const float2* from = call.spectrum + ((part * images + blockIdx.x) * P::kColumns + start + column) * P::kSize + p;
        unroll<P::kSecond>([&](auto j) { v[j] = plus(v[j], from[j * P::kFirst]); });
      }
      dft<P::kSecond, true>(v);
      float2* at = work + column * P::kRow + p * P::kStep;
      unroll<P::kSecond>([&](auto j) { at[j] = twiddled<true>(v[j], roots[p * P::kStep + j], j); });
    }
    __syncthreads();
    write_columns<P>(work, rows, pairs, blocks, start, group);
    __syncthreads();
  }
  invert_second_pass<P>(rows, roots, pairs);
  constexpr float kScale = 1.f / (static_cast<float>(P::kSize) * P::kSize);
  store_pairs<P>(rows, call, kScale, pairs, [&](int pair, int64_t& image, int& upper, int& lower) {
    image = blockIdx.x;
    upper = P::upper_row(pair);
    lower = upper + P::kSecond;
  });
}

// Writes, for each part of the batch, the sum over its images of conj(spectrum of input) * spectrum of other; with
// per_sample a part is one sample. A block takes some images of a channel at a time.
template <class S>
__global__ void __launch_bounds__(S::kThreads) correlate_images_kernel(ImageCall call) {
  using P = typename S::Plan;
  const int together = call.per_sample ? 1 : S::kTogether;
  extern __shared__ float2 shared[];
  float2 *roots = shared, *rows = roots + P::kRow;
  const int pairs = P::pairs(call.height.extent), blocks = P::blocks(call.height.extent);
  const int other_pairs = P::pairs(call.other_height.extent), other_blocks = P::blocks(call.other_height.extent);
  float2* other_rows = rows + together * pairs * P::kRow;
  float2* work = other_rows + together * other_pairs * P::kRow;
  float2* other_work = work + together * call.group * P::kRow;
  copy_roots<P>(roots, kRoots<P::kSize>.values);
  __syncthreads();
  const int channel = blockIdx.x % call.channel, part = blockIdx.x / call.channel;
  float2* output = static_cast<float2*>(call.output) + static_cast<int64_t>(blockIdx.x) * P::kColumns * P::kSize;
  const int begin = part * together;
  for (int sample = begin; sample == begin || sample < call.batch; sample += call.count * together) {
    const int left = call.batch - sample, images = left < 0 ? 0 : left < together ? left : together;
    const int64_t first = static_cast<int64_t>(sample) * call.channel + channel;
    transform_rows<P>(rows, roots, call.input, first, call.channel, images, call.height, call.width);
    transform_rows<P>(other_rows, roots, call.other, first, call.channel, images, call.other_height, call.other_width);
    for (int start = 0; start < P::kColumns; start += call.group) {
      const int group = P::kColumns - start < call.group ? P::kColumns - start : call.group;
      for (int image = 0; image < images; ++image) {
        const int at = image * call.group * P::kRow;
        read_columns<P>(work + at, rows + image * pairs * P::kRow, roots, pairs, blocks, start, group);
        read_columns<P>(other_work + at, other_rows + image * other_pairs * P::kRow, roots, other_pairs, other_blocks,
                        start, group);
      }
      __syncthreads();
      for (int item = threadIdx.x; item < group * P::kFirst; item += blockDim.x) {
        const int p = item % P::kFirst, column = item / P::kFirst;
        float2* to = output + (start + column) * P::kSize + p;
        float2 sums[P::kSecond];
        unroll<P::kSecond>([&](auto j) {
          sums[j] = sample == begin ? make_float2(0.f, 0.f) : to[j * P::kFirst];
        });
        for (int image = 0; image < images; ++image) {
          const int at = (image * call.group + column) * P::kRow + p * P::kStep;
          float2 v[P::kSecond], w[P::kSecond];
          unroll<P::kSecond>([&](auto j) { v[j] = work[at + j]; });
          dft<P::kSecond, false>(v);
          unroll<P::kSecond>([&](auto j) { w[j] = other_work[at + j]; });
          dft<P::kSecond, false>(w);
          unroll<P::kSecond>([&](auto j) {
            const float2 product = times<true>(w[j], v[j]);
            sums[j] = make_float2(sums[j].x + 0.25f * product.x, sums[j].y + 0.25f * product.y);
          });
        }
        unroll<P::kSecond>([&](auto j) { to[j * P::kFirst] = sums[j]; });
      }
      __syncthreads();
    }
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_IMAGE_CONV_CUH_
