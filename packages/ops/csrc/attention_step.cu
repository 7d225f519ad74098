// One decode step of rotary attention: every row's new token is stored and attends to the keys and values of its row, which
// lie in pages.
//
// The blocks of a cluster share one head of one row. A warp takes tiles of tokens, the next tile's keys and values in its
// registers while it works on one, and keeps a maximum, a sum of weights and a weighted sum of its own; these meet in the
// cluster's shared memory. What steps long ago have stored is on its way before the kernel that writes the new token ends.
#include <math_constants.h>

#include "packages/ops/csrc/order_of_kernels.cuh"
#include "packages/ops/csrc/subquad_ops_cuda.h"
#include "packages/ops/csrc/numeric.cuh"

namespace subquad::attention_step {

constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kPack = 8;   // numbers in 16 bytes
constexpr int kMostBlocks = 8;  // of a cluster
constexpr int kMostGrids = 128;  // that a GPU works on at a time: as many of the last steps may not have ended
constexpr int kTokensOfPage = 32;  // a page holds a multiple of these, so that no tile lies in two pages

struct Arguments {
  const __nv_bfloat16* qkv;
  __nv_bfloat16* keys;
  __nv_bfloat16* values;
  const void* pages;
  const void* position;
  const float* inv_freq;
  const uint8_t* active;
  __nv_bfloat16* output;
  int32_t heads, pages_a_row, page_size, page_bytes, position_bytes, blocks;
  float position_scale, softmax_scale;
};

__device__ __forceinline__ int64_t integer(const void* base, int64_t index, int32_t bytes) {
  return bytes == 8 ? static_cast<const int64_t*>(base)[index] : static_cast<const int32_t*>(base)[index];
}

__device__ __forceinline__ void unpack(float (&numbers)[kPack], const uint4& pack) {
  const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    numbers[2 * i] = __uint_as_float(words[i] << 16);
    numbers[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ uint4 packed(const float (&numbers)[kPack]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(numbers[2 * i], numbers[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&both);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ uint4 load(const __nv_bfloat16* place) { return *reinterpret_cast<const uint4*>(place); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

constexpr int kLoads = 8;  // tokens of a tile that one lane takes
constexpr unsigned kAll = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What lies at `own` in the shared memory of another block of the cluster.
__device__ __forceinline__ float of_block(const float* own, int block) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(own));
  float value;
  asm volatile("{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %1, %2;\nld.shared::cluster.f32 %0, [there];\n}\n"
               : "=f"(value)
               : "r"(address), "r"(block)
               : "memory");
  return value;
}

// A softmax over some of the tokens: numbers of the value that this lane has, not yet divided by the sum of the weights.
template <int kNumbers>
struct Partial {
  float top = -CUDART_INF_F;  // of the scores, which are logarithms to base 2
  float norm = 0.0f;
  float total[kNumbers] = {};

  // Where nothing was seen the top is no number to subtract.
  __device__ static float base(float top) { return top == -CUDART_INF_F ? 0.0f : top; }

  __device__ void raise(float higher) {
    const float fade = exp2f(top - base(higher));
    norm *= fade;
#pragma unroll
    for (int d = 0; d < kNumbers; ++d) total[d] *= fade;
    top = higher;
  }

  __device__ void join_lane(int distance) {
    raise(fmaxf(top, __shfl_xor_sync(kAll, top, distance)));
    norm += __shfl_xor_sync(kAll, norm, distance);
#pragma unroll
    for (int d = 0; d < kNumbers; ++d) total[d] += __shfl_xor_sync(kAll, total[d], distance);
  }
};

template <int kSize>
struct Turns {
  float cosines[kSize / 2], sines[kSize / 2];
};

// A lane's part in one head of one row; one load of a warp takes `kGroups` tokens.
template <int kSize>
struct Row {
  static constexpr int kLanesToken = kSize / kPack;
  static constexpr int kGroups = kLanes / kLanesToken;
  static constexpr int kTile = kGroups * kLoads;
  static_assert(kTokensOfPage % kTile == 0);

  const Arguments& a;
  int head, batch, lane, group, first;  // `first` of the numbers that this lane has of every head
  int32_t time, held;  // the new token's place in its row; how many tokens in front of it the pages hold
  bool write;

  __device__ Row(const Arguments& arguments)
      : a(arguments),
        head(blockIdx.x / arguments.blocks),
        batch(blockIdx.y),
        lane(threadIdx.x % kLanes),
        group(lane / kLanesToken),
        first(lane % kLanesToken * kPack) {
    time = static_cast<int32_t>(integer(a.position, batch, a.position_bytes));
    write = a.active == nullptr || a.active[batch] != 0;
    if (!write) time = 0;
    const int32_t room = a.pages_a_row * a.page_size;
    write = write && time < room;
    held = time < room ? time : room;
  }

  // Where this lane's numbers of a token lie in keys and values.
  __device__ int64_t place(int32_t token) const {
    const int32_t turn = token / a.page_size;
    const int64_t page = integer(a.pages, static_cast<int64_t>(batch) * a.pages_a_row + turn, a.page_bytes);
    return ((page * a.page_size + (token - turn * a.page_size)) * a.heads + head) * kSize + first;
  }

  __device__ void load_tile(uint4 (&packs)[kLoads], const __nv_bfloat16* pool, int32_t begin, int64_t place_of_begin) const {
    const int32_t step = a.heads * kSize;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = i * kGroups + group;
      packs[i] = begin + token < held ? load(pool + place_of_begin + token * step) : make_uint4(0, 0, 0, 0);
    }
  }

  // Cosines and sines of the new token's pairs, by the first threads of a block.
  __device__ void fill(Turns<kSize>& turns) const {
    if (threadIdx.x >= kSize / 2) return;
    const float angle = static_cast<float>(time) / a.position_scale * a.inv_freq[threadIdx.x];
    sincosf(angle, turns.sines + threadIdx.x, turns.cosines + threadIdx.x);
  }

  // This lane's numbers of query or key, rotated and rounded.
  __device__ void rotated(float (&x)[kPack], const Turns<kSize>& turns, int which) const {
    const __nv_bfloat16* source = a.qkv + ((static_cast<int64_t>(batch) * a.heads + head) * 3 + which) * kSize;
    constexpr int kHalf = kSize / 2;
    const bool low = first < kHalf;
    float partner[kPack];
    unpack(x, load(source + first));
    unpack(partner, load(source + (low ? first + kHalf : first - kHalf)));
#pragma unroll
    for (int d = 0; d < kPack; ++d) {
      const int pair = first % kHalf + d;
      const float turned = x[d] * turns.cosines[pair] + (low ? -partner[d] : partner[d]) * turns.sines[pair];
      x[d] = to_float(from_float<__nv_bfloat16>(turned));
    }
  }

  // Adds up over the lanes that share a token.
  __device__ static float sum_of_token(float value) {
#pragma unroll
    for (int distance = kLanesToken / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAll, value, distance);
    return value;
  }

  // Stores the new token and takes it as the first that is attended to, once a head.
  __device__ void take_new(Partial<kPack>& partial, const float (&q)[kPack], const Turns<kSize>& turns) const {
    float key[kPack];
    rotated(key, turns, 1);
    const uint4 value = load(a.qkv + ((static_cast<int64_t>(batch) * a.heads + head) * 3 + 2) * kSize + first);
    float score = 0.0f;
#pragma unroll
    for (int d = 0; d < kPack; ++d) score = fmaf(q[d], key[d], score);
    score = sum_of_token(score);
    if (group != 0) return;
    if (write) {
      const int64_t here = place(time);
      __stwb(reinterpret_cast<uint4*>(a.keys + here), packed(key));
      __stwb(reinterpret_cast<uint4*>(a.values + here), value);
    }
    partial.top = score;
    partial.norm = 1.0f;
    unpack(partial.total, value);
  }

  __device__ void take_tile(Partial<kPack>& partial, const float (&q)[kPack], const uint4 (&packs)[kLoads], int32_t begin,
                            float (&shares)[kLoads]) const {
    float top = partial.top;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      float key[kPack];
      unpack(key, packs[i]);
      float score = 0.0f;
#pragma unroll
      for (int d = 0; d < kPack; ++d) score = fmaf(q[d], key[d], score);
      score = sum_of_token(score);
      shares[i] = begin + i * kGroups + group < held ? score : -CUDART_INF_F;
      top = fmaxf(top, shares[i]);
    }
    partial.raise(top);
    const float base = Partial<kPack>::base(top);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      shares[i] = exp2f(shares[i] - base);
      partial.norm += shares[i];
    }
  }

  __device__ static void add_values(Partial<kPack>& partial, const uint4 (&packs)[kLoads], const float (&shares)[kLoads]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      float value[kPack];
      unpack(value, packs[i]);
#pragma unroll
      for (int d = 0; d < kPack; ++d) partial.total[d] = fmaf(shares[i], value[d], partial.total[d]);
    }
  }
};

