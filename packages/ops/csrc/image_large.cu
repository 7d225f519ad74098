// Two-dimensional FFT convolution of large images: the C interface and the choice of the kernels.
#include "packages/ops/csrc/image_large.cuh"

namespace subquad {
namespace {

template <class Body>
int32_t with_large_setting(int size, Body&& body) {
  switch (size) {
    case 256:
      return body(LargeSetting<16, 16>{});
    case 288:
      return body(LargeSetting<16, 18>{});
    case 320:
      return body(LargeSetting<16, 20>{});
    case 336:
      return body(LargeSetting<16, 21>{});
    case 384:
      return body(LargeSetting<16, 24>{});
    case 400:
      return body(LargeSetting<16, 25>{});
    case 448:
      return body(LargeSetting<16, 28>{});
    case 512:
      return body(LargeSetting<16, 32>{});
    default:
      return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
}

// Starts a kernel whose shared memory holds the roots and `rows` rows.
template <class S>
int32_t start_large(void (*kernel)(LargeCall), const LargeCall& large, int64_t blocks, int rows, void* stream) {
  const int bytes = (1 + rows) * S::Plan::kRow * static_cast<int>(sizeof(float2));
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  if (blocks >= int64_t{1} << 31) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  kernel<<<static_cast<unsigned>(blocks), S::kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(large);
  return cudaGetLastError();
}

// Goes through the images by as many as the scratch holds.
template <bool FILTER>
int32_t transform_large(const SubquadOpsImages& given, void* stream) {
  if (const int32_t problem = check(given)) return problem;
  if (given.scratch == nullptr || (FILTER && given.spectrum == nullptr)) return SUBQUAD_OPS_NULL_POINTER;
  if (given.scratch_images < 1) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  return with_large_setting(given.size, [&](auto setting) -> int32_t {
    using S = decltype(setting);
    const int64_t images = given.batch * given.channel;
    LargeCall large{call_of(given), reinterpret_cast<float2*>(given.scratch), 0, 0};
    const int64_t row_blocks = (given.height[1] + 2 * S::kPairs - 1) / (2 * S::kPairs);
    const int64_t column_blocks = (S::Plan::kColumns + S::kGroup - 1) / S::kGroup;
    for (; large.first < images; large.first += large.count) {
      const int64_t left = images - large.first;
      large.count = static_cast<int>(left < given.scratch_images ? left : given.scratch_images);
      int32_t status = start_large<S>(large_rows_kernel<S>, large, large.count * row_blocks, S::kPairs, stream);
      if (status != SUBQUAD_OPS_OK) return status;
      status = start_large<S>(large_columns_kernel<S, FILTER>, large, large.count * column_blocks, S::kGroup, stream);
      if (status != SUBQUAD_OPS_OK) return status;
      if (FILTER) status = start_large<S>(large_results_kernel<S>, large, large.count * row_blocks, S::kPairs, stream);
      if (status != SUBQUAD_OPS_OK) return status;
    }
    return SUBQUAD_OPS_OK;
  });
}

}  // namespace
}  // namespace subquad

extern "C" int32_t subquad_ops_large_image_spectra(const SubquadOpsImages* given, void* stream) {
  return subquad::transform_large<false>(*given, stream);
}

extern "C" int32_t subquad_ops_large_image_convolve(const SubquadOpsImages* given, void* stream) {
  return subquad::transform_large<true>(*given, stream);
}
