"""Operators x transforms: each under every transform of torch.func and autograd, against the plain reference."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from faceattr import ops
from faceattr.ops import reference

operators = torch.ops.faceattr


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


INPUT, WEIGHT, BIAS = randn(2, 2, 5, 4), randn(2, 2, 3, 2, 2, 2), randn(2, 2, 3)
GEOMETRY = [2, 1], [1, 1], [1, 2]
MAPS, SHIFT = randn(1, 2, 3, 2, 4, 5), [1, 2]
INTERWEAVED = {"unpooled": ([2, 1], [1, 1], [1, 1], [1, 1]), "pooled": ([1, 1], [1, 1], [1, 0], [2, 2])}


def locally_shared(input, weight, bias):
    return reference.locally_shared_conv2d(input, weight, bias, *GEOMETRY)


def interweaved(kind):
    return lambda *args: reference.interweaved_conv2d(*args, *INTERWEAVED[kind])


def interweave_adjoint(maps_grad):
    return vjp(lambda maps: reference.interweave(maps, SHIFT), MAPS)[1](maps_grad)[0]


def peak_scores(density):
    """The score of eq. 3 where the peaks are, from distances that are constants."""
    peaks = ops.find_peaks(density.detach(), max_peaks=4, min_distance=1.5)
    distance, _ = ops.density_peaks(density.detach())
    relative = density.flatten() / density.amax()
    score = torch.hypot(relative, distance.flatten() / (density.shape[0] ** 2 + density.shape[1] ** 2) ** 0.5)
    return (score / 2**0.5)[peaks.index.clamp_min(0)].where(peaks.index >= 0, 0)


# name: (operator, reference, differentiable arguments)
OPERATORS = {
    "locally_shared_conv2d": (
        lambda *args: ops.locally_shared_conv2d(*args, *GEOMETRY),
        locally_shared,
        (INPUT, WEIGHT, BIAS),
    ),
    "locally_shared_conv2d, no bias": (
        lambda *args: ops.locally_shared_conv2d(*args, None, *GEOMETRY),
        lambda *args: locally_shared(*args, None),
        (INPUT, WEIGHT),
    ),
    "locally_shared_conv2d, one image": (
        lambda *args: ops.locally_shared_conv2d(*args, *GEOMETRY),
        lambda input, *args: locally_shared(input[None], *args)[0],
        (INPUT[0], WEIGHT, BIAS),
    ),
    "locally_shared_conv2d_input_grad": (
        lambda g, w: operators.locally_shared_conv2d_input_grad(g, w, [5, 4], *GEOMETRY, False),
        lambda g, w: vjp(lambda x: locally_shared(x, w, None), INPUT)[1](g)[0],
        (randn(2, 3, 3, 4), WEIGHT),
    ),
    "locally_shared_conv2d_weight_grad": (
        lambda g, x: operators.locally_shared_conv2d_weight_grad(g, x, [2, 2], [2, 2], *GEOMETRY),
        lambda g, x: vjp(lambda w, b: locally_shared(x, w, b), WEIGHT, BIAS)[1](g),
        (randn(2, 3, 3, 4), INPUT),
    ),
    "interweave": (
        lambda maps: ops.interweave(maps, SHIFT),
        lambda maps: reference.interweave(maps, SHIFT),
        (MAPS,),
    ),
    "interweave_adjoint": (
        lambda g: operators.interweave_adjoint(g, [4, 5], [2, 3], SHIFT),
        interweave_adjoint,
        (randn(1, 2, 6, 3),),
    ),
    "find_peaks": (
        lambda d: ops.find_peaks(d, max_peaks=4, min_distance=1.5).score,
        peak_scores,
        (randn(6, 7).abs() + 0.1,),
    ),
}
for kind in INTERWEAVED:
    OPERATORS[f"interweaved_conv2d, {kind}"] = (
        lambda *args, kind=kind: ops.interweaved_conv2d(*args, *INTERWEAVED[kind]),
        interweaved(kind),
        (INPUT, WEIGHT, BIAS),
    )
    OPERATORS[f"interweaved_conv2d_backward, {kind}"] = (
        lambda *args, kind=kind: operators.interweaved_conv2d_backward(*args, BIAS, *INTERWEAVED[kind]),
        lambda g, *args, kind=kind: vjp(interweaved(kind), *args, BIAS)[1](g),
        (ops.interweaved_conv2d(INPUT, WEIGHT, BIAS, *INTERWEAVED[kind]).cos(), INPUT, WEIGHT),
    )


def scalar(function):
    """Of a function's results, one number that depends on each in its own way."""
    return lambda *args: sum((leaf.sin() * (i + 1)).sum() for i, leaf in enumerate(tree_leaves(function(*args))))


def directions(args, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(arg.shape, dtype=arg.dtype, generator=generator) for arg in args)


