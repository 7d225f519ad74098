// One decode step of a Hyena mixer for one vector: norm, projection, projection filter, gate, mixer, gate.
//
// A warp makes the three projected rows of a channel and has then all that the channel needs: its rings or its modes, which
// it has loaded while the weights were on their way. Rings and modes change in place.
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/weight_stream.cuh"

namespace subquad::gated_step {

using weight_stream::kAll;
using weight_stream::kLanes;
using weight_stream::Product;

constexpr int kMostProjectionPast = 7;
constexpr int kRowLanes = 8;  // lanes that filter one projected row: one a past sample, the last for the current one
constexpr int kMostSize = 4 * kLanes;

struct Filters {
  const void* projection_taps;
  __nv_bfloat16* projection_ring;
  const void* first;
  const void* second;
  void* memory;
  const void* skip;
  const void* position;
  const uint8_t* active;
  __nv_bfloat16* output;
  int32_t channels_per_row, projection_past, size, projection_dtype, mixer_dtype, skip_dtype, position_bytes;
};

// How many steps ago the sample in a slot of a ring was the current one, 1 to `past`.
__device__ __forceinline__ int lag_of(int time_in_ring, int slot, int past) {
  const int lag = time_in_ring - slot;
  return lag > 0 ? lag : lag + past;
}

__device__ __forceinline__ float rounded(float value) { return to_float(from_float<__nv_bfloat16>(value)); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

template <bool kModal>
struct Finish {
  const Filters& a;
  int64_t time;
  bool write;
  // Of the projected row lane / kRowLanes: the tap of the lane, and the past sample that it meets.
  float row_tap, row_past;
  // Of the mixer: the filtered past and the current sample's tap; or the lane's pole, residue and mode.
  float past, current, pole, residue, mode, skip;

  __device__ Finish(const Filters& filters) : a(filters) {
    time = a.position_bytes == 8 ? *static_cast<const int64_t*>(a.position) : *static_cast<const int32_t*>(a.position);
    write = a.active == nullptr || *a.active != 0;
  }

  __device__ void prepare(int channel, int lane) {
    const int row = 3 * channel + lane / kRowLanes, within = lane % kRowLanes;
    const bool filters = lane < 3 * kRowLanes;
    row_tap = row_past = 0.0f;
    if (filters && (within < a.projection_past || within == kRowLanes - 1)) {
      const bool is_past = within < a.projection_past;
      const int in_ring = static_cast<int>(time % a.projection_past);
      const int lag = is_past ? lag_of(in_ring, within, a.projection_past) : 0;
      const int64_t taps = static_cast<int64_t>(row) * (a.projection_past + 1);
      row_tap = load_parameter(a.projection_taps, taps + lag, a.projection_dtype);
      if (is_past) row_past = to_float(a.projection_ring[static_cast<int64_t>(row) * a.projection_past + within]);
    }
    skip = a.skip == nullptr ? 0.0f : load_parameter(a.skip, channel, a.skip_dtype);
    const int64_t own = static_cast<int64_t>(channel) * a.size;
    if (kModal) {
      pole = residue = mode = 0.0f;
      if (lane < a.size) {
        pole = expf(load_parameter(a.first, own + lane, a.mixer_dtype));
        residue = load_parameter(a.second, own + lane, a.mixer_dtype);
        mode = static_cast<const float*>(a.memory)[own + lane];
      }
    } else {
      const int in_ring = static_cast<int>(time % a.size);
      const int64_t taps = static_cast<int64_t>(channel / a.channels_per_row) * (a.size + 1);
      past = 0.0f;
#pragma unroll
      for (int i = 0; i < kMostSize / kLanes; ++i) {
        const int slot = lane + i * kLanes;
        if (slot < a.size) {
          const float tap = load_parameter(a.first, taps + lag_of(in_ring, slot, a.size), a.mixer_dtype);
          past = fmaf(tap, to_float(static_cast<const __nv_bfloat16*>(a.memory)[own + slot]), past);
        }
      }
      current = load_parameter(a.first, taps, a.mixer_dtype);
    }
  }

  __device__ void finish(int channel, int lane, const float (&sums)[3]) {
    const int which = lane / kRowLanes;
    const float z = rounded(which == 0 ? sums[0] : which == 1 ? sums[1] : sums[2]);
    float filtered = row_tap * (lane % kRowLanes == kRowLanes - 1 ? z : row_past);
#pragma unroll
    for (int distance = kRowLanes / 2; distance > 0; distance /= 2) {
      filtered += __shfl_xor_sync(kAll, filtered, distance);
    }
    filtered = rounded(filtered);
    const float q = __shfl_sync(kAll, filtered, 0);
    const float g = rounded(__shfl_sync(kAll, filtered, kRowLanes) * __shfl_sync(kAll, filtered, 2 * kRowLanes));
    if (write && lane < 3 * kRowLanes && lane % kRowLanes == 0) {
      const int64_t ring = static_cast<int64_t>(3 * channel + which) * a.projection_past;
      a.projection_ring[ring + time % a.projection_past] = from_float<__nv_bfloat16>(z);
    }
    const int64_t own = static_cast<int64_t>(channel) * a.size;
    float total;
    if (kModal) {
      mode = fmaf(pole, mode, g);
      if (write && lane < a.size) static_cast<float*>(a.memory)[own + lane] = mode;
      total = weight_stream::sum_of_warp(residue * mode);
    } else {
      total = fmaf(current, g, weight_stream::sum_of_warp(past));
      if (write && lane == 0) static_cast<__nv_bfloat16*>(a.memory)[own + time % a.size] = from_float<__nv_bfloat16>(g);
    }
    total = fmaf(skip, g, total);
    if (lane == 0) a.output[channel] = from_float<__nv_bfloat16>(q * rounded(total));
  }
};

#endif  // compute capability 9.0

template <typename Weights, bool kNormed, bool kModal>
__global__ void __launch_bounds__(weight_stream::kThreads, 2) kernel(const Product product, const Filters filters) {
#if __CUDA_ARCH__ >= 900
  Finish<kModal> finish(filters);
  weight_stream::run<Weights, kNormed, 3>(product, finish);
#endif
}

template <typename Weights, bool kNormed>
int32_t start(const Product& product, const Filters& filters, cudaStream_t stream) {
  auto* chosen = filters.second == nullptr ? kernel<Weights, kNormed, false> : kernel<Weights, kNormed, true>;
  return weight_stream::launch<Weights, kNormed>(chosen, product, filters, stream);
}

int32_t check(const SubquadOpsProduct& product, const SubquadOpsStepFilters& given) {
  if (product.outputs % 3 != 0) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.projection_past < 1 || given.projection_past > kMostProjectionPast) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  const bool modal = given.second != nullptr;
  if (given.size < 1 || given.size > (modal ? kLanes : kMostSize)) {
    return modal ? SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE : SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  }
  if (!modal && (given.group < 1 || product.outputs / 3 % given.group != 0)) {
    return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  }
  const bool missing = given.projection_taps == nullptr || given.projection_ring == nullptr || given.first == nullptr ||
                       given.memory == nullptr || given.position == nullptr;
  return missing ? SUBQUAD_OPS_NULL_POINTER : SUBQUAD_OPS_OK;
}

}  // namespace subquad::gated_step

