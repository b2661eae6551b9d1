// Gradients of a locally shared convolution; the interweaved one is made of them.
#pragma once

#include "../common/strided.h"
#include "geometry.h"

namespace faceattr {

// weight: contiguous [Gh, Gw, O, C, kh, kw]; every element of input_grad is written.
template <typename T>
void locally_shared_input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                               Strided4<T> input_grad);

// weight_grad, bias_grad: contiguous [Gh, Gw, O, C, kh, kw] and [Gh, Gw, O], all written.
template <typename T>
void locally_shared_weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                                T* weight_grad, T* bias_grad);

}  // namespace faceattr
