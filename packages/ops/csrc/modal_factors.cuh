// The products of a convolution with at most 16 real exponentials, in blocks of 16 samples, on the tensor cores.
//
// For a block X entered in state S: Y = X H + S O and U = X P, H[j, i] = h[i - j], O[s, i] = residues[s] exp(log_poles[s]
// (i + 1)), P[j, s] = exp(log_poles[s] (15 - j)). With the 16 blocks of a tile as rows these are products of [16, 16]
// matrices; the states in which the blocks are entered are a scan of U over the rows, three exchanges of registers.
#ifndef SUBQUAD_OPS_MODAL_FACTORS_CUH_
#define SUBQUAD_OPS_MODAL_FACTORS_CUH_

#include "packages/ops/csrc/tiles.cuh"

namespace subquad::modal {

constexpr int kStates = 16;

// What a lane has of the states of its two blocks or of something like them: [n][e] of a half for state 8 n + 2 q + e, in
// the order in which a product leaves them.
using Rows = float[2][4];
__device__ __forceinline__ constexpr int at(int half, int e) { return 2 * half + e; }

// A factor of [16, 16] in fragments, cut into kHalves numbers of 11 bits.
template <int kHalves>
struct Factor {
  float part[kHalves][2][2][2];  // rows of a product, columns of a product, register

  __device__ __forceinline__ void set(int rows, int columns, int index, float value) {
    part[0][rows][columns][index] = warp::to_tf32(value);
    if constexpr (kHalves == 2) part[kHalves - 1][rows][columns][index] = value - part[0][rows][columns][index];
  }
};

// c += a factor, where a[rows] are the fragments of a matrix [16, 16]. With kExact the products with a later half are
// summed on their own: the tensor cores cut sums off, so that a small addend costs as much exactness as a large one.
template <bool kExact = false, int kHalves>
__device__ __forceinline__ void multiply(Rows& c, const float (&a)[2][4], const Factor<kHalves>& factor) {
  Rows rest = {};
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
    float high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = warp::to_tf32(a[rows][i]);
      low[i] = a[rows][i] - high[i];
    }
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
      const float(&first)[2] = factor.part[0][rows][columns];
      warp::multiply_tf32(c[columns], high, first[0], first[1]);
      if constexpr (kHalves == 2) {
        const float(&second)[2] = factor.part[kHalves - 1][rows][columns];
        float(&sum)[4] = kExact ? rest[columns] : c[columns];
        warp::multiply_tf32(sum, low, first[0], first[1]);
        warp::multiply_tf32(sum, high, second[0], second[1]);
      }
    }
  }
  if constexpr (kExact) {
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[columns][i] += rest[columns][i];
    }
  }
}

// A factor of samples that are bfloat16 as they come, cut into kPieces numbers of 8 bits.
template <int kPieces>
struct WholeFactor {
  uint32_t part[kPieces][2][2] = {};  // rows of a product, columns of a product

  __device__ __forceinline__ void set(int rows, int columns, int index, float value) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const uint32_t piece = warp::pack_bf16(value, 0.0f);
      part[p][rows][columns] |= piece << (16 * index);
      value -= warp::low_bf16(piece);
    }
  }
};

// c += a factor, the small products first: the tensor cores cut sums off.
template <bool kExact = false, int kPieces>
__device__ __forceinline__ void multiply(Rows& c, const uint32_t (&a)[4], const WholeFactor<kPieces>& factor) {
#pragma unroll
  for (int p = kPieces - 1; p >= 0; --p) {
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
      warp::multiply_bf16(c[columns], a, factor.part[p][0][columns], factor.part[p][1][columns]);
    }
  }
}

// A factor in shared memory, for a kernel with more of them than registers; each lane reads what it wrote.
template <int kHalves>
struct SharedFactor {
  alignas(16) float part[kHalves][2][warp::kLanes][4];

  __device__ __forceinline__ void set(int rows, int columns, int index, float value) {
    const float first = warp::to_tf32(value);
    part[0][rows][warp::lane()][2 * columns + index] = first;
    if constexpr (kHalves == 2) part[kHalves - 1][rows][warp::lane()][2 * columns + index] = value - first;
  }
};

template <bool kExact = false, int kHalves>
__device__ __forceinline__ void multiply(Rows& c, const float (&a)[2][4], const SharedFactor<kHalves>& shared) {
  Factor<kHalves> factor;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int rows = 0; rows < 2; ++rows) {
      const float4 four = *reinterpret_cast<const float4*>(shared.part[half][rows][warp::lane()]);
      factor.part[half][rows][0][0] = four.x;
      factor.part[half][rows][0][1] = four.y;
      factor.part[half][rows][1][0] = four.z;
      factor.part[half][rows][1][1] = four.w;
    }
  }
  multiply<kExact>(c, a, factor);
}

