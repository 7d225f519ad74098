// The entry of the convolutions' gradients: checks a call and chooses its kernel.
#include "packages/ops/csrc/toeplitz_backward.cuh"

namespace subquad::toeplitz_backward {

template <bool kGated>
int32_t launch_for_dtype(const Arguments& a, cudaStream_t stream) {
  constexpr int kSamplePieces = kGated ? 2 : 1;
  if (a.taps_dtype == SUBQUAD_OPS_BFLOAT16) return launch<__nv_bfloat16, kGated, kSamplePieces, 1>(a, stream);
  return launch<__nv_bfloat16, kGated, kSamplePieces, 2>(a, stream);
}

}  // namespace subquad::toeplitz_backward

extern "C" int32_t subquad_ops_toeplitz_backward(const SubquadOpsStream* stream_of, const void* taps, const void* upstream,
                                                 void* to_input, float* to_taps, float* to_projection, float* to_skip,
                                                 float* to_bias, int64_t group, int32_t tap, int32_t taps_dtype,
                                                 void* stream) {
  using namespace subquad;
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const SubquadOpsStream& s = *stream_of;
  const Gradients gradients{upstream, to_input, to_projection, to_skip, to_bias};
  toeplitz_backward::Arguments a{s, gradients, taps, to_taps, 1, tap, taps_dtype};
  a.channels_per_filter = s.channel / group;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return s.projection_taps != nullptr ? toeplitz_backward::launch_for_dtype<true>(a, cuda_stream)
                                      : toeplitz_backward::launch_for_dtype<false>(a, cuda_stream);
}
