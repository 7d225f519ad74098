// Gradients of the convolution with a sum of at most 16 real exponentials, in one pass from the end to the start.
//
// Let E be the state in which a block is entered, as the forward pass kept it for every tile, and F its mirror image: the
// sum of residues exp(log_poles (t - end)) dm[t] over what follows the block. Then dg = dM H^T + F O' inside each block, and
//
//   d residues = sum over blocks of E exp(log_poles) V, with V = sum of exp(log_poles i) dm[i],
//   d log_poles = sum over blocks of 16 exp(17 log_poles) E F + residues E W + F X,
//     W = sum of (i + 1) exp(log_poles (i + 1)) dm[i], X = sum of (15 - j) exp(log_poles (16 - j)) g[j],
//
// besides what stays inside a block, which follows from the gradients of the first 16 taps. All are products of [16, 16].
// A gradient of the last state joins F before the last tile; that of the first state is exp(log_poles) F at time 0.
#ifndef SUBQUAD_OPS_MODAL_BACKWARD_CUH_
#define SUBQUAD_OPS_MODAL_BACKWARD_CUH_

#include "packages/ops/csrc/backward_stream.cuh"
#include "packages/ops/csrc/correlation.cuh"
#include "packages/ops/csrc/modal_factors.cuh"

namespace subquad::modal_backward {

using modal::Factor;
using modal::kStates;
using modal::multiply;
using modal::Rows;

struct Arguments {
  SubquadOpsStream stream;
  SubquadOpsGradients gradients;
  const float* log_poles;
  const float* residues;
  const float* entries;
  const float* upstream_state;
  float* to_log_poles;
  float* to_residues;
  float* to_history;
  int32_t states;
};

// The sum over the blocks of both halves of a value of each state, in every lane that has the state.
__device__ __forceinline__ void sum_over_blocks(float (&total)[2][2]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int distance = 4; distance < warp::kLanes; distance *= 2) {
        total[n][e] += warp::exchange(total[n][e], warp::lane() ^ distance);
      }
    }
  }
}

// What the gradient `upstream` of the state after the last sample gives in the last tile, which holds `rest` samples and is
// entered in `entered`: adds to dg, and returns the gradient of each log pole.
__device__ __forceinline__ void add_state(Runs& dg, float (&to_log_poles)[kStates], const Runs& g, const float* upstream,
                                          const float* entered, const modal::Modes& modes, int states, int rest) {
  for (int s = 0; s < states; ++s) {
    const float factor = upstream[s], log_pole = modes.log_poles[s];
    float total = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int ahead = rest - 1 - run_start(half) - i;
        const float decay = ahead >= 0 ? expf(log_pole * ahead) : 0.0f;
        dg[half][i] = fmaf(factor, decay, dg[half][i]);
        total = fmaf(decay * ahead, g[half][i], total);
      }
    }
    total = warp::sum(total);
    if (warp::lane() == 0) to_log_poles[s] = factor * fmaf(rest * expf(log_pole * rest), entered[s], total);
  }
}

// Reads the states that this lane holds of those kept before a tile.
__device__ __forceinline__ void read_entries(float (&states)[2][2], const float* kept) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 pair = *reinterpret_cast<const float2*>(kept + 8 * n + 2 * (warp::lane() % 4));
    states[n][0] = pair.x;
    states[n][1] = pair.y;
  }
}

