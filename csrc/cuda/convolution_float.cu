#include "torch_convolution.h"

namespace faceattr::gpu {
FACEATTR_CONVOLUTION(, float)
}  // namespace faceattr::gpu
