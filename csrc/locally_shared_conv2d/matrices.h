// Locally shared convolution of bfloat16 on the CPU as products of matrices, for machines that have units for
// these.
#pragma once

#include "../common/strided.h"
#include "../cpu/amx.h"
#include "geometry.h"

namespace faceattr {

// Whether it is faster than vectors; false where the machine has no such units.
bool is_matrices_faster(const LocallySharedGeometry& g);

// As in cpu.cpp.
void matrices_forward(const LocallySharedGeometry& g, Strided4<const BFloat16> input, const BFloat16* weight,
                      const BFloat16* bias, Strided4<BFloat16> output);
// As in gradients.h.
void matrices_input_grad(const LocallySharedGeometry& g, Strided4<const BFloat16> grad,
                         const BFloat16* weight, Strided4<BFloat16> input_grad);
void matrices_weight_grad(const LocallySharedGeometry& g, Strided4<const BFloat16> grad,
                          Strided4<const BFloat16> input, BFloat16* weight_grad, BFloat16* bias_grad);

}  // namespace faceattr
