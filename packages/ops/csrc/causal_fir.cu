// Short causal depthwise convolution, forward.
//
// The work is bound by memory: each element is read once and written once. A thread owns one aligned 16-byte pack of
// the output and reads the packs of input before it again, which the cache serves. Packs are aligned in memory, not in
// the row, so that rows of odd length still move 16 bytes at a time: only the two packs that straddle the ends of a
// row are moved element by element.
#include <cuda_runtime.h>

#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"

// A named namespace, not an anonymous one: nvcc makes up the name of the latter from the path of the build folder, and the
// library would differ from build to build.
namespace subquad::causal_fir {

constexpr int kMinTap = 2;
constexpr int kMaxTap = 8;
constexpr int kThreads = 256;
constexpr int64_t kMaxGridY = 65535;

struct Arguments {
  const void* input;
  const void* taps;
  const void* bias;
  const void* skip;
  const void* initial_state;
  void* output;
  int64_t length;
  int64_t packs_per_row;
  uint32_t rows;
  uint32_t channels;
  uint32_t channels_per_group;
  int32_t parameter_dtype;
  int32_t activation;
  bool aligned;  // input and output start at multiples of 16 bytes
};

// Sample `time` of a row: from the row, from the initial state before it, zero outside both.
template <typename T, int kTap>
__device__ __forceinline__ float load_sample(const T* row, const T* state, int64_t time, int64_t length) {
  if (time >= 0) return time < length ? to_float(row[time]) : 0.0f;
  return state != nullptr && time >= 1 - kTap ? to_float(state[kTap - 1 + time]) : 0.0f;
}

// Samples [time, time + pack) of a row.
template <typename T, int kTap>
__device__ __forceinline__ void load_pack(float* samples, const T* row, const T* state, int64_t time, int64_t length,
                                          bool aligned) {
  constexpr int kPack = Pack<T>::kSize;
  if (aligned && time >= 0 && time + kPack <= length) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(row + time);
#pragma unroll
    for (int i = 0; i < kPack; ++i) samples[i] = to_float(pack.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) samples[i] = load_sample<T, kTap>(row, state, time + i, length);
  }
}

template <typename T>
__device__ __forceinline__ void store_pack(const float* values, T* row, int64_t time, int64_t length, bool aligned) {
  constexpr int kPack = Pack<T>::kSize;
  if (aligned && time >= 0 && time + kPack <= length) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.values[i] = from_float<T>(values[i]);
    *reinterpret_cast<Pack<T>*>(row + time) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (time + i >= 0 && time + i < length) row[time + i] = from_float<T>(values[i]);
    }
  }
}

__device__ __forceinline__ float activate(float x, int32_t activation) {
  return activation == SUBQUAD_OPS_SILU ? x / (1.0f + expf(-x)) : x;
}

// Thread (x, y) of block (i, j) owns row i * blockDim.y + y and the packs x, x + blockDim.x, ... of the j-th stretch.
template <typename T, int kTap>
__global__ void __launch_bounds__(kThreads) forward(const Arguments a) {
  constexpr int kPack = Pack<T>::kSize;
  constexpr int kHalo = (kTap - 1 + kPack - 1) / kPack * kPack;  // whole packs that hold the kTap - 1 samples before
  const uint32_t row_index = blockIdx.x * blockDim.y + threadIdx.y;
  if (row_index >= a.rows) return;
  const uint32_t channel = row_index % a.channels;
  const int64_t row_start = static_cast<int64_t>(row_index) * a.length;
  const T* input = static_cast<const T*>(a.input) + row_start;
  T* output = static_cast<T*>(a.output) + row_start;
  const T* state = a.initial_state == nullptr
                       ? nullptr
                       : static_cast<const T*>(a.initial_state) + static_cast<int64_t>(row_index) * (kTap - 1);

  float taps[kTap];
  const int64_t filter = static_cast<int64_t>(channel / a.channels_per_group) * kTap;
#pragma unroll
  for (int k = 0; k < kTap; ++k) taps[k] = load_parameter(a.taps, filter + k, a.parameter_dtype);
  const float bias = a.bias == nullptr ? 0.0f : load_parameter(a.bias, channel, a.parameter_dtype);
  const float skip = a.skip == nullptr ? 0.0f : load_parameter(a.skip, channel, a.parameter_dtype);

  const int64_t first_time = -(row_start % kPack);  // where the first aligned pack that touches the row begins
  const int64_t stride = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t pack = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; pack < a.packs_per_row;
       pack += stride) {
    const int64_t time = first_time + pack * kPack;
    if (time >= a.length) break;
    float samples[kHalo + kPack];
#pragma unroll
    for (int i = 0; i < kHalo + kPack; i += kPack) {
      load_pack<T, kTap>(samples + i, input, state, time - kHalo + i, a.length, a.aligned);
    }
    float values[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      float sum = bias;
#pragma unroll
      for (int k = kTap - 1; k >= 0; --k) sum = fmaf(taps[k], samples[kHalo + i - k], sum);
      if (a.skip != nullptr) sum = fmaf(skip, samples[kHalo + i], sum);
      values[i] = activate(sum, a.activation);
    }
    store_pack<T>(values, output, time, a.length, a.aligned);
  }
}

