"""Modern nets in ANet's place, where torchvision is installed; without it they are refused."""

import sys

import numpy as np
import pytest
import torch

from faceattr.train.loop import save_model
from faceattr.train.modern import NETS, ModernNet, load_net

SIZE = (55, 47)


@pytest.mark.parametrize("name", NETS)
def test_a_net_in_anet_s_place(name, tmp_path):
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = ModernNet(name, SIZE)
    images = torch.rand(3, 3, *SIZE)
    logits = net(images)
    assert logits.shape == (3, 40)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    save_model(net, tmp_path / "anet.safetensors", stage="tags")
    loaded, metadata = load_net(tmp_path / "anet.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images), net(images)) and metadata["stage"] == "tags"
        # Two crops a step apart, and their mirror images.
        wide = torch.rand(2, 3, SIZE[0], SIZE[1] + net.step)
        views = [wide[..., : SIZE[1]], wide[..., net.step :]]
        expected = sum(net.features(view) + net.features(view.flip(3)) for view in views) / 4
        torch.testing.assert_close(net.pooled_features(wide), expected, atol=1e-4, rtol=1e-3)


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="--net resnet18 needs torchvision, which is missing"):
        ModernNet("resnet18", SIZE)


def test_an_anet_is_loaded_as_one(tmp_path):
    from faceattr.models.anet import ANet

    save_model(ANet(), tmp_path / "anet.safetensors", stage="tags")
    assert isinstance(load_net(tmp_path / "anet.safetensors")[0], ANet)
    assert np.prod(load_net(tmp_path / "anet.safetensors")[0].config["input_size"]) == 55 * 47