def stacked(args):
    """Three sets of arguments, one in another."""
    return tuple(torch.stack([arg, arg * 0.5 + 0.1, arg.flip(-1)]) for arg in args)


def directional(function, args):
    """The derivative along a direction, as a function of the arguments."""
    tangents = directions(args)
    return lambda *args: jvp(function, args, tangents)[1]


def gradient(function, args):
    return grad(scalar(function), tuple(range(len(args))))


def plain_autograd(function, args):
    leaves = [arg.clone().requires_grad_() for arg in args]
    return torch.autograd.grad(scalar(function)(*leaves), leaves)


def plain_double_backward(function, args):
    leaves = [arg.clone().requires_grad_() for arg in args]
    first = torch.autograd.grad(scalar(function)(*leaves), leaves, create_graph=True)
    return torch.autograd.grad(
        sum((g.sin() * t).sum() for g, t in zip(first, directions(args), strict=True)), leaves, allow_unused=True
    )


def dual_numbers(function, args, mode=torch.enable_grad):
    with forward_ad.dual_level(), mode():
        duals = [forward_ad.make_dual(arg, t) for arg, t in zip(args, directions(args), strict=True)]
        return [forward_ad.unpack_dual(out).tangent for out in tree_leaves(function(*duals))]


def dual_numbers_one_at_a_time(function, args):
    results = []
    with forward_ad.dual_level():
        for i, t in enumerate(directions(args)):
            mixed = [forward_ad.make_dual(arg, t) if i == j else arg for j, arg in enumerate(args)]
            results += [forward_ad.unpack_dual(out).tangent for out in tree_leaves(function(*mixed))]
    return results


