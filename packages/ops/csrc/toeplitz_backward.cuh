// Gradients of the convolution with up to 129 taps, plain or between two gates, in one pass from the end to the start.
//
// With m = mix(g) + skip g and y = q m (plain: q = 1, g = x): dm = q dy, dg = sum(taps[k] dm[t + k]) + skip dm,
// dq = m dy, dk = v dg, dv = k dg, and the projection's gradients from these. Each step takes one tile: dm of it and of
// the tile behind it give dg, g of it and of the tile before it give m and, times dm, the gradient of the taps, whose
// matrices stay in registers until the end. Nothing is kept by the forward pass but its input.
#ifndef SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_
#define SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_

#include "packages/ops/csrc/stream.cuh"
#include "packages/ops/csrc/toeplitz_matrices.cuh"

namespace subquad::toeplitz_backward {

using toeplitz::kRing;
using toeplitz::Matrices;
using toeplitz::Ring;

struct Arguments {
  SubquadOpsStream stream;
  const void* taps;
  const void* upstream;
  void* to_input;
  float* to_taps;
  float* to_projection;
  float* to_skip;
  float* to_bias;
  int64_t channels_per_filter;
  int32_t tap;
  int32_t taps_dtype;
};

// The same runs with time reversed inside the blocks, as a fragment: the lane's last two samples first.
template <int kPieces>
__device__ __forceinline__ void cut_reversed(const Runs& y, uint32_t (&fragment)[kPieces][4]) {
  const Runs reversed = {{y[0][3], y[0][2], y[0][1], y[0][0]}, {y[1][3], y[1][2], y[1][1], y[1][0]}};
  toeplitz::cut_runs<kPieces>(reversed, fragment);
}

// Exchanges lanes so that a fragment with reversed time in the blocks becomes runs of this lane.
__device__ __forceinline__ void restore_order(Runs& y, const float (&mixed)[2][4]) {
  const int from = warp::lane() ^ 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) y[half][kRun - 1 - i] = warp::exchange(mixed[i / 2][2 * half + i % 2], from);
  }
}

// The gradient of one filter as products of [16, 16] matrices: of block i of dm with block i - d of g.
template <int kDiagonals, int kSamplePieces, int kPieces>
__device__ __forceinline__ void correlate(float (&sums)[kDiagonals][2][4], const Ring<kSamplePieces>& g,
                                          const Ring<kSamplePieces>& dm, int base) {
  const int lane = warp::lane();
  uint32_t right[kPieces][4];  // columns 0-7: blocks 0-7, blocks 8-15; columns 8-15
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    warp::load_matrices_transposed(right[p], dm[p][lane / 16][base + lane % 8 + 8 * (lane / 8 % 2)]);
  }
#pragma unroll
  for (int d = 0; d < kDiagonals; ++d) {
    const int row = (base + lane % 8 + 8 * (lane / 16) - d) & (kRing - 1);
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      uint32_t left[4];
      warp::load_matrices_transposed(left, g[p][lane / 8 % 2][row]);
#pragma unroll
      for (int other = 0; other < kPieces - p; ++other) {
#pragma unroll
        for (int columns = 0; columns < 2; ++columns) {
          warp::multiply_bf16(sums[d][columns], left, right[other][2 * columns], right[other][2 * columns + 1]);
        }
      }
    }
  }
}

// Adds up the matrices along their diagonals, by way of shared memory: entry [m, n] stands for time t(m) of the block of
// g and 15 - t(n) of the block of dm, where t is the order of the samples in a fragment.
template <int kDiagonals>
__device__ __forceinline__ void add_diagonals(float* to_taps, int count, const float (&sums)[kDiagonals][2][4],
                                              float (&matrix)[kBlock][kBlock + 1]) {
  const int lane = warp::lane(), r = lane / 4, q = lane % 4;
  float earlier = 0.0f;  // of lags 16 d - 15 ... 16 d - 1, of which lane l has 16 d - 16 + l
  for (int d = 0; d < kDiagonals; ++d) {
    warp::synchronize();
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = r + 8 * (i / 2), n = 2 * q + i % 2 + 8 * columns;
        const int from = 4 * (m % 8 / 2) + 2 * (m / 8) + m % 2, to = 15 - (4 * (n % 8 / 2) + 2 * (n / 8) + n % 2);
        float value = 0.0f;
#pragma unroll
        for (int e = 0; e < kDiagonals; ++e) value = e == d ? sums[e][columns][i] : value;
        matrix[from][to] = value;
      }
    }
    warp::synchronize();
    float at_or_above = 0.0f, below = 0.0f;  // lags 16 d + l and 16 d - 16 + l
    if (lane < kBlock) {
      for (int from = 0; from + lane < kBlock; ++from) at_or_above += matrix[from][from + lane];
      for (int to = 0; lane > 0 && to < lane; ++to) below += matrix[to + kBlock - lane][to];
      const int lag = kBlock * (d - 1) + lane;
      if (d > 0 && lag < count) to_taps[lag] = earlier + below;
      if (d == kDiagonals - 1 && lag + kBlock < count) to_taps[lag + kBlock] = at_or_above;
    }
    earlier = at_or_above;
  }
}

