import math

import pytest
import torch

from faceattr.ops import assign_peaks, density_peaks, find_peaks, reference


def blobs(height, width, centres, radius=2.0):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    density = torch.zeros(height, width)
    for cy, cx, top in centres:
        density = torch.maximum(density, top * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2)))
    return density


def inputs():
    noise = torch.randn(17, 13, generator=torch.Generator().manual_seed(1))
    y, x = torch.meshgrid(torch.arange(17), torch.arange(13), indexing="ij")
    yield "noise", noise, -torch.inf
    yield "noise above a threshold", noise, 0.5
    yield "ties", (noise * 2).round(), -2.5
    yield "constant", torch.ones(9, 11), 0.0
    yield "ramp", (y * 13 + x).float(), -1.0
    yield "plane", (y + x).float(), -1.0
    yield "chequerboard", ((y + x) % 2).float(), -1.0
    yield "sparse", noise.relu() * (noise > 1.5), 0.0
    yield "blobs", blobs(17, 13, [(4, 4, 1.0), (12, 9, 0.7)]), 0.01
    yield "row", noise[:1], -9.0
    yield "column", noise[:, :1], -9.0
    yield "one position", torch.ones(1, 1), 0.0
    yield "all background", -torch.ones(5, 6), 0.0
    odd = noise.clone()
    odd[3, 4], odd[7, 7], odd[7, 9], odd[0, 0], odd[16, 12] = torch.nan, torch.inf, torch.inf, -torch.inf, torch.nan
    yield "not finite", odd, -torch.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("density, threshold", [pytest.param(*case, id=name) for name, *case in inputs()])
def test_equals_every_pair_of_positions(density, threshold, dtype):
    density = density.to(dtype)
    distance, parent = density_peaks(density, threshold)
    exact_distance, exact_parent = reference.density_peaks(density, threshold)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(parent, exact_parent)
    assert torch.equal(distance, exact_distance)


def test_leading_dimensions_and_strides():
    density = torch.randn(2, 3, 9, 8)
    distance, parent = density_peaks(density.transpose(-1, -2), -9)
    assert distance.shape == parent.shape == (2, 3, 8, 9)
    for i in range(2):
        for j in range(3):
            exact = reference.density_peaks(density[i, j].T.contiguous(), -9)
            assert torch.equal(distance[i, j], exact[0]) and torch.equal(parent[i, j], exact[1])


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_empty(shape):
    distance, parent = density_peaks(torch.zeros(shape))
    assert distance.shape == parent.shape == shape
    assert find_peaks(torch.zeros(shape)).index.eq(-1).all()


def test_the_score_has_a_finite_gradient_everywhere():
    for values in (torch.rand(5, 5), torch.zeros(5, 5), -torch.ones(5, 5), torch.full((5, 5), torch.inf)):
        density = values.requires_grad_()
        find_peaks(density).score.sum().backward()
        assert density.grad.isfinite().all()


def test_opcheck_compile_export_vmap():
    density = torch.randn(2, 3, 9, 8)
    torch.library.opcheck(torch.ops.faceattr.density_peaks.default, (density, 0.0))
    compiled = torch.compile(find_peaks, fullgraph=True)(density)
    assert all(map(torch.equal, compiled, find_peaks(density)))

    class Net(torch.nn.Module):
        def forward(self, density):
            peaks = find_peaks(density)
            return assign_peaks(peaks.parent, peaks)

    program = torch.export.export(Net(), (density,))
    assert torch.equal(program.module()(density), Net()(density))
    assert all(map(torch.equal, torch.vmap(density_peaks, in_dims=1)(density), density_peaks(density.transpose(0, 1))))


