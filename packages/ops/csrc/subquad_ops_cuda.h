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
#define SUBQUAD_OPS_ABI_VERSION 8

enum SubquadOpsDtype {
  SUBQUAD_OPS_FLOAT32 = 0,
  SUBQUAD_OPS_FLOAT16 = 1,
  SUBQUAD_OPS_BFLOAT16 = 2,
  SUBQUAD_OPS_E4M3 = 3,  // weights of decode steps only: 1 sign bit, 4 of exponent, 3 of fraction
};

enum SubquadOpsActivation {
  SUBQUAD_OPS_IDENTITY = 0,
  SUBQUAD_OPS_SILU = 1,
  SUBQUAD_OPS_GELU = 2,  // exact; not of subquad_ops_causal_fir
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
  SUBQUAD_OPS_STATE_COUNT_OUT_OF_RANGE = -7,
  SUBQUAD_OPS_UNKNOWN_NORM = -8,
  SUBQUAD_OPS_UNALIGNED = -9,
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

// One call of the gated and of the longer convolutions. Unit stride along time; `batch_stride` and `row_stride` of the
// input in elements; every other array is contiguous. Where projection_taps is null, the input has `channel` rows x and
//
//   output[b, c, t] = activation(mix(x)[b, c, t] + skip[c] * x[b, c, t] + bias[c])
//
// else it has 3 * channel rows, and with p[b, r, t] = sum(projection_taps[r, k] * input[b, r, t - k] for k), 1 to 3 taps,
// and g[b, c, t] = p[b, 3 c + 1, t] * p[b, 3 c + 2, t] (without `pregate`: the second factor alone)
//
//   output[b, c, t] = p[b, 3 c, t] * (mix(g)[b, c, t] + skip[c] * g[b, c, t])   (without `postgate`: the second factor)
typedef struct SubquadOpsStream {
  const void* input;
  const void* projection_taps;     // [3 * channel, projection_tap] in projection_dtype
  const void* projection_history;  // [batch, 3 * channel, projection_tap - 1] in dtype, oldest first; null means zeros
  const void* skip;                // [channel] in skip_dtype, or null
  const void* bias;                // [channel] in skip_dtype, or null
  void* output;                    // [batch, channel, length] in dtype
  int64_t batch, channel, length, batch_stride, row_stride;
  int32_t dtype, projection_dtype, skip_dtype, projection_tap, pregate, postgate, activation;
  int32_t tiles_a_warp;  // how many tiles of 256 samples one warp takes; 0: as many as suit the size
} SubquadOpsStream;

// mix(g)[b, c, t] = sum(taps[c / (channel / group), k] * g[b, c, t - k] for k in 0 .. tap - 1), 2 <= tap <= 129.
// `history` [batch, channel, tap - 1] holds g before time 0 in dtype, null means zeros. `tail` [batch, channel, tail_size]
// gets the last tail_size samples of g in dtype; 0 <= tail_size <= length. Streams of float32 and bfloat16.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_toeplitz(const SubquadOpsStream* stream_of, const void* taps, const void* history,
                                                void* tail, int64_t group, int64_t tail_size, int32_t tap,
                                                int32_t taps_dtype, void* stream);

// What the gradients of both have in common. Sums over parts of the work are to be added up by the caller.
typedef struct SubquadOpsGradients {
  const void* upstream;         // [batch, channel, length] in dtype, the gradient of the output
  void* to_input;               // [batch, rows, length] in dtype
  void* to_projection_history;  // [batch, 3 * channel, projection_tap - 1] in dtype, or null
  float* to_projection;         // [parts, 3 * channel, projection_tap]
  float* to_skip;               // [parts, channel], or null
  float* to_bias;               // [parts, channel], or null
} SubquadOpsGradients;

