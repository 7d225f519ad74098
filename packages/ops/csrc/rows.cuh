// Rows in registers: what the kernels that normalise, multiply and round rows share.
//
// A row lies in the registers of one warp, or of one block of as many warps as it needs, so that it is read once. Threads
// take pieces of 16 bytes in turn; where an array does not begin at a multiple of 16 bytes, or its rows do not, they take
// single numbers.
#ifndef SUBQUAD_OPS_ROWS_CUH_
#define SUBQUAD_OPS_ROWS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"

namespace subquad::rows {

constexpr int kLanes = 32;
constexpr int kMostWarps = 32;      // of a block
constexpr int kRowsOfOneWarp = 4;   // so many share a block where a warp holds a row
constexpr int kMostChannels = 24576;
constexpr float kMostE4m3 = 448.0f;
constexpr unsigned kAll = 0xffffffffu;

enum Norm { kNoNorm = 0, kNormVortex = 1, kNormStandard = 2 };

// --------------------------------------------------------------------------------- numbers side by side

template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T) < 16 ? kWidth * sizeof(T) : 16) Piece {
  T values[kWidth];
};

template <int kWidth, typename T>
__device__ __forceinline__ Piece<T, kWidth> read(const T* from) {
  return *reinterpret_cast<const Piece<T, kWidth>*>(from);
}

template <int kWidth, typename T>
__device__ __forceinline__ void load(const T* from, float (&values)[kWidth]) {
  const Piece<T, kWidth> piece = read<kWidth>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = to_float(piece.values[i]);
}

// The same for an array whose type is known only at run time; all threads take the same branch.
template <int kWidth>
__device__ __forceinline__ void load(const void* base, int64_t index, int32_t dtype, float (&values)[kWidth]) {
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return load<kWidth>(static_cast<const __half*>(base) + index, values);
    case SUBQUAD_OPS_BFLOAT16:
      return load<kWidth>(static_cast<const __nv_bfloat16*>(base) + index, values);
    default:
      return load<kWidth>(static_cast<const float*>(base) + index, values);
  }
}

// Stores a piece by words of 16 bytes, or by one where it is smaller; the compiler would take its numbers one by one.
template <typename T, int kWidth>
__device__ __forceinline__ void write(T* to, const Piece<T, kWidth>& piece) {
  constexpr int kBytes = kWidth * sizeof(T);
  if constexpr (kBytes % 16 == 0) {
#pragma unroll
    for (int word = 0; word < kBytes / 16; ++word) {
      __stwb(reinterpret_cast<uint4*>(to) + word, reinterpret_cast<const uint4*>(piece.values)[word]);
    }
  } else if constexpr (kBytes == 8) {
    __stwb(reinterpret_cast<uint2*>(to), *reinterpret_cast<const uint2*>(piece.values));
  } else {
    *reinterpret_cast<Piece<T, kWidth>*>(to) = piece;
  }
}

template <typename T, int kWidth>
__device__ __forceinline__ void store(T* to, const float (&values)[kWidth]) {
  Piece<T, kWidth> piece;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) piece.values[i] = from_float<T>(values[i]);
  write(to, piece);
}

template <int kWidth>
__device__ __forceinline__ void store(void* base, int64_t index, int32_t dtype, const float (&values)[kWidth]) {
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return store(static_cast<__half*>(base) + index, values);
    case SUBQUAD_OPS_BFLOAT16:
      return store(static_cast<__nv_bfloat16*>(base) + index, values);
    default:
      return store(static_cast<float*>(base) + index, values);
  }
}

// --------------------------------------------------------------------------------- one byte a number

// To nearest even; what is too large becomes 448, NaN stays NaN.
__device__ __forceinline__ uint8_t to_e4m3(float value) { return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3); }

