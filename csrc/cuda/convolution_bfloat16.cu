#include "torch_convolution.h"

namespace faceattr::gpu {
FACEATTR_CONVOLUTION(, BFloat16)
}  // namespace faceattr::gpu
