import pytest
import torch
from torch import nn

from faceattr.models.lnet import LNet, LNetPlus, LNetTrunk, PyramidTrunk, fold_trunk, make_trunk, map_size

TINY = (4, 6, 5, 5, 3)
SLIM = {"kind": "pyramid", "widths": (3, 4, 5, 6), "depths": (0, 1, 1)}


def randomise_statistics(net: nn.Module):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


def point_trunk(kind: str):
    """Every filter passes its centre alone, so a response can be traced to the pixels it saw by hand."""
    widths = (1, 1, 1, 1, 1) if kind == "alexnet" else (1, 1, 1, 1)
    trunk = make_trunk({"kind": kind, "widths": widths, "batch_norm": False, "mean": (0,) * 3, "std": (1,) * 3}).eval()
    for conv in trunk.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            middle = conv.kernel_size[0] // 2
            conv.weight.data[:, :, middle, middle] = 1 / conv.in_channels
    return trunk


def tiny(kind: str):
    return LNetTrunk(TINY).eval() if kind == "alexnet" else make_trunk(SLIM).eval()


both = pytest.mark.parametrize("kind", ["alexnet", "pyramid"])


@both
@pytest.mark.parametrize("size", [1, 7, 8, 9, 11, 15, 16, 17, 25, 32, 33, 100])
def test_map_has_a_position_every_stride(kind, size):
    trunk = tiny(kind)
    shape = trunk(torch.zeros(1, 3, size, 49)).shape
    positions = len(range(0, size, trunk.stride))
    assert shape == (1, trunk.channels, positions, len(range(0, 49, trunk.stride)))
    assert map_size(size, trunk.stride) == positions


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 1)])
def test_a_bright_pixel_answers_at_its_own_position(row, column):
    image = torch.zeros(1, 3, 65, 65)
    image[:, :, 16 * row, 16 * column] = 1
    response = point_trunk("alexnet")(image)[0, 0]
    expected = torch.zeros(5, 5)
    expected[row, column] = 1
    torch.testing.assert_close(response, expected)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 4), (6, 8), (3, 5), (4, 7), (8, 1)])
def test_a_bright_pixel_answers_at_its_own_position_of_the_pyramid_and_half_beside_it(row, column):
    image = torch.zeros(1, 3, 65, 65)
    image[:, :, 8 * row, 8 * column] = 1
    response = point_trunk("pyramid")(image)[0, 0]
    expected = torch.zeros(9, 9)
    expected[row, column] = 1
    if row % 2 == column % 2 == 0:
        # The coarse map, which sees every other position, answers too: as much here, half as much beside.
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if 0 <= row + down < 9 and 0 <= column + right < 9:
                    expected[row + down, column + right] += 0.5 ** (abs(down) + abs(right))
    torch.testing.assert_close(response, expected)


@both
def test_moving_the_picture_by_the_coarsest_stride_moves_the_map_with_it(kind):
    torch.manual_seed(0)
    trunk = tiny(kind)
    randomise_statistics(trunk)
    image = torch.rand(1, 3, 305, 305)
    shifted = image.roll((16, 32), (2, 3))
    a, b = trunk(image), trunk(shifted)
    # Receptive fields are 163 pixels wide at most; positions farther from the border see no padding and no seam.
    step, least, most = 16 // trunk.stride, 112 // trunk.stride, 176 // trunk.stride
    moved = b[:, :, least + step : most + step, least + 2 * step : most + 2 * step]
    torch.testing.assert_close(a[:, :, least:most, least:most], moved)


@both
def test_a_mirrored_picture_gives_a_mirrored_map_when_filters_are_symmetric(kind):
    torch.manual_seed(1)
    trunk = tiny(kind)
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data += layer.weight.data.flip(3)
    image = torch.rand(1, 3, 81, 97)
    torch.testing.assert_close(trunk(image).flip(3), trunk(image.flip(3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trunk", [{"widths": TINY}, SLIM], ids=["alexnet", "pyramid"])
def test_folding_batch_norm_changes_nothing_but_rounding(trunk):
    torch.manual_seed(2)
    net = LNet(tags=("a", "b"), sizes=(20.0, 30.0), trunk=trunk)
    randomise_statistics(net)
    net.eval()
    images = torch.rand(2, 3, 70, 90)
    before = net(images)
    assert net.fold_batch_norm() is net
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("trunk", [{"widths": TINY}, SLIM], ids=["alexnet", "pyramid"])
def test_a_folded_net_is_rebuilt_from_its_config(trunk):
    net = LNet(tags=("a",), sizes=(20.0, 30.0), trunk=trunk).eval().fold_batch_norm()
    again = LNet(**net.config).eval()
    again.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 50, 50)
    torch.testing.assert_close(again(images), net(images))


def test_folding_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        fold_trunk(LNetTrunk(TINY))


def test_lnet_plus_takes_any_size_and_is_rebuilt_from_its_config():
    net = LNetPlus(classes=7, hidden=(11, 5), grid=2, trunk={"widths": TINY}).eval()
    assert net(torch.rand(2, 3, 40, 75)).shape == (2, 7)
    again = LNetPlus(**net.config).eval()
    again.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 33, 33)
    torch.testing.assert_close(again(images), net(images))


def test_logits_pool_the_maps_by_log_sum_exp():
    torch.manual_seed(3)
    net = LNet(tags=("a", "b"), sizes=(20.0, 30.0, 45.0), trunk={"widths": TINY}).eval()
    nn.init.normal_(net.head.weight)
    images = torch.rand(2, 3, 49, 65)
    maps = net.size_maps(images)
    assert maps.shape == (2, 3, 4, 5)
    torch.testing.assert_close(net(images)[:, 2:], maps.exp().sum((2, 3)).log())


def test_response_maps():
    torch.manual_seed(4)
    net = LNet(tags=(), sizes=(20.0, 30.0), trunk={"widths": TINY}).eval()
    images = torch.rand(1, 3, 49, 65)
    torch.testing.assert_close(net.response_map(images), net.size_maps(images).sigmoid().max(1).values)
    torch.testing.assert_close(net.response_map(images, "mean"), net.trunk(images).mean(1))
    with pytest.raises(ValueError, match="'sum'"):
        net.response_map(images, "sum")


@pytest.mark.parametrize("sizes", [(), (20.0,), (30.0, 20.0), (20.0, 30.0, 60.0)])
def test_sizes_must_rise_in_equal_ratios(sizes):
    with pytest.raises(ValueError, match="equal ratios"):
        LNet(sizes=sizes)


def test_a_width_a_layer_is_needed():
    with pytest.raises(ValueError, match="C1 to C5"):
        LNetTrunk((1, 2, 3))
    with pytest.raises(ValueError, match="2, 4, 8 and 16"):
        PyramidTrunk((1, 2, 3))
    with pytest.raises(ValueError, match="'vgg'"):
        make_trunk({"kind": "vgg"})


def test_the_paper_s_widths():
    convolutions = [module for module in LNetTrunk().modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(module.weight.shape) for module in convolutions]
    assert shapes == [(96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
