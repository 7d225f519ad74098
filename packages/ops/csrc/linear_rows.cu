// One decode step of a linear layer, and of a gated pair of them, for several vectors: each weight is read once and meets
// all of them on the tensor cores.
//
// A cluster of eight blocks takes 128 rows of weights at a time; each block has an eighth of the inputs, and keeps that part
// of all vectors in its shared memory. One warp of it copies weights ahead, before the kernel in front has ended; two
// warpgroups multiply 64 rows each. What they have is sent to the block of the cluster that adds up a row, multiplies by
// what is left of norm and rounding, and writes the result, while the others are at their next tile. Weights of one byte
// become bfloat16 in registers. A vector's result does not depend on the others, nor on how many there are.
#include "packages/ops/csrc/linear_rows.cuh"

#include "packages/ops/csrc/order_of_kernels.cuh"

namespace subquad::linear_rows {

template <bool kRounded, int kVectors>
__global__ void __launch_bounds__(kThreads, kVectors > 32 ? 1 : 2)
    kernel(const __grid_constant__ CUtensorMap first, const __grid_constant__ CUtensorMap second, const Arguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t room[];
  Block<kRounded, kVectors> block(a, room + (kAlignment - shared_address(room) % kAlignment) % kAlignment);
  if (threadIdx.x == kConsumers) block.initialise_barriers();
  __syncthreads();
  announce_to_cluster();
  start_next_kernel();
  if (threadIdx.x / 32 == kConsumers / 32) {
    if (threadIdx.x == kConsumers) block.bring(first, second);
    return;
  }
  float scale[16];
  block.load_scale(scale, threadIdx.x % 32);
  await_previous_kernel();
  await_cluster();
  block.take_vectors(scale);
  publish_to_copies();
  asm volatile("bar.sync 2, %0;" ::"n"(kThreads - 32) : "memory");
  // Whatever is sent to a block is awaited there, so that none leaves too early.
  if (threadIdx.x < kConsumers) {
    block.multiply_all();
  } else if (block.gated()) {
    block.template finish_all<true>();
  } else {
    block.template finish_all<false>();
  }
#endif
}

// How many clusters run at the same time, one block a multiprocessor.
template <typename Kernel>
int32_t clusters_at_once(int* clusters, Kernel* kernel, const cudaLaunchConfig_t& config) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(clusters, kernel, &config);
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  if (*clusters > multiprocessors / kBlocks) *clusters = multiprocessors / kBlocks;
  return *clusters < 1 ? static_cast<int32_t>(cudaErrorNotSupported) : SUBQUAD_OPS_OK;
}

