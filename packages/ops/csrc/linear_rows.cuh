// What the blocks of linear_rows.cu do: weights and vectors into shared memory, products, sums of a cluster, results.
#ifndef SUBQUAD_OPS_LINEAR_ROWS_CUH_
#define SUBQUAD_OPS_LINEAR_ROWS_CUH_

#include <stdint.h>

#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/rows.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/tensor_strips.cuh"
#include "packages/ops/csrc/tensor_tiles.cuh"
#include "packages/ops/csrc/warp.cuh"

namespace subquad::linear_rows {

using namespace tensor_tiles;

constexpr int kBlocks = 8;                     // of a cluster
constexpr int kStrips = 2;                     // of 64 weight rows, in a tile
constexpr int kTileRows = kStrips * kStripRows;
constexpr int kUnit = kRowBytes;               // bytes of a weight row in a stage
constexpr int kStageBytes = kTileRows * kUnit;
constexpr int kConsumers = kStrips * kWarpgroup;
constexpr int kFinishers = 96;                 // threads, behind the warp that copies
constexpr int kThreads = kConsumers + 32 + kFinishers;
constexpr int kTakers = kThreads / 32 - 1;      // warps that take vectors
constexpr int kOwnRows = kTileRows / kBlocks;  // of a tile, that a block adds up
constexpr int kMostStages = 6, kFewestStages = 3;
constexpr int kMostBytes = 232448 - 1024;      // of shared memory, a block, less what aligning it may take
constexpr int kAlignment = 1024;

struct Arguments {
  const __nv_bfloat16* vectors;  // [rows, inputs]
  const void* norm_scale;        // [inputs] in norm_dtype, or null
  const float* first_scale;      // what each row of weights was multiplied by when it was rounded, or null
  const float* second_scale;
  const void* bias;               // [outputs] in bias_dtype, or null
  const __nv_bfloat16* residual;  // [rows, outputs], or null
  void* output;                   // [rows, outputs] in output_dtype
  int64_t outputs;
  int32_t rows, inputs;
  int32_t tiles;
  int32_t units;       // of a weight row
  int32_t most_units;  // of a block
  int32_t stages;
  int32_t norm, norm_dtype, bias_dtype, output_dtype, activation;
  bool packed_scale;  // bfloat16, and begins at a multiple of 16 bytes
  float eps;
};

// Where everything lies in the shared memory of a block.
template <int kVectors>
struct Room {
  static constexpr int kReceivedRow = kVectors + 2;  // floats
  static constexpr int kReceivedBytes = kBlocks * kOwnRows * kReceivedRow * static_cast<int>(sizeof(float));
  static constexpr int kSquaresBytes = kBlocks * kVectors * static_cast<int>(sizeof(float));
  static constexpr int kXUnitBytes = kVectors * kRowBytes;  // 64 inputs of all vectors

  __host__ __device__ static int bytes(int stages, int x_units) {
    const int barriers = 2 * stages + 2 + kBlocks;
    return stages * kStageBytes + x_units * kXUnitBytes + kReceivedBytes + kSquaresBytes +
           barriers * static_cast<int>(sizeof(uint64_t));
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// --------------------------------------------------------------------------------- between the blocks of a cluster

__device__ __forceinline__ uint32_t address_in(const void* own, int block) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(own)), "r"(block));
  return there;
}

// Stores numbers in another block, whose barrier counts their bytes when they are there.
__device__ __forceinline__ void send_to(uint32_t there, uint32_t barrier, float value) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(there), "f"(value),
               "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void send_to(uint32_t there, uint32_t barrier, float first, float second) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(there),
               "f"(first), "f"(second), "r"(barrier)
               : "memory");
}

// Says that this block's barriers are there; waits until all blocks have said so. Orders nothing else.
__device__ __forceinline__ void announce_to_cluster() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }

__device__ __forceinline__ void await_cluster() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// --------------------------------------------------------------------------------- elements