template <int kWidth>
__device__ __forceinline__ void store_e4m3(uint8_t* to, const float (&values)[kWidth]) {
  if constexpr (kWidth == 1) {
    *to = to_e4m3(values[0]);
  } else {
    Piece<uint16_t, kWidth / 2> piece;
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      piece.values[i] = __nv_cvt_float2_to_fp8x2(make_float2(values[2 * i], values[2 * i + 1]), __NV_SATFINITE, __NV_E4M3);
    }
    *reinterpret_cast<Piece<uint16_t, kWidth / 2>*>(to) = piece;
  }
}

// What makes the largest number of a row 448; 1 for a row of zeros.
__device__ __forceinline__ float scale_of(float largest) {
  return largest > 0.0f ? __fdiv_rn(kMostE4m3, largest) : 1.0f;
}

__device__ __forceinline__ float gelu(float gate) { return 0.5f * gate * (1.0f + erff(gate * 0.70710678118654752f)); }

// --------------------------------------------------------------------------------- what the threads of a row do as one

struct Sum {
  __device__ static float of(float a, float b) { return a + b; }
};

struct Largest {
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Combine>
__device__ __forceinline__ float over_warp(float value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = Combine::of(value, __shfl_xor_sync(kAll, value, distance));
  }
  return value;
}

// How a row is spread over threads: in turn they take pieces of kWidth numbers, kValues each. The sizes are constants, so
// that the places of a thread's pieces are one address and constant distances.
template <int kThreads_, int kValues_, int kWidth_>
struct Spread {
  static constexpr int kThreads = kThreads_, kWidth = kWidth_;
  static constexpr int kPieces = kValues_ / kWidth_;
  static constexpr int kRows = kThreads_ == kLanes ? kRowsOfOneWarp : 1;  // of a block
  static constexpr int kBlockThreads = kThreads * kRows;
  // Of a multiprocessor, so that one reads while another adds up.
  static constexpr int kBlocks = kWidth == 1 || kValues_ > 24 ? 1 : (kValues_ > 16 ? 1024 : 1280) / kBlockThreads;

  __device__ static int channel(int piece) { return (piece * kThreads + static_cast<int>(threadIdx.x)) * kWidth; }
  __device__ static int64_t row() { return static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y; }

  // Combines what the threads of a row have, none of it below 0; each of them gets the result. `room` belongs to this one
  // use.
  template <typename Combine>
  __device__ __forceinline__ static float over_row(float value, float (&room)[kMostWarps]) {
    value = over_warp<Combine>(value);
    if constexpr (kThreads == kLanes) return value;
    const int lane = threadIdx.x % kLanes;
    if (lane == 0) room[threadIdx.x / kLanes] = value;
    __syncthreads();
    return over_warp<Combine>(lane < kThreads / kLanes ? room[lane] : 0.0f);
  }
};

// The numbers of a row that one thread holds; zeros past the end of the row.
template <typename Spread>
using Share = float[Spread::kPieces][Spread::kWidth];

// Calls body(piece, numbers of an array) for each of the thread's pieces. Only the reading itself is behind a condition, so
// that all pieces are on the way at once.
template <typename Spread, typename T, typename Body>
__device__ __forceinline__ void over_pieces(const T* array, int channels, Body body) {
#pragma unroll
  for (int piece = 0; piece < Spread::kPieces; ++piece) {
    Piece<T, Spread::kWidth> numbers = {};
    if (Spread::channel(piece) < channels) numbers = read<Spread::kWidth>(array + Spread::channel(piece));
    body(piece, numbers.values);
  }
}

// The same for an array whose type is known only at run time; all threads take the same branch.
template <typename Spread, typename Body>
__device__ __forceinline__ void over_pieces(const void* base, int64_t index, int32_t dtype, int channels, Body body) {
  switch (dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return over_pieces<Spread>(static_cast<const __half*>(base) + index, channels, body);
    case SUBQUAD_OPS_BFLOAT16:
      return over_pieces<Spread>(static_cast<const __nv_bfloat16*>(base) + index, channels, body);
    default:
      return over_pieces<Spread>(static_cast<const float*>(base) + index, channels, body);
  }
}

