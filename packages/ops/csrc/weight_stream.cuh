// The weights of a decode step as a stream: one vector against the rows of matrices, each weight read once.
//
// A warp takes whole rows. Its weights come through a ring of slots of its own in shared memory, filled by bulk copies, so
// that nobody waits for anybody. The kernel lets the next one start at once; that one, with a ring of its own beside this
// one, has its first weights on the way while this one still runs (programmatic dependent launch), and the memory is never
// idle between the two. Needs compute capability 9.0.
#ifndef SUBQUAD_OPS_WEIGHT_STREAM_CUH_
#define SUBQUAD_OPS_WEIGHT_STREAM_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <type_traits>

#include "packages/ops/csrc/barriers.cuh"
#include "packages/ops/csrc/numeric.cuh"
#include "packages/ops/csrc/order_of_kernels.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/warp.cuh"

namespace subquad::weight_stream {

using namespace barriers;
using warp::kAll;
using warp::kLanes;

constexpr int kWarps = 16;
constexpr int kThreads = kLanes * kWarps;
constexpr int kSlotBytes = 2048;
constexpr int kPieces = kSlotBytes / (16 * kLanes);  // a piece is 16 bytes a lane
constexpr int kMostSlots = 6;
constexpr int kFewestSlots = 2;
constexpr int kMostNormed = 8192;              // inputs of a product behind a norm
constexpr int kHeldOctets = (kMostNormed / 8 + kThreads - 1) / kThreads;  // octets of a normalised vector that a thread takes at most

enum Norm { kNoNorm = 0, kNormVortex = 1, kNormStandard = 2 };

// The vector, what it is multiplied by, and what it meets. Rows of a unit lie one behind the other, or in two matrices.
struct Product {
  const __nv_bfloat16* vector;  // [inputs]
  const void* norm_scale;       // [inputs] in norm_dtype, or null
  const uint8_t* first;
  const uint8_t* second;      // the matrix of every second row of a unit; null where there is one matrix
  const float* first_scale;   // what each row of `first` was multiplied by when it was rounded; null for no rounding
  const float* second_scale;  // the same of `second`
  int64_t row_bytes;
  int32_t units;
  int32_t inputs;
  int32_t segments;  // slots that a row fills
  int32_t slots;     // of a warp's ring
  int32_t norm;
  int32_t norm_dtype;
  float eps;
};

// --------------------------------------------------------------------------------- elements

struct Bfloat16 {
  static constexpr int kBytes = 2;
  static constexpr int kPack = 8;  // in 16 bytes
  __device__ static void unpack(float (&weights)[kPack], const uint4& pack) {
    const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[2 * i] = __uint_as_float(words[i] << 16);
      weights[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};

struct E4m3 {
  static constexpr int kBytes = 1;
  static constexpr int kPack = 16;
  __device__ static void unpack(float (&weights)[kPack], const uint4& pack) {
    const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (16 * (i % 2)));
      const float2 both = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
      weights[2 * i] = both.x;
      weights[2 * i + 1] = both.y;
    }
  }
};

// The vector in shared memory: float32 where it was multiplied by the scale of a norm, else as it was. It lies in planes of
// 16 bytes a lane, in the order in which lanes meet it.
template <typename Weights, bool kNormed>
struct Vector {
  using Element = std::conditional_t<kNormed, float, __nv_bfloat16>;
  static constexpr int kPlane = 16 / sizeof(Element);            // elements of a lane in a plane
  static constexpr int kPlanes = Weights::kPack / kPlane;        // planes that meet 16 bytes of weights
  static constexpr int kChunk = kLanes * Weights::kPack;         // weights of a piece

  // Where the plane entry with element `index` begins.
  __device__ static int place(int index) {
    const int within = index % kChunk;
    const int plane = index / kChunk * kPlanes + within % Weights::kPack / kPlane;
    return (plane * kLanes + within / Weights::kPack) * kPlane;
  }

