// Gradients of the gated convolution with up to 7 taps: everything in float32, nothing by the tensor cores.
//
// A lane takes 8 samples, a warp 30 x 8 of them: lanes 0 and 31 take what lies beside, for their neighbours alone. With
// three taps in front and seven in the middle that is just enough, so that no tile needs anything of another:
// g[t - 6 ...] of lane 0 needs z[t - 8 ...], and the projection's gradient needs dg[t + 8], dg[t + 9] of lane 31, which
// need dm up to its last sample. Lane 0 of the first tile stands for what was before time 0.
#ifndef SUBQUAD_OPS_FEW_TAPS_BACKWARD_CUH_
#define SUBQUAD_OPS_FEW_TAPS_BACKWARD_CUH_

#include "packages/ops/csrc/toeplitz_backward.cuh"

namespace subquad::few_taps {

constexpr int kMostTaps = 7;
constexpr int kSamples = 8;
constexpr int kStep = (warp::kLanes - 2) * kSamples;
constexpr int kStreams = 3;
constexpr int kSlots = 3;
constexpr int kWarps = 4;  // of a block; they take tiles in turn
constexpr int kSums = 1 + kMostTaps + kStreams * kProjection;

using toeplitz_backward::Arguments;
using T = __nv_bfloat16;  // float32 is bound by memory as it is, on the tensor cores
using Samples = float[kSamples];

// Says whether a call has few taps, and every lane's samples lie in whole packs.
inline bool takes(const Arguments& a) {
  const SubquadOpsStream& s = a.stream;
  const uintptr_t starts = reinterpret_cast<uintptr_t>(s.input) | reinterpret_cast<uintptr_t>(a.gradients.upstream) |
                           reinterpret_cast<uintptr_t>(a.gradients.to_input);
  const int64_t steps = s.batch_stride | s.row_stride | s.length;
  return s.dtype == SUBQUAD_OPS_BFLOAT16 && a.tap <= kMostTaps && starts % 16 == 0 && steps % kSamples == 0;
}

// The samples of a lane in shared memory, where it alone reads and writes; the last stream is the upstream gradient.
class Copies {
 public:
  using Buffer = Pack<T>[kSlots][kStreams + 1][warp::kLanes];

  __device__ __forceinline__ Copies(Buffer& buffer, const T* input, int64_t row_stride, const T* upstream, int length)
      : buffer_(buffer), length_(length) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s) rows_[s] = input + s * row_stride;
    rows_[kStreams] = upstream;
  }

  // Starts the copies of the samples from `time` on, zeros outside the row.
  __device__ __forceinline__ void start(int slot, int time) {
    const bool inside = time >= 0 && time < length_;
#pragma unroll
    for (int s = 0; s <= kStreams; ++s) {
      warp::copy_async<16>(&buffer_[slot][s][warp::lane()], rows_[s] + (inside ? time : 0), inside ? 16 : 0);
    }
  }

  __device__ __forceinline__ void read(int slot, int s, Samples& samples) const {
    const uint4 words = *reinterpret_cast<const uint4*>(&buffer_[slot][s][warp::lane()]);
    unpack(words.x, samples[0], samples[1]);
    unpack(words.y, samples[2], samples[3]);
    unpack(words.z, samples[4], samples[5]);
    unpack(words.w, samples[6], samples[7]);
  }

  // Writes the last two of the lane's samples, as if they had been copied.
  __device__ __forceinline__ void replace_last(int slot, int s, T older, T newer) {
    buffer_[slot][s][warp::lane()].values[kSamples - 2] = older;
    buffer_[slot][s][warp::lane()].values[kSamples - 1] = newer;
  }

 private:
  __device__ __forceinline__ static void unpack(uint32_t pair, float& low, float& high) {
    low = warp::low_bf16(pair);
    high = warp::high_bf16(pair);
  }

  Buffer& buffer_;
  const T* rows_[kStreams + 1];
  int length_;
};

// A lane's samples behind the last kPast of the lane before.
template <int kPast>
struct Before {
  float values[kPast + kSamples];