template <typename Spread>
__device__ __forceinline__ float square_sum(const Share<Spread>& share) {
  float sum = 0.0f;
#pragma unroll
  for (const auto& piece : share) {
#pragma unroll
    for (const float value : piece) sum = fmaf(value, value, sum);
  }
  return sum;
}

template <typename Spread>
__device__ __forceinline__ float largest(const Share<Spread>& share) {
  float most = 0.0f;
#pragma unroll
  for (const auto& piece : share) {
#pragma unroll
    for (const float value : piece) most = fmaxf(most, fabsf(value));
  }
  return most;
}

// Rounds a row and stores it.
template <typename Spread, typename T>
__device__ __forceinline__ void write_row(T* to, int channels, const Share<Spread>& share) {
#pragma unroll
  for (int piece = 0; piece < Spread::kPieces; ++piece) {
    if (Spread::channel(piece) < channels) store(to + Spread::channel(piece), share[piece]);
  }
}

// --------------------------------------------------------------------------------- a row on its way in

struct Arguments {
  SubquadOpsRows given;
  int32_t rows, channels;
};

// Reads x, plus `other` where there is one; the sum is stored, rounded.
template <typename T, typename Spread>
__device__ __forceinline__ void read_sum(const Arguments& a, int64_t row, Share<Spread>& share) {
  constexpr int kWidth = Spread::kWidth;
  const SubquadOpsRows& given = a.given;
  over_pieces<Spread>(static_cast<const T*>(given.x) + row * given.x_stride, a.channels, [&](int piece, const auto& x) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) share[piece][i] = to_float(x[i]);
  });
  if (given.other == nullptr) return;
  const int64_t from = row * given.other_stride;
  over_pieces<Spread>(given.other, from, given.other_dtype, a.channels, [&](int piece, const auto& other) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) share[piece][i] += to_float(other[i]);
  });
  write_row<Spread>(static_cast<T*>(given.total) + row * a.channels, a.channels, share);
}

// Reads activation(x) * other.
template <typename T, typename Spread>
__device__ __forceinline__ void read_product(const Arguments& a, int64_t row, Share<Spread>& share) {
  constexpr int kWidth = Spread::kWidth;
  const SubquadOpsRows& given = a.given;
  over_pieces<Spread>(static_cast<const T*>(given.x) + row * given.x_stride, a.channels, [&](int piece, const auto& x) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) share[piece][i] = to_float(x[i]);
  });
  const T* others = static_cast<const T*>(given.other) + row * given.other_stride;
  over_pieces<Spread>(others, a.channels, [&](int piece, const auto& other) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float gate = share[piece][i];
      share[piece][i] = (given.activation == SUBQUAD_OPS_GELU ? gelu(gate) : gate) * to_float(other[i]);
    }
  });
}

// Divides a row by its root mean square and multiplies it by the scale.
template <typename Spread>
__device__ __forceinline__ void normalise(const Arguments& a, float (&room)[kMostWarps], Share<Spread>& share) {
  const SubquadOpsRows& given = a.given;
  const float sum = Spread::template over_row<Sum>(square_sum<Spread>(share), room);
  const float mean_square = sum / static_cast<float>(a.channels);
  const float root = given.norm == kNormVortex ? sqrtf(mean_square) + given.eps : sqrtf(mean_square + given.eps);
  const float inverse = 1.0f / root;
  over_pieces<Spread>(given.scale, 0, given.scale_dtype, a.channels, [&](int piece, const auto& scale) {
#pragma unroll
    for (int i = 0; i < Spread::kWidth; ++i) share[piece][i] = share[piece][i] * inverse * to_float(scale[i]);
  });
}

// --------------------------------------------------------------------------------- launching

inline bool is_known(int32_t dtype) { return dtype >= SUBQUAD_OPS_FLOAT32 && dtype <= SUBQUAD_OPS_BFLOAT16; }

inline int bytes_of(int32_t dtype) { return dtype == SUBQUAD_OPS_FLOAT32 ? 4 : 2; }

inline bool is_aligned(const void* array) { return reinterpret_cast<uintptr_t>(array) % 16 == 0; }