extern "C" int32_t subquad_ops_gated_step(const SubquadOpsProduct* product, const SubquadOpsStepFilters* given,
                                          void* output, void* stream) {
  namespace own = subquad::gated_step;
  namespace weights = subquad::weight_stream;
  if (product == nullptr || given == nullptr || output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  int32_t status = weights::check(*product, false);
  if (status == SUBQUAD_OPS_OK) status = own::check(*product, *given);
  if (status != SUBQUAD_OPS_OK) return status;
  own::Filters filters{};
  filters.projection_taps = given->projection_taps;
  filters.projection_ring = static_cast<__nv_bfloat16*>(given->projection_ring);
  filters.first = given->first;
  filters.second = given->second;
  filters.memory = given->memory;
  filters.skip = given->skip;
  filters.position = given->position;
  filters.active = given->active;
  filters.output = static_cast<__nv_bfloat16*>(output);
  filters.channels_per_row = given->second != nullptr ? 1 : static_cast<int32_t>(product->outputs / 3 / given->group);
  filters.projection_past = given->projection_past;
  filters.size = given->size;
  filters.projection_dtype = given->projection_dtype;
  filters.mixer_dtype = given->mixer_dtype;
  filters.skip_dtype = given->skip_dtype;
  filters.position_bytes = given->position_bytes;
  const weights::Product stream_of = weights::product_of(*product, 3);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const bool normed = product->norm != weights::kNoNorm;
  if (product->weight_dtype == SUBQUAD_OPS_E4M3) {
    return normed ? own::start<weights::E4m3, true>(stream_of, filters, cuda_stream)
                  : own::start<weights::E4m3, false>(stream_of, filters, cuda_stream);
  }
  return normed ? own::start<weights::Bfloat16, true>(stream_of, filters, cuda_stream)
                : own::start<weights::Bfloat16, false>(stream_of, filters, cuda_stream);
}
