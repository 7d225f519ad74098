// The turn of histories, oldest sample first, into the rings of decoding, or back.
#include "packages/ops/csrc/rows.cuh"

namespace subquad::ring {

constexpr int kThreads = 256;
constexpr int64_t kMostBatch = 65535;

// A thread a sample; the samples of a channel lie beside each other in at least one of the two arrays.
__global__ void __launch_bounds__(kThreads) kernel(const SubquadOpsTurn given) {
  const int64_t batch = blockIdx.y, index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= given.channels * given.past) return;
  const int64_t channel = index / given.past, sample = index % given.past;
  const int64_t position = given.position_bytes == 8 ? static_cast<const int64_t*>(given.position)[batch]
                                                     : static_cast<const int32_t*>(given.position)[batch];
  const int64_t slot = (position + given.length + sample) % given.past;
  const int64_t read = given.into_ring ? sample : slot, write = given.into_ring ? slot : sample;
  const int64_t from = batch * given.source_batch + channel * given.source_channel + read * given.source_slot;
  const int64_t to = batch * given.target_batch + channel * given.target_channel + write * given.target_slot;
  float value[1];
  rows::load<1>(given.source, from, given.source_dtype, value);
  rows::store(given.target, to, given.target_dtype, value);
}

int32_t check(const SubquadOpsTurn& given) {
  if (!rows::is_known(given.source_dtype) || !rows::is_known(given.target_dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.position_bytes != 4 && given.position_bytes != 8) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.batch < 0 || given.batch > kMostBatch || given.channels < 0 || given.past < 0 || given.length < 0) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  if (given.past > 0 && given.channels > INT32_MAX / given.past) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.batch == 0 || given.channels == 0 || given.past == 0) return SUBQUAD_OPS_OK;
  const bool whole = given.source != nullptr && given.target != nullptr && given.position != nullptr;
  return whole ? SUBQUAD_OPS_OK : SUBQUAD_OPS_NULL_POINTER;
}

}  // namespace subquad::ring

extern "C" int32_t subquad_ops_turn_ring(const SubquadOpsTurn* turn, void* stream) {
  if (turn == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const int32_t status = subquad::ring::check(*turn);
  if (status != SUBQUAD_OPS_OK || turn->batch * turn->channels * turn->past == 0) return status;
  const int64_t samples = turn->channels * turn->past;
  const dim3 grid(static_cast<unsigned>((samples + subquad::ring::kThreads - 1) / subquad::ring::kThreads),
                  static_cast<unsigned>(turn->batch));
  subquad::ring::kernel<<<grid, subquad::ring::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(*turn);
  return static_cast<int32_t>(cudaGetLastError());
}
