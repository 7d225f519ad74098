// Rotary position embedding, alone or on the way into a key-value cache.
//
// A block makes the cosines and sines of a few tokens once, in shared memory, and turns all their heads by them.
#include "packages/ops/csrc/rows.cuh"

namespace subquad::rotary {

constexpr int kThreads = 256;
constexpr int kMostTokens = 8;   // of a block
constexpr int kMostPairs = 512;  // of a block; further pairs of a head are another block's
constexpr int64_t kMostGrid = 65535;
constexpr int64_t kMostHeads = 1 << 21;  // so that a block counts its work in 32 bits

struct Arguments {
  SubquadOpsRotary given;
  int32_t tokens, pairs;  // of a block
};

template <int kWidth>
struct Pair {
  float low[kWidth], high[kWidth];

  template <typename T>
  __device__ __forceinline__ void read(const T* x, int64_t half) {
    rows::load<kWidth>(x, low);
    rows::load<kWidth>(x + half, high);
  }

  __device__ __forceinline__ void write(void* y, int64_t at, int64_t half, int32_t dtype) const {
    rows::store(y, at, dtype, low);
    rows::store(y, at + half, dtype, high);
  }

  __device__ __forceinline__ void turn(const float* cosine, const float* sine) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float first = fmaf(low[i], cosine[i], -high[i] * sine[i]);
      high[i] = fmaf(low[i], sine[i], high[i] * cosine[i]);
      low[i] = first;
    }
  }
};

__device__ __forceinline__ float position_of(const SubquadOpsRotary& given, int64_t batch, int64_t time) {
  const int64_t at = batch * given.position_batch + time * given.position_time;
  if (given.position_bytes == 8) return static_cast<float>(static_cast<const int64_t*>(given.position)[at]);
  return static_cast<float>(static_cast<const int32_t*>(given.position)[at]);
}

template <typename T, int kWidth, bool kInto>
__global__ void __launch_bounds__(kThreads) kernel(const Arguments a) {
  __shared__ float cosines[kMostPairs], sines[kMostPairs];
  const SubquadOpsRotary& given = a.given;
  const int64_t half = given.half, batch = blockIdx.y, first_time = static_cast<int64_t>(blockIdx.x) * a.tokens;
  const int64_t first_pair = static_cast<int64_t>(blockIdx.z) * a.pairs;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(a.tokens), given.length - first_time));
  const int pairs = static_cast<int>(min(static_cast<int64_t>(a.pairs), half - first_pair));
  for (int i = threadIdx.x; i < tokens * pairs; i += kThreads) {
    const float at = __fdiv_rn(position_of(given, batch, first_time + i / pairs), given.scale);
    sincosf(at * given.inv_freq[first_pair + i % pairs], &sines[i], &cosines[i]);
  }
  __syncthreads();

  const int pieces = pairs / kWidth;
  const int heads = static_cast<int>(given.heads), items = tokens * heads * pieces;
  for (int item = threadIdx.x; item < items; item += kThreads) {
    const int pair = item % pieces * kWidth, row = item / pieces;
    const int token = row / heads;
    const int64_t head = row % heads;
    const int64_t time = first_time + token, channel = first_pair + pair;
    const float* cosine = cosines + token * pairs + pair;
    const float* sine = sines + token * pairs + pair;
    const T* x = static_cast<const T*>(given.x) + batch * given.x_batch + time * given.x_time + head * given.x_head + channel;
    Pair<kWidth> query, key, value;
    query.read(x, half);
    if constexpr (kInto) {
      key.read(x + given.x_part, half);
      value.read(x + 2 * given.x_part, half);
    }
    query.turn(cosine, sine);
    query.write(given.y, ((batch * given.length + time) * given.heads + head) * 2 * half + channel, half, given.dtype);
    if constexpr (kInto) {
      key.turn(cosine, sine);
      const int64_t key_at = batch * given.key_batch + time * given.key_time + head * given.key_head + channel;
      const int64_t value_at = batch * given.value_batch + time * given.value_time + head * given.value_head + channel;
      key.write(given.keys, key_at, half, given.key_dtype);
      value.write(given.values, value_at, half, given.value_dtype);
    }
  }
}

// Says whether pieces of 16 bytes of x, and as many numbers of every other array, can be moved at once.
bool moves_pieces(const SubquadOpsRotary& given) {
  const int64_t pack = 16 / rows::bytes_of(given.dtype);
  int64_t steps = given.half | given.x_batch | given.x_time | given.x_head;
  bool aligned = rows::is_aligned(given.x) && rows::is_aligned(given.y);
  if (given.keys != nullptr) {
    steps |= given.x_part | given.key_batch | given.key_time | given.key_head;
    steps |= given.value_batch | given.value_time | given.value_head;
    aligned = aligned && rows::is_aligned(given.keys) && rows::is_aligned(given.values);
  }
  return aligned && steps % pack == 0;
}

template <typename T>
int32_t start(const SubquadOpsRotary& given, cudaStream_t stream) {
  const int64_t pairs = given.half < kMostPairs ? given.half : kMostPairs;
  int64_t tokens = kThreads / pairs;
  tokens = tokens < 1 ? 1 : tokens > kMostTokens ? kMostTokens : tokens;
  const Arguments a{given, static_cast<int32_t>(tokens), static_cast<int32_t>(pairs)};
  const int64_t across = (given.half + pairs - 1) / pairs;
  if (across > kMostGrid) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  const dim3 grid(static_cast<unsigned>((given.length + tokens - 1) / tokens), static_cast<unsigned>(given.batch),
                  static_cast<unsigned>(across));
  constexpr int kPack = Pack<T>::kSize;
  const bool pieces = moves_pieces(given), into = given.keys != nullptr;
  if (into && pieces) kernel<T, kPack, true><<<grid, kThreads, 0, stream>>>(a);
  if (into && !pieces) kernel<T, 1, true><<<grid, kThreads, 0, stream>>>(a);
  if (!into && pieces) kernel<T, kPack, false><<<grid, kThreads, 0, stream>>>(a);
  if (!into && !pieces) kernel<T, 1, false><<<grid, kThreads, 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

int32_t check(const SubquadOpsRotary& given) {
  if (!rows::is_known(given.dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  const bool into = given.keys != nullptr;
  if (into && !(rows::is_known(given.key_dtype) && rows::is_known(given.value_dtype))) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.position_bytes != 4 && given.position_bytes != 8) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.batch < 0 || given.batch > kMostGrid || given.length < 0 || given.length > INT32_MAX || given.heads < 0 ||
      given.heads > kMostHeads || given.half < 0) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (given.batch == 0 || given.length == 0 || given.heads == 0 || given.half == 0) return SUBQUAD_OPS_OK;
  if (given.x == nullptr || given.position == nullptr || given.inv_freq == nullptr || given.y == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  return into != (given.values != nullptr) ? SUBQUAD_OPS_NULL_POINTER : SUBQUAD_OPS_OK;
}

}  // namespace subquad::rotary

extern "C" int32_t subquad_ops_rotary(const SubquadOpsRotary* rotary, void* stream) {
  if (rotary == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const int32_t status = subquad::rotary::check(*rotary);
  if (status != SUBQUAD_OPS_OK) return status;
  if (rotary->batch == 0 || rotary->length == 0 || rotary->heads == 0 || rotary->half == 0) return SUBQUAD_OPS_OK;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (rotary->dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return subquad::rotary::start<__half>(*rotary, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return subquad::rotary::start<__nv_bfloat16>(*rotary, cuda_stream);
    default:
      return subquad::rotary::start<float>(*rotary, cuda_stream);
  }
}
