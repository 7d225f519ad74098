// The entry of the modal convolutions' gradients: checks a call and chooses its kernel.
#include "packages/ops/csrc/modal_backward.cuh"

namespace subquad::modal_backward {

template <typename T>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  constexpr int kSlots = 4;
  const dim3 grid = grid_of(a.stream);
  return a.stream.projection_taps != nullptr ? warp::launch(run<T, true, kSlots>, grid, a, stream)
                                             : warp::launch(run<T, false, kSlots>, grid, a, stream);
}

}  // namespace subquad::modal_backward

extern "C" int32_t subquad_ops_modal_backward(const SubquadOpsStream* stream_of, const SubquadOpsGradients* gradients,
                                              const float* log_poles, const float* residues, const float* entries,
                                              const float* upstream_state, float* to_log_poles, float* to_residues,
                                              float* to_history, int32_t states, void* stream) {
  using namespace subquad;
  if (stream_of == nullptr || gradients == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  SubquadOpsStream s = *stream_of;
  s.output = gradients->to_input;
  const int32_t status = check_stream(s);
  if (status != SUBQUAD_OPS_OK) return status;
  if (states < 1 || states > modal::kStates) return SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE;
  if (s.batch == 0 || s.length == 0) return SUBQUAD_OPS_OK;
  if (log_poles == nullptr || residues == nullptr || entries == nullptr || gradients->upstream == nullptr ||
      to_log_poles == nullptr || to_residues == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  if (s.projection_taps != nullptr && gradients->to_projection == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  s.tiles_a_warp = static_cast<int32_t>((s.length + kTile - 1) / kTile);
  const modal_backward::Arguments a{s,           *gradients, log_poles, residues, entries, upstream_state, to_log_poles,
                                    to_residues, to_history, states};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return s.dtype == SUBQUAD_OPS_FLOAT32 ? modal_backward::launch<float>(a, cuda_stream)
                                        : modal_backward::launch<__nv_bfloat16>(a, cuda_stream);
}
