// Locally shared convolution on the CPU with vectors that run along rows: for layers of too few output
// channels to fill a vector.
#pragma once

#include "../common/strided.h"
#include "geometry.h"

namespace faceattr {

template <typename T>
bool is_along_rows_faster(const LocallySharedGeometry& g);

// As in cpu.cpp.
template <typename T>
void along_rows_forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight,
                        const T* bias, Strided4<T> output);

}  // namespace faceattr
