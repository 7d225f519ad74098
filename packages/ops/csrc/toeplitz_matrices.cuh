// A causal filter as products of [16, 16] matrices, forward and backward.
//
// Block i of 16 outputs is sum(T[d] X[i - d] for d), T[d][i, j] = taps[16 d + i - j]: with 16 blocks as the rows of a
// tile, one product of [16, 16] matrices a diagonal. The matrices of all diagonals are kept in registers as fragments.
// Other blocks come from a ring of 32 rows in shared memory. Numbers are cut into pieces of 8 bits (bfloat16), largest
// first; products of pieces whose places add up beyond the last one are left out.
//
// Backward, sum(T[d]^T Y[i + d] for d), takes the same fragments: with time reversed inside the blocks, j' = 15 - j and
// i' = 15 - i, the transposed matrices are the same.
#ifndef SUBQUAD_OPS_TOEPLITZ_MATRICES_CUH_
#define SUBQUAD_OPS_TOEPLITZ_MATRICES_CUH_

#include "packages/ops/csrc/tiles.cuh"

namespace subquad::toeplitz {

constexpr int kFewestTaps = 2;  // one tap is a product that the tensor cores would round
constexpr int kMostTaps = 129;

constexpr int kRing = 32;

// Cuts pairs of numbers into kPieces bfloat16 numbers each.
template <int kPieces>
__device__ __forceinline__ void cut(float low, float high, uint32_t (&pieces)[kPieces]) {
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    pieces[p] = warp::pack_bf16(low, high);
    low -= warp::low_bf16(pieces[p]);
    high -= warp::high_bf16(pieces[p]);
  }
}

template <int kPieces>
using Ring = uint32_t[kPieces][2][kRing][4];  // [piece][samples 0, 1 or 2, 3 of a run][block][run of the block]

// A fragment's registers: samples 0, 1 of both halves, then samples 2, 3.
template <int kPieces>
__device__ __forceinline__ void cut_runs(const Runs& g, uint32_t (&fragment)[kPieces][4]) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t pieces[kPieces];
      cut<kPieces>(g[half][2 * pair], g[half][2 * pair + 1], pieces);
#pragma unroll
      for (int p = 0; p < kPieces; ++p) fragment[p][2 * pair + half] = pieces[p];
    }
  }
}

template <int kPieces>
__device__ __forceinline__ void keep(Ring<kPieces>& ring, int base, const uint32_t (&fragment)[kPieces][4]) {
  const int block = warp::lane() / 4, run = warp::lane() % 4;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) ring[p][pair][base + 8 * half + block][run] = fragment[p][2 * pair + half];
    }
  }
}


// Reads one filter: sixteen zeros, then the taps, then zeros.
template <int kTaps>
__device__ __forceinline__ void load_taps(float (&taps)[kBlock + kTaps], const void* all, int64_t first, int count,
                                          int32_t dtype) {
  for (int k = warp::lane() - kBlock; k < kTaps; k += warp::kLanes) {
    taps[kBlock + k] = k >= 0 && k < count ? load_parameter(all, first + k, dtype) : 0.0f;
  }
}

// The registers of one matrix: samples 0, 1 of a run in columns and rows (as samples 2, 3 in both: the lags are the same),
// samples 0, 1 in columns and 2, 3 in rows, and the other way round.
struct Fragment {
  uint32_t same, rows_later, columns_later;
};

// The matrices of a filter as fragments, in registers or, where they would keep too many warps away, in shared memory as
// pairs of neighbouring taps, of which each lane takes its own.
template <int kDiagonals, int kPieces, bool kShared>
class Matrices {
 public:
  static constexpr int kPairs = kBlock * (kDiagonals + 1);

  struct Buffer {
    uint32_t pairs[kShared ? kPieces : 1][kShared ? kPairs : 1];  // [lag + 15]: that tap, and the one before it
  };

  __device__ __forceinline__ explicit Matrices(Buffer& buffer) : buffer_(buffer) {
    const int r = warp::lane() / 4, q = warp::lane() % 4;
    lag_ = 4 * (r / 2) + r % 2 - 4 * q;
  }