  __device__ __forceinline__ explicit Before(const Samples& samples) {
#pragma unroll
    for (int i = 0; i < kPast; ++i) values[i] = __shfl_up_sync(warp::kAll, samples[kSamples - kPast + i], 1);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) values[kPast + i] = samples[i];
  }

  __device__ __forceinline__ float at(int i, int lag) const { return values[kPast + i - lag]; }
};

// A lane's samples in front of the first kNext of the lane behind.
template <int kNext>
struct After {
  float values[kSamples + kNext];

  __device__ __forceinline__ explicit After(const Samples& samples) {
#pragma unroll
    for (int i = 0; i < kNext; ++i) values[kSamples + i] = __shfl_down_sync(warp::kAll, samples[i], 1);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) values[i] = samples[i];
  }

  __device__ __forceinline__ float at(int i, int lag) const { return values[i + lag]; }
};

// y[t] = sum(taps[k] x[t - k]), or x[t + k].
template <int kTap, typename Window>
__device__ __forceinline__ void filter(Samples& y, const Window& x, const float (&taps)[kTap]) {
#pragma unroll
  for (int i = 0; i < kSamples; ++i) {
    y[i] = taps[0] * x.at(i, 0);
#pragma unroll
    for (int k = 1; k < kTap; ++k) y[i] = fmaf(taps[k], x.at(i, k), y[i]);
  }
}

// to_taps[k] += sum(flow[t] x[t - k]).
template <int kTap>
__device__ __forceinline__ void correlate(float (&to_taps)[kTap], const Samples& flow, const Before<kTap - 1>& x) {
#pragma unroll
  for (int i = 0; i < kSamples; ++i) {
#pragma unroll
    for (int k = 0; k < kTap; ++k) to_taps[k] = fmaf(flow[i], x.at(i, k), to_taps[k]);
  }
}

__device__ __forceinline__ void store(T* target, const Samples& values) {
  *reinterpret_cast<uint4*>(target) = make_uint4(warp::pack_bf16(values[0], values[1]), warp::pack_bf16(values[2], values[3]),
                                                 warp::pack_bf16(values[4], values[5]), warp::pack_bf16(values[6], values[7]));
}

// What a warp knows of its channel, and the sums that it takes.
template <int kTap, bool kBothGates>
class Channel {
 public:
  using Buffer = Copies::Buffer;

