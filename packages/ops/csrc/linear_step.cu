// One decode step of a linear layer, and of a gated pair of them, for one vector.
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/weight_stream.cuh"

namespace subquad::linear_step {

using weight_stream::Product;

struct Sum {
  const void* bias;  // [outputs] in bias_dtype, or null
  const uint16_t* residual;  // bfloat16, or null
  void* output;  // in output_dtype
  int32_t bias_dtype, output_dtype;
};

struct Gated {
  __nv_bfloat16* output;
  int32_t activation;
};

struct FinishSum {
  struct Loaded {
    Stored bias;
    uint16_t residual;
  };
  const Sum& arguments;

  __device__ void fetch(int, int) const {}

  __device__ Loaded load(int unit, int) const {
    Loaded loaded{};
    if (arguments.bias != nullptr) loaded.bias = load_stored(arguments.bias, unit, arguments.bias_dtype);
    if (arguments.residual != nullptr) loaded.residual = arguments.residual[unit];
    return loaded;
  }

  __device__ void finish(int unit, int lane, const Loaded& loaded, const float (&sums)[1]) const {
    float sum = sums[0];
    if (arguments.bias != nullptr) sum += value_of(loaded.bias, arguments.bias_dtype);
    if (arguments.residual != nullptr) sum += __uint_as_float(static_cast<uint32_t>(loaded.residual) << 16);
    if (lane == 0) store_result(arguments.output, unit, sum, arguments.output_dtype);
  }
};

struct FinishGated {
  struct Loaded {};
  const Gated& arguments;

  __device__ void fetch(int, int) const {}
  __device__ Loaded load(int, int) const { return {}; }

  __device__ void finish(int unit, int lane, const Loaded&, const float (&sums)[2]) const {
    if (lane != 0) return;
    float gate = sums[0];
    if (arguments.activation == SUBQUAD_OPS_GELU) gate = 0.5f * gate * (1.0f + erff(gate * 0.70710678118654752f));
    arguments.output[unit] = from_float<__nv_bfloat16>(gate * sums[1]);
  }
};

template <typename Weights, bool kNormed>
__global__ void __launch_bounds__(weight_stream::kThreads, 2) sum_kernel(const Product product, const Sum arguments) {
#if __CUDA_ARCH__ >= 900
  FinishSum finish{arguments};
  weight_stream::run<Weights, kNormed, 1>(product, finish);
#endif
}

template <typename Weights, bool kNormed>
__global__ void __launch_bounds__(weight_stream::kThreads, 2) gated_kernel(const Product product, const Gated arguments) {
#if __CUDA_ARCH__ >= 900
  FinishGated finish{arguments};
  weight_stream::run<Weights, kNormed, 2>(product, finish);
#endif
}

template <typename Weights, bool kNormed>
int32_t start(const Product& product, const Sum& arguments, cudaStream_t stream) {
  return weight_stream::launch<Weights, kNormed>(sum_kernel<Weights, kNormed>, product, arguments, stream);
}

template <typename Weights, bool kNormed>
int32_t start(const Product& product, const Gated& arguments, cudaStream_t stream) {
  return weight_stream::launch<Weights, kNormed>(gated_kernel<Weights, kNormed>, product, arguments, stream);
}

template <typename Arguments>
int32_t start_for(const SubquadOpsProduct& given, const Arguments& arguments, void* stream) {
  const Product product = weight_stream::product_of(given, 1);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const bool normed = given.norm != weight_stream::kNoNorm;
  if (given.weight_dtype == SUBQUAD_OPS_E4M3) {
    return normed ? start<weight_stream::E4m3, true>(product, arguments, cuda_stream)
                  : start<weight_stream::E4m3, false>(product, arguments, cuda_stream);
  }
  return normed ? start<weight_stream::Bfloat16, true>(product, arguments, cuda_stream)
                : start<weight_stream::Bfloat16, false>(product, arguments, cuda_stream);
}

}  // namespace subquad::linear_step

extern "C" int32_t subquad_ops_linear_step(const SubquadOpsProduct* product, const void* bias, const void* residual,
                                           void* output, int32_t bias_dtype, int32_t output_dtype, void* stream) {
  if (product == nullptr || output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (output_dtype != SUBQUAD_OPS_BFLOAT16 && output_dtype != SUBQUAD_OPS_FLOAT32) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  const int32_t status = subquad::weight_stream::check(*product, false);
  if (status != SUBQUAD_OPS_OK) return status;
  const subquad::linear_step::Sum arguments{bias, static_cast<const uint16_t*>(residual), output, bias_dtype, output_dtype};
  return subquad::linear_step::start_for(*product, arguments, stream);
}

extern "C" int32_t subquad_ops_gated_linear_step(const SubquadOpsProduct* product, void* output, int32_t activation,
                                                 void* stream) {
  if (product == nullptr || output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (activation != SUBQUAD_OPS_IDENTITY && activation != SUBQUAD_OPS_GELU) return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  const int32_t status = subquad::weight_stream::check(*product, true);
  if (status != SUBQUAD_OPS_OK) return status;
  const subquad::linear_step::Gated arguments{static_cast<__nv_bfloat16*>(output), activation};
  return subquad::linear_step::start_for(*product, arguments, stream);
}