  // The elements that meet this lane's weights of a piece.
  __device__ static void load(float (&x)[Weights::kPack], const Element* vector, int piece, int lane) {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const uint4 entry = reinterpret_cast<const uint4*>(vector)[(piece * kPlanes + p) * kLanes + lane];
      const uint32_t words[4] = {entry.x, entry.y, entry.z, entry.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kNormed) {
          x[4 * p + i] = __uint_as_float(words[i]);
        } else {
          x[8 * p + 2 * i] = __uint_as_float(words[i] << 16);
          x[8 * p + 2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
      }
    }
  }

  __host__ __device__ static int bytes(int inputs) {
    return (inputs + kChunk - 1) / kChunk * kChunk * static_cast<int>(sizeof(Element));
  }
};

// --------------------------------------------------------------------------------- copies

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// Orders what this thread wrote to shared memory before the bulk copies that it starts.
__device__ __forceinline__ void order_before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Copies `bytes`, a multiple of 16, and lets `barrier` complete its phase when they are there.
__device__ __forceinline__ void copy_in_bulk(void* shared, const void* global, int bytes, uint64_t* barrier,
                                             uint64_t policy) {
  expect(barrier, bytes);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// --------------------------------------------------------------------------------- the stream

// One of a warp's segments: a part of a row that fills a slot.
template <int kRows>
struct Cursor {
  int unit, row, segment;

  __device__ void advance(const Product& product, int stride) {
    if (++segment < product.segments) return;
    segment = 0;
    if (++row < kRows) return;
    row = 0;
    unit += stride;
  }
};

// Where a row of a unit begins: rows of one matrix follow each other, two matrices take turns.
template <int kRows>
__device__ __forceinline__ const uint8_t* row_start(const Product& product, int unit, int row) {
  if (kRows == 2) return (row == 0 ? product.first : product.second) + unit * product.row_bytes;
  return product.first + (static_cast<int64_t>(unit) * kRows + row) * product.row_bytes;
}

// Multiplies `kRows` rows of every unit by the vector and hands the sums, the same in every lane, to `Finish`. Its
// `load(unit, lane)` starts to load what `finish(unit, lane, loaded, sums)` needs, one unit ahead, and waits for nothing. Any
// of it may come from the kernel in front, so the first is loaded when that has ended; `fetch(unit, lane)` has brought it to
// the cache by then.
template <typename Weights, bool kNormed, int kRows, typename Finish>
__device__ __forceinline__ void run(const Product& product, Finish& finish) {
  using Held = Vector<Weights, kNormed>;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  uint8_t* ring = shared + warp * product.slots * kSlotBytes;
  uint8_t* past_ring = shared + kWarps * product.slots * kSlotBytes;
  auto* vector = reinterpret_cast<typename Held::Element*>(past_ring);
  auto* barriers = reinterpret_cast<uint64_t*>(past_ring + Held::bytes(product.inputs)) + warp * product.slots;
  __shared__ float squares[kWarps];

  const uint64_t policy = read_once();
  const int stride = gridDim.x * kWarps;
  Cursor<kRows> ahead{static_cast<int>(blockIdx.x + gridDim.x * warp), 0, 0};
  auto fetch = [&](int slot) {  // by one lane
    const int64_t begin = static_cast<int64_t>(ahead.segment) * kSlotBytes;
    const int bytes = static_cast<int>(min(static_cast<int64_t>(kSlotBytes), product.row_bytes - begin));
    copy_in_bulk(ring + slot * kSlotBytes, row_start<kRows>(product, ahead.unit, ahead.row) + begin, bytes,
                 barriers + slot, policy);
  };
  if (lane == 0) {
    for (int slot = 0; slot < product.slots; ++slot) initialise(barriers + slot, 1);
    publish_barriers();
    order_before_copies();
  }
  __syncwarp();
  for (int slot = 0; slot < product.slots && ahead.unit < product.units; ++slot) {
    if (lane == 0) fetch(slot);
    ahead.advance(product, stride);
  }
  start_next_kernel();

  const int octets = product.inputs / 8;
  float scales[kNormed ? kHeldOctets : 1][8];
  if constexpr (kNormed) {
#pragma unroll
    for (int i = 0; i < kHeldOctets; ++i) {
      const int octet = threadIdx.x + i * kThreads;
      if (octet < octets) {
#pragma unroll
        for (int k = 0; k < 8; ++k) scales[i][k] = load_parameter(product.norm_scale, octet * 8 + k, product.norm_dtype);
      }
    }
  }
  // What stands behind the product of one channel: in turns in two places, so that nothing waits to be moved.
  struct Behind {
    typename Finish::Loaded loaded;
    float scales[kRows];
  };
  auto load_behind = [&](Behind& behind, int unit) {
    if (unit >= product.units) return;
    behind.loaded = finish.load(unit, lane);
    if (product.first_scale == nullptr) return;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const bool second = kRows == 2 && row == 1;
      behind.scales[row] = (second ? product.second_scale : product.first_scale)[kRows == 3 ? 3 * unit + row : unit];
    }
  };
  const int first_unit = static_cast<int>(blockIdx.x + gridDim.x * warp);
  Behind behind{}, behind_next{};
  if (first_unit < product.units) finish.fetch(first_unit, lane);
  await_previous_kernel();
  load_behind(behind, first_unit);

  float factor = 1.0f;
  if constexpr (kNormed) {
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kHeldOctets; ++i) {
      const int octet = threadIdx.x + i * kThreads;
      if (octet < octets) {
        const uint4 entry = reinterpret_cast<const uint4*>(product.vector)[octet];
        float plain[8];
        Bfloat16::unpack(plain, entry);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          square = fmaf(plain[k], plain[k], square);
          plain[k] *= scales[i][k];
        }
        *reinterpret_cast<float4*>(vector + Held::place(octet * 8)) = make_float4(plain[0], plain[1], plain[2], plain[3]);
        *reinterpret_cast<float4*>(vector + Held::place(octet * 8 + 4)) =
            make_float4(plain[4], plain[5], plain[6], plain[7]);
      }
    }
    square = warp::sum(square);
    if (lane == 0) squares[warp] = square;
  } else {
    for (int octet = threadIdx.x; octet < octets; octet += kThreads) {
      *reinterpret_cast<uint4*>(vector + Held::place(octet * 8)) = reinterpret_cast<const uint4*>(product.vector)[octet];
    }
  }
  __syncthreads();
  if constexpr (kNormed) {
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += squares[w];
    const float mean = total / product.inputs;
    factor = product.norm == kNormVortex ? 1.0f / (sqrtf(mean) + product.eps) : rsqrtf(mean + product.eps);
  }

  constexpr int kSlotWeights = kSlotBytes / Weights::kBytes;
  int slot = 0;
  uint32_t phase = 0;
  auto take = [&](int unit, const Behind& own) {
    float sums[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float partial[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int segment = 0; segment < product.segments; ++segment) {
        await(barriers + slot, phase);
        const auto* packs = reinterpret_cast<const uint4*>(ring + slot * kSlotBytes);
        const int left = product.inputs - segment * kSlotWeights;
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          if (piece * Held::kChunk + lane * Weights::kPack < left) {
            float weights[Weights::kPack], x[Weights::kPack];
            Weights::unpack(weights, packs[piece * kLanes + lane]);
            Held::load(x, vector, segment * kPieces + piece, lane);
#pragma unroll
            for (int i = 0; i < Weights::kPack; ++i) partial[i % 4] = fmaf(weights[i], x[i], partial[i % 4]);
          }
        }
        __syncwarp();
        if (ahead.unit < product.units) {
          if (lane == 0) fetch(slot);
          ahead.advance(product, stride);
        }
        if (++slot == product.slots) {
          slot = 0;
          phase ^= 1u;
        }
      }
      sums[row] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      sums[row] = warp::sum(sums[row]) * factor;
      if (product.first_scale != nullptr) sums[row] /= own.scales[row];
    }
    finish.finish(unit, lane, own.loaded, sums);
  };
  for (int unit = first_unit; unit < product.units; unit += 2 * stride) {
    load_behind(behind_next, unit + stride);
    take(unit, behind);
    if (unit + stride >= product.units) break;
    load_behind(behind, unit + 2 * stride);
    take(unit + stride, behind_next);
  }
}