template <bool kRounded, int kVectors>
int32_t launch(const SubquadOpsProduct& given, Arguments a, cudaStream_t stream) {
  using Places = Room<kVectors>;
  const bool gated = a.activation >= 0;
  const int x_units = a.most_units * (kRounded ? 2 : 1);
  const int usual = a.norm != 0 ? kBytesBehindNorm : kBytesPlain;
  a.stages = kMostStages;
  while (a.stages > kFewestStages && Places::bytes(a.stages, x_units) + kAlignment > usual) --a.stages;
  int bytes = Places::bytes(a.stages, x_units) + kAlignment;
  if (bytes > usual) {  // one block a multiprocessor, and none of the next kernel beside it
    a.stages = kMostStages;
    while (a.stages > kFewestStages && Places::bytes(a.stages, x_units) > kMostBytes) --a.stages;
    bytes = Places::bytes(a.stages, x_units) + kAlignment;
    if (bytes > kMostBytes + kAlignment) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  } else if (a.norm != 0) {
    bytes = usual;
  }
  constexpr int kBytes = kRounded ? 1 : 2;
  const void* other = gated ? given.second : given.weight;
  CUtensorMap first, second;
  int32_t status = describe(&first, given.weight, given.outputs, given.inputs, given.inputs, kStripRows, kBytes);
  if (status == 0) status = describe(&second, other, given.outputs, given.inputs, given.inputs, kStripRows, kBytes);
  if (status != 0) return status;
  auto* chosen = kernel<kRounded, kVectors>;
  cudaError_t error = cudaFuncSetAttribute(chosen, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(chosen, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = kBlocks;
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  error = allow_early_start(&attributes[1], stream);
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 1;
  int clusters = 0;
  status = clusters_at_once(&clusters, chosen, config);
  if (status != SUBQUAD_OPS_OK) return status;
  config.gridDim = dim3(static_cast<unsigned>((clusters < a.tiles ? clusters : a.tiles) * kBlocks));
  config.numAttrs = 2;
  return static_cast<int32_t>(cudaLaunchKernelEx(&config, chosen, first, second, a));
}

int32_t start(const SubquadOpsProduct& given, int64_t rows, Arguments a, cudaStream_t stream) {
  constexpr int kFewVectors = 8, kVectors = 32, kManyVectors = 64;
  constexpr int64_t kMost = int64_t{1} << 30;
  const bool rounded = given.weight_dtype == SUBQUAD_OPS_E4M3;
  const int64_t pack = rounded ? 16 : 8;
  if (!rounded && given.weight_dtype != SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (rows < 1 || rows > kManyVectors || given.outputs < 1 || given.outputs > kMost || given.inputs < pack ||
      given.inputs > kMost || given.inputs % pack != 0) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (given.norm < 0 || given.norm > 2) return SUBQUAD_OPS_UNKNOWN_NORM;
  const bool gated = a.activation >= 0;
  if (given.vector == nullptr || given.weight == nullptr || (given.norm != 0 && given.norm_scale == nullptr) ||
      (gated && given.second == nullptr) || (rounded && given.weight_scale == nullptr) ||
      (rounded && gated && given.second_scale == nullptr)) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  if (!subquad::rows::is_aligned(given.vector) || !subquad::rows::is_aligned(given.weight) ||
      (gated && !subquad::rows::is_aligned(given.second))) {
    return SUBQUAD_OPS_UNALIGNED;
  }
  a.vectors = static_cast<const __nv_bfloat16*>(given.vector);
  a.norm_scale = given.norm_scale;
  a.first_scale = rounded ? given.weight_scale : nullptr;
  a.second_scale = rounded && gated ? given.second_scale : nullptr;
  a.outputs = given.outputs;
  a.rows = static_cast<int32_t>(rows);
  a.inputs = static_cast<int32_t>(given.inputs);
  const int tile = gated ? kStripRows : kTileRows;
  a.tiles = static_cast<int32_t>((given.outputs + tile - 1) / tile);
  a.units = static_cast<int32_t>((given.inputs * (rounded ? 1 : 2) + kUnit - 1) / kUnit);
  a.most_units = (a.units + kBlocks - 1) / kBlocks;
  a.norm = given.norm;
  a.norm_dtype = given.norm_dtype;
  a.packed_scale = given.norm != 0 && given.norm_dtype == SUBQUAD_OPS_BFLOAT16 && subquad::rows::is_aligned(given.norm_scale);
  a.eps = given.eps;
  if (rounded) {
    return rows <= kFewVectors ? launch<true, kFewVectors>(given, a, stream)
           : rows <= kVectors  ? launch<true, kVectors>(given, a, stream)
                               : launch<true, kManyVectors>(given, a, stream);
  }
  return rows <= kFewVectors ? launch<false, kFewVectors>(given, a, stream)
         : rows <= kVectors  ? launch<false, kVectors>(given, a, stream)
                             : launch<false, kManyVectors>(given, a, stream);
}

}  // namespace subquad::linear_rows

extern "C" int32_t subquad_ops_linear_rows(const SubquadOpsProduct* product, int64_t rows, const void* bias,
                                           const void* residual, void* output, int32_t bias_dtype,
                                           int32_t output_dtype, void* stream) {
  if (product == nullptr || output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (output_dtype != SUBQUAD_OPS_BFLOAT16 && output_dtype != SUBQUAD_OPS_FLOAT32) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  subquad::linear_rows::Arguments arguments{};
  arguments.bias = bias;
  arguments.residual = static_cast<const __nv_bfloat16*>(residual);
  arguments.output = output;
  arguments.bias_dtype = bias_dtype;
  arguments.output_dtype = output_dtype;
  arguments.activation = -1;
  return subquad::linear_rows::start(*product, rows, arguments, static_cast<cudaStream_t>(stream));
}

extern "C" int32_t subquad_ops_gated_linear_rows(const SubquadOpsProduct* product, int64_t rows, void* output,
                                                 int32_t activation, void* stream) {
  if (product == nullptr || output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (activation != SUBQUAD_OPS_IDENTITY && activation != SUBQUAD_OPS_GELU) return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  subquad::linear_rows::Arguments arguments{};
  arguments.output = output;
  arguments.output_dtype = SUBQUAD_OPS_BFLOAT16;
  arguments.activation = activation;
  return subquad::linear_rows::start(*product, rows, arguments, static_cast<cudaStream_t>(stream));
}
