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

// Copies tiles of kStreams rows into kSlots slots of shared memory, each lane its own runs. Positions in a row have 32
// bits. Rows that begin inside a 4-byte word are copied from the word's start on and shifted when they are read.
template <typename T, int kStreams, int kSlots>
class TileCopies {
 public:
  static constexpr int kWords = kRun * sizeof(T) / 4;
  static constexpr int kPairWords = sizeof(T) / 2;  // words of two samples

  struct Buffer {
    alignas(16) uint32_t runs[kSlots][kStreams][2][warp::kLanes][kWords];
    uint32_t last[kSlots][kStreams];  // the word behind a tile that begins inside a word
  };

  // `aligned` says that every run of every row begins at a multiple of its size.
  __device__ __forceinline__ TileCopies(Buffer& buffer, int length, bool aligned)
      : buffer_(buffer), length_(length), whole_(length / kTile), aligned_(aligned) {}

  __device__ __forceinline__ void set_row(int s, const T* row) { row_[s] = row; }
  __device__ __forceinline__ const T* row(int s) const { return row_[s]; }

  // Says whether a tile lies wholly in the rows.
  __device__ __forceinline__ bool is_whole(int tile) const { return tile < whole_; }
  __device__ __forceinline__ bool is_aligned() const { return aligned_; }

