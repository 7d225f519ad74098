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

// `kShare` lanes share a channel, each with `kReads` slots of its ring; a lane takes part in `kEach` channels.
template <typename T, typename W, int kShare, int kReads, int kEach>
__global__ void __launch_bounds__(kThreads) kernel(const Arguments a) {
  constexpr int kUnits = kThreads / kShare;
  const SubquadOpsFirStep& given = a.given;
  const int64_t batch = blockIdx.y;
  const int share = threadIdx.x % kShare, past = given.past;
  const int first = static_cast<int>(blockIdx.x) * kUnits * kEach + threadIdx.x / kShare;
  const int64_t time = given.position_bytes == 8 ? static_cast<const int64_t*>(given.position)[batch]
                                                 : static_cast<const int32_t*>(given.position)[batch];
  const int oldest = static_cast<int>(time % past);
  const bool keeps = given.active != nullptr && given.active[batch] == 0;

  T stored[kEach][kReads], samples[kEach];
  W weights[kEach][kReads], current[kEach];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int channel = min(first + each * kUnits, a.channels - 1);  // a last one that is taken again is not stored
    const int64_t row = batch * a.channels + channel;
    const T* ring = static_cast<const T*>(given.ring) + row * past;
    const W* taps = static_cast<const W*>(given.taps) + static_cast<int64_t>(channel / a.channels_of_group) * (past + 1);
    samples[each] = static_cast<const T*>(given.x)[row];
    current[each] = taps[0];
#pragma unroll
    for (int read = 0; read < kReads; ++read) {
      const int slot = share + read * kShare;
      const bool inside = slot < past;
      const int lag = slot < oldest ? oldest - slot : oldest - slot + past;
      stored[each][read] = inside ? ring[slot] : T(0.0f);
      weights[each][read] = inside ? taps[lag] : W(0.0f);
    }
  }
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    float sum = 0.0f;
#pragma unroll
    for (int read = 0; read < kReads; ++read) sum = fmaf(to_float(stored[each][read]), to_float(weights[each][read]), sum);
#pragma unroll
    for (int distance = kShare / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
    const int channel = first + each * kUnits;
    if (share != 0 || channel >= a.channels) continue;
    const int64_t row = batch * a.channels + channel;
    const float sample = to_float(samples[each]);
    sum = fmaf(to_float(current[each]), sample, sum);
    if (given.skip != nullptr) sum = fmaf(load_parameter(given.skip, channel, given.skip_dtype), sample, sum);
    if (given.bias != nullptr) sum += load_parameter(given.bias, channel, given.bias_dtype);
    static_cast<T*>(given.output)[row] = from_float<T>(sum);
    if (!keeps) static_cast<T*>(given.ring)[row * past + oldest] = samples[each];
  }
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
  if (a.given.past <= 2) return start<T, W, 1, 2, 2>(a, stream);
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
