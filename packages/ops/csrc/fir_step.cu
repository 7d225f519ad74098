// One decode step of causal filters: the new sample of each channel meets the ring of those before it and takes the place
// of the oldest.
//
// Bound by the rings, each read once. One lane, eight lanes or a warp share a channel, by the length of its ring, and all
// that they read for some channels is on the way before the first is used.
#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"

namespace subquad::fir_step {

constexpr int kThreads = 256;
constexpr int kMostPast = 128;
constexpr unsigned kAll = 0xffffffffu;

struct Arguments {
  SubquadOpsFirStep given;
  int32_t channels, channels_of_group;
};

// Adds up kEach sums over the kShare lanes that have a part of each, halving at each step what a lane still adds up.
// Returns this lane's one sum; `own` says of which.
template <int kShare, int kEach>
__device__ __forceinline__ float sum_of(float (&sums)[kEach], int share, int& own) {
  int distance = kShare / 2;
  own = 0;
#pragma unroll
  for (int half = kEach / 2; half > 0; half /= 2) {
    const bool upper = (share & distance) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = __shfl_xor_sync(kAll, upper ? sums[i] : sums[i + half], distance);
      sums[i] = (upper ? sums[i + half] : sums[i]) + sent;
    }
    own += upper ? half : 0;
    distance /= 2;
  }
#pragma unroll
  for (int rest = kShare / kEach / 2; rest > 0; rest /= 2) sums[0] += __shfl_xor_sync(kAll, sums[0], rest);
  return sums[0];
}

// `kShare` lanes share `kEach` channels; each has `kReads` slots of every ring.
template <typename T, typename W, int kShare, int kReads, int kEach>
__global__ void __launch_bounds__(kThreads) kernel(const Arguments a) {
  static_assert(kEach <= kShare);
  const SubquadOpsFirStep& given = a.given;
  const int64_t batch = blockIdx.y;
  const int share = threadIdx.x % kShare, past = given.past;
  const int first = (static_cast<int>(blockIdx.x) * (kThreads / kShare) + threadIdx.x / kShare) * kEach;
  const int64_t time = given.position_bytes == 8 ? static_cast<const int64_t*>(given.position)[batch]
                                                 : static_cast<const int32_t*>(given.position)[batch];
  auto group_of = [&](int channel) { return a.channels_of_group == 1 ? channel : channel / a.channels_of_group; };

  T stored[kEach][kReads];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int channel = min(first + each, a.channels - 1);  // a last one that is taken again is not stored
    const T* ring = static_cast<const T*>(given.ring) + (batch * a.channels + channel) * past + share;
#pragma unroll
    for (int read = 0; read < kReads; ++read) {
      stored[each][read] = share + read * kShare < past ? ring[read * kShare] : T(0.0f);
    }
  }
  const int oldest = (time >> 31) == 0 ? static_cast<int>(time) % past : static_cast<int>(time % past);
  int lags[kReads];  // 0, whose slot holds 0, behind the ring
#pragma unroll
  for (int read = 0; read < kReads; ++read) {
    const int slot = share + read * kShare;
    lags[read] = slot >= past ? 0 : slot < oldest ? oldest - slot : oldest - slot + past;
  }
  float sums[kEach];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int group = group_of(min(first + each, a.channels - 1));
    const W* taps = static_cast<const W*>(given.taps) + static_cast<int64_t>(group) * (past + 1);
    sums[each] = 0.0f;
#pragma unroll
    for (int read = 0; read < kReads; ++read) {
      sums[each] = fmaf(to_float(stored[each][read]), to_float(taps[lags[read]]), sums[each]);
    }
  }
  int own;
  float sum = sum_of<kShare, kEach>(sums, share, own);
  const int channel = first + own;
  if (share % (kShare / kEach) != 0 || channel >= a.channels) return;
  const int64_t row = batch * a.channels + channel;
  const T current = static_cast<const T*>(given.x)[row];
  const float sample = to_float(current);
  sum = fmaf(to_float(static_cast<const W*>(given.taps)[static_cast<int64_t>(group_of(channel)) * (past + 1)]), sample, sum);
  if (given.skip != nullptr) sum = fmaf(load_parameter(given.skip, channel, given.skip_dtype), sample, sum);
  if (given.bias != nullptr) sum += load_parameter(given.bias, channel, given.bias_dtype);
  static_cast<T*>(given.output)[row] = from_float<T>(sum);
  const bool keeps = given.active != nullptr && given.active[batch] == 0;
  if (!keeps) static_cast<T*>(given.ring)[row * past + oldest] = current;
}

template <typename T, typename W, int kShare, int kReads, int kEach>
int32_t start(const Arguments& a, cudaStream_t stream) {
  constexpr int kChannels = kThreads / kShare * kEach;
  const dim3 blocks((a.channels + kChannels - 1) / kChannels, static_cast<unsigned>(a.given.batch));
  kernel<T, W, kShare, kReads, kEach><<<blocks, kThreads, 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

template <typename T, typename W>
int32_t start_for(const Arguments& a, cudaStream_t stream) {
  if (a.given.past <= 2) return start<T, W, 1, 2, 1>(a, stream);
  if (a.given.past <= 8) return start<T, W, 1, 8, 1>(a, stream);
  if (a.given.past <= 32) return start<T, W, 8, 4, 2>(a, stream);
  return start<T, W, 32, 4, 4>(a, stream);
}

template <typename T>
int32_t start_with(const Arguments& a, cudaStream_t stream) {
  return a.given.taps_dtype == SUBQUAD_OPS_FLOAT32 ? start_for<T, float>(a, stream) : start_for<T, T>(a, stream);
}

}  // namespace subquad::fir_step

extern "C" int32_t subquad_ops_fir_step(const SubquadOpsFirStep* given, void* stream) {
  namespace own = subquad::fir_step;
  if (given == nullptr || given->x == nullptr || given->taps == nullptr || given->ring == nullptr ||
      given->position == nullptr || given->output == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  for (const int32_t dtype : {given->dtype, given->bias_dtype, given->skip_dtype}) {
    if (dtype < SUBQUAD_OPS_FLOAT32 || dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  }
  if (given->taps_dtype != given->dtype && given->taps_dtype != SUBQUAD_OPS_FLOAT32) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given->position_bytes != 4 && given->position_bytes != 8) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given->past < 1 || given->past > own::kMostPast) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  if (given->batch < 1 || given->batch > 65535 || given->channels < 1 || given->channels > (int64_t{1} << 30)) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (given->groups < 1 || given->channels % given->groups != 0) return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  const own::Arguments arguments{*given, static_cast<int32_t>(given->channels),
                                 static_cast<int32_t>(given->channels / given->groups)};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (given->dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return own::start_with<__half>(arguments, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return own::start_with<__nv_bfloat16>(arguments, cuda_stream);
    default:
      return own::start_with<float>(arguments, cuda_stream);
  }
}