// Gradients of subquad_ops_toeplitz without activation. `upstream_tail` [batch, channel, tail_size] in dtype is the
// gradient of the tail, or null; `to_history` [batch, channel, tap - 1] gets dtype, and may be null. to_taps holds
// [parts, channel, tap], parts = batch * stretches, stretches = ceil(ceil(length / 256) / tiles_a_warp); tiles_a_warp
// must be given. Streams of float32 and bfloat16.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_toeplitz_backward(const SubquadOpsStream* stream_of,
                                                         const SubquadOpsGradients* gradients, const void* taps,
                                                         const void* history, const void* upstream_tail, float* to_taps,
                                                         void* to_history, int64_t group, int64_t tail_size, int32_t tap,
                                                         int32_t taps_dtype, void* stream);

// s[t] = exp(log_poles) * s[t - 1] + g[t]; mix(g)[b, c, t] = sum(residues[c] * s[t]); 1 <= states <= 16.
// log_poles and residues [channel, states], `history` (s before time 0, null means zeros) and `state` (s after the last
// sample) [batch, channel, states] are float32. `entries` [batch, channel, ceil(length / 256), 16] gets s before each
// 256th sample, for subquad_ops_modal_backward; null where that is not wanted. There is no activation. With tiles_a_warp other than 0 and less
// than the tiles, `parts` [batch, channel, ceil(tiles / tiles_a_warp) - 1, 16] is room to work in. Streams of float32 and
// bfloat16.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_modal(const SubquadOpsStream* stream_of, const float* log_poles,
                                             const float* residues, const float* history, float* state, float* entries,
                                             float* parts, int32_t states, void* stream);

// Gradients of subquad_ops_modal with the entries that it left; parts = batch. `upstream_state` [batch, channel, states]
// is the gradient of the state, or null; `to_history` [batch, channel, states] may be null. to_log_poles and to_residues
// are [batch, channel, states]; all of these are float32. Streams of float32 and bfloat16.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_modal_backward(const SubquadOpsStream* stream_of,
                                                      const SubquadOpsGradients* gradients, const float* log_poles,
                                                      const float* residues, const float* entries,
                                                      const float* upstream_state, float* to_log_poles,
                                                      float* to_residues, float* to_history, int32_t states,
                                                      void* stream);

// One call of the two-dimensional FFT convolutions. An axis is {samples, extent, shift, period}: sample s stands at
// s + shift of a transform of `size` places and, where that lies from 0 to extent - 1, at s + shift +- period.
// Images are contiguous; spectra are [image, column 0 .. size / 2, row frequency 0 .. size - 1] pairs of float32.
typedef struct SubquadOpsImages {
  const void* input;     // [batch, channel, height, width] in dtype
  const void* other;     // of subquad_ops_image_correlate: [batch, channel, other height, other width] in dtype, placed so;
                         // else these axes say where the samples of an output of images are taken
  const void* spectrum;  // of subquad_ops_image_convolve: of channel filters, or with per_sample of batch * channel
  const void* skip;      // of subquad_ops_image_convolve: [channel] in skip_dtype, or null
  void* output;
  int64_t batch, channel;
  int32_t height[4], width[4], other_height[4], other_width[4];
  int32_t size;  // 16, 24, 28, 32, 48, 56, 64, 80, 84, 96, 112, 128, 144, 160, 192 or 224; of the large ones 256, 288, 320,
                 // 336, 384, 400, 448 or 512
  int32_t dtype, skip_dtype, per_sample, conjugate;
  int32_t parts;           // of subquad_ops_image_correlate
  int32_t scratch_images;  // of the large ones: so many are transformed at a time
  float* scratch;          // of the large ones: [scratch_images, height extent, size / 2 + 1] pairs of float32
} SubquadOpsImages;

// output[b, c] = spectrum of input[b, c]. Like the next two it returns SUBQUAD_OPS_SIZE_OUT_OF_RANGE where the rows that
// hold samples do not fit into a block's shared memory.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_image_spectra(const SubquadOpsImages* images, void* stream);

