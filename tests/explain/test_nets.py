"""Checkpoints and what the training scripts write, read as nets to explain."""

import json

import numpy as np
import pytest
import torch
from small_checkpoint import ATTRIBUTES as SMALL
from small_checkpoint import make_lnet, save_small_checkpoint

from faceattr.attributes import ATTRIBUTES
from faceattr.data.faces import CROP
from faceattr.explain.nets import is_anet_alone, read_net
from faceattr.models.anet import ANet
from faceattr.train.loop import save_model

BOX = (38.3, 47.7, 139.7, 187.7)  # of the face in an aligned picture


@pytest.fixture
def run(tmp_path):
    anet = ANet(features=6, batch_norm=True)
    for norm in (anet.norm3, anet.norm_fc):
        norm.running_var.uniform_(0.5, 2)
    save_model(anet, tmp_path / "anet.safetensors", stage="tags")
    (tmp_path / "state.safetensors").write_bytes(b"")  # what a run leaves beside
    return tmp_path, anet.eval()


def test_whole_checkpoint(tmp_path):
    path = tmp_path / "small.safetensors"
    save_small_checkpoint(path, positions=(2, 3))
    net = read_net(tmp_path)
    assert net.path == path and net.attributes == SMALL and not is_anet_alone(path)
    assert net.crop_size == (55 + net.anet.step, 47 + 2 * net.anet.step)
    green = np.zeros((1, *net.crop_size, 3), np.uint8)
    green[..., 1] = 90
    features = net.features(green)
    assert features == pytest.approx(np.full((1, 4), 90 / 255), abs=1e-3)
    assert net.decisions(features)[0] == pytest.approx([40 * 90 / 255 - 7, 7 - 40 * 90 / 255, 5], abs=0.05)
    assert net.probabilities(features)[0] == pytest.approx(1 / (1 + np.exp(-net.decisions(features)[0])))


def test_fine_tuned_anet_decides_by_its_own_layer(run):
    folder, anet = run
    net = read_net(folder)
    assert is_anet_alone(folder) and net.attributes == ATTRIBUTES and (net.thresholds == 0.5).all()
    crops = np.random.default_rng(0).integers(0, 256, (2, *net.crop_size, 3), dtype=np.uint8)
    assert net.crop_size == (55, 47)
    images = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    logits = (anet(images) + anet(images.flip(3))) / 2
    np.testing.assert_allclose(net.decisions(net.features(crops)), logits.detach(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(net.probabilities(net.features(crops)), logits.sigmoid().detach(), rtol=1e-3, atol=1e-4)
    # It sees of an aligned picture what training shows it.
    window = net.crop.window(BOX, (55, 47), net.anet.step)
    assert window[1::2] == pytest.approx(CROP[1::2]) and window[0] == pytest.approx(CROP[0], abs=1.2)


def test_identities_decide_nothing(tmp_path):
    save_model(ANet(features=6), tmp_path / "anet.safetensors", stage="identities")
    net = read_net(tmp_path / "anet.safetensors")
    assert net.attributes == ()
    with pytest.raises(ValueError, match="anet.safetensors: has learnt identities alone .* give a fine-tuned ANet"):
        net.decisions(np.zeros((1, 6)))


def test_files_that_are_no_such_net(tmp_path):
    path = tmp_path / "lnet.safetensors"
    save_model(make_lnet(torch.zeros(5, 5)), path)
    with pytest.raises(ValueError, match="lnet.safetensors: holds another net than ANet"):
        read_net(path)
    save_model(ANet(attributes=7), path, stage="tags")
    with pytest.raises(ValueError, match="lnet.safetensors: 7 attributes without names; CelebA's 40 do"):
        read_net(path)
    path.write_text(json.dumps({}))
    with pytest.raises(ValueError, match="lnet.safetensors: damaged"):
        read_net(path)
    with pytest.raises(ValueError, match="nothing: cannot be read"):
        read_net(tmp_path / "nothing")
