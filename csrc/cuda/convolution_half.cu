#include "torch_convolution.h"

namespace faceattr::gpu {
FACEATTR_CONVOLUTION(, Half)
}  // namespace faceattr::gpu
