// Two linear layers of many rows and the product of what they give, activation(x gate^T) * (x value^T), in one kernel:
// neither of the two is ever written to memory.
//
// A cluster of two blocks takes 256 rows of x and 128 columns of both layers. Each block multiplies its own 128 rows; of
// the weights each brings one layer's and writes them to both. One warp of a block copies, four steps ahead; two
// warpgroups multiply 64 rows each, gate and value of a column in the same thread. Blocks stay and take tile after tile,
// in an order that lets the tiles in work share what the cache holds.
#include "packages/ops/csrc/rows.cuh"
#include "packages/ops/csrc/tensor_tiles.cuh"

namespace subquad::gated_linear {

using namespace tensor_tiles;

constexpr int kRows = 128;     // of a block's tile
constexpr int kColumns = 128;  // of each layer
constexpr int kStages = 4;
constexpr int kBlocks = 2;     // of a cluster
constexpr int kConsumers = 2;  // warpgroups that multiply
constexpr int kThreads = kWarpgroup * (1 + kConsumers);
constexpr int kAlignment = 1024;  // of tiles in shared memory

struct Stage {
  __nv_bfloat16 x[kRows][kDepth];
  __nv_bfloat16 layers[2][kColumns][kDepth];  // gate, value
};

struct Shared {
  Stage stages[kStages];
  __nv_bfloat16 outputs[kConsumers][kColumns / kDepth][kStripRows][kDepth];
  uint64_t full[kStages], empty[kStages];
};

struct Arguments {
  int32_t row_pairs;  // pairs of tiles below each other
  int32_t columns;    // tiles beside each other
  int32_t steps;      // tiles of the depth
  int32_t activation;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int kGroup = 8;         // pairs of tiles below each other that are taken before the next column
constexpr int kRegistersOfCopies = 40, kRegistersOfProducts = 232;

// Where a tile lies: its first row and column.
struct Place {
  int row, column;
};

__device__ __forceinline__ Place place_of(const Arguments& a, int tile, int rank) {
  const int group = tile / (kGroup * a.columns), within = tile % (kGroup * a.columns);
  const int pairs = min(kGroup, a.row_pairs - group * kGroup);
  return {((group * kGroup + within % pairs) * kBlocks + rank) * kRows, within / pairs * kColumns};
}

// Brings the tiles of all products, by one thread.
__device__ __forceinline__ void bring(Shared& shared, const CUtensorMap& x, const CUtensorMap& weights, const Arguments& a,
                                      int rank) {
  constexpr uint16_t kAll = (1 << kBlocks) - 1;
  Turn turn;
  const int tiles = a.row_pairs * a.columns;
  for (int tile = blockIdx.x / kBlocks; tile < tiles; tile += gridDim.x / kBlocks) {
    const Place place = place_of(a, tile, rank);
    for (int step = 0; step < a.steps; ++step) {
      Stage& stage = shared.stages[turn.stage];
      uint64_t* full = shared.full + turn.stage;
      await(shared.empty + turn.stage, turn.phase ^ 1);
      expect(full, sizeof(Stage));
      copy_tile(stage.x, x, place.row, step * kDepth, full);
      copy_tile_to(kAll, stage.layers[rank], weights, place.column, step * kDepth, full);
      turn.advance(kStages);
    }
  }
}

template <bool kGelu>
__device__ __forceinline__ uint32_t pair(const Sums& sums, int j, int first) {
  float products[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float gate = sums[j][first + i];
    products[i] = (kGelu ? rows::gelu(gate) : gate) * sums[j + kColumns / 8][first + i];
  }
  const __nv_bfloat162 both = __floats2bfloat162_rn(products[0], products[1]);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// Multiplies gate and value and stores the tile of a warpgroup.
template <bool kGelu>
__device__ __forceinline__ void finish(Shared& shared, const Sums& sums, const CUtensorMap& output, Place place, int strip) {
  const int thread = threadIdx.x % kWarpgroup, warp = thread / 32, lane = thread % 32;
  auto& room = shared.outputs[strip];
  if (thread == 0) await_stores_read();
  meet_warpgroup(1 + strip);
  const int row = 16 * warp + lane % 16;
#pragma unroll
  for (int j = 0; j < kColumns / 8; j += 2) {
    const int piece = j + lane / 16;
    const auto* to = &room[piece / 8][row][((piece % 8) ^ (row % 8)) * 8];
    store_matrices(shared_address(to), pair<kGelu>(sums, j, 0), pair<kGelu>(sums, j, 2), pair<kGelu>(sums, j + 1, 0),
                   pair<kGelu>(sums, j + 1, 2));
  }
  publish_to_copies();
  meet_warpgroup(1 + strip);
  if (thread == 0) {
#pragma unroll
    for (int half = 0; half < kColumns / kDepth; ++half) {
      store_tile(output, place.row + strip * kStripRows, place.column + half * kDepth, room[half]);
    }
    end_stores();
  }
}

template <bool kGelu>
__device__ __forceinline__ void multiply_all(Shared& shared, const CUtensorMap& output, const Arguments& a, int rank, int strip) {
  const int thread = threadIdx.x % kWarpgroup;
  Turn turn;
  const int tiles = a.row_pairs * a.columns;
  auto release = [&](int stage) {
    if (thread < kBlocks) arrive_at(shared.empty + stage, thread);
  };
  for (int tile = blockIdx.x / kBlocks; tile < tiles; tile += gridDim.x / kBlocks) {
    Sums sums;
    int before = 0;
    for (int step = 0; step < a.steps; ++step) {
      const Stage& stage = shared.stages[turn.stage];
      await(shared.full + turn.stage, turn.phase);
      const uint64_t x = described(stage.x[strip * kStripRows]), layers = described(stage.layers);
      begin_products();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) multiply(sums, x + i * kNextSixteen, layers + i * kNextSixteen, step + i > 0);
      end_products();
      if (step > 0) {
        await_products<1>();
        release(before);
      }
      before = turn.stage;
      turn.advance(kStages);
    }
    await_products<0>();
    release(before);
    finish<kGelu>(shared, sums, output, place_of(a, tile, rank), strip);
  }
  if (thread == 0) await_stores();
}

#endif  // sm_90a

template <bool kGelu>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap gate,
           const __grid_constant__ CUtensorMap value, const __grid_constant__ CUtensorMap output, const Arguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t room[];
  auto& shared = *reinterpret_cast<Shared*>(room + (kAlignment - shared_address(room) % kAlignment) % kAlignment);
  const int rank = static_cast<int>(rank_in_cluster()), group = threadIdx.x / kWarpgroup;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      initialise(shared.full + stage, 1);
      initialise(shared.empty + stage, kConsumers * kBlocks);
    }
    publish_barriers();
    prefetch(x);
    prefetch(gate);
    prefetch(value);
    prefetch(output);
  }
  meet_cluster();
  if (group == 0) {
    give_registers<kRegistersOfCopies>();
    if (threadIdx.x == 0) bring(shared, x, rank == 0 ? gate : value, a, rank);
    __syncwarp();
  } else {
    take_registers<kRegistersOfProducts>();
    multiply_all<kGelu>(shared, output, a, rank, group - 1);
  }
  meet_cluster();  // nobody leaves while others write to its barriers