template <typename T, bool kGated, int kDiagonals, int kSamplePieces, int kTapPieces, int kSlots>
__global__ void __launch_bounds__(warp::kLanes) run(const Arguments a) {
  constexpr int kTaps = kBlock * kDiagonals;
  constexpr int kInputs = kGated ? 3 : 1;
  constexpr int kSumPieces = kSamplePieces < kTapPieces ? kSamplePieces : kTapPieces;
  using Copies = TileCopies<T, kInputs + 1, kSlots>;
  __shared__ typename Copies::Buffer buffer;
  alignas(16) __shared__ Ring<kSamplePieces> g_ring;
  alignas(16) __shared__ Ring<kSamplePieces> dm_ring;
  __shared__ float taps[kBlock + kTaps];
  __shared__ float matrix[kBlock][kBlock + 1];

  const SubquadOpsStream& s = a.stream;
  const int lane = warp::lane(), r = lane / 4, q = lane % 4;
  const Place place = place_of_warp(s);
  const int64_t tiles = (s.length + kTile - 1) / kTile;
  const bool warm = place.last < tiles;  // the tile behind the stretch gives what flows into it
  const int64_t top = warm ? place.last : place.last - 1;

  const T* upstream = static_cast<const T*>(a.upstream) + place.row * s.length;
  const T* input = static_cast<const T*>(s.input) + place.batch * s.batch_stride + kInputs * place.channel * s.row_stride;
  T* to_input = static_cast<T*>(a.to_input) + place.row * kInputs * s.length;
  const bool aligned = ((reinterpret_cast<uintptr_t>(s.input) | reinterpret_cast<uintptr_t>(a.upstream)) % (kRun * sizeof(T)) |
                        (s.batch_stride | s.row_stride | s.length) % kRun) == 0;
  Copies copies(buffer, s.length, aligned);
#pragma unroll
  for (int i = 0; i < kInputs; ++i) copies.set_row(i, input + i * s.row_stride);
  copies.set_row(kInputs, upstream);
  int64_t issued = top;
  int issue_slot = 0, slot = 0;
  const auto issue = [&] {
    if (issued >= 0 && issued >= place.first - 1) copies.start(issue_slot, issued);
    warp::close_copies();
    issue_slot = issue_slot + 1 == kSlots ? 0 : issue_slot + 1;
    --issued;
  };
#pragma unroll
  for (int i = 0; i < kSlots - 1; ++i) issue();

  toeplitz::load_taps<kTaps>(taps, a.taps, place.channel / a.channels_per_filter * a.tap, a.tap, a.taps_dtype);
  float projection[kInputs][kProjection];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) {
#pragma unroll
    for (int k = 0; k < kProjection; ++k) {
      const int64_t row = int64_t{kInputs} * place.channel + i;
      projection[i][k] = kGated && k < s.projection_tap
                             ? load_parameter(s.projection_taps, row * s.projection_tap + k, s.projection_dtype)
                             : 0.0f;
    }
  }
  const float skip = s.skip == nullptr ? 0.0f : load_parameter(s.skip, place.channel, s.skip_dtype);
  {
    const Runs nothing = {};
    uint32_t pieces[kSamplePieces][4];
    toeplitz::cut_runs<kSamplePieces>(nothing, pieces);
    toeplitz::keep<kSamplePieces>(dm_ring, kBlock, pieces);
    toeplitz::keep<kSamplePieces>(g_ring, kBlock, pieces);
  }
  warp::synchronize();
  Matrices<kDiagonals, kTapPieces> matrices;
  toeplitz::set_matrices(matrices, taps);

  float sums[kDiagonals][2][4] = {};
  float to_projection[kInputs][kProjection] = {}, to_skip = 0.0f, to_bias = 0.0f;
  float behind[kInputs][2] = {};  // the first two samples of the tile behind, of which lane 31's are used
  int base = 0;
  for (int64_t tile = top; tile >= place.first; --tile) {
    warp::wait_for_copies<kSlots - 3>();
    warp::synchronize();
    const int before_slot = slot + 1 == kSlots ? 0 : slot + 1;

    // This tile's streams; g into the ring.
    Runs samples[kInputs], projected[kInputs], dy, g, dm;
    float before[kInputs][2][2];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      uint32_t words[2][Copies::kWords], edge[Copies::kWords], pair[Copies::kPairWords] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) copies.read(slot, i, half, lane, words[half]);
      if (kGated && tile > 0) {
        copies.read(before_slot, i, 1, warp::kLanes - 1, edge);
#pragma unroll
        for (int w = 0; w < Copies::kPairWords; ++w) pair[w] = edge[Copies::kWords - Copies::kPairWords + w];
      }
      copies.unpack_with_past(words, pair, samples[i], before[i]);
      if constexpr (kGated) project(projected[i], samples[i], before[i], projection[i]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[Copies::kWords];
      copies.read(slot, kInputs, half, lane, words);
#pragma unroll
      for (int w = 0; w < Copies::kWords; ++w) Copies::unpack(words[w], dy[half], w);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if constexpr (kGated) {
          g[half][i] = s.pregate ? projected[1][half][i] * projected[2][half][i] : projected[2][half][i];
          dm[half][i] = s.postgate ? projected[0][half][i] * dy[half][i] : dy[half][i];
        } else {
          g[half][i] = samples[0][half][i];
          dm[half][i] = dy[half][i];
        }
      }
    }
    uint32_t current[kSamplePieces][4], reversed[kSamplePieces][4];
    toeplitz::cut_runs<kSamplePieces>(g, current);
    toeplitz::keep<kSamplePieces>(g_ring, base, current);
    cut_reversed<kSamplePieces>(dm, reversed);