template <typename T, int kTap>
int32_t launch(const Arguments& arguments, cudaStream_t stream) {
  Arguments a = arguments;
  constexpr int kPack = Pack<T>::kSize;
  a.packs_per_row = (a.length + kPack - 1) / kPack + (a.length % kPack == 0 ? 0 : 1);  // a shifted row touches one more
  unsigned across = 1;
  while (across < kThreads && across < a.packs_per_row) across *= 2;
  const dim3 block(across, kThreads / across);
  const int64_t stretches = (a.packs_per_row + across - 1) / across;
  const dim3 grid((a.rows + block.y - 1) / block.y, static_cast<unsigned>(stretches < kMaxGridY ? stretches : kMaxGridY));
  forward<T, kTap><<<grid, block, 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

template <typename T>
int32_t launch_for_tap(int32_t tap, const Arguments& a, cudaStream_t stream) {
  switch (tap) {
    case 2: return launch<T, 2>(a, stream);
    case 3: return launch<T, 3>(a, stream);
    case 4: return launch<T, 4>(a, stream);
    case 5: return launch<T, 5>(a, stream);
    case 6: return launch<T, 6>(a, stream);
    case 7: return launch<T, 7>(a, stream);
    case 8: return launch<T, 8>(a, stream);
    default: return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  }
}

bool is_known_dtype(int32_t dtype) { return dtype >= SUBQUAD_OPS_FLOAT32 && dtype <= SUBQUAD_OPS_BFLOAT16; }

int32_t check(const void* input, const void* taps, const void* output, int64_t batch, int64_t channel, int64_t length,
              int64_t group, int32_t tap, int32_t dtype, int32_t parameter_dtype, int32_t activation) {
  constexpr int64_t kMaxRows = (int64_t{1} << 31) - 1;
  if (!is_known_dtype(dtype) || !is_known_dtype(parameter_dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (activation != SUBQUAD_OPS_IDENTITY && activation != SUBQUAD_OPS_SILU) return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  if (tap < kMinTap || tap > kMaxTap) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  if (batch < 0 || channel < 1 || length < 0 || group < 1) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (channel > kMaxRows || batch > kMaxRows / channel) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (channel % group != 0) return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  const bool empty = batch == 0 || length == 0;
  if (!empty && (input == nullptr || taps == nullptr || output == nullptr)) return SUBQUAD_OPS_NULL_POINTER;
  return SUBQUAD_OPS_OK;
}

}  // namespace subquad::causal_fir

extern "C" int32_t subquad_ops_causal_fir(const void* input, const void* taps, const void* bias, const void* skip,
                                          const void* initial_state, void* output, int64_t batch, int64_t channel,
                                          int64_t length, int64_t group, int32_t tap, int32_t dtype,
                                          int32_t parameter_dtype, int32_t activation, void* stream) {
  const int32_t status = subquad::causal_fir::check(input, taps, output, batch, channel, length, group, tap, dtype,
                                                    parameter_dtype, activation);
  if (status != SUBQUAD_OPS_OK || batch == 0 || length == 0) return status;
  subquad::causal_fir::Arguments a{};
  a.input = input;
  a.taps = taps;
  a.bias = bias;
  a.skip = skip;
  a.initial_state = initial_state;
  a.output = output;
  a.length = length;
  a.rows = static_cast<uint32_t>(batch * channel);
  a.channels = static_cast<uint32_t>(channel);
  a.channels_per_group = static_cast<uint32_t>(channel / group);
  a.parameter_dtype = parameter_dtype;
  a.activation = activation;
  a.aligned = (reinterpret_cast<uintptr_t>(input) | reinterpret_cast<uintptr_t>(output)) % 16 == 0;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return subquad::causal_fir::launch_for_tap<__half>(tap, a, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return subquad::causal_fir::launch_for_tap<__nv_bfloat16>(tap, a, cuda_stream);
    default:
      return subquad::causal_fir::launch_for_tap<float>(tap, a, cuda_stream);
  }
}
