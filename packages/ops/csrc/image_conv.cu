// Two-dimensional FFT convolution: the C interface and the choice of the kernel.
#include "packages/ops/csrc/image_conv.cuh"

namespace subquad {
namespace {

// The smaller the group, the more blocks fit beside each other; the larger, the fewer barriers.
template <class Body>
int32_t with_setting(int size, Body&& body) {
  switch (size) {
    case 16:
      return body(ImageSetting<8, 2, 128, 54, 6>{});
    case 24:
      return body(ImageSetting<6, 4, 160, 104, 8>{});
    case 28:
      return body(ImageSetting<4, 7, 128, 30, 8>{});
    case 32:
      return body(ImageSetting<8, 4, 136, 34, 4>{});
    case 48:
      return body(ImageSetting<8, 6, 160, 25, 2>{});
    case 56:
      return body(ImageSetting<8, 7, 224, 29, 2>{});
    case 64:
      return body(ImageSetting<8, 8, 136, 17, 1>{});
    case 80:
      return body(ImageSetting<8, 10, 224, 21, 1>{});
    case 84:
      return body(ImageSetting<12, 7, 160, 22, 1>{});
    case 96:
      return body(ImageSetting<8, 12, 256, 25, 1>{});
    case 112:
      return body(ImageSetting<8, 14, 224, 19, 1>{});
    case 128:
      return body(ImageSetting<8, 16, 256, 17, 1>{});
    case 144:
      return body(ImageSetting<16, 9, 352, 37, 1>{});
    case 160:
      return body(ImageSetting<16, 10, 288, 27, 1>{});
    case 192:
      return body(ImageSetting<12, 16, 272, 17, 1>{});
    case 224:
      return body(ImageSetting<16, 14, 416, 29, 1>{});
    default:
      return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  }
}

// Starts a kernel whose shared memory holds the roots, `rows` rows and as many groups as asked for.
template <class S>
int32_t start(void (*kernel)(ImageCall), ImageCall call, int64_t blocks, int rows, int groups, void* stream) {
  using P = typename S::Plan;
  const int room = kMostSharedBytes / static_cast<int>(sizeof(float2)) - (1 + rows) * P::kRow;
  const int fitting = room / (groups * P::kRow);
  if (fitting < 1 || blocks >= int64_t{1} << 31) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  call.group = fitting < S::kGroup ? fitting : S::kGroup;
  const int held = (1 + rows + groups * call.group) * P::kRow;
  const int bytes = held * static_cast<int>(sizeof(float2));
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(blocks), S::kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(call);
  return cudaGetLastError();
}

}  // namespace
}  // namespace subquad

extern "C" int32_t subquad_ops_image_spectra(const SubquadOpsImages* given, void* stream) {
  using namespace subquad;
  if (const int32_t problem = check(*given)) return problem;
  return with_setting(given->size, [&](auto setting) {
    using S = decltype(setting);
    const int rows = S::Plan::pairs(given->height[1]);
    return start<S>(transform_images_kernel<S>, call_of(*given), given->batch * given->channel, rows, 1, stream);
  });
}

extern "C" int32_t subquad_ops_image_convolve(const SubquadOpsImages* given, void* stream) {
  using namespace subquad;
  if (const int32_t problem = check(*given)) return problem;
  if (given->spectrum == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  return with_setting(given->size, [&](auto setting) {
    using S = decltype(setting);
    ImageCall call = call_of(*given);
    const int64_t images = given->batch * given->channel;
    const bool by_channel = !given->per_sample && given->batch >= S::kImages;
    call.count = static_cast<int>(by_channel ? given->batch : images);
    const int64_t blocks = images / call.count * ((call.count + S::kImages - 1) / S::kImages);
    const int rows = S::kImages * S::Plan::pairs(given->height[1]);
    return start<S>(convolve_images_kernel<S>, call, blocks, rows, 1, stream);
  });
}

extern "C" int32_t subquad_ops_image_correlate(const SubquadOpsImages* given, void* stream) {
  using namespace subquad;
  if (const int32_t problem = check(*given)) return problem;
  if (given->other == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (given->parts < 1 || given->parts > given->batch) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  return with_setting(given->size, [&](auto setting) {
    using S = decltype(setting);
    ImageCall call = call_of(*given);
    call.count = given->parts;
    const int rows = S::kTogether * (S::Plan::pairs(given->height[1]) + S::Plan::pairs(given->other_height[1]));
    return start<S>(correlate_images_kernel<S>, call, given->parts * given->channel, rows, 2 * S::kTogether, stream);
  });
}

extern "C" int32_t subquad_ops_image_inverses(const SubquadOpsImages* given, void* stream) {
  using namespace subquad;
  if (given->spectrum == nullptr || given->output == nullptr) return SUBQUAD_OPS_NULL_POINTER;
  if (given->batch < 1 || given->channel < 1 || given->parts < 1) return SUBQUAD_OPS_SIZE_OUT_OF_RANGE;
  return with_setting(given->size, [&](auto setting) {
    using S = decltype(setting);
    ImageCall call = call_of(*given);
    call.count = given->parts;
    const int rows = S::Plan::pairs(S::Plan::kSize);
    return start<S>(invert_images_kernel<S>, call, given->batch * given->channel, rows, 1, stream);
  });
}