  __device__ __forceinline__ Channel(Buffer& buffer, const Arguments& a, const Place& place)
      : a_(a),
        place_(place),
        copies_(buffer,
                static_cast<const T*>(a.stream.input) + place.batch * a.stream.batch_stride +
                    int64_t{kStreams} * place.channel * a.stream.row_stride,
                a.stream.row_stride, static_cast<const T*>(a.gradients.upstream) + place.row * a.stream.length,
                static_cast<int>(a.stream.length)),
        to_input_(static_cast<T*>(a.gradients.to_input) + kStreams * place.row * a.stream.length),
        length_(static_cast<int>(a.stream.length)),
        end_(min(place.last * kTile, length_)) {
    const SubquadOpsStream& s = a.stream;
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
#pragma unroll
      for (int k = 0; k < kProjection; ++k) {
        const int64_t row = int64_t{kStreams} * place.channel + i;
        projection_[i][k] = k < s.projection_tap
                                ? load_parameter(s.projection_taps, row * s.projection_tap + k, s.projection_dtype)
                                : 0.0f;
        to_projection_[i][k] = 0.0f;
      }
    }
    const int64_t filter = place.channel / a.channels_per_filter * a.tap;
#pragma unroll
    for (int k = 0; k < kTap; ++k) {
      taps_[k] = k < a.tap ? load_parameter(a.taps, filter + k, a.taps_dtype) : 0.0f;
      to_taps_[k] = 0.0f;
    }
    skip_ = s.skip == nullptr ? 0.0f : load_parameter(s.skip, place.channel, s.skip_dtype);
    to_skip_ = 0.0f;
  }

  __device__ __forceinline__ void march() {
    constexpr int kStride = kWarps * kStep;
    const int first = place_.first * kTile + static_cast<int>(threadIdx.y) * kStep;
    int issued = first, slot = 0;
#pragma unroll
    for (int ahead = 0; ahead < kSlots - 1; ++ahead, issued += kStride) issue(ahead, issued);
    for (int start = first; start < end_; start += kStride, issued += kStride) {
      warp::wait_for_copies<kSlots - 2>();
      issue(slot == 0 ? kSlots - 1 : slot - 1, issued);  // where the tile before was
      take(slot, start + (warp::lane() - 1) * kSamples);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
    }
  }

  // Adds up what the warps of the block have summed.
  __device__ __forceinline__ void write_sums(float (&room)[kWarps][kSums]) {
    float(&own)[kSums] = room[threadIdx.y];
    leave(own[0], to_skip_);
#pragma unroll
    for (int k = 0; k < kTap; ++k) leave(own[1 + k], to_taps_[k]);
#pragma unroll
    for (int i = 0; i < kStreams * kProjection; ++i) {
      leave(own[1 + kMostTaps + i], to_projection_[i / kProjection][i % kProjection]);
    }
    __syncthreads();
    if (threadIdx.y == 0 && warp::lane() < kSums) {
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += room[w][warp::lane()];
      write_sum(warp::lane(), total);
    }
  }

 private:
  __device__ __forceinline__ static void leave(float& room, float value) {
    const float total = warp::sum(value);
    if (warp::lane() == 0) room = total;
  }

  __device__ __forceinline__ void write_sum(int index, float total) {
    const int64_t part = (place_.batch * gridDim.x + blockIdx.x) * a_.stream.channel + place_.channel;
    const int of_projection = index - 1 - kMostTaps, count = a_.stream.projection_tap;
    if (index == 0) {
      if (a_.gradients.to_skip != nullptr) a_.gradients.to_skip[part] = total;
      if (a_.gradients.to_bias != nullptr) a_.gradients.to_bias[part] = 0.0f;
    } else if (of_projection < 0) {
      if (index <= a_.tap) a_.to_taps[part * a_.tap + index - 1] = total;
    } else if (of_projection % kProjection < count) {
      const int64_t row = kStreams * part + of_projection / kProjection;
      a_.gradients.to_projection[row * count + of_projection % kProjection] = total;
    }
  }

  __device__ __forceinline__ bool pregate() const { return kBothGates || a_.stream.pregate; }
  __device__ __forceinline__ bool postgate() const { return kBothGates || a_.stream.postgate; }

  __device__ __forceinline__ void issue(int slot, int start) {
    if (start < end_) copies_.start(slot, start + (warp::lane() - 1) * kSamples);
    warp::close_copies();
  }

  // Takes the samples from `time` on.
  __device__ __forceinline__ void take(int slot, int time) {
    const bool past = time < 0;
    const bool counts = warp::lane() > 0 && warp::lane() < warp::kLanes - 1 && time < end_;
    if (past && a_.stream.projection_history != nullptr) read_projection_history(slot);
    Samples q, k, v, dy, dm, g, flow, dg;
    project(slot, 0, q);
    project(slot, 1, k);
    project(slot, 2, v);
    copies_.read(slot, kStreams, dy);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      dm[i] = postgate() ? q[i] * dy[i] : dy[i];
      g[i] = pregate() ? k[i] * v[i] : v[i];
    }
    if (past) read_history(g);

    const Before<kTap - 1> before(g);
    if (postgate()) {
      filter(flow, before, taps_);
#pragma unroll
      for (int i = 0; i < kSamples; ++i) flow[i] = fmaf(skip_, g[i], flow[i]) * dy[i];
    } else {
#pragma unroll
      for (int i = 0; i < kSamples; ++i) flow[i] = 0.0f;
    }
    if (counts) {
      correlate(to_taps_, dm, before);
#pragma unroll
      for (int i = 0; i < kSamples; ++i) to_skip_ = fmaf(dm[i], g[i], to_skip_);
    }
    finish(slot, 0, flow, time, counts);

    filter(dg, After<kTap - 1>(dm), taps_);
    if (a_.upstream_tail != nullptr) add_tail(dg, time);
    if (past) write_history(dg);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) dg[i] = fmaf(skip_, dm[i], dg[i]);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) flow[i] = pregate() ? dg[i] * v[i] : 0.0f;
    finish(slot, 1, flow, time, counts);