// Joins the warps of a block, then the blocks of a cluster, and writes the head.
template <int kSize>
__device__ __forceinline__ void finish(const Row<kSize>& row, Partial<kPack>& partial, int block) {
  __shared__ float tops[kWarps], norms[kWarps], totals[kWarps][kSize];
  __shared__ float joined[kSize + 2];  // the block's total, top and norm
  const Arguments& a = row.a;
  const int warp = threadIdx.x / kLanes;
#pragma unroll
  for (int distance = Row<kSize>::kLanesToken; distance < kLanes; distance *= 2) partial.join_lane(distance);
  if (row.group == 0) {
#pragma unroll
    for (int d = 0; d < kPack; ++d) totals[warp][row.first + d] = partial.total[d];
  }
  if (row.lane == 0) {
    tops[warp] = partial.top;
    norms[warp] = partial.norm;
  }
  __syncthreads();
  if (threadIdx.x < kSize) {
    float top = tops[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) top = fmaxf(top, tops[w]);
    const float base = Partial<1>::base(top);
    float total = 0.0f, norm = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share = exp2f(tops[w] - base);
      total = fmaf(share, totals[w][threadIdx.x], total);
      norm = fmaf(share, norms[w], norm);
    }
    joined[threadIdx.x] = total;
    if (threadIdx.x == 0) {
      joined[kSize] = top;
      joined[kSize + 1] = norm;
    }
  }
  if (a.blocks > 1) {
    meet_cluster();
  } else {
    __syncthreads();
  }
  const int own = kSize / a.blocks;
  if (threadIdx.x < own) {
    const int number = block * own + threadIdx.x;
    float top = -CUDART_INF_F, total = 0.0f, norm = 0.0f;
    for (int b = 0; b < a.blocks; ++b) top = fmaxf(top, of_block(joined + kSize, b));
    for (int b = 0; b < a.blocks; ++b) {
      const float share = exp2f(of_block(joined + kSize, b) - top);
      total = fmaf(share, of_block(joined + number, b), total);
      norm = fmaf(share, of_block(joined + kSize + 1, b), norm);
    }
    a.output[(static_cast<int64_t>(row.batch) * a.heads + row.head) * kSize + number] =
        from_float<__nv_bfloat16>(total / norm);
  }
  if (a.blocks > 1) meet_cluster();  // until nobody reads this block's shared memory any more
}

