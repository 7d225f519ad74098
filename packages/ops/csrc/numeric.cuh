// Element types of the kernels: conversion to and from float32, and 16-byte packs.
#ifndef SUBQUAD_OPS_NUMERIC_CUH_
#define SUBQUAD_OPS_NUMERIC_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "packages/ops/csrc/subquad_ops_cuda.h"

namespace subquad {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// The elements that one 16-byte access moves.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// Reads one parameter whose type is known only at run time. A thread reads few of them, so one kernel serves every
// parameter type.
__device__ __forceinline__ float load_parameter(const void* base, int64_t index, int32_t dtype) {
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return to_float(static_cast<const __half*>(base)[index]);
    case SUBQUAD_OPS_BFLOAT16:
      return to_float(static_cast<const __nv_bfloat16*>(base)[index]);
    default:
      return static_cast<const float*>(base)[index];
  }
}

// Writes one result as bfloat16, or unrounded as float32.
__device__ __forceinline__ void store_result(void* base, int64_t index, float value, int32_t dtype) {
  if (dtype == SUBQUAD_OPS_FLOAT32) {
    static_cast<float*>(base)[index] = value;
  } else {
    static_cast<__nv_bfloat16*>(base)[index] = from_float<__nv_bfloat16>(value);
  }
}

// A parameter as it lies in memory: loading it waits for nothing, reading its value waits for the memory.
struct Stored {
  uint32_t bits;
};

__device__ __forceinline__ Stored load_stored(const void* base, int64_t index, int32_t dtype) {
  if (dtype == SUBQUAD_OPS_FLOAT32) return {static_cast<const uint32_t*>(base)[index]};
  return {static_cast<const uint16_t*>(base)[index]};
}

__device__ __forceinline__ float value_of(Stored stored, int32_t dtype) {
  if (dtype == SUBQUAD_OPS_FLOAT32) return __uint_as_float(stored.bits);
  if (dtype == SUBQUAD_OPS_BFLOAT16) return __uint_as_float(stored.bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(stored.bits)));
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_NUMERIC_CUH_
