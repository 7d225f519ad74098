// The entry of the modal convolutions: checks a call and chooses its kernel.
#include "packages/ops/csrc/modal.cuh"

namespace subquad::modal {

template <typename T, bool kGated>
int32_t launch(const Arguments& a, cudaStream_t stream) {
  constexpr int kStages = kGated ? 3 : 4;
  const dim3 grid = grid_of(a.stream);
  if (grid.x > 1) {
    const dim3 all_but_last(grid.x - 1, grid.y, grid.z);
    const int32_t status = warp::launch(run<T, kGated, kStages, true>, all_but_last, a, stream);
    if (status != SUBQUAD_OPS_OK) return status;
  }
  return warp::launch(run<T, kGated, kStages, false>, grid, a, stream);
}

}  // namespace subquad::modal

extern "C" int32_t subquad_ops_modal(const SubquadOpsStream* stream_of, const float* log_poles, const float* residues,
                                     const float* history, float* state, float* entries, float* parts,
                                     int32_t states, void* stream) {
  using namespace subquad;
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const int32_t status = check_stream(*stream_of);
  if (status != SUBQUAD_OPS_OK) return status;
  if (states < 1 || states > modal::kStates) return SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE;
  if (stream_of->batch == 0 || stream_of->length == 0) return SUBQUAD_OPS_OK;
  if (log_poles == nullptr || residues == nullptr || state == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  modal::Arguments a{*stream_of, log_poles, residues, history, state, entries, parts, states};
  const int64_t tiles = (stream_of->length + kTile - 1) / kTile;
  if (a.stream.tiles_a_warp == 0 || a.stream.tiles_a_warp > tiles) a.stream.tiles_a_warp = static_cast<int32_t>(tiles);
  if (a.stream.tiles_a_warp < tiles && parts == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const bool gated = stream_of->projection_taps != nullptr;
  if (stream_of->dtype == SUBQUAD_OPS_FLOAT32) {
    return gated ? modal::launch<float, true>(a, cuda_stream) : modal::launch<float, false>(a, cuda_stream);
  }
  return gated ? modal::launch<__nv_bfloat16, true>(a, cuda_stream)
               : modal::launch<__nv_bfloat16, false>(a, cuda_stream);
}