  // `taps` has sixteen zeros before tap 0; to be followed by warp::synchronize().
  template <int kTaps>
  __device__ __forceinline__ void set(const float (&taps)[kTaps]) {
    if constexpr (kShared) {
      for (int i = warp::lane(); i < kPairs - 1; i += warp::kLanes) {
        uint32_t pieces[kPieces];
        cut<kPieces>(taps[i + 1], taps[i], pieces);
#pragma unroll
        for (int p = 0; p < kPieces; ++p) buffer_.pairs[p][i] = pieces[p];
      }
    } else {
#pragma unroll
      for (int d = 0; d < kDiagonals; ++d) {
#pragma unroll
        for (int shift = 0; shift < 3; ++shift) {
          const int lag = kBlock * d + lag_ + (shift == 1 ? -2 : shift == 2 ? 2 : 0);
          uint32_t pieces[kPieces];
          cut<kPieces>(taps[kBlock + lag], taps[kBlock + lag - 1], pieces);
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            uint32_t& word = shift == 0 ? fragments_[d][p].same
                             : shift == 1 ? fragments_[d][p].rows_later : fragments_[d][p].columns_later;
            word = pieces[p];
          }
        }
      }
    }
  }

  __device__ __forceinline__ Fragment get(int d, int p) const {
    if constexpr (kShared) {
      const uint32_t* pairs = buffer_.pairs[p] + kBlock * d + lag_ + kBlock - 1;
      return {pairs[0], pairs[-2], pairs[2]};
    }
    return fragments_[kShared ? 0 : d][kShared ? 0 : p];
  }

 private:
  Buffer& buffer_;
  int lag_;  // of the first sample in columns and rows, on the first diagonal
  Fragment fragments_[kShared ? 1 : kDiagonals][kShared ? 1 : kPieces];
};

// mixed += sum of the products of the blocks d rows before (kDirection -1) or behind (1) those at `base`, which are
// `current`, with matrix d. Products with a later piece are summed on their own: the tensor cores cut sums off, so that a
// small addend costs as much exactness as a large one.
template <int kDirection, int kDiagonals, int kSamplePieces, int kTapPieces, bool kShared>
__device__ __forceinline__ void multiply(float (&mixed)[2][4], const uint32_t (&current)[kSamplePieces][4],
                                         const Ring<kSamplePieces>& ring, int base,
                                         const Matrices<kDiagonals, kTapPieces, kShared>& matrices) {
  constexpr int kPieces = kSamplePieces > kTapPieces ? kSamplePieces : kTapPieces;
  constexpr bool kApart = kPieces > 2;
  const int lane = warp::lane();
  float rest[2][4] = {};
#pragma unroll
  for (int d = 0; d < kDiagonals; ++d) {
    const int row = (base + lane % 8 + 8 * (lane / 8 % 2) + kDirection * d) & (kRing - 1);
    Fragment matrix[kTapPieces];
#pragma unroll
    for (int t = 0; t < kTapPieces; ++t) matrix[t] = matrices.get(d, t);
#pragma unroll
    for (int p = 0; p < kSamplePieces; ++p) {
      uint32_t samples[4] = {current[p][0], current[p][1], current[p][2], current[p][3]};
      if (d > 0) warp::load_matrices(samples, ring[p][lane / 16][row]);
#pragma unroll
      for (int t = 0; t < kTapPieces; ++t) {
        if (p + t < kPieces) {
          warp::multiply_bf16(kApart && p + t > 0 ? rest[0] : mixed[0], samples, matrix[t].same, matrix[t].rows_later);
          warp::multiply_bf16(kApart && p + t > 0 ? rest[1] : mixed[1], samples, matrix[t].columns_later, matrix[t].same);
        }
      }
    }
  }
  if constexpr (kApart) {
#pragma unroll
    for (int columns = 0; columns < 2; ++columns) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mixed[columns][i] += rest[columns][i];
    }
  }
}

}  // namespace subquad::toeplitz

#endif  // SUBQUAD_OPS_TOEPLITZ_MATRICES_CUH_
