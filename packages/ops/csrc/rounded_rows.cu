// Rows rounded to one byte a number under a scale each: as they are, behind a norm, products, and channels that come first.
#include "packages/ops/csrc/rows.cuh"

namespace subquad::rounded_rows {

using rows::Arguments;

template <typename T, typename Spread, bool kProduct>
__global__ void __launch_bounds__(Spread::kBlockThreads, Spread::kBlocks) kernel(const Arguments a) {
  __shared__ float room_of_sum[rows::kMostWarps];
  __shared__ float room_of_largest[rows::kMostWarps];
  const int64_t row = Spread::row();
  if (row >= a.rows) return;  // a whole warp: blocks of more hold one row
  rows::Share<Spread> share;
  if constexpr (kProduct) {
    rows::read_product<T, Spread>(a, row, share);
  } else {
    rows::read_sum<T, Spread>(a, row, share);
    if (a.given.norm != rows::kNoNorm) rows::normalise<Spread>(a, room_of_sum, share);
  }
  const float most = Spread::template over_row<rows::Largest>(rows::largest<Spread>(share), room_of_largest);
  const float factor = rows::scale_of(most);
  if (threadIdx.x == 0) a.given.inverse[row] = __fdiv_rn(1.0f, factor);
  uint8_t* codes = static_cast<uint8_t*>(a.given.output) + row * a.channels;
#pragma unroll
  for (int piece = 0; piece < Spread::kPieces; ++piece) {
#pragma unroll
    for (int i = 0; i < Spread::kWidth; ++i) share[piece][i] *= factor;
    if (Spread::channel(piece) < a.channels) rows::store_e4m3(codes + Spread::channel(piece), share[piece]);
  }
}

template <typename T, typename Spread>
struct OfSums {
  static constexpr void (*run)(Arguments) = kernel<T, Spread, false>;
};

template <typename T, typename Spread>
struct OfProducts {
  static constexpr void (*run)(Arguments) = kernel<T, Spread, true>;
};

// --------------------------------------------------------------------------------- channels first

constexpr int kTokens = 32;  // of a block
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * rows::kLanes;
constexpr int kQuad = 4;  // channels whose codes make a word

struct Columns {
  const void* x;
  uint8_t* codes;
  float* inverse;
  int64_t channels, length, batch_stride, channel_stride;
  bool words;  // 4 codes can be written at once
};

// A lane takes kWidth tokens of four channels; the lanes of a warp take 32 tokens of kQuads such quads.
template <typename T>
struct Tile {
  static constexpr int kWidth = Pack<T>::kSize;
  static constexpr int kTokenLanes = kTokens / kWidth;
  static constexpr int kQuads = rows::kLanes / kTokenLanes;
  static constexpr int kWords = kWarps * kQuads;  // of a token
  static constexpr int kChannels = kWords * kQuad;
  static constexpr int kPitch = kWords + 1;  // in words: lanes of all token groups write to banks of their own
};

// Samples [time, time + kWidth) of kQuad channels, all on the way at once; zeros where there is no channel. What stands
// behind the last sample belongs to tokens that nobody stores.
template <bool kAtOnce, typename T, int kWidth>
__device__ __forceinline__ void read_tokens(const Columns& a, const T* x, int64_t channel, int64_t time,
                                            rows::Piece<T, kWidth> (&tokens)[kQuad]) {
#pragma unroll
  for (int c = 0; c < kQuad; ++c) {
    const T* from = x + (channel + c) * a.channel_stride + time;
    tokens[c] = {};
    if constexpr (kAtOnce) {
      if (channel + c < a.channels && time < a.length) tokens[c] = rows::read<kWidth>(from);
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (channel + c < a.channels && time + i < a.length) tokens[c].values[i] = from[i];
      }
    }
  }
}

