// Root-mean-square norm of rows, alone or of the sum of two streams.
//
// Bound by memory: each number is read once and written once, the row in between lies in registers.
#include "packages/ops/csrc/rows.cuh"

namespace subquad::row_norm {

using rows::Arguments;

template <typename T, typename Spread>
__global__ void __launch_bounds__(Spread::kBlockThreads, Spread::kBlocks) kernel(const Arguments a) {
  __shared__ float room[rows::kMostWarps];
  const int64_t row = a.rows - 1 - Spread::row();  // the last first: of these the cache has what was written just now
  if (row < 0) return;  // a whole warp: blocks of more hold one row
  rows::Share<Spread> share;
  rows::read_sum<T, Spread>(a, row, share);
  rows::normalise<Spread>(a, room, share);
  rows::write_row<Spread>(static_cast<T*>(a.given.output) + row * a.channels, a.channels, share);
}

template <typename T, typename Spread>
struct Kernel {
  static constexpr void (*run)(Arguments) = kernel<T, Spread>;
};

}  // namespace subquad::row_norm

extern "C" int32_t subquad_ops_row_norm(const SubquadOpsRows* rows, void* stream) {
  if (rows == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (rows->norm != subquad::rows::kNormVortex && rows->norm != subquad::rows::kNormStandard) {
    return SUBQUAD_OPS_UNKNOWN_NORM;
  }
  if (rows->other != nullptr && rows->total == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  return subquad::rows::run<subquad::row_norm::Kernel>(*rows, stream);
}