#endif  // compute capability 9.0

// --------------------------------------------------------------------------------- host

inline int32_t check(const SubquadOpsProduct& given, bool two_matrices) {
  if (given.weight_dtype != SUBQUAD_OPS_BFLOAT16 && given.weight_dtype != SUBQUAD_OPS_E4M3) return SUBQUAD_OPS_UNKNOWN_DTYPE;
  const bool normed = given.norm != kNoNorm;
  const int64_t pack = given.weight_dtype == SUBQUAD_OPS_E4M3 ? E4m3::kPack : Bfloat16::kPack;
  const int64_t most = normed ? kMostNormed : 24576;
  if (given.outputs < 1 || given.outputs > (int64_t{1} << 30) || given.inputs < pack || given.inputs > most ||
      given.inputs % pack != 0) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  const bool rounded = given.weight_dtype == SUBQUAD_OPS_E4M3;
  const bool missing = given.vector == nullptr || given.weight == nullptr || (normed && given.norm_scale == nullptr) ||
                       (two_matrices && given.second == nullptr) || (rounded && given.weight_scale == nullptr) ||
                       (rounded && two_matrices && given.second_scale == nullptr);
  return missing ? SUBQUAD_OPS_NULL_POINTER : SUBQUAD_OPS_OK;
}

inline Product product_of(const SubquadOpsProduct& given, int rows_a_unit) {
  Product product{};
  product.vector = static_cast<const __nv_bfloat16*>(given.vector);
  product.norm_scale = given.norm_scale;
  product.first = static_cast<const uint8_t*>(given.weight);
  product.second = static_cast<const uint8_t*>(given.second);
  product.first_scale = given.weight_dtype == SUBQUAD_OPS_E4M3 ? given.weight_scale : nullptr;
  product.second_scale = given.second_scale;
  product.row_bytes = given.inputs * (given.weight_dtype == SUBQUAD_OPS_E4M3 ? E4m3::kBytes : Bfloat16::kBytes);
  product.units = static_cast<int32_t>(given.outputs / rows_a_unit);
  product.inputs = static_cast<int32_t>(given.inputs);
  product.segments = static_cast<int32_t>((product.row_bytes + kSlotBytes - 1) / kSlotBytes);
  product.norm = given.norm;
  product.norm_dtype = given.norm_dtype;
  product.eps = given.eps;
  return product;
}

