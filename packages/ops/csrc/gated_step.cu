// One decode step of a Hyena mixer for one vector: norm, projection, projection filter, gate, mixer, gate.
//
// A warp makes the three projected rows of a channel and has then all that the channel needs: its filters and its rings or
// modes, which it brings to the cache while the kernel before runs and loads as soon as that has ended, while the vector is
// on its way. Rings and modes change in place.
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/weight_stream.cuh"

namespace subquad::gated_step {

using weight_stream::kAll;
using weight_stream::kLanes;
using weight_stream::Product;

constexpr int kMostProjectionPast = 7;
constexpr int kMostSize = 4 * kLanes;

struct Filters {
  const void* projection_taps;
  uint16_t* projection_ring;  // bfloat16
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

__device__ __forceinline__ float wide(uint16_t bfloat16) { return __uint_as_float(static_cast<uint32_t>(bfloat16) << 16); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ int bytes_of(int32_t dtype) { return dtype == SUBQUAD_OPS_FLOAT32 ? 4 : 2; }

// Brings rows of a matrix to the cache, one line a lane.
__device__ __forceinline__ void bring_to_cache(const void* matrix, int64_t row, int rows, int columns, int bytes, int lane) {
  constexpr int kLine = 128;
  const int64_t begin = row * columns * bytes, end = begin + rows * columns * bytes;
  const int64_t own = begin / kLine * kLine + lane * kLine;  // lines as they lie if the matrix begins with one
  if (own < end) asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const uint8_t*>(matrix) + (own > begin ? own : begin)));
}

constexpr int kRowLanes = 8;  // lanes that filter one projected row: one a past sample, the last for the current one

template <bool kModal>
struct Finish {
  struct Loaded {
    Stored row_tap;     // of the projected row lane / kRowLanes: the tap of this lane,
    uint16_t row_past;  // and the past sample that it meets
    Stored skip;
    Stored first[kModal ? 1 : kMostSize / kLanes + 1];  // the lane's log pole; or the taps that meet its past samples, and tap 0
    Stored second;                                      // its residue
    float mode;
    uint16_t past[kModal ? 1 : kMostSize / kLanes];
  };
  const Filters& a;
  bool write;
  int projection_slot, memory_slot;  // where the current sample goes in the rings

  __device__ Finish(const Filters& filters) : a(filters) {
    const int64_t time =
        a.position_bytes == 8 ? *static_cast<const int64_t*>(a.position) : *static_cast<const int32_t*>(a.position);
    write = a.active == nullptr || *a.active != 0;
    projection_slot = static_cast<int>(time % a.projection_past);
    memory_slot = static_cast<int>(time % a.size);
  }

  __device__ void fetch(int channel, int lane) const {
    const int taps = a.projection_past + 1, rows = kModal ? channel : channel / a.channels_per_row;
    bring_to_cache(a.projection_taps, 3 * static_cast<int64_t>(channel), 3, taps, bytes_of(a.projection_dtype), lane);
    bring_to_cache(a.projection_ring, 3 * static_cast<int64_t>(channel), 3, a.projection_past, sizeof(uint16_t), lane);
    bring_to_cache(a.first, rows, 1, kModal ? a.size : a.size + 1, bytes_of(a.mixer_dtype), lane);
    bring_to_cache(a.memory, channel, 1, a.size, kModal ? sizeof(float) : sizeof(uint16_t), lane);
    if constexpr (kModal) bring_to_cache(a.second, rows, 1, a.size, bytes_of(a.mixer_dtype), lane);
  }