// Runs as the left side of a product: samples 0, 1 of both halves, then samples 2, 3.
__device__ __forceinline__ void time_fragments(float (&a)[2][4], const Runs& g) {
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[rows][i] = g[i % 2][2 * rows + i / 2];
  }
}

// Runs of samples that are bfloat16 as they come.
__device__ __forceinline__ void time_fragments(uint32_t (&a)[4], const Runs& g) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = warp::pack_bf16(g[i % 2][i / 2 * 2], g[i % 2][i / 2 * 2 + 1]);
}

// States as the left side of a product.
__device__ __forceinline__ void state_fragments(float (&a)[2][4], const Rows& states) {
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[rows][i] = states[rows][at(i % 2, i / 2)];
  }
}

// Sets factor[time, time] = value(row, column), factor[time, state] and factor[state, time].
template <typename AnyFactor, typename Value>
__device__ __forceinline__ void set_factor(AnyFactor& factor, bool rows_are_states, bool columns_are_states,
                                           const Value& value) {
  const int r = warp::lane() / 4, q = warp::lane() % 4;
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
      for (int index = 0; index < 2; ++index) {
        const int row = rows_are_states ? 8 * rows + 2 * q + index : 4 * q + 2 * rows + index;
        const int column = columns_are_states ? 8 * columns + r : 4 * (r / 2) + 2 * columns + r % 2;
        factor.set(rows, columns, index, value(row, column));
      }
    }
  }
}

// One filter's modes, in shared memory.
struct Modes {
  float log_poles[kStates], residues[kStates];
  float half_high[kStates], half_low[kStates];  // the decay over half a tile, as a sum of two numbers
  float taps[2 * kBlock];                       // sixteen zeros, then the first taps

  __device__ __forceinline__ void load(const float* all_log_poles, const float* all_residues, int channel, int states) {
    const int lane = warp::lane();
    if (lane < kStates) {
      const int64_t mode = static_cast<int64_t>(channel) * states + lane;
      log_poles[lane] = lane < states ? all_log_poles[mode] : -1.0f;
      residues[lane] = lane < states ? all_residues[mode] : 0.0f;
      const double half = exp(static_cast<double>(log_poles[lane]) * kHalf);
      half_high[lane] = static_cast<float>(half);
      half_low[lane] = static_cast<float>(half - half_high[lane]);
      taps[lane] = 0.0f;
    }
    warp::synchronize();
    if (lane < kBlock) {
      float tap = 0.0f;
      for (int s = 0; s < kStates; ++s) tap = fmaf(residues[s], expf(log_poles[s] * lane), tap);
      taps[kBlock + lane] = tap;
    }
    warp::synchronize();
  }
};

// The scan over the rows of a tile. kDirection 1: the state in which each block is entered, from the block before it; -1:
// the same from the end to the start. Slow poles take the power over half a tile many times, hence two numbers.
template <int kDirection>
struct Scan {
  float step[3][2][2], since[2][2], half_decay[2][2][2];

  __device__ __forceinline__ void set(const Modes& modes) {
    const int r = kDirection > 0 ? warp::lane() / 4 : 7 - warp::lane() / 4, q = warp::lane() % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int s = 8 * n + 2 * q + e;
#pragma unroll
        for (int k = 0; k < 3; ++k) step[k][n][e] = r >= (1 << k) ? expf(modes.log_poles[s] * (kBlock << k)) : 0.0f;
        since[n][e] = expf(modes.log_poles[s] * (kBlock * r));
        half_decay[n][e][0] = modes.half_high[s];
        half_decay[n][e][1] = modes.half_low[s];
      }
    }
  }

  // `carry` is the state at the tile's beginning (end) and becomes that at its end (beginning).
  __device__ __forceinline__ void run(Rows& states, const Rows& updates, float (&carry)[2][2]) const {
    const int lane = warp::lane(), last = (kDirection > 0 ? warp::kLanes - 4 : 0) + lane % 4;
    const bool leads = kDirection > 0 ? lane < 4 : lane >= warp::kLanes - 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const int half = kDirection > 0 ? part : 1 - part;
          float value = updates[n][at(half, e)];
#pragma unroll
          for (int k = 0; k < 3; ++k) {
            const int from = (lane - kDirection * (4 << k)) & (warp::kLanes - 1);
            value = fmaf(step[k][n][e], warp::exchange(value, from), value);
          }
          const float total = warp::exchange(value, last);
          const float before = warp::exchange(value, (lane - kDirection * 4) & (warp::kLanes - 1));
          states[n][at(half, e)] = fmaf(since[n][e], carry[n][e], leads ? 0.0f : before);
          carry[n][e] = fmaf(half_decay[n][e][0], carry[n][e], fmaf(half_decay[n][e][1], carry[n][e], total));
        }
      }
    }
  }
};

}  // namespace subquad::modal

#endif  // SUBQUAD_OPS_MODAL_FACTORS_CUH_
