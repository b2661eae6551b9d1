import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch

from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models import quantized
from faceattr.models.anet import ANet
from faceattr.models.lnet import LNet, LNetTrunk, PyramidTrunk
from faceattr.models.quantized import (
    IntegerConv2d,
    QuantizedShared,
    QuantizedTrunk,
    computes_in_integers,
    largest_outputs,
)

pytestmark = pytest.mark.skipif(not computes_in_integers(), reason="torch has no 8-bit integer kernels here")


def make_trunk(seed: int = 0, **config) -> PyramidTrunk:
    torch.manual_seed(seed)
    return PyramidTrunk(widths=(8, 12, 16, 20), batch_norm=False, **config).eval()


@pytest.mark.parametrize("shape", [(1, 64, 80), (3, 33, 17), (2, 1, 1), (1, 8, 200)])
@pytest.mark.parametrize("depths", [(0, 2, 3), (1, 0, 0)])
@torch.inference_mode()
def test_maps_are_the_float_trunk_s_up_to_rounding(shape, depths):
    trunk = make_trunk(depths=depths)
    images = torch.rand(shape[0], 3, *shape[1:])
    with largest_outputs(trunk) as largest:
        exact = trunk(images)
    rounded = QuantizedTrunk(trunk, largest)(images)
    assert rounded.shape == exact.shape and rounded.dtype == torch.float32
    # Each of up to nine roundings is of 1 in 254 of the largest; wrong scales or a wrong order of layers are far off.
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("shape", [(1, 65, 150), (2, 33, 17), (1, 1, 1), (3, 8, 129), (19, 16, 9), (8, 30, 40)])
@torch.inference_mode()
def test_maps_within_larger_ones_are_the_same(shape):
    trunk = make_trunk()
    for layer in trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.uniform_(layer.bias, 0.1, 0.3)  # what lies beyond the map would come out positive
    images = torch.rand(shape[0], 3, *shape[1:])
    with largest_outputs(trunk) as largest:
        trunk(images)
    of_one, of_many = (QuantizedTrunk(trunk, largest, many_sizes) for many_sizes in (False, True))
    alone = torch.cat([of_one(image[None]) for image in images])
    # The first convolution, in float32, may add up in another order and one of its values be rounded the other way.
    for maps in (of_one(images), of_many(images)):
        torch.testing.assert_close(maps, alone, rtol=0.02, atol=0.02 * alone.max().item())
        assert (maps != alone).float().mean() < 0.05


@pytest.mark.parametrize("shape", [(1, 65, 150), (2, 33, 17), (1, 1, 1), (1, 2, 300), (1, 129, 40)])
@pytest.mark.parametrize("many_sizes", [False, True])
@torch.inference_mode()
def test_strips_are_the_whole(monkeypatch, shape, many_sizes):
    trunk = make_trunk()
    images = torch.rand(shape[0], 3, *shape[1:])
    with largest_outputs(trunk) as largest:
        trunk(images)
    net = QuantizedTrunk(trunk, largest, many_sizes)
    whole = net(images)
    monkeypatch.setattr(quantized, "_WHOLE", 0)
    for rows in (1, 7, 64):
        monkeypatch.setattr(quantized, "_STRIP", rows)
        maps = net(images)
        torch.testing.assert_close(maps, whole, rtol=0.02, atol=0.02 * whole.max().item())
        assert (maps != whole).float().mean() < 0.05


