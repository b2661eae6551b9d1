// Locally shared convolution on the CPU with vectors that run over the batch: for layers of many filters,
// each for few positions ("locally connected" ones), and large batches.
#pragma once

#include "../common/strided.h"
#include "geometry.h"

namespace faceattr {

// Whether it is faster than vectors that run over the channels; of float and double alone.
template <typename T>
bool is_batch_inner_faster(const LocallySharedGeometry& g);

// As in cpu.cpp and gradients.h.
template <typename T>
void batch_inner_forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight,
                         const T* bias, Strided4<T> output);
template <typename T>
void batch_inner_input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                            Strided4<T> input_grad);
template <typename T>
void batch_inner_weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                             T* weight_grad, T* bias_grad);

}  // namespace faceattr
