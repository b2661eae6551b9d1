#include "torch_convolution.h"

namespace faceattr::gpu {
FACEATTR_CONVOLUTION(, double)
}  // namespace faceattr::gpu