// Four E4M3 codes as two pairs of bfloat16. The bits of a code, moved, are a bfloat16 that is 2^120 times too small, those
// below the least normal number too; codes that are not numbers are not served.
__device__ __forceinline__ void widen(uint32_t& low, uint32_t& high, uint32_t codes) {
  constexpr uint32_t kMagnitude = 0x07f007f0u, kSign = 0x80008000u, kTwoTo120 = 0x7b807b80u;
  const uint32_t spread[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
  uint32_t result[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t bits = ((spread[i] >> 4) & kMagnitude) | (spread[i] & kSign);
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result[i]) : "r"(bits), "r"(kTwoTo120));
  }
  low = result[0];
  high = result[1];
}

// One of eight numbers.
__device__ __forceinline__ float number_of(const uint4& pack, int index) {
  const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
  return __uint_as_float(index % 2 == 0 ? words[index / 2] << 16 : words[index / 2] & 0xffff0000u);
}

// Sixteen inputs of a vector, times the scale of the norm, as two pieces of 16 bytes: in their order, or with weights of one
// byte the pairs with even numbers first, as the lanes of the tensor cores then meet the codes that they hold.
template <bool kRounded>
__device__ __forceinline__ void arrange(uint4 (&pieces)[2], float (&x)[16]) {
  uint32_t pairs[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    pairs[i] = *reinterpret_cast<const uint32_t*>(&both);
  }
  constexpr int kStep = kRounded ? 2 : 1, kSecond = kRounded ? 1 : 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    pieces[i] = make_uint4(pairs[i * kSecond], pairs[i * kSecond + kStep], pairs[i * kSecond + 2 * kStep],
                           pairs[i * kSecond + 3 * kStep]);
  }
}

// --------------------------------------------------------------------------------- the work of a block

// What the parts of a block share.
template <bool kRounded, int kVectors>
struct Block {
  using Places = Room<kVectors>;
  static constexpr int kXUnits = kRounded ? 2 : 1;  // units of 64 inputs that a unit of weights meets
  static constexpr int kTileBytes = kTileRows * kVectors * static_cast<int>(sizeof(float));  // that a block is sent for a tile
  static constexpr int kHalf = kUnit / 32;        // steps of 16 weights of one byte in half a unit
  static constexpr int kUnitInputs = kUnit / (kRounded ? 1 : 2);

  const Arguments& a;
  uint8_t* stages;
  uint8_t* x;
  float* received;  // [block, own row, kReceivedRow]
  float* squares;   // [block, vector]
  uint64_t *full, *empty, *measured, *arrived, *room;
  int rank, first_unit, units, cluster, clusters;

  __device__ Block(const Arguments& arguments, uint8_t* shared) : a(arguments) {
    stages = shared;
    x = stages + a.stages * kStageBytes;
    received = reinterpret_cast<float*>(x + a.most_units * kXUnits * Places::kXUnitBytes);
    squares = received + Places::kReceivedBytes / sizeof(float);
    full = reinterpret_cast<uint64_t*>(squares + Places::kSquaresBytes / sizeof(float));
    empty = full + a.stages;
    measured = empty + a.stages;
    arrived = measured + 1;
    room = arrived + 1;
    rank = static_cast<int>(rank_in_cluster());
    first_unit = rank * a.units / kBlocks;
    units = (rank + 1) * a.units / kBlocks - first_unit;
    cluster = blockIdx.x / kBlocks;
    clusters = gridDim.x / kBlocks;
  }

  __device__ bool gated() const { return a.activation >= 0; }

  __device__ void initialise_barriers() {
    for (int stage = 0; stage < a.stages; ++stage) {
      initialise(full + stage, 1);
      initialise(empty + stage, kConsumers / 32);
    }
    initialise(measured, 1);
    initialise(arrived, 1);
    for (int block = 0; block < kBlocks; ++block) initialise(room + block, 1);
    publish_barriers();
    if (a.norm != 0) expect(measured, Places::kSquaresBytes);
    expect(arrived, kTileBytes);
  }

