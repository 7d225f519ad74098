// The entry of the convolutions' gradients: checks a call and chooses its kernel.
#include "packages/ops/csrc/few_taps_backward.cuh"
#include "packages/ops/csrc/toeplitz_backward.cuh"

namespace subquad::toeplitz_backward {

template <bool kGated>
int32_t launch_for_dtype(const Arguments& a, cudaStream_t stream) {
  if (kGated && few_taps::takes(a)) return few_taps::launch(a, stream);
  if (a.stream.dtype == SUBQUAD_OPS_FLOAT32) return launch<float, kGated, 3, 3>(a, stream);
  // One piece of g and dm adds as much error as the rounding of the gradients; float32 taps deserve the second.
  if (a.taps_dtype == SUBQUAD_OPS_BFLOAT16) return launch<__nv_bfloat16, kGated, 1, 1>(a, stream);
  return launch<__nv_bfloat16, kGated, kGated ? 2 : 1, 2>(a, stream);
}

}  // namespace subquad::toeplitz_backward

extern "C" int32_t subquad_ops_toeplitz_backward(const SubquadOpsStream* stream_of, const SubquadOpsGradients* gradients,
                                                 const void* taps, const void* history, const void* upstream_tail,
                                                 float* to_taps, void* to_history, int64_t group, int64_t tail_size,
                                                 int32_t tap, int32_t taps_dtype, void* stream) {
  using namespace subquad;
  if (stream_of == nullptr || gradients == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  SubquadOpsStream s = *stream_of;
  s.output = gradients->to_input;
  const int32_t status = check_stream(s);
  if (status != SUBQUAD_OPS_OK) return status;
  if (taps_dtype < SUBQUAD_OPS_FLOAT32 || taps_dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (tap < toeplitz::kFewestTaps || tap > toeplitz::kMostTaps) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  if (group < 1 || s.tiles_a_warp < 1 || tail_size < 0 || tail_size > s.length) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (s.channel % group != 0) return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  if (s.batch == 0 || s.length == 0) return SUBQUAD_OPS_OK;
  if (taps == nullptr || gradients->upstream == nullptr || to_taps == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (s.projection_taps != nullptr && gradients->to_projection == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const toeplitz_backward::Arguments a{s,          *gradients,          taps,      history, upstream_tail, to_taps,
                                       to_history, s.channel / group, tail_size, tap,     taps_dtype};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return s.projection_taps != nullptr ? toeplitz_backward::launch_for_dtype<true>(a, cuda_stream)
                                      : toeplitz_backward::launch_for_dtype<false>(a, cuda_stream);
}
