// The entry of the convolutions on the tensor cores: checks a call and chooses its kernel.
#include "packages/ops/csrc/toeplitz.cuh"

namespace subquad::toeplitz {

int32_t check(const SubquadOpsStream& s, const Arguments& a, int64_t group) {
  const int32_t status = check_stream(s);
  if (status != SUBQUAD_OPS_OK) return status;
  if (a.taps_dtype < SUBQUAD_OPS_FLOAT32 || a.taps_dtype > SUBQUAD_OPS_BFLOAT16) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (a.tap < kFewestTaps || a.tap > kMostTaps) return SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE;
  if (group < 1 || a.tail_size < 0 || a.tail_size > s.length) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (s.channel % group != 0) return SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS;
  if (s.batch * s.length != 0 && (a.taps == nullptr || (a.tail_size > 0 && a.tail == nullptr))) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  return SUBQUAD_OPS_OK;
}

// One warp takes 32 tiles, or fewer where that would leave multiprocessors without work; it reads one more before them.
// Short stretches spread the work more evenly: worth it where the filter is soon set up, and where its matrices take so
// many registers that a multiprocessor holds fewer than 14 warps.
int32_t tiles_a_warp(const SubquadOpsStream& s, int32_t tap, int32_t taps_dtype) {
  constexpr int64_t kWarps = 1848;  // 14 on each of 132 multiprocessors
  constexpr int64_t kFewest = 4;
  const bool plain = s.projection_taps == nullptr;
  const bool several_pieces = taps_dtype != SUBQUAD_OPS_BFLOAT16 && (plain || s.dtype == SUBQUAD_OPS_BFLOAT16);
  const int64_t most = plain && tap <= 17 ? 8 : several_pieces ? 16 : 32;
  const int64_t tiles = (s.length + kTile - 1) / kTile;
  const int64_t each = tiles * s.batch * s.channel / kWarps;
  return static_cast<int32_t>(each < kFewest ? kFewest : each > most ? most : each);
}

template <bool kGated>
int32_t launch_for_dtype(const Arguments& a, cudaStream_t stream) {
  if (a.stream.dtype == SUBQUAD_OPS_FLOAT32) return launch<float, kGated, 3, 3>(a, stream);
  constexpr int kSamplePieces = kGated ? 2 : 1;
  if (a.taps_dtype == SUBQUAD_OPS_BFLOAT16) return launch<__nv_bfloat16, kGated, kSamplePieces, 1>(a, stream);
  return launch<__nv_bfloat16, kGated, kSamplePieces, 2>(a, stream);
}

}  // namespace subquad::toeplitz

extern "C" int32_t subquad_ops_toeplitz(const SubquadOpsStream* stream_of, const void* taps, const void* history,
                                        void* tail, int64_t group, int64_t tail_size, int32_t tap, int32_t taps_dtype,
                                        void* stream) {
  if (stream_of == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  subquad::toeplitz::Arguments a{*stream_of, taps, history, tail, 1, tail_size, tap, taps_dtype};
  const int32_t status = subquad::toeplitz::check(*stream_of, a, group);
  if (status != SUBQUAD_OPS_OK || stream_of->batch == 0 || stream_of->length == 0) return status;
  a.channels_per_filter = stream_of->channel / group;
  if (a.stream.tiles_a_warp == 0) a.stream.tiles_a_warp = subquad::toeplitz::tiles_a_warp(a.stream, tap, taps_dtype);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return stream_of->projection_taps != nullptr ? subquad::toeplitz::launch_for_dtype<true>(a, cuda_stream)
                                               : subquad::toeplitz::launch_for_dtype<false>(a, cuda_stream);
}
