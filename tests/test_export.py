import json

import numpy as np
import pytest
import torch
from small_checkpoint import save_small_checkpoint

from faceattr.cli import main
from faceattr.models.checkpoint import load_checkpoint

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    weights = folder / "small.safetensors"
    save_small_checkpoint(weights)
    assert main(["export", "--format", "onnx", "--output", str(folder / "onnx"), "--weights", str(weights)]) == 0
    return load_checkpoint(weights), folder / "onnx"


def run(folder, name, *inputs):
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def assert_equal(result, expected):
    torch.testing.assert_close(torch.from_numpy(np.asarray(result)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lnet_o", "lnet_s"])
@pytest.mark.parametrize("size", [(1, 97, 113), (3, 160, 64)])
def test_lnets_on_pictures_of_any_size(exported, name, size):
    checkpoint, folder = exported
    images = torch.rand(size[0], 3, *size[1:])
    with torch.no_grad():
        assert_equal(run(folder, name, images)[0], getattr(checkpoint, name).size_maps(images))


@pytest.mark.parametrize("batch", [1, 5])
def test_attributes_and_face(exported, batch):
    checkpoint, folder = exported
    description = json.loads((folder / "preprocessing.json").read_text())
    crops, log_odds = torch.rand(batch, 3, *description["crop"]["size"]), torch.randn(batch)
    anet = checkpoint.anet
    height, width = anet.config["input_size"]
    with torch.no_grad():
        features = anet.pooled_features(crops)
        top, left = (crops.shape[2] - height) // 2, (crops.shape[3] - width) // 2
        middle = anet.features(crops[:, :, top : top + height, left : left + width])
        expected = checkpoint.face(torch.cat([middle, log_odds[:, None]], 1))[:, 0]
        ours = run(folder, "attributes", crops)
        assert_equal(ours[0], features)
        assert_equal(ours[1], checkpoint.svm(features))
        assert_equal(run(folder, "face", crops, log_odds)[0], expected)


def test_description_names_everything(exported):
    checkpoint, folder = exported
    description = json.loads((folder / "preprocessing.json").read_text())
    assert description["attributes"] == list(checkpoint.metadata["attributes"])
    assert all((folder / net["file"]).is_file() for net in description["files"].values())
    assert set(description["thresholds"]) == {"accuracy", "balanced"}