template <typename T, bool kAtOnce>
__global__ void __launch_bounds__(kThreads) columns(const Columns a) {
  using Here = Tile<T>;
  constexpr int kWidth = Here::kWidth;
  __shared__ float largest_of_warps[kWarps][kTokens];
  __shared__ float factors[kTokens];
  __shared__ uint32_t tile[kTokens * Here::kPitch];
  const int lane = threadIdx.x % rows::kLanes, warp = threadIdx.x / rows::kLanes;
  const int token = lane % Here::kTokenLanes * kWidth, word = warp * Here::kQuads + lane / Here::kTokenLanes;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kTokens;
  const T* x = static_cast<const T*>(a.x) + blockIdx.y * a.batch_stride;
  const int64_t row = blockIdx.y * a.length + start;

  float largest[kWidth] = {};
#pragma unroll(kAtOnce ? 2 : 1)
  for (int64_t base = 0; base < a.channels; base += Here::kChannels) {
    rows::Piece<T, kWidth> tokens[kQuad];
    read_tokens<kAtOnce>(a, x, base + word * kQuad, start + token, tokens);
#pragma unroll
    for (const auto& of_channel : tokens) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) largest[i] = fmaxf(largest[i], fabsf(to_float(of_channel.values[i])));
    }
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
#pragma unroll
    for (int distance = rows::kLanes / 2; distance >= Here::kTokenLanes; distance /= 2) {
      largest[i] = fmaxf(largest[i], __shfl_xor_sync(rows::kAll, largest[i], distance));
    }
    if (lane < Here::kTokenLanes) largest_of_warps[warp][token + i] = largest[i];
  }
  __syncthreads();
  if (threadIdx.x < kTokens) {
    float most = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, largest_of_warps[w][threadIdx.x]);
    const float factor = rows::scale_of(most);
    factors[threadIdx.x] = factor;
    if (start + threadIdx.x < a.length) a.inverse[row + threadIdx.x] = __fdiv_rn(1.0f, factor);
  }
  __syncthreads();

  float factor[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) factor[i] = factors[token + i];
  for (int64_t base = 0; base < a.channels; base += Here::kChannels) {
    rows::Piece<T, kWidth> tokens[kQuad];
    read_tokens<kAtOnce>(a, x, base + word * kQuad, start + token, tokens);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float four[kQuad];
#pragma unroll
      for (int c = 0; c < kQuad; ++c) four[c] = to_float(tokens[c].values[i]) * factor[i];
      rows::store_e4m3(reinterpret_cast<uint8_t*>(&tile[(token + i) * Here::kPitch + word]), four);
    }
    __syncthreads();
    for (int at = threadIdx.x; at < kTokens * Here::kWords; at += kThreads) {
      const int one = at / Here::kWords, column = at % Here::kWords;
      const int64_t channel = base + column * kQuad;
      if (start + one >= a.length || channel >= a.channels) continue;
      uint8_t* codes = a.codes + (row + one) * a.channels + channel;
      const uint32_t four = tile[one * Here::kPitch + column];
      if (a.words) {
        *reinterpret_cast<uint32_t*>(codes) = four;
      } else {
#pragma unroll
        for (int c = 0; c < kQuad; ++c) {
          if (channel + c < a.channels) codes[c] = static_cast<uint8_t>(four >> (8 * c));
        }
      }
    }
    __syncthreads();
  }
}

template <typename T>
int32_t start(const Columns& a, int64_t batch, cudaStream_t stream) {
  // A piece that a channel's last sample shares begins within the channel, and ends where the next one may begin.
  const bool at_once = rows::is_aligned(a.x) && (a.batch_stride | a.channel_stride) % Pack<T>::kSize == 0 &&
                       a.channel_stride >= a.length;
  const dim3 grid(static_cast<unsigned>((a.length + kTokens - 1) / kTokens), static_cast<unsigned>(batch));
  if (at_once) {
    columns<T, true><<<grid, kThreads, 0, stream>>>(a);
  } else {
    columns<T, false><<<grid, kThreads, 0, stream>>>(a);
  }
  return static_cast<int32_t>(cudaGetLastError());
}

}  // namespace subquad::rounded_rows

extern "C" int32_t subquad_ops_rounded_rows(const SubquadOpsRows* rows, void* stream) {
  if (rows == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (rows->norm < subquad::rows::kNoNorm || rows->norm > subquad::rows::kNormStandard) return SUBQUAD_OPS_UNKNOWN_NORM;
  if (rows->rows > 0 && rows->inverse == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const bool product = rows->other != nullptr && rows->total == nullptr;
  if (product && rows->other_dtype != rows->dtype) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (product && rows->norm != subquad::rows::kNoNorm) return SUBQUAD_OPS_UNKNOWN_NORM;
  return product ? subquad::rows::run<subquad::rounded_rows::OfProducts>(*rows, stream)
                 : subquad::rows::run<subquad::rounded_rows::OfSums>(*rows, stream);
}

extern "C" int32_t subquad_ops_rounded_columns(const void* x, void* codes, float* inverse, int64_t batch, int64_t channels,
                                               int64_t length, int64_t batch_stride, int64_t channel_stride,
                                               int32_t dtype, void* stream) {
  constexpr int64_t kMostBatch = 65535;
  if (!subquad::rows::is_known(dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (batch < 0 || batch > kMostBatch || channels < 1 || length < 0 || length > INT32_MAX) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (batch == 0 || length == 0) return SUBQUAD_OPS_OK;
  if (x == nullptr || codes == nullptr || inverse == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const bool words = channels % subquad::rounded_rows::kQuad == 0 && subquad::rows::is_aligned(codes);
  const subquad::rounded_rows::Columns a{
      x, static_cast<uint8_t*>(codes), inverse, channels, length, batch_stride, channel_stride, words};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return subquad::rounded_rows::start<__half>(a, batch, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return subquad::rounded_rows::start<__nv_bfloat16>(a, batch, cuda_stream);
    default:
      return subquad::rounded_rows::start<float>(a, batch, cuda_stream);
  }
}