// output[b, c] [other height, other width] in dtype = samples of the inverse transform of
// spectrum[c] * (spectrum of input[b, c]), with `conjugate` of conj(spectrum[c]), plus skip[c] * input[b, c].
SUBQUAD_OPS_EXPORT int32_t subquad_ops_image_convolve(const SubquadOpsImages* images, void* stream);

// output[p, c] = sum(conj(spectrum of input[b, c]) * (spectrum of other[b, c]) for the samples b of part p of the batch),
// with per_sample for b = p alone.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_image_correlate(const SubquadOpsImages* images, void* stream);

// output[b, c] [other height, other width] in float32 = samples of the inverse transform of the sum over `parts` of spectrum
// [parts, batch, channel].
SUBQUAD_OPS_EXPORT int32_t subquad_ops_image_inverses(const SubquadOpsImages* images, void* stream);

// The same as subquad_ops_image_spectra and _convolve for transforms that no block holds.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_large_image_spectra(const SubquadOpsImages* images, void* stream);
SUBQUAD_OPS_EXPORT int32_t subquad_ops_large_image_convolve(const SubquadOpsImages* images, void* stream);

// The product of a decode step: `outputs` rows of weights [outputs, inputs] with one vector,
//
//   product[o] = sum(weight[o, i] * norm_scale[i] * vector[i] for i) * factor / weight_scale[o]
//
// where factor is 1 for norm 0, 1 / (sqrt(mean(vector^2)) + eps) for norm 1 and 1 / sqrt(mean(vector^2) + eps) for norm 2.
// weight_dtype is bfloat16, or e4m3 with the factors that its rows were multiplied by. Rows begin at multiples of 16 bytes.
// Up to 24,576 inputs, with a norm up to 8,192. These kernels need compute capability 9.0; each may start before the one in
// front of it on the stream has ended, and reads its weights then.
typedef struct SubquadOpsProduct {
  const void* vector;         // [inputs] bfloat16
  const void* norm_scale;     // [inputs] in norm_dtype, or null without norm
  const void* weight;         // in weight_dtype
  const void* second;         // of subquad_ops_gated_linear_step: a second matrix like it
  const float* weight_scale;  // [outputs], or null for bfloat16
  const float* second_scale;
  int64_t outputs, inputs;
  int32_t weight_dtype, norm, norm_dtype;
  float eps;
} SubquadOpsProduct;

// output[o] = product[o] + bias[o] + residual[o]; residual is bfloat16, output bfloat16 or float32; bias and residual may be
// null.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_linear_step(const SubquadOpsProduct* product, const void* bias,
                                                   const void* residual, void* output, int32_t bias_dtype,
                                                   int32_t output_dtype, void* stream);

// output[o] = activation(product[o]) * (product of `second`)[o] in bfloat16; identity or gelu.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_gated_linear_step(const SubquadOpsProduct* product, void* output,
                                                         int32_t activation, void* stream);

// The same for `rows` vectors, 1 to 64: vector [rows, inputs]; residual and output [rows, outputs]. Codes of weights of one
// byte are numbers; vectors and weights begin at multiples of 16 bytes. Up to 24,576 inputs for 8 rows, 19,456 for 32, 8,192
// for 64.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_linear_rows(const SubquadOpsProduct* product, int64_t rows, const void* bias,
                                                   const void* residual, void* output, int32_t bias_dtype,
                                                   int32_t output_dtype, void* stream);
SUBQUAD_OPS_EXPORT int32_t subquad_ops_gated_linear_rows(const SubquadOpsProduct* product, int64_t rows, void* output,
                                                         int32_t activation, void* stream);

// The filters behind the product of a Hyena mixer's decode step; rings hold bfloat16, sample t in slot t % past.
typedef struct SubquadOpsStepFilters {
  const void* projection_taps;  // [outputs, projection_past + 1] in projection_dtype, tap 0 for the current sample
  void* projection_ring;        // [outputs, projection_past], changed; projection_past is 1 to 7
  const void* first;            // taps [group, size + 1], or with `second` the logarithms of poles [channel, size]
  const void* second;           // null, or residues [channel, size]; both in mixer_dtype
  void* memory;                 // ring [channel, size] of up to 128 slots, or float32 modes [channel, size], up to 32; changed
  const void* skip;             // [channel] in skip_dtype, or null
  const void* position;         // one integer of position_bytes, 4 or 8: tokens seen
  const uint8_t* active;        // one flag, or null: where it is 0, nothing is changed
  int64_t group;
  int32_t projection_past, size, projection_dtype, mixer_dtype, skip_dtype, position_bytes;
} SubquadOpsStepFilters;

