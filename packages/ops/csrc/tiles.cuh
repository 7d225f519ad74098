// A warp that marches along one channel, 256 samples at a time.
//
// A tile is 16 blocks of 16 samples. Lane l owns two runs of 4 consecutive samples: run l (of blocks 0-7) and run 32 + l
// (of blocks 8-15), so that every access of a warp to memory is one contiguous stretch. Read as matrices [block, time in
// block], these runs are fragments of mma: with r = l / 4 and q = l % 4, lane l holds times 4 q ... 4 q + 3 of blocks r
// and r + 8. The tensor cores want times 2 q, 2 q + 1, 2 q + 8, 2 q + 9 (m16n8k16) or q, q + 4 (m16n8k8) there; a product
// sums over them in any order, so it is enough that the other factor names its rows and columns in the same way.
#ifndef SUBQUAD_OPS_TILES_CUH_
#define SUBQUAD_OPS_TILES_CUH_

#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/warp.cuh"

namespace subquad {

constexpr int kRun = 4;
constexpr int kBlock = 16;
constexpr int kHalf = kRun * warp::kLanes;
constexpr int kTile = 2 * kHalf;
constexpr int kProjection = 3;  // taps of the projection at most

using Runs = float[2][kRun];

// Where the first sample of a lane's run lies in a tile.
__device__ __forceinline__ int run_start(int half) { return half * kHalf + warp::lane() * kRun; }

// Copies tiles of kStreams rows into kSlots slots of shared memory, each lane its own runs.
template <typename T, int kStreams, int kSlots>
class TileCopies {
 public:
  static constexpr int kWords = kRun * sizeof(T) / 4;
  static constexpr int kPairWords = sizeof(T) / 2;  // words of two samples

  struct Buffer {
    alignas(16) uint32_t runs[kSlots][kStreams][2][warp::kLanes][kWords];
    uint32_t last[kSlots][kStreams][2][warp::kLanes];  // the word behind a run that begins inside a word
  };

  // `aligned` says that every run of every row begins at a multiple of its size.
  __device__ __forceinline__ TileCopies(Buffer& buffer, int64_t length, bool aligned)
      : buffer_(buffer), length_(length), aligned_(aligned) {}

  __device__ __forceinline__ void set_row(int s, const T* row) { row_[s] = row; }
  __device__ __forceinline__ const T* row(int s) const { return row_[s]; }

  // Starts the copies of a tile, zeros behind the end of the row.
  __device__ __forceinline__ void start(int slot, int64_t tile) {
    const int lane = warp::lane();
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t time = tile * kTile + run_start(half);
        const int64_t left = length_ - time;
        const T* source = row_[s] + (left > 0 ? time : 0);
        uint32_t* target = buffer_.runs[slot][s][half][lane];
        if (aligned_) {
          warp::copy_async<kRun * sizeof(T)>(target, source, clamp(left * static_cast<int>(sizeof(T)), kRun * sizeof(T)));
        } else {
          const int inside = begins_inside_a_word(s) ? 1 : 0;  // samples between the word's start and the run's
          const char* word = reinterpret_cast<const char*>(source) - inside * static_cast<int>(sizeof(T));
          const int64_t bytes = (left + (left > 0 ? inside : 0)) * static_cast<int>(sizeof(T));
#pragma unroll
          for (int w = 0; w < kWords; ++w) warp::copy_async<4>(target + w, word + 4 * w, clamp(bytes - 4 * w, 4));
          if (inside != 0) {
            warp::copy_async<4>(&buffer_.last[slot][s][half][lane], word + 4 * kWords, clamp(bytes - 4 * kWords, 4));
          }
        }
      }
    }
  }

  // Reads the run of a lane as it lies in memory; another lane's only after warp::synchronize().
  __device__ __forceinline__ void read(int slot, int s, int half, int lane, uint32_t (&words)[kWords]) const {
    const uint32_t* source = buffer_.runs[slot][s][half][lane];
    if constexpr (kWords == 2) {
      const uint2 pair = *reinterpret_cast<const uint2*>(source);
      words[0] = pair.x;
      words[1] = pair.y;
      if (!aligned_ && begins_inside_a_word(s)) {
        words[0] = __funnelshift_r(pair.x, pair.y, 16);
        words[1] = __funnelshift_r(pair.y, buffer_.last[slot][s][half][lane], 16);
      }
    } else {
      const uint4 four = *reinterpret_cast<const uint4*>(source);
      words[0] = four.x;
      words[1] = four.y;
      words[2] = four.z;
      words[3] = four.w;
    }
  }

  __device__ __forceinline__ static void unpack(uint32_t word, float* values, int w) {
    if constexpr (sizeof(T) == 2) {
      values[2 * w] = warp::low_bf16(word);
      values[2 * w + 1] = warp::high_bf16(word);
    } else {
      values[w] = __uint_as_float(word);
    }
  }

  // Unpacks both runs of this lane and the two samples before each; `pair` is what precedes the tile, of which lane 0's
  // is used, and then the tile's own last two samples.
  __device__ __forceinline__ void unpack_with_past(const uint32_t (&words)[2][kWords], uint32_t (&pair)[kPairWords], Runs& samples,
                                                   float (&before)[2][2]) const {
    const int from = (warp::lane() + warp::kLanes - 1) % warp::kLanes;
    const bool leads = warp::lane() == 0;
#pragma unroll
    for (int w = 0; w < kPairWords; ++w) {
      const uint32_t earlier[2] = {warp::exchange(words[0][kWords - kPairWords + w], from),
                                   warp::exchange(words[1][kWords - kPairWords + w], from)};
      unpack(leads ? pair[w] : earlier[0], before[0], w);
      unpack(leads ? earlier[0] : earlier[1], before[1], w);
      pair[w] = earlier[1];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) unpack(words[half][w], samples[half], w);
    }
  }

 private:
  __device__ __forceinline__ bool begins_inside_a_word(int s) const {
    return sizeof(T) == 2 && (reinterpret_cast<uintptr_t>(row_[s]) & 2) != 0;
  }

  __device__ __forceinline__ static int clamp(int64_t value, int most) {
    return static_cast<int>(value < 0 ? 0 : value > most ? most : value);
  }

  Buffer& buffer_;
  const T* row_[kStreams];
  int64_t length_;
  bool aligned_;
};