#endif  // compute capability 9.0

template <int kSize>
__global__ void __launch_bounds__(kLanes* kWarps, 2) kernel(const Arguments arguments) {
#if __CUDA_ARCH__ >= 900
  const Row<kSize> row(arguments);
  const int block = blockIdx.x % arguments.blocks;
  const int stride = arguments.blocks * kWarps * Row<kSize>::kTile;
  int32_t begin = (block * kWarps + static_cast<int>(threadIdx.x) / kLanes) * Row<kSize>::kTile;
  const bool takes_new = begin == 0;
  const int64_t nothing = 0;
  __shared__ Turns<kSize> turns;
  row.fill(turns);
  __syncthreads();
  uint4 keys[kLoads], values[kLoads];
  int64_t place = begin < row.held ? row.place(begin) : nothing;
  const bool settled = begin + Row<kSize>::kTile + kMostGrids <= row.held;
  if (settled) {
    row.load_tile(keys, arguments.keys, begin, place);
    row.load_tile(values, arguments.values, begin, place);
  }
  start_next_kernel();
  await_previous_kernel();
  if (!settled) {
    row.load_tile(keys, arguments.keys, begin, place);
    row.load_tile(values, arguments.values, begin, place);
  }
  float q[kPack];
  row.rotated(q, turns, 0);
#pragma unroll
  for (int d = 0; d < kPack; ++d) q[d] *= arguments.softmax_scale * kLog2E;
  Partial<kPack> partial;
  if (takes_new) row.take_new(partial, q, turns);
  while (begin < row.held) {
    const int32_t next = begin + stride;
    const int64_t next_place = next < row.held ? row.place(next) : nothing;
    float shares[kLoads];
    row.take_tile(partial, q, keys, begin, shares);
    row.load_tile(keys, arguments.keys, next, next_place);
    Row<kSize>::add_values(partial, values, shares);
    row.load_tile(values, arguments.values, next, next_place);
    begin = next;
  }
  finish(row, partial, block);
#endif
}

