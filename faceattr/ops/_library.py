"""Loads the compiled operators, and the registrations that every one of them shares: autograd, autocast, vmap."""

import functools
import numbers
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

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


def _tf32_allowed() -> bool:
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


# Asked by the CUDA kernels at each float32 call, as torch's own convolutions ask. This spelling of the setting also
# follows the others: torch.backends.cudnn.allow_tf32, torch.backends.fp32_precision. It stands before the answer that
# csrc/library.cpp gives where there is no Python.
_registrations.impl("tf32_allowed", _tf32_allowed, "BackendSelect")


def integers(value, caller, name, count=2):
    """`count` ints, from one int for all or a tuple or list of them; NumPy's and symbolic ones count as ints.

    Raises TypeError for anything else and ValueError for another number of values, by the caller's and the argument's
    name.
    """
    if not isinstance(value, list | tuple):
        return (integer(value, caller, name),) * count
    if len(value) != count:
        raise ValueError(f"{caller}: {name} has {len(value)} values, it must have {count}")
    return tuple(integer(one, caller, name) for one in value)


def integer(value, caller, name):
    if isinstance(value, int | torch.SymInt):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    raise TypeError(f"{caller}: {name} holds {value!r}, it must be an int or a tuple of ints")


def call(op, *args):
    """op(*args), without the detour through Python's autograd where nothing asks for derivatives: half of a small
    call's time."""
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
    ):
        return op(*args)
    try:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)
    except RuntimeError as error:
        raise _named(error, op, args) from None


def _named(error, op, args):
    """The same error; where memory ran out with the operator's name, on CUDA as torch.OutOfMemoryError."""
    if not str(error).startswith("out of memory, asked for"):
        return error
    on_cuda = any(isinstance(x, torch.Tensor) and x.is_cuda for x in args)
    return (torch.OutOfMemoryError if on_cuda else RuntimeError)(f"{op._opname}: {str(error).splitlines()[0]}")


_P = ParamSpec("_P")
_R = TypeVar("_R")


def overridable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Hands the call over to arguments that override torch's functions: tensor subclasses, torch.fx's proxies."""

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.overrides.has_torch_function(args):
            return torch.overrides.handle_torch_function(checked, args, *args, **kwargs)
        return function(*args, **kwargs)

    return checked


def register_autograd(name, setup, backward, jvp):
    """Derivatives of operator `name` in every mode: reverse, forward, under torch.func's transforms, nested.

    setup(ctx, inputs, output), backward(ctx, *grads): as of torch.library.register_autograd, but the gradient of an
    output that nothing depends on is None.
    jvp(inputs, tangents): the tangent of the output (a tuple for several); tangents are None where an input has none.

    torch.library.register_autograd knows neither forward mode nor torch.func: what it makes has a zero tangent, and
    raises under the transforms. What is made here is applied level by level, as the autograd of torch's own operators.
    """
    op = getattr(torch.ops.faceattr, name).default

    class Derivatives(_SingleLevelFunction):
        @staticmethod
        def forward(*args):
            *args, keyset, grad_mode = args
            # Outside of this level, others may record too: autograd.Function has switched both modes off.
            with torch.set_grad_enabled(grad_mode), forward_ad._set_fwd_grad_enabled(True):
                return _below_autograd(op, keyset, args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            *inputs, _, ctx.grad_mode = inputs
            ctx.set_materialize_grads(False)
            if _may_have_tangents(inputs):
                ctx.save_for_forward(*(x if isinstance(x, torch.Tensor) else None for x in inputs))
                ctx.constants = [None if isinstance(x, torch.Tensor) else x for x in inputs]
            setup(ctx, inputs, output)

        @staticmethod
        def backward(ctx, *grads):
            if all(grad is None for grad in grads):
                return (None,) * len(ctx.needs_input_grad)
            return *backward(ctx, *grads), None, None

        @staticmethod
        def jvp(ctx, *tangents):
            with torch.set_grad_enabled(ctx.grad_mode), forward_ad._set_fwd_grad_enabled(True):
                inputs = [
                    constant if tensor is None else torch._VF._unpack_dual(tensor, level=0)[0]
                    for tensor, constant in zip(ctx.saved_tensors, ctx.constants, strict=True)
                ]
                return jvp(inputs, tangents[:-2])

    # What grad_fn and the profiler show.
    Derivatives._backward_cls.__name__ = "".join(part.capitalize() for part in name.split("_")) + "Backward"

    def differentiable(keyset, *args):
        if _is_onnx_export(args) and name in decompositions:
            return decompositions[name](*args)
        grad_mode = torch.is_grad_enabled()
        recorded = grad_mode and any(isinstance(x, torch.Tensor) and x.requires_grad for x in args)
        if not recorded and not _may_have_tangents(args):
            return _below_autograd(op, keyset, args)
        with enable_single_level_autograd_function():
            return Derivatives.apply(*args, keyset, grad_mode)

    _registrations.impl(name, differentiable, "Autograd", with_keyset=True)


decompositions: dict[str, Callable[..., torch.Tensor]] = {}
"""Operators by name as made of torch's own: what torch.onnx.export makes standard ONNX of.

torch's own table of decompositions would do, but torch.compile refuses operators that are in it where CI is set.
"""


def _is_onnx_export(args):
    return _are_traced(args) and torch.onnx.is_in_onnx_export()


def _are_traced(args):
    return any(isinstance(x, torch.Tensor) and type(x) not in (torch.Tensor, torch.nn.Parameter) for x in args)


def _may_have_tangents(args):
    """Whether forward mode may be at work. torch.compile enters it unseen by forward_ad, with tensors of its own."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or _are_traced(args)


def register_constant(name):
    """The results of operator `name` are constants to autograd, as those of torch.argmax."""
    op = getattr(torch.ops.faceattr, name).default
    _registrations.impl(name, lambda keyset, *args: _below_autograd(op, keyset, args), "Autograd", with_keyset=True)


def _below_autograd(op, keyset, args):
    try:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)
    except RuntimeError as error:
        raise _named(error, op, args) from None


def add(*terms):
    """The sum of those that are there."""
    terms = [term for term in terms if term is not None]
    return functools.reduce(torch.add, terms) if terms else None


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
        args = first, *rest
        if info.batch_size == 0:  # one slice, of zeros, tells the shapes
            args = [
                arg.new_zeros(arg.movedim(dim, 0).shape[1:]).unsqueeze(dim) if isinstance(dim, int) else arg
                for arg, dim in zip(args, in_dims, strict=True)
            ]
        results = [op(*_slices(args, in_dims, i)) for i in range(max(1, info.batch_size))]
        if isinstance(results[0], tuple):
            results = tuple(zip(*results, strict=True))
        return _map_outputs(lambda slices: torch.stack(slices)[: info.batch_size], results)

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
