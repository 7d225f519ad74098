// What the library says about itself: the version of its interface and its errors in words.
#include <cuda_runtime.h>

#include "packages/ops/csrc/subquad_ops_cuda.h"

extern "C" int32_t subquad_ops_abi_version(void) { return SUBQUAD_OPS_ABI_VERSION; }

extern "C" const char* subquad_ops_status_text(int32_t status) {
  switch (status) {
    case SUBQUAD_OPS_OK:
      return "no error";
    case SUBQUAD_OPS_NULL_POINTER:
      return "a required array is null";
    case SUBQUAD_OPS_UNKNOWN_DTYPE:
      return "dtype is none of those that the kernel serves";
    case SUBQUAD_OPS_UNKNOWN_ACTIVATION:
      return "activation is none of those that the kernel serves";
    case SUBQUAD_OPS_TAP_COUNT_OUT_OF_RANGE:
      return "the tap count is not within what the kernel serves";
    case SUBQUAD_OPS_SIZE_OUT_OF_RANGE:
      return "a size is not within what the kernel serves";
    case SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE:
      return "the state count is not within what the kernel serves";
    case SUBQUAD_OPS_UNKNOWN_NORM:
      return "the norm is none of those that the kernel serves";
    case SUBQUAD_OPS_UNALIGNED:
      return "an array, or a row of it, does not begin at a multiple of 16 bytes";
    case SUBQUAD_OPS_GROUPS_DO_NOT_DIVIDE_CHANNELS:
      return "the groups do not divide the channels";
    default:
      return status > 0 ? cudaGetErrorString(static_cast<cudaError_t>(status)) : "unknown status";
  }
}