@torch.inference_mode()
def test_one_layer_s_rounding_by_hand():
    # Ones pass unchanged through all layers: every number is a whole multiple of its scale.
    trunk = make_trunk(depths=(0, 0, 0), mean=(0, 0, 0), std=(1, 1, 1))
    for layer in trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.zero_()
            layer.weight[:, :, layer.kernel_size[0] // 2, layer.kernel_size[0] // 2] = 1 / layer.in_channels
            layer.bias.zero_()
    outputs = QuantizedTrunk(trunk, [127.0] * 5)(torch.full((1, 3, 40, 40), 5.0))
    # The fine map and the coarse one add up: 5 + 5.
    torch.testing.assert_close(outputs, torch.full((1, 16, 5, 5), 10.0))
    cut = QuantizedTrunk(trunk, [127.0] * 4 + [7.0])(torch.full((1, 3, 40, 40), 5.0))
    torch.testing.assert_close(cut, torch.full((1, 16, 5, 5), 7.0))


@torch.inference_mode()
def test_the_largest_of_all_batches_counts_and_the_hooks_go():
    trunk = make_trunk()
    with largest_outputs(trunk) as together:
        trunk(torch.full((1, 3, 32, 32), 0.2))
        trunk(torch.full((1, 3, 32, 32), 0.9))
    with largest_outputs(trunk) as alone:
        trunk(torch.full((1, 3, 32, 32), 0.9))
    assert len(together) == 10 and all(a >= b for a, b in zip(together, alone, strict=True)) and alone[0] > 0
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in trunk.modules())


