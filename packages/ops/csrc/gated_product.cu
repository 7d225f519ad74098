// The gate of a two-branch MLP: activation(gate) * value, number by number, bound by memory.
#include "packages/ops/csrc/rows.cuh"

namespace subquad::gated_product {

constexpr int kThreads = 256;
constexpr int kPieces = 2;  // of a thread, all on the way at once

struct Arguments {
  SubquadOpsRows given;
  uint32_t stretches;  // blocks of a row
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) kernel(const Arguments a) {
  const SubquadOpsRows& given = a.given;
  const int64_t row = blockIdx.x / a.stretches;
  const int64_t start = static_cast<int64_t>(blockIdx.x % a.stretches) * (kThreads * kPieces * kWidth);
  const T* gates = static_cast<const T*>(given.x) + row * given.x_stride;
  const T* values = static_cast<const T*>(given.other) + row * given.other_stride;
  T* output = static_cast<T*>(given.output) + row * given.channels;
  rows::Piece<T, kWidth> gates_read[kPieces] = {}, values_read[kPieces] = {};
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int64_t channel = start + (piece * kThreads + threadIdx.x) * kWidth;
    if (channel < given.channels) {
      gates_read[piece] = rows::read<kWidth>(gates + channel);
      values_read[piece] = rows::read<kWidth>(values + channel);
    }
  }
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int64_t channel = start + (piece * kThreads + threadIdx.x) * kWidth;
    if (channel >= given.channels) continue;
    float product[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float gate = to_float(gates_read[piece].values[i]);
      product[i] = (given.activation == SUBQUAD_OPS_GELU ? rows::gelu(gate) : gate) * to_float(values_read[piece].values[i]);
    }
    rows::store(output + channel, product);
  }
}

template <typename T, int kWidth>
int32_t start(const SubquadOpsRows& given, cudaStream_t stream) {
  constexpr int64_t kEach = kThreads * kPieces * kWidth;
  const int64_t stretches = (given.channels + kEach - 1) / kEach;
  if (stretches > INT32_MAX / given.rows) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  const Arguments a{given, static_cast<uint32_t>(stretches)};
  kernel<T, kWidth><<<static_cast<unsigned>(given.rows * stretches), kThreads, 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

template <typename T>
int32_t start_for(const SubquadOpsRows& given, cudaStream_t stream) {
  return rows::moves_pieces(given) ? start<T, Pack<T>::kSize>(given, stream) : start<T, 1>(given, stream);
}

}  // namespace subquad::gated_product

extern "C" int32_t subquad_ops_gated_product(const SubquadOpsRows* rows, void* stream) {
  if (rows == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  const int32_t status = subquad::rows::check(*rows);
  if (status != SUBQUAD_OPS_OK) return status;
  if (rows->norm != subquad::rows::kNoNorm) return SUBQUAD_OPS_UNKNOWN_NORM;
  if (rows->rows == 0) return SUBQUAD_OPS_OK;
  if (rows->other == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (rows->other_dtype != rows->dtype) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (rows->dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return subquad::gated_product::start_for<__half>(*rows, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return subquad::gated_product::start_for<__nv_bfloat16>(*rows, cuda_stream);
    default:
      return subquad::gated_product::start_for<float>(*rows, cuda_stream);
  }
}