#pragma unroll
    for (int p = 0; p < kSamplePieces; ++p) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
        for (int half = 0; half < 2; ++half) dm_ring[p][pair][base + 8 * half + r][3 - q] = reversed[p][2 * pair + half];
      }
    }

    // g of the second half of the tile before.
    {
      Runs earlier = {};
      if (tile > 0) {
        Runs rows[kInputs];
#pragma unroll
        for (int i = kGated ? 1 : 0; i < kInputs; ++i) {
          uint32_t words[2][Copies::kWords], pair[Copies::kPairWords] = {};
          float past[2][2];
          copies.read(before_slot, i, 0, lane, words[0]);
          copies.read(before_slot, i, 1, lane, words[1]);
          Runs unfiltered;
          copies.unpack_with_past(words, pair, unfiltered, past);
#pragma unroll
          for (int j = 0; j < kRun; ++j) rows[i][1][j] = unfiltered[1][j];
          if constexpr (kGated) project(rows[i], unfiltered, past, projection[i]);
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          if constexpr (kGated) {
            earlier[1][i] = s.pregate ? rows[1][1][i] * rows[2][1][i] : rows[2][1][i];
          } else {
            earlier[1][i] = rows[0][1][i];
          }
        }
      }
      uint32_t pieces[kSamplePieces][4];
      toeplitz::cut_runs<kSamplePieces>(earlier, pieces);
#pragma unroll
      for (int p = 0; p < kSamplePieces; ++p) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) g_ring[p][pair][(base ^ kBlock) + 8 + r][q] = pieces[p][2 * pair + 1];
      }
    }
    warp::synchronize();

    Runs dg;
    {
      float mixed[2][4] = {};
      uint32_t own[kSamplePieces][4];
      const int row = base + lane % 8 + 8 * (lane / 8 % 2);
#pragma unroll
      for (int p = 0; p < kSamplePieces; ++p) warp::load_matrices(own[p], dm_ring[p][lane / 16][row]);
      toeplitz::multiply<1>(mixed, own, dm_ring, base, matrices);
      restore_order(dg, mixed);
    }
    float mixed[2][4] = {};
    if constexpr (kGated) {
      if (s.postgate) toeplitz::multiply<-1>(mixed, current, g_ring, base, matrices);
    }
    Runs flow[kInputs];  // the gradients of the projected streams
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float to_g = fmaf(skip, dm[half][i], dg[half][i]);
        if constexpr (kGated) {
          const float m = fmaf(skip, g[half][i], mixed[i / 2][2 * half + i % 2]);
          flow[0][half][i] = s.postgate ? m * dy[half][i] : 0.0f;
          flow[1][half][i] = s.pregate ? to_g * projected[2][half][i] : 0.0f;
          flow[2][half][i] = s.pregate ? to_g * projected[1][half][i] : to_g;
        } else {
          flow[0][half][i] = to_g;
        }
      }
    }
    const bool counts = tile < place.last;
    if (counts) {
      toeplitz_backward::correlate<kDiagonals, kSamplePieces, kSumPieces>(sums, g_ring, dm_ring, base);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          to_skip = fmaf(dm[half][i], g[half][i], to_skip);
          to_bias += dm[half][i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      Runs result;
      if constexpr (kGated) {
        float after[2][2];
        const int from = (lane + 1) % warp::kLanes;
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          const float first = warp::exchange(flow[i][0][w], from), second = warp::exchange(flow[i][1][w], from);
          after[0][w] = lane == warp::kLanes - 1 ? second : first;
          after[1][w] = lane == warp::kLanes - 1 ? behind[i][w] : second;
          behind[i][w] = first;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int j = 0; j < kRun; ++j) {
            const float once = j + 1 < kRun ? flow[i][half][(j + 1) % kRun] : after[half][0];
            const float twice = j + 2 < kRun ? flow[i][half][(j + 2) % kRun] : after[half][(j + 2) % kRun % 2];
            result[half][j] = fmaf(projection[i][2], twice, fmaf(projection[i][1], once, projection[i][0] * flow[i][half][j]));
            if (counts) {
              const float past_once = j >= 1 ? samples[i][half][(j + 3) % kRun] : before[i][half][1];
              const float past_twice = j >= 2 ? samples[i][half][(j + 2) % kRun] : before[i][half][j % 2];
              to_projection[i][0] = fmaf(flow[i][half][j], samples[i][half][j], to_projection[i][0]);
              to_projection[i][1] = fmaf(flow[i][half][j], past_once, to_projection[i][1]);
              to_projection[i][2] = fmaf(flow[i][half][j], past_twice, to_projection[i][2]);
            }
          }
        }
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int j = 0; j < kRun; ++j) result[half][j] = flow[i][half][j];
        }
      }
      if (counts) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          store_run<T>(to_input + i * s.length, tile * kTile + run_start(half), s.length, result[half], aligned);
        }
      }
    }
    warp::synchronize();
    issue();
    slot = before_slot;
    base ^= kBlock;
  }

  const int64_t part = (place.batch * gridDim.x + blockIdx.x) * s.channel + place.channel;
  toeplitz_backward::add_diagonals<kDiagonals>(a.to_taps + part * a.tap, a.tap, sums, matrix);
  to_skip = warp::sum(to_skip);
  to_bias = warp::sum(to_bias);
  if (lane == 0 && a.to_skip != nullptr) a.to_skip[part] = to_skip;
  if (lane == 0 && a.to_bias != nullptr) a.to_bias[part] = to_bias;
  if constexpr (kGated) {
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
#pragma unroll
      for (int k = 0; k < kProjection; ++k) {
        const float total = warp::sum(to_projection[i][k]);
        if (lane == 0 && k < s.projection_tap) a.to_projection[(3 * part + i) * s.projection_tap + k] = total;
      }
    }
  }
}

template <typename T, bool kGated, int kSamplePieces, int kTapPieces>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  constexpr int kSlots = 5;
  const dim3 grid = grid_of(a.stream);
  if (a.tap <= 17) return warp::launch(run<T, kGated, 2, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
  if (a.tap <= 65) return warp::launch(run<T, kGated, 5, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
  return warp::launch(run<T, kGated, 9, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
}

}  // namespace subquad::toeplitz_backward

#endif  // SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_
