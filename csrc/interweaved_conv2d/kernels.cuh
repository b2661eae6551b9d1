// Interweaved convolution on the GPU: csrc/cuda/convolution.cuh with a map of responses for each cell.
// Without pooling the responses go straight to their places in the output; with pooling they are kept, each
// computed once, until pooled.
#pragma once

#include "../cuda/convolution.cuh"
#include "geometry.h"

namespace faceattr::gpu {

// Per-cell maps [N, Gh, Gw, response_height, response_width, channels], channels `padded` for the matrix
// products.
struct Pooling {
  InterweavedGeometry g;
  int64_t padded;
};

template <typename Sum>
__device__ const Sum* response_map(const InterweavedGeometry& g, const Sum* responses, int64_t n, int64_t p,
                                   int64_t q, int64_t o) {
  const int64_t map = (n * g.grid_height + p) * g.grid_width + q;
  return responses + map * g.response_height * g.response_width * g.out_channels + o;
}

// Where in its map lies the first maximum (a NaN counts as one) of the window whose first response is (i, j)?
template <typename Sum>
__device__ int64_t first_maximum(const InterweavedGeometry& g, const Sum* map, int64_t i, int64_t j) {
  int64_t best_at = i * g.response_width + j;
  Sum best = map[best_at * g.out_channels];
  for (int64_t a = 0; a < g.pool_y; ++a)
    for (int64_t b = 0; b < g.pool_x; ++b) {
      const int64_t at = (i + a) * g.response_width + j + b;
      const Sum value = map[at * g.out_channels];
      if (isnan(best) || !(value > best || isnan(value))) continue;
      best = value;
      best_at = at;
    }
  return best_at;
}

// A thread an output, channels fastest.
template <typename T>
__global__ void __launch_bounds__(256, 6)
    pool_responses(const __grid_constant__ Pooling pooling, const accumulate_t<T>* responses, Map<T> output,
                   int64_t first_block) {
  const InterweavedGeometry& g = pooling.g;
  int64_t rest = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t o = take(rest, g.out_channels), q = take(rest, g.grid_width), j = take(rest, g.blocks_x);
  const int64_t p = take(rest, g.grid_height), i = take(rest, g.blocks_y), n = rest;
  await_turn();
  if (n >= g.batch) return;
  const auto* map = response_map(g, responses, n, p, q, o);
  const int64_t at = first_maximum(g, map, i, j);
  output.data[n * output.n + o * output.c + (i * g.grid_height + p) * output.y +
              (j * g.grid_width + q) * output.x] = narrow<T>(map[at * g.out_channels]);
}

// Gradient of each response: of the pooled ones whose maximum it is, in a fixed order. Zeros in the padding.
template <typename T>
__global__ void __launch_bounds__(256, 2)
    unpool_grads(const __grid_constant__ Pooling pooling, Map<const T> grad, const accumulate_t<T>* responses,
                 T* response_grads, int64_t first_block) {
  const InterweavedGeometry& g = pooling.g;
  const int64_t index = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t rest = index;
  const int64_t o = take(rest, pooling.padded), j = take(rest, g.response_width),
                i = take(rest, g.response_height);
  const int64_t q = take(rest, g.grid_width), p = take(rest, g.grid_height), n = rest;
  await_turn();
  if (n >= g.batch) return;
  accumulate_t<T> sum = 0;
  if (o < g.out_channels) {
    const bool pools = g.pool_y * g.pool_x > 1;
    const auto* map = pools ? response_map(g, responses, n, p, q, o) : nullptr;
    for (int64_t y = max(i - g.pool_y + 1, int64_t(0)); y <= min(i, g.blocks_y - 1); ++y)
      for (int64_t x = max(j - g.pool_x + 1, int64_t(0)); x <= min(j, g.blocks_x - 1); ++x)
        if (!pools || first_maximum(g, map, y, x) == i * g.response_width + j)
          sum += widen(grad.data[n * grad.n + o * grad.c + (y * g.grid_height + p) * grad.y +
                                 (x * g.grid_width + q) * grad.x]);
  }
  response_grads[index] = narrow<T>(sum);
}

inline Convolution convolution_of(const InterweavedGeometry& g) {
  const Convolution c{g.batch,
                      g.in_channels,
                      g.out_channels,
                      {g.in_height, g.response_height, g.grid_height, g.kernel_height, g.stride_y, 0,
                       g.dilation_y, g.shift_y, true},
                      {g.in_width, g.response_width, g.grid_width, g.kernel_width, g.stride_x, 0,
                       g.dilation_x, g.shift_x, true}};
  check_sizes(c);
  return c;
}

inline int64_t response_positions(const InterweavedGeometry& g) {
  return g.batch * g.grid_height * g.grid_width * g.response_height * g.response_width;
}

// Responses [N, Gh, Gw, response_height, response_width, O] as sums, not rounded.
template <typename T, typename Device>
const accumulate_t<T>* responses_of(Device& device, const InterweavedGeometry& g, const Map<const T>& input,
                                    const Filters<T>& filters, const T* bias, bool allow_tf32) {
  auto* responses = device.template workspace<accumulate_t<T>>(response_positions(g) * g.out_channels);
  const int64_t row = g.response_width * g.out_channels, map = g.response_height * row;
  const Result<T> result{reinterpret_cast<T*>(responses),
                         g.grid_height * g.grid_width * map,
                         1,
                         g.grid_width * map,
                         map,
                         row,
                         g.out_channels,
                         true};
  convolve<T>(device, convolution_of(g), input, filters, bias, result, allow_tf32);
  return responses;
}

template <typename T, typename Device>
void interweaved_forward(Device& device, const InterweavedGeometry& g, const Map<const T>& input,
                         const Filters<T>& filters, const T* bias, const Map<T>& output, bool allow_tf32) {
  if (g.pool_y * g.pool_x == 1) {
    const Result<T> result{output.data,
                           output.n,
                           output.c,
                           output.y,
                           output.x,
                           output.y * g.grid_height,
                           output.x * g.grid_width,
                           false};
    convolve<T>(device, convolution_of(g), input, filters, bias, result, allow_tf32);
    return;
  }
  const auto* responses = responses_of<T>(device, g, input, filters, bias, allow_tf32);
  const int64_t outputs = g.batch * g.grid_height * g.grid_width * g.blocks_y * g.blocks_x * g.out_channels;
  device.launch(pool_responses<T>, divide_up(outputs, 256), 256, 0, Pooling{g, g.out_channels}, responses,
                output);
}

// The gradients of the responses are rounded to T, as those of a convolution followed by a pooling are.
template <typename T, typename Device>
void interweaved_backward(Device& device, const InterweavedGeometry& g, const Map<const T>& grad,
                          const Map<const T>& input, const Filters<T>& filters, const T* bias,
                          const Map<T>& input_grad, T* weight_grad, T* bias_grad, bool allow_tf32) {
  const bool pools = g.pool_y * g.pool_x > 1;
  const auto* responses = pools ? responses_of<T>(device, g, input, filters, bias, allow_tf32) : nullptr;
  const int64_t padded = padded_channels<T>(g.out_channels), row = g.response_width * padded;
  const int64_t map = g.response_height * row, count = response_positions(g) * padded;
  require(row <= INT32_MAX, "faceattr on CUDA: a row of a map may have up to 2^31 - 1 elements");
  T* response_grads = device.template workspace<T>(count);
  device.launch(unpool_grads<T>, divide_up(count, 256), 256, 0, Pooling{g, padded}, grad, responses,
                response_grads);
  const PackedMap<T> packed{
      response_grads,          g.grid_height * g.grid_width * map, g.grid_width * map, map, row, padded,
      static_cast<int>(padded)};
  const Convolution c = convolution_of(g);
  Packer<T, Device> packer(device);
  const auto packed_filters = packer.filters(c, filters, allow_tf32);
  const auto packed_input = packer.map(input, g.batch, g.in_channels, g.in_height, g.in_width);
  packer.launch();
  convolve_input_grad<T>(device, c, packed, packed_filters, input_grad, allow_tf32);
  convolve_weight_grad<T>(device, c, packed, packed_input, weight_grad_of(c, weight_grad, false, bias_grad),
                          allow_tf32);
}

}  // namespace faceattr::gpu