  // Brings the weights of all tiles, by one thread.
  __device__ void bring(const CUtensorMap& first, const CUtensorMap& second) {
    const uint64_t policy = read_once();
    Turn next;
    for (int tile = cluster; tile < a.tiles; tile += clusters) {
      const int row = tile * (gated() ? kStripRows : kTileRows);
      for (int unit = 0; unit < units; ++unit) {
        uint64_t* barrier = full + next.stage;
        await(empty + next.stage, next.phase ^ 1);
        expect(barrier, kStageBytes);
        const int column = (first_unit + unit) * kUnitInputs;
        uint8_t* to = stages + next.stage * kStageBytes;
        copy_tile(to, first, row, column, barrier, policy);
        copy_tile(to + kStageBytes / kStrips, second, gated() ? row : row + kStripRows, column, barrier, policy);
        next.advance(a.stages);
      }
    }
  }

  // Loads the scale of the norm for 16 inputs of this block's part.
  __device__ void load_scale(float (&scale)[16], int group) const {
    const int input = first_unit * kUnitInputs + 16 * group;
    if (a.packed_scale && input + 16 <= a.inputs) {
      const auto* at = reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.norm_scale) + input);
      const uint4 halves[2] = {at[0], at[1]};
#pragma unroll
      for (int k = 0; k < 16; ++k) scale[k] = number_of(halves[k / 8], k % 8);
      return;
    }
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      scale[k] = a.norm == 0 || input + k >= a.inputs ? 1.0f : load_parameter(a.norm_scale, input + k, a.norm_dtype);
    }
  }

  // Puts this block's part of the vectors into its shared memory, and sums of squares into that of all. A warp has a vector,
  // a lane 16 inputs at a time; `scale` is that of its first.
  __device__ void take_vectors(float (&scale)[16]) {
    constexpr int kTogether = 3;  // vectors of a warp whose loads are on the way at once
    const int warp = threadIdx.x / 32 - (threadIdx.x > kConsumers), lane = threadIdx.x % 32;
    const int begin = first_unit * kUnitInputs, groups = units * kUnitInputs / 16;
    for (int from = warp; from < kVectors; from += kTogether * kTakers) {
      float sums[kTogether] = {};
      for (int group = lane; group < groups; group += 32) {
        const int input = begin + 16 * group;
        uint4 loaded[kTogether][2];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int vector = from + i * kTakers;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const bool inside = vector < a.rows && input + 8 * half < a.inputs;
            const auto* at = a.vectors + static_cast<int64_t>(vector) * a.inputs + input + 8 * half;
            loaded[i][half] = inside ? __ldcg(reinterpret_cast<const uint4*>(at)) : make_uint4(0, 0, 0, 0);
          }
        }
        if (group != lane) load_scale(scale, group);
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int vector = from + i * kTakers;
          if (vector >= kVectors) break;
          float values[16];
#pragma unroll
          for (int k = 0; k < 16; ++k) {
            const float plain = number_of(loaded[i][k / 8], k % 8);
            sums[i] = fmaf(plain, plain, sums[i]);
            values[k] = plain * scale[k];
          }
          uint4 pieces[2];
          arrange<kRounded>(pieces, values);
          uint8_t* row = x + group / 4 * Places::kXUnitBytes + vector * kRowBytes;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int piece = (group % 4 * 2 + half) ^ (vector % 8);
            *reinterpret_cast<uint4*>(row + 16 * piece) = pieces[half];
          }
        }
      }
      if (groups > 32) load_scale(scale, lane);
      if (a.norm == 0) continue;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int vector = from + i * kTakers;
        const float total = warp::sum(sums[i]);
        if (vector < kVectors && lane < kBlocks) {
          send_to(address_in(squares + rank * kVectors + vector, lane), address_in(measured, lane), total);
        }
      }
    }
  }

  // Multiplies a strip of a stage by the unit of the vectors that it meets, and says that the stage is free. The products of
  // weights of one byte are not awaited but for those whose registers are needed again: the next ones are widened meanwhile.
  __device__ void multiply_unit(StripSums<kVectors>& sums, uint32_t (&weights)[2][kHalf][4], int stage, int unit) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint8_t* strip = stages + stage * kStageBytes + warp / 4 * (kStageBytes / kStrips);
    const uint8_t* own = x + unit * kXUnits * Places::kXUnitBytes;
    if constexpr (kRounded) {
      const auto* words = reinterpret_cast<const uint32_t*>(strip) + (16 * (warp % 4) + lane / 4) * (kUnit / 4) + lane % 4;
      constexpr int kEightRows = 8 * kUnit / 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        await_products<1>();
#pragma unroll
        for (int step = 0; step < kHalf; ++step) {
          const int piece = ((half * kHalf + step) ^ (lane / 4)) * 4;
          widen(weights[half][step][0], weights[half][step][2], words[piece]);
          widen(weights[half][step][1], weights[half][step][3], words[piece + kEightRows]);
        }
        const uint64_t vectors = described(own + half * Places::kXUnitBytes);
        begin_products();
#pragma unroll
        for (int step = 0; step < kHalf; ++step) {
          multiply_strip<kVectors>(sums, weights[half][step], vectors + step * kNextSixteen);
        }
        end_products();
      }
      release(stage, lane);
    } else {
      const uint64_t described_strip = described(strip), vectors = described(own);
      begin_products();
#pragma unroll
      for (int step = 0; step < kDepth / 16; ++step) {
        multiply_strip<kVectors>(sums, described_strip + step * kNextSixteen, vectors + step * kNextSixteen);
      }
      end_products();
      await_products<0>();
      release(stage, lane);
    }
  }

  // To be called when what was read has been used: a load may wait behind what is sent to other blocks, an arrival does not.
  __device__ void release(int stage, int lane) {
    __syncwarp();
    if (lane == 0) arrive(empty + stage);
  }

  // Multiplies all tiles and sends what comes out to the blocks that add it up.
  __device__ void multiply_all() {
    const int strip = threadIdx.x / kWarpgroup, warp = threadIdx.x % kWarpgroup / 32, lane = threadIdx.x % 32;
    Turn next;
    uint32_t turn = 0, weights[2][kHalf][4];
    for (int tile = cluster; tile < a.tiles; tile += clusters, turn ^= 1) {
      StripSums<kVectors> sums;
#pragma unroll
      for (int j = 0; j < kVectors / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[j][i] = 0.0f;
      }
      for (int unit = 0; unit < units; ++unit) {
        await(full + next.stage, next.phase);
        multiply_unit(sums, weights, next.stage, unit);
        next.advance(a.stages);
      }
      await_products<0>();
      send(sums, strip, warp, lane, turn);
    }
  }

  // A warp has 16 rows of its strip. Of a gated pair the block that adds up a row of the first matrix has that of the second.
  __device__ void send(const StripSums<kVectors>& sums, int strip, int warp, int lane, uint32_t turn) {
    const int within = lane / 4, column = 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int owner = gated() ? 2 * warp + half : 4 * strip + warp;
      const int row = gated() ? 8 * strip + within : 8 * half + within;
      if (half == 0 || gated()) await(room + owner, turn ^ 1);
      const uint32_t barrier = address_in(arrived, owner);
      const uint32_t there = address_in(received + (rank * kOwnRows + row) * Places::kReceivedRow + column, owner);
#pragma unroll
      for (int j = 0; j < kVectors / 8; ++j) {
        send_to(there + j * 8 * static_cast<int>(sizeof(float)), barrier, sums[j][2 * half], sums[j][2 * half + 1]);
      }
    }
  }

  // What a vector's products are multiplied by.
  __device__ float factor_of(int vector) const {
    if (a.norm == 0) return 1.0f;
    float total = 0.0f;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) total += squares[block * kVectors + vector];
    const float mean = total / a.inputs;
    return a.norm == 1 ? 1.0f / (sqrtf(mean) + a.eps) : rsqrtf(mean + a.eps);
  }

  // The sums of a row for two vectors.
  __device__ float2 totals_of(int row, int vector) const {
    float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const float2 part =
          *reinterpret_cast<const float2*>(received + (block * kOwnRows + row) * Places::kReceivedRow + vector);
      total.x += part.x;
      total.y += part.y;
    }
    return total;
  }

  // Adds up this block's rows of all tiles and writes what they give. A thread has one row, and every so many pairs of vectors.
  template <bool kGated>
  __device__ void finish_all() {
    constexpr int kOwn = kGated ? kOwnRows / 2 : kOwnRows, kGroups = kFinishers / kOwn;
    constexpr int kPairs = (kVectors / 2 + kGroups - 1) / kGroups;
    const int thread = threadIdx.x - (kThreads - kFinishers), row = thread % kOwn, group = thread / kOwn;
    float* factors = squares;  // of block 0; each is written by the thread that has read them
    if (a.norm != 0) await(measured, 0);
    for (int vector = thread; vector < kVectors; vector += kFinishers) factors[vector] = factor_of(vector);
    asm volatile("bar.sync 1, %0;" ::"n"(kFinishers) : "memory");
    uint32_t turn = 0;
    for (int tile = cluster; tile < a.tiles; tile += clusters, turn ^= 1) {
      const int64_t output = (static_cast<int64_t>(tile) * kBlocks + rank) * kOwn + row;
      const bool inside = output < a.outputs;
      float first = 1.0f, second = 1.0f, bias = 0.0f, residual[kPairs][2] = {};
      if (inside && a.first_scale != nullptr) first = a.first_scale[output];
      if (kGated && inside && a.second_scale != nullptr) second = a.second_scale[output];
      if (!kGated && inside && a.bias != nullptr) bias = load_parameter(a.bias, output, a.bias_dtype);
      auto each = [&](auto&& act) {
#pragma unroll
        for (int k = 0; k < kPairs; ++k) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int vector = 2 * (group + k * kGroups) + i;
            if (inside && vector < a.rows) act(k, i, vector * a.outputs + output);
          }
        }
      };
      if (!kGated && a.residual != nullptr) {
        each([&](int k, int i, int64_t place) { residual[k][i] = to_float(a.residual[place]); });
      }
      await(arrived, turn);
      const bool last = tile + clusters >= a.tiles;
      if (thread == 0 && !last) expect(arrived, kTileBytes);
      float results[kPairs][2];
