// The entry of the modal convolutions: checks a call and chooses its kernel.
#include "packages/ops/csrc/modal.cuh"

namespace subquad::modal {

template <typename T>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  const dim3 grid = grid_of(a.stream);
  if (a.stream.projection_taps != nullptr) return warp::launch(run<T, true, 3>, grid, a, stream);
  return warp::launch(run<T, false, 4>, grid, a, stream);
}

}  // namespace subquad::modal

extern "C" int32_t subquad_ops_modal(const SubquadOpsStream* stream_of, const float* log_poles, const float* residues,
                                     const float* history, float* state, float* entries, int32_t states,
                                     void* stream) {
  using namespace subquad;
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const int32_t status = check_stream(*stream_of);
  if (status != SUBQUAD_OPS_OK) return status;
  if (states < 1 || states > modal::kStates) return SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE;
  if (stream_of->batch == 0 || stream_of->length == 0) return SUBQUAD_OPS_OK;
  if (log_poles == nullptr || residues == nullptr || state == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  modal::Arguments a{*stream_of, log_poles, residues, history, state, entries, states};
  a.stream.tiles_a_warp = static_cast<int32_t>((stream_of->length + kTile - 1) / kTile);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return stream_of->dtype == SUBQUAD_OPS_FLOAT32 ? modal::launch<float>(a, cuda_stream)
                                                 : modal::launch<__nv_bfloat16>(a, cuda_stream);
}