template <typename T, bool kGated, int kSlots>
__global__ void __launch_bounds__(warp::kLanes, kGated && sizeof(T) == 2 ? 8 : 0) run(const Arguments a) {
  constexpr bool kExact = sizeof(T) == 4;
  constexpr bool kAhead = !kExact;  // entries are read a tile ahead where there are registers for them
  constexpr int kPieces = kExact ? 3 : 2, kHalves = kExact ? 2 : 1;
  using Stream = BackwardStream<T, kGated, kSlots>;
  __shared__ typename Stream::Copies::Buffer buffer;
  alignas(16) __shared__ toeplitz::Ring<kPieces> g_ring;
  alignas(16) __shared__ toeplitz::Ring<kPieces> dm_ring;
  __shared__ modal::Modes modes;
  __shared__ float matrix[kBlock][kBlock + 1];
  __shared__ float to_taps[kBlock];
  __shared__ float of_state[kStates];  // what the gradient of the last state gives to log_poles
  __shared__ modal::SharedFactor<kHalves> inner, collect_back, local_back, inner_back;

  const int lane = warp::lane(), q = lane % 4;
  const Place place = place_of_warp(a.stream);
  Stream stream(buffer, a.stream, a.gradients, place);
  stream.start(place.last - 1, 0);
  modes.load(a.log_poles, a.residues, place.channel, a.states);

  const auto power = [&](int s, int exponent) { return expf(modes.log_poles[s] * exponent); };
  Factor<kHalves> collect, local, spread, spread_back;
  set_factor(collect, false, true, [&](int from, int s) { return power(s, kBlock - 1 - from); });
  set_factor(local, false, false, [&](int from, int to) { return modes.taps[kBlock + to - from]; });
  set_factor(spread, true, false, [&](int s, int to) { return modes.residues[s] * power(s, to + 1); });
  set_factor(inner, false, true, [&](int from, int s) { return (kBlock - 1 - from) * power(s, kBlock - from); });
  set_factor(collect_back, false, true, [&](int from, int s) { return power(s, from); });
  set_factor(local_back, false, false, [&](int from, int to) { return modes.taps[kBlock + from - to]; });
  set_factor(spread_back, true, false, [&](int s, int to) { return power(s, kBlock - to); });
  set_factor(inner_back, false, true, [&](int from, int s) { return (from + 1) * power(s, from + 1); });
  modal::Scan<1> scan;
  modal::Scan<-1> scan_back;
  scan.set(modes);
  scan_back.set(modes);

  float flow[2][2] = {}, to_residues[2][2] = {}, to_log_poles[2][2] = {}, across[2][2], weight[2][2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      across[n][e] = kBlock * power(8 * n + 2 * q + e, kBlock + 1);
      weight[n][e] = modes.residues[8 * n + 2 * q + e];
    }
  }
  if (lane < kStates) of_state[lane] = 0.0f;
  float sums[1][2][4] = {};
  float carry[2][2], upcoming[2][2];  // states before the tile, and before the one taken next
  const float* kept = a.entries + (place.row * place.last + place.last - 1) * kStates;
  if constexpr (kAhead) read_entries(upcoming, kept);
  for (int tile = place.last - 1; tile >= 0; --tile, kept -= kStates) {
    if constexpr (kAhead) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) carry[n][e] = upcoming[n][e];
      }
      if (tile > 0) read_entries(upcoming, kept - kStates);
    } else {
      read_entries(carry, kept);
    }
    Runs g, dm, m, dg;
    stream.next(tile, g, dm);
    correlation::keep_both<kPieces>(g_ring, dm_ring, g, dm);
    warp::synchronize();
    correlation::correlate<1, kPieces, kPieces>(sums, g_ring, dm_ring, 0);

    float samples[2][4], fragments[2][4];
    Rows updates = {}, entered, left, product = {};
    modal::time_fragments(samples, g);
    multiply<kExact>(updates, samples, collect);
    scan.run(entered, updates, carry);
    if constexpr (kGated) {
      multiply<kExact>(product, samples, local);
      modal::state_fragments(fragments, entered);
      multiply<kExact>(product, fragments, spread);
      runs_of(m, product);
    }
    Rows inside = {};
    multiply<kExact>(inside, samples, inner);

    modal::time_fragments(samples, dm);
    Rows back = {}, weighted, inside_back = {}, product_back = {};
    multiply<kExact>(back, samples, collect_back);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weighted[n][i] = weight[n][i % 2] * back[n][i];
    }
    scan_back.run(left, weighted, flow);
    multiply<kExact>(product_back, samples, local_back);
    modal::state_fragments(fragments, left);
    multiply<kExact>(product_back, fragments, spread_back);
    runs_of(dg, product_back);
    multiply<kExact>(inside_back, samples, inner_back);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int e = i % 2;
        to_residues[n][e] = fmaf(entered[n][i], back[n][i], to_residues[n][e]);
        const float factor = fmaf(across[n][e], left[n][i], weight[n][e] * inside_back[n][i]);
        to_log_poles[n][e] = fmaf(entered[n][i], factor, fmaf(left[n][i], inside[n][i], to_log_poles[n][e]));
      }
    }
    if (a.upstream_state != nullptr && tile + 1 == place.last) {
      const float* upstream = a.upstream_state + place.row * a.states;
      const int rest = static_cast<int>(a.stream.length) - tile * kTile;
      warp::synchronize();
      add_state(dg, of_state, g, upstream, kept, modes, a.states, rest);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int s = 8 * n + 2 * q + e;
          if (s < a.states) flow[n][e] = fmaf(upstream[s], power(s, rest - 1), flow[n][e]);
        }
      }
    }
    stream.finish(tile, g, dm, m, dg, true);
  }

  const int64_t part = place.batch * a.stream.channel + place.channel;
  correlation::add_diagonals<1>(to_taps, kBlock, sums, matrix);
  warp::synchronize();
  sum_over_blocks(to_residues);
  sum_over_blocks(to_log_poles);
  if (lane < 4) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int s = 8 * n + 2 * q + e;
        float to_residue = to_residues[n][e] * power(s, 1), to_log_pole = 0.0f;
        for (int k = 0; k < kBlock; ++k) {
          to_residue = fmaf(to_taps[k], power(s, k), to_residue);
          to_log_pole = fmaf(to_taps[k] * k, power(s, k), to_log_pole);
        }
        if (s < a.states) {
          a.to_residues[part * a.states + s] = to_residue;
          a.to_log_poles[part * a.states + s] = fmaf(modes.residues[s], to_log_pole, to_log_poles[n][e]) + of_state[s];
          if (a.to_history != nullptr) a.to_history[part * a.states + s] = flow[n][e] * power(s, 1);
        }
      }
    }
  }
  stream.write_sums(a.gradients, part);
}

}  // namespace subquad::modal_backward

#endif  // SUBQUAD_OPS_MODAL_BACKWARD_CUH_