// Says whether 16 bytes of x, and as many numbers of every other array, can be moved at once.
inline bool moves_pieces(const SubquadOpsRows& given) {
  const int64_t pack = 16 / bytes_of(given.dtype);
  if ((given.channels | given.x_stride | (given.other == nullptr ? 0 : given.other_stride)) % pack != 0) return false;
  return is_aligned(given.x) && is_aligned(given.other) && is_aligned(given.scale) && is_aligned(given.total) &&
         is_aligned(given.output);
}

inline int32_t check(const SubquadOpsRows& given) {
  const bool normed = given.norm != kNoNorm;
  if (!is_known(given.dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.other != nullptr && !is_known(given.other_dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (normed && !is_known(given.scale_dtype)) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  if (given.activation != SUBQUAD_OPS_IDENTITY && given.activation != SUBQUAD_OPS_GELU) {
    return SUBQUAD_OPS_UNKNOWN_ACTIVATION;
  }
  if (given.rows < 0 || given.rows > INT32_MAX || given.channels < 1) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.rows == 0) return SUBQUAD_OPS_OK;
  if (given.x == nullptr || given.output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  return normed && given.scale == nullptr ? SUBQUAD_OPS_NULL_POINTER : SUBQUAD_OPS_OK;
}

template <template <typename, typename> class Kernel, typename T, typename Spread>
int32_t start(const Arguments& a, cudaStream_t stream) {
  const dim3 block(Spread::kThreads, Spread::kRows);
  const unsigned blocks = (static_cast<unsigned>(a.rows) + Spread::kRows - 1) / Spread::kRows;
  Kernel<T, Spread>::run<<<blocks, block, 0, stream>>>(a);
  return static_cast<int32_t>(cudaGetLastError());
}

// Launches the form of Kernel, a template of element type and Spread, that a call needs: no more threads than hold the row,
// so that several blocks share a multiprocessor and one of them reads while another adds up.
template <template <typename, typename> class Kernel, typename T>
int32_t start_for(const Arguments& a, cudaStream_t stream) {
  constexpr int kPack = Pack<T>::kSize;
  if (!moves_pieces(a.given)) {
    if (a.channels <= 512) return start<Kernel, T, Spread<32, 16, 1>>(a, stream);
    if (a.channels <= 8192) return start<Kernel, T, Spread<512, 16, 1>>(a, stream);
    return SUBQUAD_OPS_UNALIGNED;
  }
  if (a.channels <= 512) return start<Kernel, T, Spread<32, 16, kPack>>(a, stream);
  if (a.channels <= 2048) return start<Kernel, T, Spread<128, 16, kPack>>(a, stream);
  if (a.channels <= 4096) return start<Kernel, T, Spread<256, 16, kPack>>(a, stream);
  if (a.channels <= 8192) return start<Kernel, T, Spread<512, 16, kPack>>(a, stream);
  if (a.channels <= 12288) return start<Kernel, T, Spread<512, 24, kPack>>(a, stream);
  return start<Kernel, T, Spread<512, 48, kPack>>(a, stream);
}

template <template <typename, typename> class Kernel>
int32_t run(const SubquadOpsRows& given, void* stream) {
  const int32_t status = check(given);
  if (status != SUBQUAD_OPS_OK) return status;
  if (given.channels > kMostChannels) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given.rows == 0) return SUBQUAD_OPS_OK;
  const Arguments a{given, static_cast<int32_t>(given.rows), static_cast<int32_t>(given.channels)};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (given.dtype) {
    case SUBQUAD_OPS_FLOAT16:
      return start_for<Kernel, __half>(a, cuda_stream);
    case SUBQUAD_OPS_BFLOAT16:
      return start_for<Kernel, __nv_bfloat16>(a, cuda_stream);
    default:
      return start_for<Kernel, float>(a, cuda_stream);
  }
}

}  // namespace subquad::rows

#endif  // SUBQUAD_OPS_ROWS_CUH_
