// The C interface of libsubquad_ops_cuda.so.
//
// Pointers, sizes and codes only: no type of PyTorch or of the C++ library crosses it, so that one build serves every
// version of PyTorch. All pointers are device pointers of the calling thread's current device; every array is
// contiguous, and the output overlaps no input. A call enqueues its work on `stream` (a cudaStream_t) and returns at
// once; it allocates nothing and may be captured in a CUDA graph.
#ifndef SUBQUAD_OPS_CUDA_H_
#define SUBQUAD_OPS_CUDA_H_

#include <stdint.h>

#define SUBQUAD_OPS_EXPORT __attribute__((visibility("default")))  // the build hides everything else

#ifdef __cplusplus
extern "C" {
#endif

// Raised with every change of a signature or of a code below.
#define SUBQUAD_OPS_ABI_VERSION 1

enum SubquadOpsDtype {
  SUBQUAD_OPS_FLOAT32 = 0,
  SUBQUAD_OPS_FLOAT16 = 1,
  SUBQUAD_OPS_BFLOAT16 = 2,
};

enum SubquadOpsActivation {
  SUBQUAD_OPS_IDENTITY = 0,
  SUBQUAD_OPS_SILU = 1,
};

// A call returns 0, one of these codes, or (where positive) the cudaError_t of the launch.
enum SubquadOpsStatus {
  SUBQUAD_OPS_OK = 0,
  SUBQUAD_OPS_NULL_POINTER = -1,
  SUBQUAD_OPS_UNKNOWN_DTYPE = -2,
  SUBQUAD_OPS_UNKNOWN_ACTIVATION = -3,
  SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE = -4,
  SUBQUAD_OPS_SIZE_OUT_OF_RANGE = -5,
  SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS = -6,
};

// The version this library was built with; callers compare it with the one they were written for.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_abi_version(void);

// An English sentence for a status; never null, never to be freed.
SUBQUAD_OPS_EXPORT const char* subquad_ops_status_text(int32_t status);

// Convolves each row of `input` [batch, channel, length] with its group's causal filter:
//
//   output[b, c, t] = activation(sum(taps[c / (channel / group), k] * x[b, c, t - k] for k in 0 .. tap - 1)
//                                + skip[c] * x[b, c, t] + bias[c])
//
// where x is `input`, preceded by `initial_state` [batch, channel, tap - 1] (oldest first; null means zeros). Tap 0
// multiplies the current sample. `input`, `initial_state` and `output` hold `dtype`; `taps` [group, tap], `bias`
// [channel] and `skip` [channel] hold `parameter_dtype`; `bias` and `skip` may be null. Sums are float32.
// 2 <= tap <= 8; batch * channel < 2^31.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_causal_fir(const void* input, const void* taps, const void* bias,
                                                  const void* skip, const void* initial_state, void* output,
                                                  int64_t batch, int64_t channel, int64_t length, int64_t group,
                                                  int32_t tap, int32_t dtype, int32_t parameter_dtype,
                                                  int32_t activation, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // SUBQUAD_OPS_CUDA_H_