#pragma unroll
      for (int k = 0; k < kPairs; ++k) {
        const int vector = 2 * (group + k * kGroups);
        if (vector >= kVectors) break;
        const float2 factor = *reinterpret_cast<const float2*>(factors + vector);
        const float2 sums = totals_of(row, vector);
        results[k][0] = sums.x * factor.x / first + bias + residual[k][0];
        results[k][1] = sums.y * factor.y / first + bias + residual[k][1];
        if constexpr (kGated) {
          const float2 values = totals_of(kOwn + row, vector);
          const bool gelu = a.activation == SUBQUAD_OPS_GELU;
          results[k][0] = (gelu ? rows::gelu(results[k][0]) : results[k][0]) * (values.x * factor.x / second);
          results[k][1] = (gelu ? rows::gelu(results[k][1]) : results[k][1]) * (values.y * factor.y / second);
        }
      }
      each([&](int k, int i, int64_t place) { store_result(a.output, place, results[k][i], a.output_dtype); });
      asm volatile("bar.sync 1, %0;" ::"n"(kFinishers) : "memory");
      if (thread < kBlocks && !last) arrive_at(room + rank, thread);
    }
  }
};

#endif  // sm_90a

}  // namespace subquad::linear_rows

#endif  // SUBQUAD_OPS_LINEAR_ROWS_CUH_
