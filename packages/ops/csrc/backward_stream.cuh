// What the gradient kernels share: a warp that marches from the end of a channel to its start.
//
// With m = mix(g) + skip g and y = q m (plain: q = 1, g = x), the mixer turns dm = q dy into dg; then dq = m dy, dk = v dg,
// dv = k dg, and the gradients of the input and of the projection's taps follow from these. Nothing is kept by the
// forward pass but its input: the projection is applied again.
#ifndef SUBQUAD_OPS_BACKWARD_STREAM_CUH_
#define SUBQUAD_OPS_BACKWARD_STREAM_CUH_

#include "packages/ops/csrc/stream.cuh"

namespace subquad {

template <typename T, bool kGated, int kSlots>
class BackwardStream {
 public:
  static constexpr int kInputs = kGated ? 3 : 1;
  using Copies = TileCopies<T, kInputs + 1, kSlots>;

  __device__ __forceinline__ BackwardStream(typename Copies::Buffer& buffer, const SubquadOpsStream& s,
                                            const SubquadOpsGradients& gradients, const Place& place)
      : s_(s), place_(place), copies_(buffer, static_cast<int>(s.length), is_aligned(s, gradients)) {
    const T* input = static_cast<const T*>(s.input) + place.batch * s.batch_stride + kInputs * place.channel * s.row_stride;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      copies_.set_row(i, input + i * s.row_stride);
#pragma unroll
      for (int k = 0; k < kProjection; ++k) {
        const int64_t row = int64_t{kInputs} * place.channel + i;
        projection_[i][k] = kGated && k < s.projection_tap
                                ? load_parameter(s.projection_taps, row * s.projection_tap + k, s.projection_dtype)
                                : 0.0f;
        to_projection_[i][k] = 0.0f;
      }
      behind_[i][0] = behind_[i][1] = 0.0f;
    }
    copies_.set_row(kInputs, static_cast<const T*>(gradients.upstream) + place.row * s.length);
    to_input_ = static_cast<T*>(gradients.to_input) + place.row * kInputs * s.length;
    skip_ = s.skip == nullptr ? 0.0f : load_parameter(s.skip, place.channel, s.skip_dtype);
    to_skip_ = to_bias_ = 0.0f;
  }

  // Starts the copies at tile `top`; tiles from `lowest` on will be looked at.
  __device__ __forceinline__ void start(int top, int lowest) {
    issued_ = top;
    lowest_ = max(lowest, 0);
    slot_ = 0;
    issue_slot_ = 0;
#pragma unroll
    for (int i = 0; i < kSlots - 1; ++i) issue();
  }