// Reads rows tile by tile, kSlots - 1 tiles ahead.
template <typename T, int kStreams, int kSlots>
class TileReader {
 public:
  using Copies = TileCopies<T, kStreams, kSlots>;

  // Rows begin at `rows` and are `row_stride` apart.
  __device__ __forceinline__ TileReader(typename Copies::Buffer& buffer, const T* rows, int64_t row_stride, int64_t length,
                                        bool aligned)
      : copies_(buffer, length, aligned), length_(length) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s) copies_.set_row(s, rows + s * row_stride);
  }

  // Takes the two samples before the first tile and starts the copies. `history` holds, a row, the `past` samples before
  // time 0, oldest first, or is null.
  __device__ __forceinline__ void start(int64_t tile, int64_t last_tile, const T* history, int past) {
    issued_ = tile;
    last_tile_ = last_tile;
    slot_ = 0;
    issue_slot_ = 0;
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      float pair[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t time = tile * kTile - 2 + i;
        pair[i] = 0.0f;
        if (time >= 0 && time < length_) pair[i] = to_float(copies_.row(s)[time]);
        if (time < 0 && history != nullptr && past + time >= 0) pair[i] = to_float(history[s * past + past + time]);
      }
      if constexpr (sizeof(T) == 2) {
        pair_[s][0] = warp::pack_bf16(pair[0], pair[1]);
      } else {
        pair_[s][0] = __float_as_uint(pair[0]);
        pair_[s][Copies::kPairWords - 1] = __float_as_uint(pair[1]);
      }
    }
#pragma unroll
    for (int slot = 0; slot < kSlots - 1; ++slot) issue();
  }

  // Takes the next tile: samples[s][half][i], and the two samples before each run.
  __device__ __forceinline__ void next(Runs (&samples)[kStreams], float (&before)[kStreams][2][2]) {
    warp::wait_for_copies<kSlots - 2>();
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      uint32_t words[2][Copies::kWords];
#pragma unroll
      for (int half = 0; half < 2; ++half) copies_.read(slot_, s, half, warp::lane(), words[half]);
      copies_.unpack_with_past(words, pair_[s], samples[s], before[s]);
    }
    slot_ = slot_ + 1 == kSlots ? 0 : slot_ + 1;
    issue();
  }

 private:
  // Starts the copies of the next tile, or closes an empty group where none is left.
  __device__ __forceinline__ void issue() {
    if (issued_ < last_tile_) copies_.start(issue_slot_, issued_);
    warp::close_copies();
    issue_slot_ = issue_slot_ + 1 == kSlots ? 0 : issue_slot_ + 1;
    ++issued_;
  }

  Copies copies_;
  uint32_t pair_[kStreams][Copies::kPairWords];  // the last two samples of the tile before; lane 0's are used
  int64_t length_, issued_, last_tile_;
  int slot_, issue_slot_;
};

// y[t] = sum(taps[k] x[t - k]) for the runs of one stream.
__device__ __forceinline__ void project(Runs& y, const Runs& x, const float (&before)[2][2], const float (&taps)[kProjection]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const float once = i >= 1 ? x[half][i >= 1 ? i - 1 : 0] : before[half][1];
      const float twice = i >= 2 ? x[half][i >= 2 ? i - 2 : 0] : before[half][i % 2];
      y[half][i] = fmaf(taps[2], twice, fmaf(taps[1], once, taps[0] * x[half][i]));
    }
  }
}

// Writes a run that starts at `time` of a row.
template <typename T>
__device__ __forceinline__ void store_run(T* row, int64_t time, int64_t length, const float (&values)[kRun], bool aligned) {
  if (aligned && time + kRun <= length) {
    if constexpr (sizeof(T) == 2) {
      const uint2 pair = make_uint2(warp::pack_bf16(values[0], values[1]), warp::pack_bf16(values[2], values[3]));
      *reinterpret_cast<uint2*>(row + time) = pair;
    } else {
      *reinterpret_cast<float4*>(row + time) = make_float4(values[0], values[1], values[2], values[3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (time + i < length) row[time + i] = from_float<T>(values[i]);
    }
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_TILES_CUH_
