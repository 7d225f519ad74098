// The gradient of a causal filter as products of [16, 16] matrices, of the blocks of dm with earlier blocks of g.
//
// Blocks lie in rings as in toeplitz_matrices.cuh, those of dm with time reversed inside the block.
#ifndef SUBQUAD_OPS_CORRELATION_CUH_
#define SUBQUAD_OPS_CORRELATION_CUH_

#include "packages/ops/csrc/toeplitz_matrices.cuh"

namespace subquad::correlation {

using toeplitz::kRing;
using toeplitz::Ring;

// Keeps runs with time reversed inside the blocks: the lane's last two samples first, and the block's last run first.
template <int kPieces>
__device__ __forceinline__ void keep_reversed(Ring<kPieces>& ring, int base, const Runs& y) {
  const Runs reversed = {{y[0][3], y[0][2], y[0][1], y[0][0]}, {y[1][3], y[1][2], y[1][1], y[1][0]}};
  const int block = warp::lane() / 4, run = 3 - warp::lane() % 4;
  uint32_t fragment[kPieces][4];
  toeplitz::cut_runs<kPieces>(reversed, fragment);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) ring[p][pair][base + 8 * half + block][run] = fragment[p][2 * pair + half];
    }
  }
}

// Keeps one tile of both.
template <int kPieces>
__device__ __forceinline__ void keep_both(Ring<kPieces>& g_ring, Ring<kPieces>& dm_ring, const Runs& g, const Runs& dm) {
  uint32_t fragment[kPieces][4];
  toeplitz::cut_runs<kPieces>(g, fragment);
  toeplitz::keep<kPieces>(g_ring, 0, fragment);
  keep_reversed<kPieces>(dm_ring, 0, dm);
}

// The gradient of one filter as products of [16, 16] matrices: of block i of dm with block i - d of g. Of three pieces the
// products of a tile are summed on their own, the small ones first: the tensor cores cut sums off.
template <int kDiagonals, int kSamplePieces, int kPieces>
__device__ __forceinline__ void correlate(float (&sums)[kDiagonals][2][4], const Ring<kSamplePieces>& g,
                                          const Ring<kSamplePieces>& dm, int base) {
  constexpr bool kApart = kPieces > 2;
  const int lane = warp::lane();
  uint32_t right[kPieces][4];  // columns 0-7: blocks 0-7, blocks 8-15; columns 8-15
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    warp::load_matrices_transposed(right[p], dm[p][lane / 16][base + lane % 8 + 8 * (lane / 8 % 2)]);
  }
#pragma unroll
  for (int d = 0; d < kDiagonals; ++d) {
    const int row = (base + lane % 8 + 8 * (lane / 16) - d) & (kRing - 1);
    float own[2][4] = {};
#pragma unroll
    for (int p = kPieces - 1; p >= 0; --p) {
      uint32_t left[4];
      warp::load_matrices_transposed(left, g[p][lane / 8 % 2][row]);
#pragma unroll
      for (int other = kPieces - 1 - p; other >= 0; --other) {
#pragma unroll
        for (int columns = 0; columns < 2; ++columns) {
          float(&sum)[4] = kApart ? own[columns] : sums[d][columns];
          warp::multiply_bf16(sum, left, right[other][2 * columns], right[other][2 * columns + 1]);
        }
      }
    }
    if constexpr (kApart) {
#pragma unroll
      for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[d][columns][i] += own[columns][i];
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

}  // namespace subquad::correlation

#endif  // SUBQUAD_OPS_CORRELATION_CUH_