  __device__ Loaded load(int channel, int lane) const {
    Loaded loaded{};
    const int row = 3 * channel + lane / kRowLanes, within = lane % kRowLanes;
    const bool is_past = within < a.projection_past;
    if (lane < 3 * kRowLanes && (is_past || within == kRowLanes - 1)) {
      const int lag = is_past ? lag_of(projection_slot, within, a.projection_past) : 0;
      const int64_t taps = static_cast<int64_t>(row) * (a.projection_past + 1);
      loaded.row_tap = load_stored(a.projection_taps, taps + lag, a.projection_dtype);
      if (is_past) loaded.row_past = a.projection_ring[static_cast<int64_t>(row) * a.projection_past + within];
    }
    if (a.skip != nullptr) loaded.skip = load_stored(a.skip, channel, a.skip_dtype);
    const int64_t own = static_cast<int64_t>(channel) * a.size;
    if constexpr (kModal) {
      if (lane < a.size) {
        loaded.first[0] = load_stored(a.first, own + lane, a.mixer_dtype);
        loaded.second = load_stored(a.second, own + lane, a.mixer_dtype);
        loaded.mode = static_cast<const float*>(a.memory)[own + lane];
      }
    } else {
      const int64_t taps = static_cast<int64_t>(channel / a.channels_per_row) * (a.size + 1);
#pragma unroll
      for (int i = 0; i < kMostSize / kLanes; ++i) {
        const int slot = lane + i * kLanes;
        if (slot < a.size) {
          loaded.first[i] = load_stored(a.first, taps + lag_of(memory_slot, slot, a.size), a.mixer_dtype);
          loaded.past[i] = static_cast<const uint16_t*>(a.memory)[own + slot];
        }
      }
      loaded.first[kMostSize / kLanes] = load_stored(a.first, taps, a.mixer_dtype);
    }
    return loaded;
  }

  __device__ void finish(int channel, int lane, const Loaded& loaded, const float (&sums)[3]) const {
    const int which = lane / kRowLanes;
    const float z = rounded(which == 0 ? sums[0] : which == 1 ? sums[1] : sums[2]);
    float filtered =
        value_of(loaded.row_tap, a.projection_dtype) * (lane % kRowLanes == kRowLanes - 1 ? z : wide(loaded.row_past));
#pragma unroll
    for (int distance = kRowLanes / 2; distance > 0; distance /= 2) {
      filtered += __shfl_xor_sync(kAll, filtered, distance);
    }
    filtered = rounded(filtered);
    const float q = __shfl_sync(kAll, filtered, 0);
    const float g = rounded(__shfl_sync(kAll, filtered, kRowLanes) * __shfl_sync(kAll, filtered, 2 * kRowLanes));
    if (write && lane < 3 * kRowLanes && lane % kRowLanes == 0) {
      const int64_t ring = static_cast<int64_t>(3 * channel + which) * a.projection_past;
      a.projection_ring[ring + projection_slot] = __bfloat16_as_ushort(from_float<__nv_bfloat16>(z));
    }
    const int64_t own = static_cast<int64_t>(channel) * a.size;
    float total;
    if constexpr (kModal) {
      const bool held = lane < a.size;
      const float mode = held ? fmaf(expf(value_of(loaded.first[0], a.mixer_dtype)), loaded.mode, g) : 0.0f;
      if (write && held) static_cast<float*>(a.memory)[own + lane] = mode;
      total = warp::sum(held ? value_of(loaded.second, a.mixer_dtype) * mode : 0.0f);
    } else {
      float past = 0.0f;
#pragma unroll
      for (int i = 0; i < kMostSize / kLanes; ++i) {
        past = fmaf(value_of(loaded.first[i], a.mixer_dtype), wide(loaded.past[i]), past);
      }
      total = fmaf(value_of(loaded.first[kMostSize / kLanes], a.mixer_dtype), g, warp::sum(past));
      if (write && lane == 0) {
        static_cast<uint16_t*>(a.memory)[own + memory_slot] = __bfloat16_as_ushort(from_float<__nv_bfloat16>(g));
      }
    }
    if (a.skip != nullptr) total = fmaf(value_of(loaded.skip, a.skip_dtype), g, total);
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
  filters.projection_ring = static_cast<uint16_t*>(given->projection_ring);
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