  // Starts the copies of a tile, zeros behind the end of the row.
  __device__ __forceinline__ void start(int slot, int tile) {
    if (!is_whole(tile)) return start_partly(slot, tile);
    const int time = tile * kTile + run_start(0);
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      const T* source = row_[s] + time;
      if (aligned_) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          warp::copy_async<kRun * sizeof(T)>(buffer_.runs[slot][s][half][warp::lane()], source + half * kHalf);
        }
      } else {
        const bool inside = begins_inside_a_word(s);
        source -= inside ? 1 : 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t* target = buffer_.runs[slot][s][half][warp::lane()];
#pragma unroll
          for (int w = 0; w < kWords; ++w) {
            warp::copy_async<4>(target + w, reinterpret_cast<const char*>(source + half * kHalf) + 4 * w);
          }
        }
        if (inside && warp::lane() == warp::kLanes - 1) {
          warp::copy_async<4>(&buffer_.last[slot][s], source + kHalf + kRun);
        }
      }
    }
  }

  // Reads the runs of this lane as they lie in memory.
  __device__ __forceinline__ void read(int slot, int s, uint32_t (&words)[2][kWords]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t* source = buffer_.runs[slot][s][half][warp::lane()];
      if constexpr (kWords == 2) {
        const uint2 pair = *reinterpret_cast<const uint2*>(source);
        words[half][0] = pair.x;
        words[half][1] = pair.y;
      } else {
        const uint4 four = *reinterpret_cast<const uint4*>(source);
        words[half][0] = four.x;
        words[half][1] = four.y;
        words[half][2] = four.z;
        words[half][kWords - 1] = four.w;
      }
    }
    if constexpr (sizeof(T) == 2) {
      if (!aligned_) shift(slot, s, words);
    }
  }

  // Reads the last two samples of a tile; after warp::synchronize().
  __device__ __forceinline__ void read_last_pair(int slot, int s, uint32_t (&pair)[kPairWords]) const {
    const uint32_t* source = buffer_.runs[slot][s][1][warp::kLanes - 1];
#pragma unroll
    for (int w = 0; w < kPairWords; ++w) pair[w] = source[kWords - kPairWords + w];
    if (sizeof(T) == 2 && begins_inside_a_word(s)) pair[0] = __funnelshift_r(pair[0], buffer_.last[slot][s], 16);
  }

  // Two samples as read_last_pair gives them.
  __device__ __forceinline__ static void pack_pair(uint32_t (&pair)[kPairWords], float older, float newer) {
    if constexpr (sizeof(T) == 2) {
      pair[0] = warp::pack_bf16(older, newer);
    } else {
      pair[0] = __float_as_uint(older);
      pair[kPairWords - 1] = __float_as_uint(newer);
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

  __device__ __forceinline__ static void unpack(const uint32_t (&words)[2][kWords], Runs& samples) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) unpack(words[half][w], samples[half], w);
    }
  }

  // The two samples before each run; `pair` is what precedes the tile, of which lane 0's is used, and then the tile's own
  // last two samples, in lane 0.
  __device__ __forceinline__ static void unpack_past(const uint32_t (&words)[2][kWords], uint32_t (&pair)[kPairWords],
                                                     float (&before)[2][2]) {
    const int from = (warp::lane() + warp::kLanes - 1) % warp::kLanes;
    const bool leads = warp::lane() == 0;
#pragma unroll
    for (int w = 0; w < kPairWords; ++w) {
      const uint32_t first = warp::exchange(words[0][kWords - kPairWords + w], from);
      const uint32_t second = warp::exchange(words[1][kWords - kPairWords + w], from);
      unpack(leads ? pair[w] : first, before[0], w);
      unpack(leads ? first : second, before[1], w);
      pair[w] = second;
    }
  }

 private:
  __device__ __forceinline__ bool begins_inside_a_word(int s) const {
    return sizeof(T) == 2 && (reinterpret_cast<uintptr_t>(row_[s]) & 2) != 0;
  }

  __device__ __forceinline__ static int clamp(int value, int most) { return max(0, min(value, most)); }

  __device__ __forceinline__ void start_partly(int slot, int tile) {
    constexpr int kSize = sizeof(T);
#pragma unroll 1
    for (int s = 0; s < kStreams; ++s) {
      const T* row = row_[0];
#pragma unroll
      for (int i = 1; i < kStreams; ++i) row = i == s ? row_[i] : row;
      const int inside = kSize == 2 && (reinterpret_cast<uintptr_t>(row) & 2) != 0 ? 1 : 0;  // samples before the row
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const int time = tile * kTile + run_start(half);
        const int left = length_ - time;
        const char* source = reinterpret_cast<const char*>(row + (left > 0 ? time - inside : -inside));
        uint32_t* target = buffer_.runs[slot][s][half][warp::lane()];
        const int bytes = left > 0 ? min(left + inside, 2 * kRun) * kSize : 0;
#pragma unroll
        for (int w = 0; w < kWords; ++w) warp::copy_async<4>(target + w, source + 4 * w, clamp(bytes - 4 * w, 4));
        if (inside != 0 && half == 1 && warp::lane() == warp::kLanes - 1) {
          warp::copy_async<4>(&buffer_.last[slot][s], source + 4 * kWords, clamp(bytes - 4 * kWords, 4));
        }
      }
    }
  }

  __device__ __forceinline__ void shift(int slot, int s, uint32_t (&words)[2][kWords]) const {
    const int lane = warp::lane(), from = (lane + 1) % warp::kLanes;
    const uint32_t first = warp::exchange(words[0][0], from), second = warp::exchange(words[1][0], from);
    if (begins_inside_a_word(s)) {
      const bool ends = lane == warp::kLanes - 1;
      const uint32_t behind[2] = {ends ? second : first, ends ? buffer_.last[slot][s] : second};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        words[half][0] = __funnelshift_r(words[half][0], words[half][1], 16);
        words[half][1] = __funnelshift_r(words[half][1], behind[half], 16);
      }
    }
  }

  Buffer& buffer_;
  const T* row_[kStreams];
  int length_, whole_;
  bool aligned_;
};

// Reads rows tile by tile, kSlots - 1 tiles ahead.
template <typename T, int kStreams, int kSlots>
class TileReader {
 public:
  using Copies = TileCopies<T, kStreams, kSlots>;

