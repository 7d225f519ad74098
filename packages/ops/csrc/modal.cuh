// Causal convolution with a sum of at most 16 real exponentials, plain or between two gates, with its state.
//
// For a block X of 16 samples entered in state S: Y = X H + S O and U = X P, H[j, i] = h[i - j], O[s, i] = residues[s]
// exp(log_poles[s] (i + 1)), P[j, s] = exp(log_poles[s] (15 - j)). With the 16 blocks of a tile as rows these are three
// products of [16, 16] matrices on the tensor cores, in TF32; the states in which the blocks are entered are a scan of U
// over the rows, three exchanges of registers. U takes three products of halves of 11 bits, so that the state keeps
// float32's exactness; Y takes three where the stream is float32 and one where the result is rounded to bfloat16 anyway.
#ifndef SUBQUAD_OPS_MODAL_CUH_
#define SUBQUAD_OPS_MODAL_CUH_

#include "packages/ops/csrc/stream.cuh"

namespace subquad::modal {

constexpr int kStates = 16;

struct Arguments {
  SubquadOpsStream stream;
  const float* log_poles;
  const float* residues;
  const float* history;
  float* state;
  int32_t states;
};

struct Halves {
  float high, low;
};

__device__ __forceinline__ Halves halve(float value) {
  const float high = warp::to_tf32(value);
  return {high, value - high};
}

// A factor of [16, 16] in fragments: [rows of a product][columns of a product][register].
template <int kHalves>
struct Factor {
  float part[kHalves][2][2][2];

  __device__ __forceinline__ void set(int rows, int columns, int index, float value) {
    const Halves halves = halve(value);
    part[0][rows][columns][index] = halves.high;
    if constexpr (kHalves == 2) part[1][rows][columns][index] = halves.low;
  }
};

// c[columns] += a factor, where a[rows] are the fragments of a matrix [16, 16].
template <int kHalves>
__device__ __forceinline__ void multiply(float (&c)[2][4], const float (&a)[2][4], const Factor<kHalves>& factor) {
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
    float high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Halves halves = halve(a[rows][i]);
      high[i] = halves.high;
      low[i] = halves.low;
    }
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
      const float(&first)[2] = factor.part[0][rows][columns];
      warp::multiply_tf32(c[columns], high, first[0], first[1]);
      if constexpr (kHalves == 2) {
        const float(&second)[2] = factor.part[kHalves - 1][rows][columns];
        warp::multiply_tf32(c[columns], low, first[0], first[1]);
        warp::multiply_tf32(c[columns], high, second[0], second[1]);
      }
    }
  }
}