def test_a_trunk_that_does_not_do_is_refused():
    with pytest.raises(ValueError, match="PyramidTrunk is needed, not LNetTrunk"):
        QuantizedTrunk(LNetTrunk(batch_norm=False), [1.0] * 6)
    with pytest.raises(ValueError, match="batch normalisation"):
        QuantizedTrunk(PyramidTrunk(), [1.0] * 10)
    with pytest.raises(ValueError, match="10 convolutions need a largest input each, got 3"):
        QuantizedTrunk(make_trunk(), [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="batch normalisation"):
        QuantizedShared(ANet(batch_norm=True).shared, [1.0])
    with pytest.raises(ValueError, match="1 convolutions need a largest input each, got 0"):
        QuantizedShared(ANet().shared, [])


def make_anet(stages) -> ANet:
    torch.manual_seed(2)
    return ANet(stages=stages, attributes=3, batch_norm=True, features=16).eval().fold_batch_norm()


# The paper's layers and deeper ones; pooling before and after the layers in integers.
@pytest.mark.parametrize(
    "stages", [(((20, 4, 1),), ((40, 3, 1),)), (((8, 3, 1), (12, 2, 1)), ((16, 2, 1), (24, 2, 1)))]
)
@pytest.mark.parametrize("count, more", [(1, 0), (17, 0), (2, 8)])
@torch.inference_mode()
def test_the_shared_layers_are_the_float_ones_up_to_rounding(stages, count, more):
    anet = make_anet(stages)
    images = torch.rand(count, 3, 55 + more, 47 + more)
    with largest_outputs(anet.shared) as largest:
        exact = anet._shared_map(images), anet.pooled_features(images)
    integers = anet.with_shared(QuantizedShared(anet.shared, largest))
    rounded = integers._shared_map(images), integers.pooled_features(images)
    for one, other in zip(rounded, exact, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.03 * other.norm()
    assert isinstance(anet.shared, torch.nn.Sequential) and integers.c3 is anet.c3


@torch.inference_mode()
def test_pooling_of_bytes_takes_the_largest_of_four():
    anet = make_anet((((20, 4, 1),), ((40, 3, 1),)))
    first, second = (layer for layer in anet.shared if isinstance(layer, torch.nn.Conv2d))
    for layer in (first, second):
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[:, 0, 0, 0] = second.weight[:, 0, 0, 0] = 1
    images = torch.randint(0, 128, (2, 3, 31, 26)).float()
    torch.testing.assert_close(QuantizedShared(anet.shared, [127.0])(images), anet.shared(images))


def make_net() -> LNet:
    torch.manual_seed(1)
    net = LNet(tags=(), sizes=(20.0, 25.2, 31.75), trunk={"kind": "pyramid", "widths": (8, 12, 16, 20)}).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    torch.nn.init.zeros_(net.head.bias)
    return net.fold_batch_norm()


@torch.inference_mode()
def test_the_localiser_finds_the_same():
    net, photo = make_net(), torch.rand(3, 120, 90)
    settings = {"least_side": 60, "score_threshold": 0.0, "proposal_threshold": 0.0, "max_windows": 4}
    exact = Localizer(net, net, LocalizerSettings(**settings), torch.float32)
    with largest_outputs(exact.lnet_o.trunk) as largest_o, largest_outputs(exact.lnet_s.trunk) as largest_s:
        maps = exact(photo).response_maps
    rounded = Localizer(net, net, LocalizerSettings(**settings, largest_o=largest_o, largest_s=largest_s), torch.qint8)
    assert isinstance(rounded.lnet_o.trunk, QuantizedTrunk) and isinstance(net.trunk, PyramidTrunk)
    assert (rounded(photo).response_maps["lnet_o"] - maps["lnet_o"]).abs().max() < 0.05


def test_the_localiser_takes_integers_where_it_may(monkeypatch):
    net, integers = make_net(), LocalizerSettings(largest_o=[1.0] * 10, largest_s=[1.0] * 10)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert isinstance(Localizer(net, net, integers).lnet_s.trunk, QuantizedTrunk)
    assert isinstance(Localizer(net, net, integers, torch.float32).lnet_s.trunk, PyramidTrunk)
    assert isinstance(Localizer(net, net).lnet_s.trunk, PyramidTrunk)
    with pytest.raises(ValueError, match=r"no 8-bit integers on cpu .* training/measure_integers.py"):
        Localizer(net, net, dtype=torch.qint8)
    # Beside native bfloat16 too, in which the nets run where they cannot.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert isinstance(Localizer(net, net, integers).lnet_s.trunk, QuantizedTrunk)
    assert Localizer(net, net).lnet_s.head.weight.dtype == torch.bfloat16


def test_a_torch_with_other_operators_computes_in_float32(monkeypatch):
    state = torch.get_rng_state()
    assert computes_in_integers.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)
    for other in (lambda *args: torch.zeros(1, 1, 1, 1), lambda weight: weight):  # another result, other arguments
        monkeypatch.setattr(IntegerConv2d, "forward", lambda self, x, other=other: other(x, self.scale))
        assert not computes_in_integers.__wrapped__()


@torch.inference_mode()
def test_copies_do_the_same():
    trunk, images = make_trunk(), torch.rand(1, 3, 40, 40)
    with largest_outputs(trunk) as largest:
        trunk(images)
    quantized = QuantizedTrunk(trunk, largest)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        torch.testing.assert_close(other(images), quantized(images), rtol=0, atol=0)


# In a process of its own, as oneDNN asks once which instructions it may take.
LAYOUTS = """
import torch

from faceattr.models.anet import CONFIGS, ANet
from faceattr.models.lnet import PyramidTrunk
from faceattr.models.quantized import QuantizedShared, QuantizedTrunk

trunk = QuantizedTrunk(PyramidTrunk(batch_norm=False).eval(), [1.0] * 10, many_sizes=True)
shared = QuantizedShared(ANet(**CONFIGS["everyone"]).eval().fold_batch_norm().shared, [1.0] * 4)
with torch.inference_mode():
    for net, sizes in (
        (trunk, [(1, 192, 160), (1, 96, 80), (1, 53, 48), (3, 129, 129), (40, 81, 81)]),
        (shared, [(1, 127, 111), (4, 127, 111), (17, 127, 111), (40, 127, 111)]),
    ):
        batches = [torch.rand(count, 3, height, width) for count, height, width in sizes]
        first = [net(images) for images in batches]
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            again = [net(images) for images in batches]
        torch.testing.assert_close(again, first, rtol=0, atol=0)
"""


@pytest.mark.parametrize("isa", ["AVX2", "AVX2_VNNI", "AVX512_CORE", "ALL"])
def test_weights_are_laid_out_for_each_shape_once(isa):
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert sum("exec,cpu,convolution" in line and "src:u8" in line for line in said) == 10 * 5 + 4 * 4
    anew = [line for line in said if "exec,cpu,reorder" in line and "src:s8" in line]
    # Where there is AMX some are, but not in the slow way.
    assert not [line for line in anew if "simple:any" in line]
    assert not anew or any("_amx" in line for line in said)


@torch.inference_mode()
def test_photos_of_ever_new_sizes_take_no_more_memory():
    quantized = QuantizedTrunk(PyramidTrunk(batch_norm=False).eval(), [1.0] * 10, many_sizes=True)
    for width in range(8, 700):
        quantized(torch.rand(1, 3, 8, width))
    assert quantized.out.packed.cache_info().currsize == 32