// Launches a kernel that may start before the one before it ends (see allow_early_start), one block a multiprocessor.
template <typename Weights, bool kNormed, typename Arguments>
int32_t launch(void (*kernel)(Product, Arguments), Product product, const Arguments& arguments, cudaStream_t stream) {
  const int vector = Vector<Weights, kNormed>::bytes(product.inputs);
  constexpr int kBarrier = sizeof(uint64_t);
  constexpr int kRoom = kNormed ? kBytesBehindNorm : kBytesPlain;
  const int slots = (kRoom - vector) / (kWarps * (kSlotBytes + kBarrier));
  product.slots = slots > kMostSlots ? kMostSlots : slots < kFewestSlots ? kFewestSlots : slots;
  int bytes = product.slots * kWarps * (kSlotBytes + kBarrier) + vector;
  if (kNormed && bytes < kRoom) bytes = kRoom;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  cudaLaunchAttribute early{};
  error = allow_early_start(&early, stream);
  if (error != cudaSuccess) return static_cast<int32_t>(error);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors < product.units ? multiprocessors : product.units));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  return static_cast<int32_t>(cudaLaunchKernelEx(&config, kernel, product, arguments));
}

}  // namespace subquad::weight_stream

#endif  // SUBQUAD_OPS_WEIGHT_STREAM_CUH_