TRANSFORMS = {
    "backward": plain_autograd,
    "double backward": plain_double_backward,
    "dual numbers": dual_numbers,
    "dual numbers, gradients off": lambda f, args: dual_numbers(f, args, torch.no_grad),
    "dual numbers, one argument at a time": dual_numbers_one_at_a_time,
    "grad": lambda f, args: gradient(f, args)(*args),
    "vjp": lambda f, args: vjp(scalar(f), *args)[1](torch.tensor(2.0, dtype=torch.float64)),
    "jvp": lambda f, args: jvp(f, args, directions(args)),
    "jacrev": lambda f, args: jacrev(lambda *a: tree_map(lambda r: r.flatten()[:3], f(*a)), 0)(*args),
    "jacfwd": lambda f, args: jacfwd(f, len(args) - 1)(*args),
    "hessian": lambda f, args: hessian(lambda last: scalar(f)(*args[:-1], last))(args[-1]),
    "jvp of grad": lambda f, args: directional(gradient(f, args), args)(*args),
    "grad of jvp": lambda f, args: gradient(directional(f, args), args)(*args),
    "grad of grad": lambda f, args: gradient(gradient(f, args), args)(*args),
    "jvp of jvp": lambda f, args: directional(directional(f, args), args)(*args),
    "third derivative": lambda f, args: directional(gradient(directional(f, args), args), args)(*args),
    "vmap": lambda f, args: vmap(f)(*stacked(args)),
    "vmap of vmap": lambda f, args: vmap(vmap(f))(*stacked(stacked(args))),
    "vmap of grad": lambda f, args: vmap(gradient(f, args))(*stacked(args)),
    "vmap of jvp": lambda f, args: vmap(directional(f, args))(*stacked(args)),
    "vmap of grad of jvp": lambda f, args: vmap(gradient(directional(f, args), args))(*stacked(args)),
    "grad of vmap": lambda f, args: gradient(vmap(f), args)(*stacked(args)),
    "jvp of vmap": lambda f, args: directional(vmap(f), stacked(args))(*stacked(args)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", OPERATORS)
def test_transform_equals_that_of_the_reference(name, transform):
    operator, plain, args = OPERATORS[name]
    assert_same(TRANSFORMS[transform](operator, args), expected := tree_leaves(TRANSFORMS[transform](plain, args)))
    linear = name in ("interweave", "interweave_adjoint")
    vanishes = linear and transform in ("jvp of jvp", "grad of jvp", "vmap of grad of jvp", "third derivative")
    assert vanishes or any(leaf is not None and leaf.count_nonzero() > 0 for leaf in expected)


def assert_same(ours, expected):
    """None, for no derivative, is zero."""
    for mine, other in zip(tree_leaves(ours), tree_leaves(expected), strict=True):
        if mine is not None and other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        else:
            assert all(side is None or not side.any() for side in (mine, other))


@pytest.mark.parametrize("name", OPERATORS)
def test_linearize(name):
    operator, plain, args = OPERATORS[name]
    assert_same(linearize(operator, *args)[1](*directions(args)), directional(plain, args)(*args))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck_in_every_mode(name):
    operator, _, args = OPERATORS[name]
    leaves = [arg.clone().requires_grad_() for arg in args]
    assert gradcheck(
        operator,
        leaves,
        fast_mode=True,
        check_forward_ad=True,
        check_batched_grad=name != "find_peaks",  # torch.sort has no batched derivative of a batched index
        check_batched_forward_grad=True,
    )
    assert gradgradcheck(operator, leaves, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True)


def unbatched_argument_and_dimensions():
    """Every subset of the arguments mapped, each along every dimension."""
    for name, (_, _, args) in OPERATORS.items():
        for mapped in range(1, 2 ** len(args)):
            for dim in range(max(arg.dim() for arg in args) + 1):
                dims = [min(dim, arg.dim()) if mapped >> i & 1 else None for i, arg in enumerate(args)]
                yield pytest.param(name, tuple(dims), id=f"{name}, {dims}")


@pytest.mark.parametrize("name, in_dims", unbatched_argument_and_dimensions())
def test_vmap_of_any_arguments_along_any_dimension(name, in_dims):
    function, _, args = OPERATORS[name]
    batch = [arg if dim is None else stacked([arg])[0].movedim(0, dim) for arg, dim in zip(args, in_dims, strict=True)]
    one_by_one = [
        tree_leaves(
            function(*(arg if dim is None else arg.select(dim, i) for arg, dim in zip(batch, in_dims, strict=True)))
        )
        for i in range(3)
    ]
    expected = [torch.stack(results) for results in zip(*one_by_one, strict=True)]
    assert_same(vmap(function, in_dims)(*batch), expected)
    negative = tuple(None if dim is None else dim - arg.dim() for arg, dim in zip(batch, in_dims, strict=True))
    assert_same(vmap(function, negative, out_dims=-1)(*batch), [result.movedim(0, -1) for result in expected])


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_over_nothing(name):
    function, _, args = OPERATORS[name]
    results = tree_leaves(vmap(function)(*(arg.new_empty(0, *arg.shape) for arg in args)))
    for result, one in zip(results, tree_leaves(function(*args)), strict=True):
        assert result.shape == (0, *one.shape)


@pytest.mark.parametrize("function", [ops.density_peaks, ops.find_peaks])
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_vmap_of_density_peaks_over_maps_of_any_rank(function, rank):
    maps = torch.rand(3, *(2,) * (rank - 2), 6, 5)
    expected = [torch.stack(results) for results in zip(*map(function, maps), strict=True)]
    for dim in range(rank + 1):
        assert_same(vmap(function, in_dims=dim)(maps.movedim(0, dim)), expected)
    assert_same(vmap(vmap(function))(torch.stack([maps, maps])), [torch.stack([e, e]) for e in expected])
    if function is ops.find_peaks:

        def assigned(density):
            peaks = ops.find_peaks(density)
            return ops.assign_peaks(peaks.parent, peaks)

        assert_same(vmap(assigned)(maps), assigned(maps))


def test_density_peaks_are_constants_to_every_derivative():
    density = torch.rand(6, 5)
    distance, parent = ops.density_peaks(density.requires_grad_())
    assert not distance.requires_grad and not operators.density_peaks(density, 0.0)[0].requires_grad
    values, tangents = jvp(lambda d: ops.density_peaks(d)[0], (density.detach(),), (torch.ones(6, 5),))
    assert torch.equal(values, distance) and not tangents.any()
    assert not grad(lambda d: ops.density_peaks(d)[0].sum())(density.detach()).any()


@pytest.mark.parametrize("name", ["locally_shared_conv2d", "interweaved_conv2d, pooled"])
@pytest.mark.parametrize("mapped", [vmap, lambda f: vmap(grad(lambda *a: f(*a).float().square().sum(), (0, 1, 2)))])
def test_autocast_inside_and_around_transforms(name, mapped):
    function, _, args = OPERATORS[name]
    args = [arg.float() for arg in stacked(args)]
    with torch.autocast("cpu", torch.bfloat16):
        around = tree_leaves(mapped(function)(*args))
        slices = [tree_leaves(mapped(function)(*(arg[i : i + 1] for arg in args))) for i in range(3)]
    expected = [torch.cat(leaves) for leaves in zip(*slices, strict=True)]
    for mine, other in zip(around, expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap of grad"])
def test_compiled_transforms(name, transform):
    function, _, args = OPERATORS[name]
    run = {
        "grad": lambda *args: gradient(function, args)(*args),
        "jvp": lambda *args: jvp(function, args, tuple(arg.cos() for arg in args)),
        "vmap of grad": lambda *args: vmap(gradient(function, args))(*args),
    }[transform]
    # torch 2.13 raises for torch.compile of a jvp at a view whose function begins with a view: whole tensors.
    args = stacked(args) if transform.startswith("vmap") else [arg.clone() for arg in args]
    torch.compiler.reset()
    assert_same(torch.compile(run, backend="aot_eager", fullgraph=True)(*args), run(*args))