def test_bad_arguments_are_named():
    with pytest.raises(RuntimeError, match=r"density has shape \[5\], it must be \[..., H, W\]"):
        density_peaks(torch.zeros(5))
    with pytest.raises(RuntimeError, match="must be float64, float32"):
        density_peaks(torch.zeros(5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="max_peaks is 0"):
        find_peaks(torch.zeros(5, 5), max_peaks=0)
    with pytest.raises(TypeError, match="find_peaks: max_peaks holds 4.0, it must be an int"):
        find_peaks(torch.zeros(5, 5), max_peaks=4.0)
    peaks = find_peaks(torch.rand(2, 5, 5))
    with pytest.raises(RuntimeError, match="assign_peaks: parent is torch.float32, it must be int64"):
        assign_peaks(torch.rand(2, 5, 5), peaks)
    with pytest.raises(RuntimeError, match=r"assign_peaks: peaks are of maps \[2\], parent of \[3\]"):
        assign_peaks(torch.zeros(3, 5, 5, dtype=torch.int64), peaks)


def test_scores_are_equation_3_scaled():
    density = torch.zeros(6, 8)
    density[1, 1], density[4, 5] = 2.0, 1.0  # five positions apart
    peaks = find_peaks(density, max_peaks=4)
    assert peaks.index.tolist() == [9, 37, -1, -1]
    # The diagonal of 6 x 8 is 10: the second peak has half the density and half the diagonal.
    torch.testing.assert_close(peaks.score, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    assert find_peaks(density, max_peaks=4, min_score=0.6).index.tolist() == [9, -1, -1, -1]


def test_peaks_with_equal_scores_come_in_index_order():
    density = torch.zeros(5, 5)
    density[0, 4] = density[4, 0] = density[2, 2] = 3.0
    assert find_peaks(density, max_peaks=4).index.tolist() == [4, 12, 20, -1]


def test_min_distance_leaves_slopes_out():
    density = blobs(40, 40, [(10, 10, 1.0), (30, 28, 0.2)])
    assert find_peaks(density, 0.01, max_peaks=2).index.tolist()[1] != 30 * 40 + 28
    assert find_peaks(density, 0.01, max_peaks=2, min_distance=1.5).index.tolist() == [410, 30 * 40 + 28]


def test_max_density_of_infinity():
    density = torch.tensor([[torch.inf, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, torch.inf]])
    peaks = find_peaks(density, max_peaks=3)
    assert peaks.index[:2].tolist() == [0, 8] and peaks.score.isfinite().all()


def test_assign_peaks_follows_parents_to_the_first_peak():
    density = blobs(30, 30, [(8, 8, 1.0), (22, 20, 0.6)])
    peaks = find_peaks(density, 0.01, max_peaks=2, min_distance=1.5)
    assigned = assign_peaks(peaks.parent, peaks)
    foreground = density > 0.01
    assert assigned[~foreground].eq(-1).all() and assigned[foreground].ge(0).all()
    assert assigned[8, 8] == 0 and assigned[22, 20] == 1
    assert assigned[5:12, 5:12].eq(0).all() and assigned[20:25, 18:23].eq(1).all()
    # Step by step, one position at a time.
    parents, index = peaks.parent.flatten().tolist(), peaks.index.tolist()
    for start in foreground.flatten().nonzero().flatten().tolist():
        at = start
        while at not in index:
            at = parents[at]
        assert assigned.flatten()[start] == index.index(at)


def test_assign_peaks_where_the_root_was_crowded_out():
    density = torch.zeros(3, 9)
    density[1, 0:3] = torch.tensor([1.0, 5.0, 1.0])
    density[1, 6:9] = torch.tensor([1.0, 5.0, 1.0])  # an equal maximum, second by index
    peaks = find_peaks(density, max_peaks=1)
    assigned = assign_peaks(peaks.parent, peaks)
    assert assigned[1, :3].eq(0).all() and assigned[1, 6:].eq(-1).all()


def test_a_chain_through_every_position():
    length = 1000
    density = torch.arange(1.0, length + 1)[None]
    peaks = find_peaks(density, max_peaks=1)
    assert peaks.index.tolist() == [length - 1]
    assert assign_peaks(peaks.parent, peaks).eq(0).all()
    distance, _ = density_peaks(density)
    assert distance[0, :-1].eq(1).all() and distance[0, -1] == torch.tensor(math.hypot(1, length))
