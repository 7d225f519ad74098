// What the kernels that march over tiles share: the front half (projection, pre-gate), the back half (skip, bias,
// activation, post-gate), and the checks of a call.
#ifndef SUBQUAD_OPS_STREAM_CUH_
#define SUBQUAD_OPS_STREAM_CUH_

#include "packages/ops/csrc/tiles.cuh"

namespace subquad {

// Where a warp stands: one channel of one batch row, tiles [first, last).
struct Place {
  int64_t batch, row;
  int channel, first, last;
};

__device__ __forceinline__ Place place_of_warp(const SubquadOpsStream& s) {
  Place place;
  place.channel = static_cast<int>(blockIdx.y);
  place.batch = blockIdx.z;
  place.row = place.batch * s.channel + place.channel;
  place.first = static_cast<int>(blockIdx.x) * s.tiles_a_warp;
  place.last = min(place.first + s.tiles_a_warp, static_cast<int>((s.length + kTile - 1) / kTile));
  return place;
}

__device__ __forceinline__ float activate(float x, int32_t activation) {
  if (activation == SUBQUAD_OPS_IDENTITY) return x;
  if (activation == SUBQUAD_OPS_SILU) return __fdividef(x, 1.0f + __expf(-x));
  return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
}

// Produces the stream to be mixed, g, tile by tile, and turns what the mixer makes of it into output.
template <typename T, bool kGated, int kStages, bool kActivation>
class GatedStream {
 public:
  static constexpr int kStreams = kGated ? 3 : 1;
  using Reader = TileReader<T, kStreams, kStages>;

  __device__ __forceinline__ GatedStream(typename Reader::Copies::Buffer& buffer, const SubquadOpsStream& s, const Place& place)
      : s_(s),
        reader_(buffer,
                static_cast<const T*>(s.input) + place.batch * s.batch_stride + kStreams * place.channel * s.row_stride,
                s.row_stride, static_cast<int>(s.length), is_aligned(s)),
        output_(static_cast<T*>(s.output) + place.row * s.length) {
    skip_ = s.skip == nullptr ? 0.0f : load_parameter(s.skip, place.channel, s.skip_dtype);
    bias_ = s.bias == nullptr ? 0.0f : load_parameter(s.bias, place.channel, s.skip_dtype);
    if constexpr (kGated) {
#pragma unroll
      for (int stream = 0; stream < kStreams; ++stream) {
#pragma unroll
        for (int k = 0; k < kProjection; ++k) {
          const int64_t row = int64_t{3} * place.channel + stream;
          taps_[stream][k] = k < s.projection_tap
                                 ? load_parameter(s.projection_taps, row * s.projection_tap + k, s.projection_dtype)
                                 : 0.0f;
        }
      }
    }
    history_ = kGated && s.projection_history != nullptr
                   ? static_cast<const T*>(s.projection_history) + 3 * place.row * (s.projection_tap - 1)
                   : nullptr;
  }

  __device__ __forceinline__ void start(int tile, int last) {
    tile_ = tile - 1;
    reader_.start(tile, last, history_, s_.projection_tap - 1);
  }

  // Takes the next tile and returns its gated samples.
  __device__ __forceinline__ void next(Runs& g) {
    Runs samples[kStreams];
    float before[kStreams][2][2];
    reader_.template next<kGated>(samples, before);
    ++tile_;
    if constexpr (kGated) {
      project(gate_, samples[0], before[0], taps_[0]);
      project(g, samples[2], before[2], taps_[2]);
      if (s_.pregate) {
        Runs k;
        project(k, samples[1], before[1], taps_[1]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < kRun; ++i) g[half][i] *= k[half][i];
        }
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) g[half][i] = samples[0][half][i];
      }
    }
  }

  // Writes the output of the tile taken last; `mixed` as the tensor cores left it.
  __device__ __forceinline__ void store(const float (&mixed)[2][4], const Runs& g) {
    Runs values;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float value = fmaf(skip_, g[half][i], mixed[i / 2][2 * half + i % 2]);
        values[half][i] = kGated ? (s_.postgate ? value * gate_[half][i] : value) : value + bias_;
      }
    }
    if (kActivation && s_.activation != SUBQUAD_OPS_IDENTITY) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) values[half][i] = activate(values[half][i], s_.activation);
      }
    }
    store_tile(output_, tile_, static_cast<int>(s_.length), values, reader_.copies().is_whole(tile_),
               reader_.copies().is_aligned());
  }

 private:
  // Also says it of the output, whose rows are as long as the input's.
  __device__ __forceinline__ static bool is_aligned(const SubquadOpsStream& s) {
    return ((reinterpret_cast<uintptr_t>(s.input) | reinterpret_cast<uintptr_t>(s.output)) % (kRun * sizeof(T)) |
            (s.batch_stride | s.row_stride | s.length) % kRun) == 0;
  }

  const SubquadOpsStream& s_;
  Reader reader_;
  T* output_;
  const T* history_;
  float taps_[kStreams][kProjection];
  Runs gate_;
  float skip_, bias_;
  int tile_;
};

inline int32_t check_stream(const SubquadOpsStream& s) {
  constexpr int64_t kMostRows = 65535;
  constexpr int64_t kMostSamples = (int64_t{1} << 31) - 2 * kTile;
  if (s.dtype != SUBQUAD_OPS_FLOAT32 && s.dtype != SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  for (const int32_t dtype : {s.projection_dtype, s.skip_dtype}) {
    if (dtype < SUBQUAD_OPS_FLOAT32 || dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  }
  if (s.activation < SUBQUAD_OPS_IDENTITY || s.activation > SUBQUAD_OPS_GELU) return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  if (s.projection_taps != nullptr && (s.projection_tap < 1 || s.projection_tap > kProjection)) {
    return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  }
  if (s.batch < 0 || s.batch > kMostRows || s.channel < 1 || s.channel > kMostRows || s.length < 0 ||
      s.length > kMostSamples || s.tiles_a_warp < 0) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (s.batch * s.length != 0 && (s.input == nullptr || s.output == nullptr)) return SUBQUAD_OPS_NULL_POINTER;
  return SUBQUAD_OPS_OK;
}

inline dim3 grid_of(const SubquadOpsStream& s) {
  const int64_t tiles = (s.length + kTile - 1) / kTile;
  const int64_t stretches = (tiles + s.tiles_a_warp - 1) / s.tiles_a_warp;
  return dim3(static_cast<unsigned>(stretches), static_cast<unsigned>(s.channel), static_cast<unsigned>(s.batch));
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_STREAM_CUH_
