// Causal convolution with a sum of at most 16 real exponentials, plain or between two gates, with its state.
//
// One warp marches over a whole channel, or over a part of it where there are few channels: then another launch has found
// what each part by itself leaves, of which the later parts make the state in which they are entered. The state takes three products of halves of 11 bits, so that it keeps float32's
// exactness; the output takes three where the stream is float32 and one where it is rounded to bfloat16 anyway.
#ifndef SUBQUAD_OPS_MODAL_CUH_
#define SUBQUAD_OPS_MODAL_CUH_

#include <type_traits>

#include "packages/ops/csrc/modal_factors.cuh"
#include "packages/ops/csrc/stream.cuh"

namespace subquad::modal {

// Warps that a multiprocessor holds at once, which bounds their registers: 1920 channels are then one wave on an H100.
constexpr int kResident = 16;

struct Arguments {
  SubquadOpsStream stream;
  const float* log_poles;
  const float* residues;
  const float* history;
  float* state;
  float* entries;
  float* parts;  // [row, part, state]: what each part but the last leaves when entered in state zero
  int32_t states;
};

// With kStateOnly: no output, and the state that the part leaves goes to `parts`.
template <typename T, bool kGated, int kStages, bool kStateOnly>
__global__ void __launch_bounds__(warp::kLanes, kResident) run(const Arguments a) {
  constexpr bool kExact = sizeof(T) == 4;
  constexpr int kOutputHalves = kExact ? 2 : 1;
  constexpr bool kWhole = sizeof(T) == 2 && !kGated;  // the samples to be mixed are bfloat16
  using Collect = std::conditional_t<kWhole, WholeFactor<3>, Factor<2>>;
  using Local = std::conditional_t<kWhole, WholeFactor<2>, Factor<kOutputHalves>>;
  using Stream = GatedStream<T, kGated, kStages, false>;
  __shared__ typename Stream::Reader::Copies::Buffer buffer;
  __shared__ Modes modes;
  __shared__ float entering[kStates];

  const int lane = warp::lane(), q = lane % 4;
  const Place place = place_of_warp(a.stream);
  const int tiles = static_cast<int>((a.stream.length + kTile - 1) / kTile);
  Stream stream(buffer, a.stream, place);
  stream.start(place.first, place.last);
  modes.load(a.log_poles, a.residues, place.channel, a.states);
  float* const parts = a.parts + place.row * ((tiles - 1) / a.stream.tiles_a_warp) * kStates;
  if (lane < kStates) {
    float state = !kStateOnly && lane < a.states && a.history != nullptr ? a.history[place.row * a.states + lane] : 0.0f;
    if (!kStateOnly && place.first > 0) {
      const float decay = expf(modes.log_poles[lane] * (static_cast<float>(kTile) * a.stream.tiles_a_warp));
      for (unsigned part = 0; part < blockIdx.x; ++part) state = fmaf(decay, state, parts[part * kStates + lane]);
    }
    entering[lane] = state;
  }
  warp::synchronize();

  Collect collect;
  Local local;
  Factor<kOutputHalves> spread;
  set_factor(collect, false, true, [&](int from, int s) { return expf(modes.log_poles[s] * (kBlock - 1 - from)); });
  set_factor(local, false, false, [&](int from, int to) { return modes.taps[kBlock + to - from]; });
  set_factor(spread, true, false, [&](int s, int to) { return modes.residues[s] * expf(modes.log_poles[s] * (to + 1)); });
  Scan<1> scan;
  scan.set(modes);
  float carry[2][2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) carry[n][e] = entering[8 * n + 2 * q + e];
  }

  Runs g;
  for (int tile = place.first; tile < place.last; ++tile) {
    stream.next(g);
    if (!kStateOnly && lane < 4 && (a.entries != nullptr || tile + 1 == place.last)) {
      float* kept = a.entries == nullptr ? nullptr : a.entries + (place.row * tiles + tile) * kStates;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (kept != nullptr) kept[8 * n + 2 * q + e] = carry[n][e];
          entering[8 * n + 2 * q + e] = carry[n][e];
        }
      }
    }
    std::conditional_t<kWhole, uint32_t[4], float[2][4]> samples;
    float before[2][4];
    time_fragments(samples, g);
    Rows updates = {}, states, mixed = {};
    multiply<kExact>(updates, samples, collect);
    if constexpr (!kStateOnly) multiply<kExact>(mixed, samples, local);
    scan.run(states, updates, carry);
    if constexpr (kStateOnly) continue;
    state_fragments(before, states);
    multiply<kExact>(mixed, before, spread);
    stream.store(mixed, g);
  }

  if constexpr (kStateOnly) {
    if (lane < 4) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) parts[blockIdx.x * kStates + 8 * n + 2 * q + e] = carry[n][e];
      }
    }
    return;
  }
  if (place.last < tiles) return;

  // The state after the last sample: from the last tile's samples one by one, which may not fill it.
  warp::synchronize();
  const int rest = static_cast<int>(a.stream.length) - (place.last - 1) * kTile;
  for (int s = 0; s < a.states; ++s) {
    float total = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int ahead = rest - 1 - run_start(half) - i;
        if (ahead >= 0) total = fmaf(g[half][i], expf(modes.log_poles[s] * ahead), total);
      }
    }
    total = warp::sum(total);
    if (lane == 0) a.state[place.row * a.states + s] = fmaf(expf(modes.log_poles[s] * rest), entering[s], total);
  }
}

}  // namespace subquad::modal

#endif  // SUBQUAD_OPS_MODAL_CUH_
