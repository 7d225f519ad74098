// What a warp does as one: exchange of registers, matrix products, loads of fragments, and asynchronous copies.
#ifndef SUBQUAD_OPS_WARP_CUH_
#define SUBQUAD_OPS_WARP_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace subquad::warp {

constexpr int kLanes = 32;
constexpr unsigned kAll = 0xffffffffu;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x); }

__device__ __forceinline__ void synchronize() { __syncwarp(); }

// The value that lane `from` gives.
__device__ __forceinline__ uint32_t exchange(uint32_t value, int from) { return __shfl_sync(kAll, value, from); }
__device__ __forceinline__ float exchange(float value, int from) { return __shfl_sync(kAll, value, from); }

// The sum over all lanes, in every lane.
__device__ __forceinline__ float sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAll, value, distance);
  return value;
}

// c += a b for a [16, 16] and b [16, 8] in bfloat16, c in float32; fragments as PTX lays out mma.m16n8k16.
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b for a [16, 8] and b [8, 8] in TF32, c in float32; fragments as PTX lays out mma.m16n8k8.
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const float (&a)[4], float b0, float b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// The nearest number with 10 bits of fraction.
__device__ __forceinline__ float to_tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}

// Loads four 8 x 8 matrices of 16-bit elements; lane l names row l % 8 (16 bytes) of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
      : "r"(address)
      : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
      : "r"(address)
      : "memory");
}

// Starts to copy kBytes from global to shared memory.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(global), "n"(kBytes) : "memory");
}

// The same for the first `valid` bytes; the rest become zeros.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(kBytes), "r"(valid)
               : "memory");
}

// Closes a group of copies; waits until at most kPending of the lane's groups are under way.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Rounds two numbers to bfloat16: the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// One warp a block.
template <typename Arguments>
int32_t launch(void (*kernel)(Arguments), dim3 grid, const Arguments& arguments, cudaStream_t stream) {
  kernel<<<grid, kLanes, 0, stream>>>(arguments);
  return static_cast<int32_t>(cudaGetLastError());
}

}  // namespace subquad::warp

#endif  // SUBQUAD_OPS_WARP_CUH_