template <typename T, bool kGated, int kStages>
__global__ void __launch_bounds__(warp::kLanes) run(const Arguments a) {
  constexpr int kOutputHalves = sizeof(T) == 4 ? 2 : 1;
  using Stream = GatedStream<T, kGated, kStages>;
  __shared__ typename Stream::Reader::Copies::Buffer buffer;
  __shared__ float log_poles[kStates], residues[kStates], entering[kStates], half_high[kStates], half_low[kStates];
  __shared__ float first_taps[2 * kBlock];  // sixteen zeros before tap 0

  const int lane = warp::lane(), r = lane / 4, q = lane % 4;
  const Place place = place_of_warp(a.stream);
  Stream stream(buffer, a.stream, place);
  stream.start(0, place.last);

  if (lane < kStates) {
    const bool used = lane < a.states;
    const int64_t mode = static_cast<int64_t>(place.channel) * a.states + lane;
    log_poles[lane] = used ? a.log_poles[mode] : -1.0f;
    residues[lane] = used ? a.residues[mode] : 0.0f;
    entering[lane] = used && a.history != nullptr ? a.history[place.row * a.states + lane] : 0.0f;
    const double half = exp(static_cast<double>(log_poles[lane]) * kHalf);
    half_high[lane] = static_cast<float>(half);
    half_low[lane] = static_cast<float>(half - half_high[lane]);
    first_taps[lane] = 0.0f;
  }
  warp::synchronize();
  if (lane < kBlock) {
    float tap = 0.0f;
    for (int s = 0; s < kStates; ++s) tap = fmaf(residues[s], expf(log_poles[s] * lane), tap);
    first_taps[kBlock + lane] = tap;
  }
  warp::synchronize();

  Factor<2> collect;
  Factor<kOutputHalves> local, spread;
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
      for (int index = 0; index < 2; ++index) {
        const int from = 4 * q + 2 * rows + index;                 // time in the block, as a row
        const int to = 4 * (r / 2) + 2 * columns + r % 2;          // time in the block, as a column
        const int row_state = 8 * rows + 2 * q + index, column_state = 8 * columns + r;
        local.set(rows, columns, index, first_taps[kBlock + to - from]);
        collect.set(rows, columns, index, expf(log_poles[column_state] * (kBlock - 1 - from)));
        spread.set(rows, columns, index, residues[row_state] * expf(log_poles[row_state] * (to + 1)));
      }
    }
  }

  // States 8 n + 2 q + e of this lane. step[k]: the decay over 2^k blocks, zero where they reach out of the half tile;
  // half_decay: over a half tile, as a sum of two numbers, since a slow pole takes its power many times.
  float step[3][2][2], since[2][2], half_decay[2][2][2], carry[2][2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int s = 8 * n + 2 * q + e;
#pragma unroll
      for (int k = 0; k < 3; ++k) step[k][n][e] = r >= (1 << k) ? expf(log_poles[s] * (kBlock << k)) : 0.0f;
      since[n][e] = expf(log_poles[s] * (kBlock * r));
      half_decay[n][e][0] = half_high[s];
      half_decay[n][e][1] = half_low[s];
      carry[n][e] = entering[s];
    }
  }

  Runs g;
  for (int64_t tile = 0; tile < place.last; ++tile) {
    stream.next(g);
    if (tile + 1 == place.last && lane < 4) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) entering[8 * n + 2 * q + e] = carry[n][e];
      }
    }
    // Samples 0, 1 of both halves, then samples 2, 3.
    const float samples[2][4] = {{g[0][0], g[1][0], g[0][1], g[1][1]}, {g[0][2], g[1][2], g[0][3], g[1][3]}};
    float updates[2][4] = {}, mixed[2][4] = {};
    multiply(updates, samples, collect);
    multiply(mixed, samples, local);

    float states[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float total[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float value = updates[n][2 * half + e];
#pragma unroll
          for (int k = 0; k < 3; ++k) {
            value = fmaf(step[k][n][e], warp::exchange(value, (lane - (4 << k)) & (warp::kLanes - 1)), value);
          }
          total[half] = warp::exchange(value, 28 + q);
          const float before = warp::exchange(value, (lane - 4) & (warp::kLanes - 1));
          states[n][2 * e + half] = fmaf(since[n][e], carry[n][e], r == 0 ? 0.0f : before);
          carry[n][e] = fmaf(half_decay[n][e][0], carry[n][e], fmaf(half_decay[n][e][1], carry[n][e], total[half]));
        }
      }
    }
    multiply(mixed, states, spread);
    stream.store(mixed, g);
  }

  // The state after the last sample: from the last tile's samples one by one, which may not fill it.
  warp::synchronize();
  const int rest = static_cast<int>(a.stream.length - (place.last - 1) * kTile);
  for (int s = 0; s < a.states; ++s) {
    float total = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int ahead = rest - 1 - run_start(half) - i;
        if (ahead >= 0) total = fmaf(g[half][i], expf(log_poles[s] * ahead), total);
      }
    }
    total = warp::sum(total);
    if (lane == 0) a.state[place.row * a.states + s] = fmaf(expf(log_poles[s] * rest), entering[s], total);
  }
}

}  // namespace subquad::modal

#endif  // SUBQUAD_OPS_MODAL_CUH_
