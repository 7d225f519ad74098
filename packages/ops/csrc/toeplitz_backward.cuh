// Gradients of the convolution with up to 129 taps, plain or between two gates, in one pass from the end to the start.
//
// dm of a tile and of the tile behind it give dg[t] = sum(taps[k] dm[t + k]); g of the tile and of the one before it give
// m again and, times dm, the gradient of the taps, whose matrices stay in registers until the end. A gradient of the last
// samples of g is added to dg, and g before time 0 gets its own from the first tile's dm.
#ifndef SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_
#define SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_

#include "packages/ops/csrc/backward_stream.cuh"
#include "packages/ops/csrc/correlation.cuh"
#include "packages/ops/csrc/toeplitz_matrices.cuh"

namespace subquad::toeplitz_backward {

using toeplitz::Ring;

struct Arguments {
  SubquadOpsStream stream;
  SubquadOpsGradients gradients;
  const void* taps;
  const void* history;
  const void* upstream_tail;
  float* to_taps;
  void* to_history;
  int64_t channels_per_filter;
  int64_t tail_size;
  int32_t tap;
  int32_t taps_dtype;
};

// Exchanges lanes so that a fragment with reversed time in the blocks becomes runs of this lane.
__device__ __forceinline__ void restore_order(Runs& y, const float (&mixed)[2][4]) {
  const int from = warp::lane() ^ 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) y[half][kRun - 1 - i] = warp::exchange(mixed[i / 2][2 * half + i % 2], from);
  }
}

// The second half of what comes before time 0, of which `past` samples are known.
template <typename T>
__device__ __forceinline__ void read_history(float (&g)[kRun], const T* history, int past) {
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const int slot = past - kHalf + run_start(0) + i;
    g[i] = slot >= 0 ? to_float(history[slot]) : 0.0f;
  }
}

// Adds the gradient of the last samples of g, which lie from `start` to `end`.
template <typename T>
__device__ __forceinline__ void add_tail(Runs& dg, const T* upstream, int start, int end, int tile) {
  if ((tile + 1) * kTile <= start) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const int time = tile * kTile + run_start(half) + i;
      if (time >= start && time < end) dg[half][i] += to_float(upstream[time - start]);
    }
  }
}

// The gradient of the samples of g before time 0, from the first 128 of dm.
template <typename T>
__device__ __forceinline__ void write_history(T* to_history, const float* taps, const float* dm, int past) {
  for (int slot = warp::lane(); slot < past; slot += warp::kLanes) {
    float total = 0.0f;
    for (int k = past - slot; k <= past; ++k) total = fmaf(taps[kBlock + k], dm[k - past + slot], total);
    to_history[slot] = from_float<T>(total);
  }
}

