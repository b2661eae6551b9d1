import pytest
import torch
from torch import nn

from faceattr.models.lnet import STRIDE, LNet, LNetPlus, LNetTrunk, map_size

TINY = (4, 6, 5, 5, 3)


def randomise_statistics(net: nn.Module):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


def point_trunk() -> LNetTrunk:
    """Every filter passes its centre alone, so a response can be traced to the pixels it saw by hand."""
    trunk = LNetTrunk((1, 1, 1, 1, 1), batch_norm=False, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    for layer in (trunk.c1, trunk.c2, trunk.c3, trunk.c4, trunk.c5):
        conv = layer[0]
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        middle = conv.kernel_size[0] // 2
        conv.weight.data[:, :, middle, middle] = 1 / conv.in_channels
    return trunk


@pytest.mark.parametrize("size", [1, 11, 16, 17, 32, 33, 100])
def test_map_has_a_position_every_sixteen_pixels(size):
    trunk = LNetTrunk(TINY).eval()
    shape = trunk(torch.zeros(1, 3, size, 49)).shape
    positions = len(range(0, size, STRIDE))
    assert shape == (1, TINY[-1], positions, 4)
    assert map_size(size) == positions


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 1)])
def test_a_bright_pixel_answers_at_its_own_position(row, column):
    image = torch.zeros(1, 3, 65, 65)
    image[:, :, STRIDE * row, STRIDE * column] = 1
    response = point_trunk()(image)[0, 0]
    expected = torch.zeros(5, 5)
    expected[row, column] = 1
    torch.testing.assert_close(response, expected)


def test_moving_the_picture_by_the_stride_moves_the_map_by_one():
    torch.manual_seed(0)
    trunk = LNetTrunk(TINY).eval()
    randomise_statistics(trunk)
    image = torch.rand(1, 3, 305, 305)
    shifted = image.roll((STRIDE, 2 * STRIDE), (2, 3))
    a, b = trunk(image), trunk(shifted)
    # The receptive field is 163 pixels wide; positions farther from the border see no padding and no seam.
    torch.testing.assert_close(a[:, :, 7:11, 7:11], b[:, :, 8:12, 9:13])


def test_a_mirrored_picture_gives_a_mirrored_map_when_filters_are_symmetric():
    torch.manual_seed(1)
    trunk = LNetTrunk(TINY).eval()
    for layer in (trunk.c1, trunk.c2, trunk.c3, trunk.c4, trunk.c5):
        layer[0].weight.data += layer[0].weight.data.flip(3)
    image = torch.rand(1, 3, 81, 97)
    torch.testing.assert_close(trunk(image).flip(3), trunk(image.flip(3)), rtol=1e-4, atol=1e-4)


def test_folding_batch_norm_changes_nothing_but_rounding():
    torch.manual_seed(2)
    net = LNet(tags=("a", "b"), sizes=(20.0, 30.0), trunk={"widths": TINY})
    randomise_statistics(net)
    net.eval()
    images = torch.rand(2, 3, 70, 90)
    before = net(images)
    assert net.fold_batch_norm() is net
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_a_folded_net_is_rebuilt_from_its_config():
    net = LNet(tags=("a",), sizes=(20.0, 30.0), trunk={"widths": TINY}).eval().fold_batch_norm()
    again = LNet(**net.config).eval()
    again.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 50, 50)
    torch.testing.assert_close(again(images), net(images))


def test_folding_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        LNetTrunk(TINY).fold_batch_norm()


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


def test_five_widths_are_needed():
    with pytest.raises(ValueError, match="C1 to C5"):
        LNetTrunk((1, 2, 3))


def test_the_paper_s_widths():
    convolutions = [module for module in LNetTrunk().modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(module.weight.shape) for module in convolutions]
    assert shapes == [(96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