// With channel = outputs / 3, p = product rounded to bfloat16 and filtered by projection_taps, g[c] = p[3 c + 1] p[3 c + 2]:
// output[c] = p[3 c] * (filtered g[c] + skip[c] * g[c]); p, g and the sum are rounded to bfloat16.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_gated_step(const SubquadOpsProduct* product, const SubquadOpsStepFilters* filters,
                                                  void* output, void* stream);

// One decode step of rotary attention for `batch` rows. Token s of row b lies in slot pages[b, s / page_size] * page_size +
// s % page_size of keys and values [slot, heads, size], which hold rotated keys; everything is bfloat16, sums are float32.
// The new token of qkv [batch, heads, 3, size], at position[b], is rotated (pair j, j + size / 2 by position /
// position_scale * inv_freq[j]) and stored, unless its row has no room or is not active. size is 64 or 128, page_size a
// multiple of 32. Needs compute capability 9.0, and may start before the kernel in front of it on the stream has ended.
typedef struct SubquadOpsAttention {
  const void* qkv;
  void* keys;
  void* values;
  const void* pages;      // [batch, pages_a_row] integers of page_bytes, 4 or 8
  const void* position;   // [batch] integers of position_bytes, 4 or 8
  const float* inv_freq;  // [size / 2]
  const uint8_t* active;  // [batch] flags, or null
  int64_t batch, heads, pages_a_row;
  int32_t size, page_size, page_bytes, position_bytes;
  float position_scale;
} SubquadOpsAttention;

// output[b, h] = sum(softmax(q . keys / sqrt(size)) * values) over the tokens up to position[b], [batch, heads, size].
SUBQUAD_OPS_EXPORT int32_t subquad_ops_attention_step(const SubquadOpsAttention* attention, void* output, void* stream);

// Rows with unit stride along the channels; strides from row to row in elements, outputs contiguous. Computed in float32
// and rounded once. With v = x, x + other where there is a `total`, else activation(x) * other. Rows of more than 8,192
// channels have to begin at multiples of 16 bytes, and so have all arrays with them (not of subquad_ops_gated_product).
typedef struct SubquadOpsRows {
  const void* x;      // [rows, channels] in dtype
  const void* other;  // like x, in other_dtype; may be null
  const void* scale;  // of a norm: [channels] in scale_dtype
  void* total;        // [rows, channels] in dtype, gets x + other; null for a product
  void* output;       // [rows, channels]
  float* inverse;     // [rows], of subquad_ops_rounded_rows
  int64_t rows, channels, x_stride, other_stride;
  int32_t dtype, other_dtype, scale_dtype;
  int32_t norm;        // as in SubquadOpsProduct
  int32_t activation;  // identity or gelu
  float eps;
} SubquadOpsRows;

// output = scale * v * factor in dtype, with the factor of norm 1 or 2; up to 24,576 channels.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_row_norm(const SubquadOpsRows* rows, void* stream);

// output = activation(x) * other in dtype, which is that of both; any number of channels.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_gated_product(const SubquadOpsRows* rows, void* stream);

// Rows against two matrices: x [rows, inputs] with x_stride between rows, gate and value [outputs, inputs], all bfloat16 and
// 16-byte aligned, sizes and stride multiples of 8. Needs compute capability 9.0.
typedef struct SubquadOpsGatedLinear {
  const void* x;
  const void* gate;
  const void* value;
  int64_t rows, inputs, outputs, x_stride;
  int32_t activation;  // identity or gelu
} SubquadOpsGatedLinear;