#endif
}

int32_t launch(const SubquadOpsGatedLinear& given, void* output, cudaStream_t stream) {
  CUtensorMap x, gate, value, result;
  int32_t status = describe(&x, given.x, given.rows, given.inputs, given.x_stride, kRows);
  if (status == 0) status = describe(&gate, given.gate, given.outputs, given.inputs, given.inputs, kColumns);
  if (status == 0) status = describe(&value, given.value, given.outputs, given.inputs, given.inputs, kColumns);
  if (status == 0) status = describe(&result, output, given.rows, given.outputs, given.outputs, kStripRows);
  if (status != 0) return status;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  auto* chosen = given.activation == SUBQUAD_OPS_GELU ? kernel<true> : kernel<false>;
  constexpr int kBytes = sizeof(Shared) + kAlignment;
  if (error == cudaSuccess) error = cudaFuncSetAttribute(chosen, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  const Arguments a{static_cast<int32_t>((given.rows + kBlocks * kRows - 1) / (kBlocks * kRows)),
                    static_cast<int32_t>((given.outputs + kColumns - 1) / kColumns),
                    static_cast<int32_t>((given.inputs + kDepth - 1) / kDepth), given.activation};
  const int64_t wanted = static_cast<int64_t>(a.row_pairs) * a.columns * kBlocks;
  const auto blocks = static_cast<unsigned>(wanted < multiprocessors ? wanted : multiprocessors / kBlocks * kBlocks);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kBlocks;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return static_cast<int32_t>(cudaLaunchKernelEx(&config, chosen, x, gate, value, result, a));
}

}  // namespace subquad::gated_linear

extern "C" int32_t subquad_ops_gated_linear(const SubquadOpsGatedLinear* given, void* output, void* stream) {
  namespace own = subquad::gated_linear;
  if (given == nullptr || output == nullptr || given->x == nullptr || given->gate == nullptr || given->value == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  if (given->activation != SUBQUAD_OPS_IDENTITY && given->activation != SUBQUAD_OPS_GELU) return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  constexpr int64_t kMost = int64_t{1} << 30;
  if (given->rows < 1 || given->inputs < 8 || given->outputs < 8 || given->rows > kMost || given->inputs > kMost ||
      given->outputs > kMost || given->inputs % 8 != 0 || given->outputs % 8 != 0 || given->x_stride < given->inputs ||
      (given->rows + 255) / 256 * ((given->outputs + 127) / 128) > INT32_MAX / 4) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (given->x_stride % 8 != 0 || !subquad::rows::is_aligned(given->x) || !subquad::rows::is_aligned(given->gate) ||
      !subquad::rows::is_aligned(given->value) || !subquad::rows::is_aligned(output)) {
    return SUBQUAD_OPS_UNALIGNED;
  }
  return own::launch(*given, output, static_cast<cudaStream_t>(stream));
}