#pragma unroll
    for (int i = 0; i < kSamples; ++i) flow[i] = pregate() ? dg[i] * k[i] : dg[i];
    finish(slot, 2, flow, time, counts);
  }

  __device__ __forceinline__ void project(int slot, int i, Samples& projected) const {
    Samples z;
    copies_.read(slot, i, z);
    filter(projected, Before<kProjection - 1>(z), projection_[i]);
  }

  // Turns the gradient of a projected stream into that of the input and of the projection's taps.
  __device__ __forceinline__ void finish(int slot, int i, const Samples& flow, int time, bool counts) {
    Samples z, result;
    copies_.read(slot, i, z);
    const Before<kProjection - 1> before(z);
    filter(result, After<kProjection - 1>(flow), projection_[i]);
    if (counts) {
      correlate(to_projection_[i], flow, before);
      store(to_input_ + i * static_cast<int64_t>(length_) + time, result);
    }
    if (time < 0 && a_.gradients.to_projection_history != nullptr) write_projection_history(i, result);
  }

  __device__ __forceinline__ void write_projection_history(int i, const Samples& result) const {
    const int past = a_.stream.projection_tap - 1;
    T* target = static_cast<T*>(a_.gradients.to_projection_history) + (kStreams * place_.row + i) * past;
    if (past >= 1) target[past - 1] = from_float<T>(result[kSamples - 1]);
    if (past >= 2) target[past - 2] = from_float<T>(result[kSamples - 2]);
  }

  // Lane 0 of the first tile: the samples before time 0 are those of the history.
  __device__ __forceinline__ void read_projection_history(int slot) {
    const int past = a_.stream.projection_tap - 1;
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      const T* history = static_cast<const T*>(a_.stream.projection_history) + (kStreams * place_.row + i) * past;
      const T zero = from_float<T>(0.0f);
      copies_.replace_last(slot, i, past >= 2 ? history[past - 2] : zero, past >= 1 ? history[past - 1] : zero);
    }
  }

  __device__ __forceinline__ void read_history(Samples& g) const {
    const int past = a_.tap - 1;
    const T* history = static_cast<const T*>(a_.history) + place_.row * past;
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      const int at = past - kSamples + i;
      g[i] = a_.history != nullptr && at >= 0 ? to_float(history[at]) : 0.0f;
    }
  }

  // What flows into the samples before time 0 ends here.
  __device__ __forceinline__ void write_history(Samples& dg) const {
    const int past = a_.tap - 1;
    T* history = static_cast<T*>(a_.to_history) + place_.row * past;
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      if (a_.to_history != nullptr && past - kSamples + i >= 0) history[past - kSamples + i] = from_float<T>(dg[i]);
      dg[i] = 0.0f;
    }
  }

  // Adds the gradient of the last samples of g.
  __device__ __forceinline__ void add_tail(Samples& dg, int time) const {
    const int size = static_cast<int>(a_.tail_size), first = length_ - size;
    const T* upstream = static_cast<const T*>(a_.upstream_tail) + place_.row * size;
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      if (time + i >= first && time + i < length_) dg[i] += to_float(upstream[time + i - first]);
    }
  }

  const Arguments& a_;
  Place place_;
  Copies copies_;
  T* to_input_;
  int length_, end_;
  float projection_[kStreams][kProjection], to_projection_[kStreams][kProjection];
  float taps_[kTap], to_taps_[kTap], skip_, to_skip_;
};

template <int kTap, bool kBothGates>
__global__ void __launch_bounds__(kWarps * warp::kLanes, 4) run(const Arguments a) {
  __shared__ Copies::Buffer buffers[kWarps];
  __shared__ float sums[kWarps][kSums];
  Channel<kTap, kBothGates> channel(buffers[threadIdx.y], a, place_of_warp(a.stream));
  channel.march();
  channel.write_sums(sums);
}

inline int32_t launch(const Arguments& a, cudaStream_t stream) {
  const bool both = a.stream.pregate && a.stream.postgate;
  const auto kernel = a.tap > 4 ? (both ? run<kMostTaps, true> : run<kMostTaps, false>) : both ? run<4, true> : run<4, false>;
  kernel<<<grid_of(a.stream), dim3(warp::kLanes, kWarps), 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

}  // namespace subquad::few_taps

#endif  // SUBQUAD_OPS_FEW_TAPS_BACKWARD_CUH_