  // Takes a tile: its g and dm.
  __device__ __forceinline__ void next(int tile, Runs& g, Runs& dm) {
    warp::wait_for_copies<kSlots - 3>();  // the tile before, too
    warp::synchronize();
    before_slot_ = slot_ + 1 == kSlots ? 0 : slot_ + 1;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      uint32_t words[2][Copies::kWords], pair[Copies::kPairWords] = {};
      copies_.read(slot_, i, words);
      Copies::unpack(words, samples_[i]);
      if constexpr (kGated) {
        if (tile > 0) {
          copies_.read_last_pair(before_slot_, i, pair);
        } else if (s_.projection_history != nullptr) {
          read_history(i, pair);
        }
        Copies::unpack_past(words, pair, before_[i]);
        project(projected_[i], samples_[i], before_[i], projection_[i]);
      }
    }
    uint32_t words[2][Copies::kWords];
    copies_.read(slot_, kInputs, words);
    Copies::unpack(words, dy_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        g[half][i] = kGated ? gated(projected_, half, i) : samples_[0][half][i];
        dm[half][i] = kGated && s_.postgate ? projected_[0][half][i] * dy_[half][i] : dy_[half][i];
      }
    }
  }

  // g of the second half of the tile before the one taken last, which is not the first.
  __device__ __forceinline__ void second_half_before(float (&g)[kRun]) {
    Runs rows[kInputs];
#pragma unroll
    for (int i = kGated ? 1 : 0; i < kInputs; ++i) {
      uint32_t words[2][Copies::kWords];
      copies_.read(before_slot_, i, words);
      Runs samples;
      Copies::unpack(words, samples);
      if constexpr (kGated) {
        uint32_t pair[Copies::kPairWords] = {};
        float past[2][2];
        Copies::unpack_past(words, pair, past);
        project(rows[i], samples, past, projection_[i]);
      } else {
#pragma unroll
        for (int j = 0; j < kRun; ++j) rows[i][1][j] = samples[1][j];
      }
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) g[i] = kGated ? gated(rows, 1, i) : rows[0][1][i];
  }

  // Turns what the mixer made of the tile (m without the skip term, plain: unused; dg without it) into the gradients of
  // the input. `counts` is false for a tile that is only looked at for what flows out of it.
  __device__ __forceinline__ void finish(int tile, const Runs& g, const Runs& dm, const Runs& m, const Runs& dg, bool counts) {
    Runs flow[kInputs];  // the gradients of the projected streams
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float to_g = fmaf(skip_, dm[half][i], dg[half][i]);
        if constexpr (kGated) {
          flow[0][half][i] = s_.postgate ? fmaf(skip_, g[half][i], m[half][i]) * dy_[half][i] : 0.0f;
          flow[1][half][i] = s_.pregate ? to_g * projected_[2][half][i] : 0.0f;
          flow[2][half][i] = s_.pregate ? to_g * projected_[1][half][i] : to_g;
        } else {
          flow[0][half][i] = to_g;
        }
        if (counts) {
          to_skip_ = fmaf(dm[half][i], g[half][i], to_skip_);
          if (!kGated) to_bias_ += dm[half][i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if constexpr (kGated) {
        Runs result;
        unproject(i, flow[i], result, counts);
        if (counts) store(to_input_ + i * s_.length, tile, result);
      } else {
        if (counts) store(to_input_, tile, flow[i]);
      }
    }
    warp::synchronize();
    issue();
    slot_ = before_slot_;
  }

  // Writes the sums of part `part` and, where the march has come to time 0, the gradient of the projection's history.
  __device__ __forceinline__ void write_sums(const SubquadOpsGradients& gradients, int64_t part) {
    const float to_skip = warp::sum(to_skip_), to_bias = warp::sum(to_bias_);
    if (warp::lane() == 0 && gradients.to_skip != nullptr) gradients.to_skip[part] = to_skip;
    if (warp::lane() == 0 && gradients.to_bias != nullptr) gradients.to_bias[part] = to_bias;
    if constexpr (kGated) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
#pragma unroll
        for (int k = 0; k < kProjection; ++k) {
          const float total = warp::sum(to_projection_[i][k]);
          if (warp::lane() == 0 && k < s_.projection_tap) {
            gradients.to_projection[(3 * part + i) * s_.projection_tap + k] = total;
          }
        }
        if (place_.first == 0 && gradients.to_projection_history != nullptr && warp::lane() == warp::kLanes - 1) {
          const int past = s_.projection_tap - 1;
          T* history = static_cast<T*>(gradients.to_projection_history) + (3 * place_.row + i) * past;
          const float newer = fmaf(projection_[i][2], behind_[i][1], projection_[i][1] * behind_[i][0]);
          if (past >= 1) history[past - 1] = from_float<T>(newer);
          if (past >= 2) history[past - 2] = from_float<T>(projection_[i][2] * behind_[i][0]);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ static bool is_aligned(const SubquadOpsStream& s, const SubquadOpsGradients& gradients) {
    const uintptr_t starts = reinterpret_cast<uintptr_t>(s.input) | reinterpret_cast<uintptr_t>(gradients.upstream) |
                             reinterpret_cast<uintptr_t>(gradients.to_input);
    return (starts % (kRun * sizeof(T)) | (s.batch_stride | s.row_stride | s.length) % kRun) == 0;
  }

  // The two samples before time 0.
  __device__ __forceinline__ void read_history(int i, uint32_t (&pair)[Copies::kPairWords]) const {
    const int past = s_.projection_tap - 1;
    const T* history = static_cast<const T*>(s_.projection_history) + (3 * place_.row + i) * past;
    const float older = past >= 2 ? to_float(history[past >= 2 ? past - 2 : 0]) : 0.0f;
    Copies::pack_pair(pair, older, past >= 1 ? to_float(history[past - 1]) : 0.0f);
  }

  __device__ __forceinline__ void store(T* row, int tile, const Runs& values) const {
    store_tile(row, tile, static_cast<int>(s_.length), values, copies_.is_whole(tile), copies_.is_aligned());
  }

  __device__ __forceinline__ float gated(const Runs (&rows)[kInputs], int half, int i) const {
    return s_.pregate ? rows[kInputs / 2][half][i] * rows[kInputs - 1][half][i] : rows[kInputs - 1][half][i];
  }

  __device__ __forceinline__ void issue() {
    if (issued_ >= lowest_) copies_.start(issue_slot_, issued_);
    warp::close_copies();
    issue_slot_ = issue_slot_ + 1 == kSlots ? 0 : issue_slot_ + 1;
    --issued_;
  }

  // result[t] = sum(taps[k] flow[t + k]); also the taps' gradients.
  __device__ __forceinline__ void unproject(int i, const Runs& flow, Runs& result, bool counts) {
    const int lane = warp::lane(), from = (lane + 1) % warp::kLanes;
    const bool ends = lane == warp::kLanes - 1;
    float after[2][2];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      const float first = warp::exchange(flow[0][w], from), second = warp::exchange(flow[1][w], from);
      after[0][w] = ends ? second : first;
      after[1][w] = ends ? behind_[i][w] : second;
      behind_[i][w] = first;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        const float once = j + 1 < kRun ? flow[half][(j + 1) % kRun] : after[half][0];
        const float twice = j + 2 < kRun ? flow[half][(j + 2) % kRun] : after[half][(j + 2) % kRun % 2];
        result[half][j] = fmaf(projection_[i][2], twice, fmaf(projection_[i][1], once, projection_[i][0] * flow[half][j]));
        if (counts) {
          const float past_once = j >= 1 ? samples_[i][half][(j + 3) % kRun] : before_[i][half][1];
          const float past_twice = j >= 2 ? samples_[i][half][(j + 2) % kRun] : before_[i][half][j % 2];
          to_projection_[i][0] = fmaf(flow[half][j], samples_[i][half][j], to_projection_[i][0]);
          to_projection_[i][1] = fmaf(flow[half][j], past_once, to_projection_[i][1]);
          to_projection_[i][2] = fmaf(flow[half][j], past_twice, to_projection_[i][2]);
        }
      }
    }
  }

  const SubquadOpsStream& s_;
  Place place_;
  Copies copies_;
  T* to_input_;
  Runs samples_[kInputs], projected_[kInputs], dy_;
  float before_[kInputs][2][2], behind_[kInputs][2];  // behind: the first two samples of the tile behind, in lane 31
  float projection_[kInputs][kProjection], to_projection_[kInputs][kProjection];
  float skip_, to_skip_, to_bias_;
  int issued_, lowest_, slot_, issue_slot_, before_slot_;
};

}  // namespace subquad

#endif  // SUBQUAD_OPS_BACKWARD_STREAM_CUH_
