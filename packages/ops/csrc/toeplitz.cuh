// Causal convolution with up to 129 taps on the tensor cores, plain or between two gates.
//
// See toeplitz_matrices.cuh for the products.
#ifndef SUBQUAD_OPS_TOEPLITZ_CUH_
#define SUBQUAD_OPS_TOEPLITZ_CUH_

#include "packages/ops/csrc/stream.cuh"
#include "packages/ops/csrc/toeplitz_matrices.cuh"

namespace subquad::toeplitz {

struct Arguments {
  SubquadOpsStream stream;
  const void* taps;
  const void* history;
  void* tail;
  int64_t channels_per_filter;
  int64_t tail_size;
  int32_t tap;
  int32_t taps_dtype;
};

template <typename T, bool kGated, int kDiagonals, int kSamplePieces, int kTapPieces, int kStages>
__global__ void __launch_bounds__(warp::kLanes) run(const Arguments a) {
  constexpr int kTaps = kBlock * kDiagonals;
  using Stream = GatedStream<T, kGated, kStages, !kGated>;
  using Filter = Matrices<kDiagonals, kTapPieces, false>;
  __shared__ typename Stream::Reader::Copies::Buffer buffer;
  alignas(16) __shared__ Ring<kSamplePieces> ring;
  __shared__ float taps[kBlock + kTaps];  // sixteen zeros before tap 0
  __shared__ typename Filter::Buffer fragments;

  const Place place = place_of_warp(a.stream);
  Stream stream(buffer, a.stream, place);
  const bool warm = place.first > 0;  // the tile before the stretch fills the ring
  stream.start(place.first - (warm ? 1 : 0), place.last);

  load_taps<kTaps>(taps, a.taps, place.channel / a.channels_per_filter * a.tap, a.tap, a.taps_dtype);
  if (!warm) {
    const T* history = static_cast<const T*>(a.history) + place.row * (a.tap - 1);
    Runs earlier;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int slot = a.tap - 1 - kTile + run_start(half) + i;
        earlier[half][i] = a.history != nullptr && slot >= 0 ? to_float(history[slot]) : 0.0f;
      }
    }
    uint32_t pieces[kSamplePieces][4];
    cut_runs<kSamplePieces>(earlier, pieces);
    keep<kSamplePieces>(ring, kBlock, pieces);
  }
  warp::synchronize();

  Filter matrices(fragments);
  matrices.set(taps);

  T* tail = static_cast<T*>(a.tail) + place.row * a.tail_size;
  const int length = static_cast<int>(a.stream.length), tail_start = length - static_cast<int>(a.tail_size);
  int base = warm ? kBlock : 0;
  for (int tile = place.first - (warm ? 1 : 0); tile < place.last; ++tile) {
    Runs g;
    stream.next(g);
    uint32_t current[kSamplePieces][4];
    cut_runs<kSamplePieces>(g, current);
    keep<kSamplePieces>(ring, base, current);
    warp::synchronize();
    if (tile >= place.first) {
      float mixed[2][4] = {};
      multiply<-1>(mixed, current, ring, base, matrices);
      stream.store(mixed, g);
      if ((tile + 1) * kTile > tail_start) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int time = tile * kTile + run_start(half);
#pragma unroll
          for (int i = 0; i < kRun; ++i) {
            if (time + i >= tail_start && time + i < length) tail[time + i - tail_start] = from_float<T>(g[half][i]);
          }
        }
      }
    }
    base ^= kBlock;
  }
}

template <typename T, bool kGated, int kSamplePieces, int kTapPieces>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  constexpr int kStages = kGated ? 3 : 4;
  const dim3 grid = grid_of(a.stream);
  if (a.tap <= 17) return warp::launch(run<T, kGated, 2, kSamplePieces, kTapPieces, kStages>, grid, a, stream);
  if (a.tap <= 65) return warp::launch(run<T, kGated, 5, kSamplePieces, kTapPieces, kStages>, grid, a, stream);
  return warp::launch(run<T, kGated, 9, kSamplePieces, kTapPieces, kStages>, grid, a, stream);
}

}  // namespace subquad::toeplitz

#endif  // SUBQUAD_OPS_TOEPLITZ_CUH_
