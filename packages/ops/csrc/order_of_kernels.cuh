// The order of the kernels of a decode step: the next one starts while this one runs (programmatic dependent launch).
#ifndef SUBQUAD_OPS_ORDER_OF_KERNELS_CUH_
#define SUBQUAD_OPS_ORDER_OF_KERNELS_CUH_

#include <cuda_runtime.h>

namespace subquad {

// Of shared memory, a block, with what the system takes: one of each kind fits into a multiprocessor, and two behind a norm
// do not, so that such a kernel has one block on every multiprocessor whatever ran before, and leaves the next one as much
// room everywhere.
constexpr int kBytesBehindNorm = 118784;
constexpr int kBytesPlain = 112384;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// Lets the next kernel on the stream start as soon as every block has said so and there is room.
__device__ __forceinline__ void start_next_kernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Waits until the kernel before has ended and all that it wrote can be read.
__device__ __forceinline__ void await_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

#endif  // compute capability 9.0

// Lets a kernel start before the one in front of it ends where the stream records a graph. Weights are then read early, so
// that kernel must not write them, as none of a network does; a call by itself may follow whatever made its weights.
inline cudaError_t allow_early_start(cudaLaunchAttribute* attribute, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &status);
  attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute->val.programmaticStreamSerializationAllowed = status == cudaStreamCaptureStatusActive ? 1 : 0;
  return error;
}

}  // namespace subquad

#endif  // SUBQUAD_OPS_ORDER_OF_KERNELS_CUH_