template <typename T, bool kGated, int kDiagonals, int kSamplePieces, int kTapPieces, int kSlots>
__global__ void __launch_bounds__(warp::kLanes, kGated ? 8 : sizeof(T) == 4 ? 12 : 16) run(const Arguments a) {
  constexpr int kTaps = kBlock * kDiagonals;
  constexpr int kSumPieces = kSamplePieces < kTapPieces ? kSamplePieces : kTapPieces;
  using Stream = BackwardStream<T, kGated, kSlots>;
  using Filter = toeplitz::Matrices<kDiagonals, kTapPieces, !kGated || kTapPieces >= 2>;
  __shared__ typename Stream::Copies::Buffer buffer;
  alignas(16) __shared__ Ring<kSamplePieces> g_ring;
  alignas(16) __shared__ Ring<kSamplePieces> dm_ring;
  __shared__ float taps[kBlock + kTaps];
  __shared__ typename Filter::Buffer fragments;
  __shared__ float matrix[kBlock][kBlock + 1];

  const int lane = warp::lane(), r = lane / 4, q = lane % 4;
  const Place place = place_of_warp(a.stream);
  const bool warm = place.last < static_cast<int>((a.stream.length + kTile - 1) / kTile);
  const int top = warm ? place.last : place.last - 1;  // the tile behind the stretch gives what flows into it
  Stream stream(buffer, a.stream, a.gradients, place);
  stream.start(top, place.first - 1);
  toeplitz::load_taps<kTaps>(taps, a.taps, place.channel / a.channels_per_filter * a.tap, a.tap, a.taps_dtype);
  {
    const Runs nothing = {};
    uint32_t pieces[kSamplePieces][4];
    toeplitz::cut_runs<kSamplePieces>(nothing, pieces);
    toeplitz::keep<kSamplePieces>(dm_ring, kBlock, pieces);
    toeplitz::keep<kSamplePieces>(g_ring, kBlock, pieces);
  }
  warp::synchronize();
  Filter matrices(fragments);
  matrices.set(taps);

  float sums[kDiagonals][2][4] = {};
  int base = 0;
  for (int tile = top; tile >= place.first; --tile) {
    Runs g, dm, m, dg;
    stream.next(tile, g, dm);
    uint32_t current[kSamplePieces][4], earlier[kSamplePieces][4];
    toeplitz::cut_runs<kSamplePieces>(g, current);
    toeplitz::keep<kSamplePieces>(g_ring, base, current);
    correlation::keep_reversed<kSamplePieces>(dm_ring, base, dm);
    Runs before = {};
    if (tile > 0) {
      stream.second_half_before(before[1]);
    } else if (a.history != nullptr) {
      read_history(before[1], static_cast<const T*>(a.history) + place.row * (a.tap - 1), a.tap - 1);
    }
    toeplitz::cut_runs<kSamplePieces>(before, earlier);
#pragma unroll
    for (int p = 0; p < kSamplePieces; ++p) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) g_ring[p][pair][(base ^ kBlock) + 8 + r][q] = earlier[p][2 * pair + 1];
    }
    warp::synchronize();
    {
      float mixed[2][4] = {};
      uint32_t own[kSamplePieces][4];
#pragma unroll
      for (int p = 0; p < kSamplePieces; ++p) {
        warp::load_matrices(own[p], dm_ring[p][lane / 16][base + lane % 8 + 8 * (lane / 8 % 2)]);
      }
      toeplitz::multiply<1>(mixed, own, dm_ring, base, matrices);
      restore_order(dg, mixed);
    }
    if constexpr (kGated) {
      float mixed[2][4] = {};
      if (a.stream.postgate) toeplitz::multiply<-1>(mixed, current, g_ring, base, matrices);
      runs_of(m, mixed);
    }
    if (a.upstream_tail != nullptr) {
      add_tail(dg, static_cast<const T*>(a.upstream_tail) + place.row * a.tail_size,
               static_cast<int>(a.stream.length - a.tail_size), static_cast<int>(a.stream.length), tile);
    }
    if (tile == 0 && a.to_history != nullptr) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) (&matrix[0][0])[run_start(0) + i] = dm[0][i];
    }
    const bool counts = tile < place.last;
    if (counts) correlation::correlate<kDiagonals, kSamplePieces, kSumPieces>(sums, g_ring, dm_ring, base);
    stream.finish(tile, g, dm, m, dg, counts);
    base ^= kBlock;
  }

  if (place.first == 0 && a.to_history != nullptr) {
    warp::synchronize();
    write_history(static_cast<T*>(a.to_history) + place.row * (a.tap - 1), taps, &matrix[0][0], a.tap - 1);
  }
  const int64_t part = (place.batch * gridDim.x + blockIdx.x) * a.stream.channel + place.channel;
  correlation::add_diagonals<kDiagonals>(a.to_taps + part * a.tap, a.tap, sums, matrix);
  stream.write_sums(a.gradients, part);
}

template <typename T, bool kGated, int kSamplePieces, int kTapPieces>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  constexpr int kSlots = 4;
  const dim3 grid = grid_of(a.stream);
  if (a.tap <= 17) return warp::launch(run<T, kGated, 2, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
  if (a.tap <= 65) return warp::launch(run<T, kGated, 5, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
  return warp::launch(run<T, kGated, 9, kSamplePieces, kTapPieces, kSlots>, grid, a, stream);
}

}  // namespace subquad::toeplitz_backward

#endif  // SUBQUAD_OPS_TOEPLITZ_BACKWARD_CUH_