// output [rows, outputs] = activation(x gate^T) * (x value^T), summed in float32 and rounded once.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_gated_linear(const SubquadOpsGatedLinear* given, void* output, void* stream);

// output = e4m3(w * s), inverse = 1 / s, with w = v, or v behind a norm, and s = 448 / max(|w|) of a row, 1 for a row of
// zeros; numbers beyond 448 become 448. Up to 24,576 channels.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_rounded_rows(const SubquadOpsRows* rows, void* stream);

// The same of x [batch, channels, length] in dtype with unit stride along the length, each of its tokens a row of
// codes [batch, length, channels] and of inverse [batch, length].
SUBQUAD_OPS_EXPORT int32_t subquad_ops_rounded_columns(const void* x, void* codes, float* inverse, int64_t batch,
                                                       int64_t channels, int64_t length, int64_t batch_stride,
                                                       int64_t channel_stride, int32_t dtype, void* stream);

// One call of rotary position embedding: heads of 2 * half channels with unit stride, strides in elements.
typedef struct SubquadOpsRotary {
  const void* x;         // [batch, length, heads, 2 * half] in dtype; with `keys` x_part from query to key and to value
  const void* position;  // integers of position_bytes, 4 or 8
  const float* inv_freq;  // [half]
  void* y;                // [batch, length, heads, 2 * half] in dtype, contiguous
  void* keys;             // of a key-value cache, in key_dtype, or null
  void* values;           // in value_dtype
  int64_t batch, length, heads, half;
  int64_t x_batch, x_time, x_head, x_part, position_batch, position_time;
  int64_t key_batch, key_time, key_head, value_batch, value_time, value_head;
  int32_t dtype, key_dtype, value_dtype, position_bytes;
  float scale;
} SubquadOpsRotary;

// With a[j] = position / scale * inv_freq[j], y[j] = x[j] * cos(a[j]) - x[j + half] * sin(a[j]) and
// y[j + half] = x[j] * sin(a[j]) + x[j + half] * cos(a[j]); keys get the keys turned so, values the values as they are.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_rotary(const SubquadOpsRotary* rotary, void* stream);

// One decode step of causal filters. x and output [batch, channels] and ring [batch, channels, past], contiguous, in dtype;
// taps [groups, past + 1] in dtype or float32, tap 0 for the current sample; 1 to 128 samples of past.
typedef struct SubquadOpsFirStep {
  const void* x;
  const void* taps;
  void* ring;             // the sample of time t lies in slot t % past
  const void* position;   // [batch] integers of position_bytes, 4 or 8
  const void* bias;       // [channels] in bias_dtype, or null
  const void* skip;       // [channels] in skip_dtype, or null
  const uint8_t* active;  // [batch] flags, or null; a row without one keeps its ring
  void* output;
  int64_t batch, channels, groups;
  int32_t past, dtype, taps_dtype, bias_dtype, skip_dtype, position_bytes;
} SubquadOpsFirStep;

// output = sum(taps[g, k] * stream[position - k]) + skip * x + bias, with x the stream at position; x is stored in the ring.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_fir_step(const SubquadOpsFirStep* given, void* stream);

// One turn of histories [batch, channels, past], oldest sample first, into rings, or back; strides in elements.
typedef struct SubquadOpsTurn {
  const void* source;    // in source_dtype
  void* target;          // in target_dtype
  const void* position;  // [batch] integers of position_bytes, 4 or 8
  int64_t batch, channels, past, length;
  int64_t source_batch, source_channel, source_slot, target_batch, target_channel, target_slot;
  int32_t source_dtype, target_dtype, position_bytes, into_ring;
} SubquadOpsTurn;

// Copies sample i of a history into slot (position + length + i) % past of its ring, or without into_ring out of it.
SUBQUAD_OPS_EXPORT int32_t subquad_ops_turn_ring(const SubquadOpsTurn* turn, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // SUBQUAD_OPS_CUDA_H_