  // Rows begin at `rows` and are `row_stride` apart.
  __device__ __forceinline__ TileReader(typename Copies::Buffer& buffer, const T* rows, int64_t row_stride, int length,
                                        bool aligned)
      : copies_(buffer, length, aligned), length_(length) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s) copies_.set_row(s, rows + s * row_stride);
  }

  // Takes the two samples before the first tile and starts the copies. `history` holds, a row, the `past` samples before
  // time 0, oldest first, or is null.
  __device__ __forceinline__ void start(int tile, int last_tile, const T* history, int past) {
    issued_ = tile;
    last_tile_ = last_tile;
    slot_ = 0;
    issue_slot_ = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots - 1; ++slot) issue();
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      float pair[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int time = tile * kTile - 2 + i;
        pair[i] = 0.0f;
        if (time >= 0 && time < length_) pair[i] = to_float(copies_.row(s)[time]);
        if (time < 0 && history != nullptr && past + time >= 0) pair[i] = to_float(history[s * past + past + time]);
      }
      Copies::pack_pair(pair_[s], pair[0], pair[1]);
    }
  }

  __device__ __forceinline__ const Copies& copies() const { return copies_; }

  // Takes the next tile; with kPast also the two samples before each run.
  template <bool kPast>
  __device__ __forceinline__ void next(Runs (&samples)[kStreams], float (&before)[kStreams][2][2]) {
    warp::wait_for_copies<kSlots - 2>();
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      uint32_t words[2][Copies::kWords];
      copies_.read(slot_, s, words);
      Copies::unpack(words, samples[s]);
      if constexpr (kPast) Copies::unpack_past(words, pair_[s], before[s]);
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
  int length_, issued_, last_tile_;
  int slot_, issue_slot_;
};

// The runs of a product's result [block, time in block].
__device__ __forceinline__ void runs_of(Runs& runs, const float (&product)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) runs[half][i] = product[i / 2][2 * half + i % 2];
  }
}

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

template <typename T>
__device__ __forceinline__ void store_run(T* target, const float (&values)[kRun]) {
  if constexpr (sizeof(T) == 2) {
    const uint2 pair = make_uint2(warp::pack_bf16(values[0], values[1]), warp::pack_bf16(values[2], values[3]));
    *reinterpret_cast<uint2*>(target) = pair;
  } else {
    *reinterpret_cast<float4*>(target) = make_float4(values[0], values[1], values[2], values[3]);
  }
}

// Writes both runs of a lane, 2-byte samples that begin anywhere, in words of 4 bytes: those of a row that begins inside a
// word hold samples 1 and 2, or sample 3 and the next lane's first; the ends of the tile are left over.
template <typename T>
__device__ __forceinline__ void store_words(T* target, const Runs& values) {
  const int lane = warp::lane(), from = (lane + 1) % warp::kLanes;
  if ((reinterpret_cast<uintptr_t>(target) & 2) == 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; i += 2) {
        *reinterpret_cast<uint32_t*>(target + half * kHalf + i) = warp::pack_bf16(values[half][i], values[half][i + 1]);
      }
    }
    return;
  }
  const float first = warp::exchange(values[0][0], from), second = warp::exchange(values[1][0], from);
  const bool ends = lane == warp::kLanes - 1;
  if (lane == 0) target[0] = from_float<T>(values[0][0]);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float behind = half == 0 && !ends ? first : second;
    *reinterpret_cast<uint32_t*>(target + half * kHalf + 1) = warp::pack_bf16(values[half][1], values[half][2]);
    if (half == 0 || !ends) {
      *reinterpret_cast<uint32_t*>(target + half * kHalf + 3) = warp::pack_bf16(values[half][3], behind);
    } else {
      target[kHalf + 3] = from_float<T>(values[1][3]);
    }
  }
}

// Writes both runs of a tile; `whole` says that it lies in the row, `aligned` that its runs begin at multiples of their
// size.
template <typename T>
__device__ __forceinline__ void store_tile(T* row, int tile, int length, const Runs& values, bool whole, bool aligned) {
  const int time = tile * kTile + run_start(0);
  if (whole && aligned) {
#pragma unroll
    for (int half = 0; half < 2; ++half) store_run(row + time + half * kHalf, values[half]);
  } else if (sizeof(T) == 2 && whole) {
    store_words(row + time, values);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if (time + half * kHalf + i < length) row[time + half * kHalf + i] = from_float<T>(values[half][i]);
      }
    }
  }
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_TILES_CUH_
