"""Loads the compiled operators, and the registrations that every one of them shares: autocast and vmap."""

from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent.parent


def _load(name):
    files = sorted(_PACKAGE.glob(f"{name}.*so")) + sorted(_PACKAGE.glob(f"{name}.*pyd"))
    if files:
        torch.ops.load_library(str(files[0]))
    return bool(files)


if not _load("_C"):
    raise ImportError(
        f"faceattr's compiled operators are not in {_PACKAGE}; build them with: pip install --no-build-isolation ."
    )
if torch.version.cuda is not None:  # the CUDA library needs symbols that only a CUDA build of torch has
    _load("_C_cuda")

_registrations = torch.library.Library("faceattr", "FRAGMENT")

# Asked by the CUDA kernels at each float32 call, as torch's own convolutions ask. This spelling of the setting also
# follows the others: torch.backends.cudnn.allow_tf32, torch.backends.fp32_precision. It stands before the answer that
# csrc/library.cpp gives where there is no Python.
_registrations.impl("tf32_allowed", lambda: torch.backends.cudnn.conv.fp32_precision == "tf32", "BackendSelect")


def pair(value):
    """(value, value), or the pair itself."""
    return (value, value) if isinstance(value, int) else tuple(value)


def call(op, *args):
    """op(*args), without the detour through Python's autograd where gradients are off: half of a small call's time."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def register_autocast(name):
    """Under autocast, floating-point arguments are cast to the autocast dtype, as for torch.nn.functional.conv2d."""
    op = getattr(torch.ops.faceattr, name).default
    for device, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def cast_and_call(*args, device=device, keys=keys):
            dtype = torch.get_autocast_dtype(device)
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*(_cast(arg, device, dtype) for arg in args))

        _registrations.impl(name, cast_and_call, key)


def _cast(arg, device, dtype):
    eligible = (
        isinstance(arg, torch.Tensor)
        and arg.device.type == device
        and arg.is_floating_point()
        and arg.dtype != torch.float64
    )
    return arg.to(dtype) if eligible else arg


def register_vmap(name, folds=False):
    """vmap: one call a slice; a single one where only the first argument is mapped and its batch can grow (`folds`)."""
    op = getattr(torch.ops.faceattr, name).default

    def batched(info, in_dims, first, *rest):
        if folds and all(dim is None for dim in torch.utils._pytree.tree_leaves(in_dims[1:])):
            first = first.movedim(in_dims[0], 0)
            result = op(first.flatten(0, 1), *rest)
            return _map_outputs(lambda out: out.unflatten(0, first.shape[:2]), result)
        results = [op(*_slices((first, *rest), in_dims, i)) for i in range(info.batch_size)]
        if isinstance(results[0], tuple):
            results = tuple(zip(*results, strict=True))
        return _map_outputs(torch.stack, results)

    torch.library.register_vmap(op, batched)


def _slices(args, in_dims, i):
    return [
        arg.select(dim, i) if isinstance(arg, torch.Tensor) and dim is not None else arg
        for arg, dim in zip(args, in_dims, strict=True)
    ]


def _map_outputs(function, outputs):
    """The outputs with the mapped dimension first, and its place in each."""
    if isinstance(outputs, tuple):
        return tuple(function(out) for out in outputs), (0,) * len(outputs)
    return function(outputs), 0


def is_channels_last(tensor):
    """The rule of csrc/common/strided.h: dense as [N, H, W, C] and not also as [N, C, H, W]."""
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def empty_map(like, sizes, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(sizes, dtype=like.dtype, device=like.device, memory_format=memory_format)
