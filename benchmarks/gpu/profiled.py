"""One call of each product on the large shapes, for ncu."""

import torch

from faceattr import ops

NONE = [1, 1], [0, 0], [1, 1]


def once(batch, inputs, outputs, size, grid, dtype, tf32=False, grads=False):
    torch.backends.cudnn.allow_tf32 = tf32
    input = torch.randn(batch, inputs, size, size, device="cuda", dtype=dtype)
    input = input.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(grid, grid, outputs, inputs, 3, 3, device="cuda", dtype=dtype) / 24
    weight = ops.channels_last_filters(weight)
    output = ops.locally_shared_conv2d(input, weight)
    if grads:
        torch.ops.faceattr.locally_shared_conv2d_backward(output, input, weight, *NONE)
    torch.cuda.synchronize()


once(256, 64, 64, 66, 8, torch.bfloat16, grads=True)  # 256x64 both ways, 64x128
once(256, 128, 128, 34, 8, torch.bfloat16, grads=True)  # 128x128 three times
once(64, 64, 64, 66, 8, torch.float32)  # FFMA
once(64, 64, 64, 66, 8, torch.float32, tf32=True, grads=True)
once(1, 40, 60, 12, 5, torch.bfloat16)  # direct
