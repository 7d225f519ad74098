// The entry of the convolutions' gradients: checks a call and chooses its kernel.
#include "packages/ops/csrc/toeplitz_backward.cuh"

namespace subquad::toeplitz_backward {

template <bool kGated>
int32_t launch_for_dtype(const Arguments& a, cudaStream_t stream) {
  // Two pieces of each leave gradients of float32 exact to 5e-6.
  if (a.stream.dtype == SUBQUAD_OPS_FLOAT32) return launch<float, kGated, 2, 2>(a, stream);
  // One piece of g and dm adds as much error as the rounding of the gradients; float32 taps deserve the second.
  if (a.taps_dtype == SUBQUAD_OPS_BFLOAT16) return launch<__nv_bfloat16, kGated, 1, 1>(a, stream);
  return launch<__nv_bfloat16, kGated, kGated ? 2 : 1, 2>(a, stream);
}

}  // namespace subquad::toeplitz_backward

extern "C" int32_t subquad_ops_toeplitz_backward(const SubquadOpsStream* stream_of, const void* taps, const void* upstream,
                                                 void* to_input, float* to_taps, float* to_projection, float* to_skip,
                                                 float* to_bias, int64_t group, int32_t tap, int32_t taps_dtype,
                                                 void* stream) {
  using namespace subquad;
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  SubquadOpsStream s = *stream_of;
  s.output = to_input;
  const int32_t status = check_stream(s);
  if (status != SUBQUAD_OPS_OK) return status;
  if (taps_dtype < SUBQUAD_OPS_FLOAT32 || taps_dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (tap < toeplitz::kFewestTaps || tap > toeplitz::kMostTaps) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  if (group < 1 || s.tiles_a_warp < 1) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (s.channel % group != 0) return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  if (s.batch == 0 || s.length == 0) return SUBQUAD_OPS_OK;
  if (taps == nullptr || upstream == nullptr || to_taps == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (s.projection_taps != nullptr && to_projection == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const Gradients gradients{upstream, to_input, to_projection, to_skip, to_bias};
  const toeplitz_backward::Arguments a{s, gradients, taps, to_taps, s.channel / group, tap, taps_dtype};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return s.projection_taps != nullptr ? toeplitz_backward::launch_for_dtype<true>(a, cuda_stream)
                                      : toeplitz_backward::launch_for_dtype<false>(a, cuda_stream);
}
