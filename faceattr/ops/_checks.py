"""What the operators ask of their arguments, as the fake kernels see them: the checks and words of csrc/*/checks.h.

Sizes may be symbolic. tests/ops/test_checks.py holds every check against the compiled one.
"""

import torch

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check(condition, *message):
    torch._check(condition, lambda: "".join(map(str, message)))


def shape_text(tensor):
    return str(list(tensor.shape))


def check_dim(tensor, dim, op, name, layout):
    if tensor.dim() != dim:  # a message of symbolic sizes cannot be compiled, and need not be
        raise RuntimeError(f"{op}: {name} has shape {shape_text(tensor)}, it must be {layout}")


def check_pair(pair, least, op, name):
    check(len(pair) == 2, op, ": ", name, " has ", len(pair), " values, it must have 2")
    most = 2**31 - 1
    for value in pair:
        fits = least <= value <= most if isinstance(value, int) else value >= least
        check(
            fits,
            *(op, ": ", name, f" is ({pair[0]}, {pair[1]}), both values must be at least {least} and at most {most}"),
        )


def check_like(tensor, input, op, name):
    dtypes, devices = tensor.dtype == input.dtype, tensor.device == input.device
    check(dtypes, op, ": ", name, " and input have different dtypes, convert one to the other's")
    check(devices, op, ": ", name, " and input are on different devices, move one to the other's")


def check_floating(tensor, op):
    check(tensor.dtype in FLOATING, op, ": input must be float64, float32, float16 or bfloat16")


def check_weight(weight, op):
    check_dim(weight, 6, op, "weight", "[Gh, Gw, O, C, kh, kw]")


def check_channels(weight, input, op):
    check(
        weight.shape[3] == input.shape[1],
        *(op, ": weight has ", weight.shape[3], " input channels, input has ", input.shape[1]),
    )


def check_bias(bias, weight, op):
    if bias is None:
        return
    needed = weight.shape[:3]
    fits = bias.dim() == 3 and all(a == b for a, b in zip(bias.shape, needed, strict=True))
    check(fits, op, ": bias has shape ", shape_text(bias), f", with this weight it must be {list(needed)}")
    check_like(bias, weight, op, "bias")


def check_grad(grad, needed, op, of="output"):
    fits = all(a == b for a, b in zip(grad.shape, needed, strict=True))
    check(fits, op, ": grad has shape ", shape_text(grad), f", the {of}'s is {list(needed)}")