int32_t launch(void (*chosen)(Arguments), const Arguments& arguments, int64_t batch, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2]{};
  const cudaError_t early = allow_early_start(&attributes[0], stream);
  if (early != cudaSuccess) return static_cast<int32_t>(early);
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(arguments.blocks);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(arguments.heads * arguments.blocks), static_cast<unsigned>(batch));
  config.blockDim = dim3(kLanes * kWarps);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return static_cast<int32_t>(cudaLaunchKernelEx(&config, chosen, arguments));
}

// How many blocks share a head: as few as leave hardly a multiprocessor without work.
int32_t blocks_of(int64_t heads_of_rows, int32_t* blocks) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  *blocks = 1;
  while (*blocks < kMostBlocks && 4 * *blocks * heads_of_rows < 3 * multiprocessors) *blocks *= 2;
  return static_cast<int32_t>(error);
}

}  // namespace subquad::attention_step

extern "C" int32_t subquad_ops_attention_step(const SubquadOpsAttention* given, void* output, void* stream) {
  namespace own = subquad::attention_step;
  if (given == nullptr || output == nullptr || given->qkv == nullptr || given->keys == nullptr ||
      given->values == nullptr || given->pages == nullptr || given->position == nullptr || given->inv_freq == nullptr) {
    return SUBQUAD_OPS_NULL_POINTER;
  }
  if (given->size != 64 && given->size != 128) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  if (given->page_size < 1 || given->page_size % own::kTokensOfPage != 0 || given->pages_a_row < 1 || given->batch < 1 ||
      given->pages_a_row > (int64_t{1} << 30) / given->page_size || given->batch > 65535 || given->heads < 1 || given->heads > 65535) {
    return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
  own::Arguments arguments{};
  const int32_t status = own::blocks_of(given->batch * given->heads, &arguments.blocks);
  if (status != SUBQUAD_OPS_OK) return status;
  arguments.qkv = static_cast<const __nv_bfloat16*>(given->qkv);
  arguments.keys = static_cast<__nv_bfloat16*>(given->keys);
  arguments.values = static_cast<__nv_bfloat16*>(given->values);
  arguments.pages = given->pages;
  arguments.position = given->position;
  arguments.inv_freq = given->inv_freq;
  arguments.active = given->active;
  arguments.output = static_cast<__nv_bfloat16*>(output);
  arguments.heads = static_cast<int32_t>(given->heads);
  arguments.pages_a_row = static_cast<int32_t>(given->pages_a_row);
  arguments.page_size = given->page_size;
  arguments.page_bytes = given->page_bytes;
  arguments.position_bytes = given->position_bytes;
  arguments.position_scale = given->position_scale;
  arguments.softmax_scale = 1.0f / sqrtf(static_cast<float>(given->size));
  auto* chosen = given->size == 64 ? own::kernel<64> : own::kernel<128>;
  return own::launch(chosen, arguments, given->batch, static_cast<cudaStream_t>(stream));
}
