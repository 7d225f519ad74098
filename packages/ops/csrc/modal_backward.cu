// The entry of the modal convolutions' gradients: checks a call and chooses its kernel.
#include "packages/ops/csrc/modal_backward.cuh"

extern "C" int32_t subquad_ops_modal_backward(const SubquadOpsStream* stream_of, const float* log_poles,
                                              const float* residues, const float* entries, const void* upstream,
                                              void* to_input, float* to_log_poles, float* to_residues,
                                              float* to_projection, float* to_skip, int32_t states, void* stream) {
  using namespace subquad;
  constexpr int kSlots = 4;
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  SubquadOpsStream s = *stream_of;
  s.output = to_input;
  const int32_t status = check_stream(s);
  if (status != SUBQUAD_OPS_OK) return status;
  if (s.dtype != SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (states < 1 || states > modal::kStates) return SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE;
  if (s.batch == 0 || s.length == 0) return SUBQUAD_OPS_OK;
  if (log_poles == nullptr || residues == nullptr || entries == nullptr || upstream == nullptr ||
      to_log_poles == nullptr || to_residues == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  if (s.projection_taps != nullptr && to_projection == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const Gradients gradients{upstream, to_input, to_projection, to_skip, nullptr};
  modal_backward::Arguments a{s, gradients, log_poles, residues, entries, to_log_poles, to_residues, states};
  a.stream.tiles_a_warp = static_cast<int32_t>((s.length + kTile - 1) / kTile);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const dim3 grid = grid_of(a.stream);
  return s.projection_taps != nullptr
             ? warp::launch(modal_backward::run<__nv_bfloat16, true, kSlots>, grid, a, cuda_stream)
             : warp::launch(modal_backward::run<__nv_bfloat16, false, kSlots>, grid, a, cuda_stream);
}
