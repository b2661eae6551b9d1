import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkpoint import NEUTRAL, SMILING, draw_photo, save_small_checkpoint

import faceattr
from faceattr import export
from faceattr.cli import main
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import LNet

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript")

DOCS = Path(__file__).parent.parent / "docs"
PYRAMID = {"kind": "pyramid", "widths": [4, 6, 8, 6], "depths": [0, 1, 2]}


def with_pyramids(checkpoint):
    """The checkpoint with LNets of the other trunk, of random weights; windows are seen mirrored too."""
    nets = {name: LNet(["a"], [24.0, 30.2, 38.1], PYRAMID).eval() for name in ("lnet_o", "lnet_s")}
    for net in nets.values():
        torch.nn.init.normal_(net.head.weight)
    localization = {**checkpoint.metadata["preprocessing"]["localization"], "mirrored": True}
    preprocessing = {**checkpoint.metadata["preprocessing"], "localization": localization}
    return replace(checkpoint, **nets, metadata={**checkpoint.metadata, "preprocessing": preprocessing})


def save(checkpoint, path):
    save_checkpoint(path, **checkpoint.nets(), metadata=checkpoint.metadata)


@pytest.fixture(scope="module", params=["alexnet", "pyramid"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    weights = folder / "small.safetensors"
    save_small_checkpoint(weights, correction=(0.05, -0.1, 0.2))
    checkpoint = load_checkpoint(weights)
    checkpoint.metadata["preprocessing"]["localization"]["box_below"] = 0.05
    if request.param == "pyramid":
        torch.manual_seed(0)
        checkpoint = replace(with_pyramids(checkpoint), frame=None)
    save(checkpoint, weights)
    assert main(["export", "--format", "onnx", "--output", str(folder / "nets"), "--weights", str(weights)]) == 0
    return load_checkpoint(weights), folder / "nets"


def run(folder, name, *inputs):
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def assert_equal(result, expected):
    torch.testing.assert_close(torch.as_tensor(result), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lnet_o", "lnet_s"])
@pytest.mark.parametrize("size", [(1, 97, 113), (3, 160, 64), (2, 33, 16)])
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
        middle = anet.responses(crops[:, :, top : top + height, left : left + width])
        expected = [checkpoint.face(torch.cat([middle.fc, log_odds[:, None]], 1))[:, 0]]
        if checkpoint.frame is not None:
            expected.append(checkpoint.frame(middle))
            assert expected[1].abs().max() > 1e-3
        ours = run(folder, "attributes", crops)
        assert_equal(ours[0], features)
        assert_equal(ours[1], checkpoint.svm(features))
        for result, right in zip(run(folder, "face", crops, log_odds), expected, strict=True):
            assert_equal(result, right)


def test_description_names_everything(exported):
    checkpoint, folder = exported
    description = json.loads((folder / "preprocessing.json").read_text())
    assert description["attributes"] == list(checkpoint.metadata["attributes"])
    assert all((folder / net["file"]).is_file() for net in description["files"].values())
    assert set(description["thresholds"]) == {"accuracy", "balanced"}


@pytest.mark.skipif(not DOCS.is_dir(), reason="runs in the source folder")
def test_cascade_of_the_documentation(exported, tmp_path, monkeypatch, capsys):
    """The code of docs/onnx.md, which has no torch, says what the pipeline does."""
    checkpoint, folder = exported
    shutil.copytree(folder, tmp_path / "nets")
    astronaut = pytest.importorskip("skimage.data", reason="needs scikit-image").astronaut()
    photo = np.asarray(draw_photo([(70, 60, 32, NEUTRAL), (220, 140, 32, SMILING), (315, 60, 32, NEUTRAL)]))
    Image.fromarray(astronaut).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / "onnx.md").read_text(), re.DOTALL | re.MULTILINE))
    assert "torch" not in code
    names: dict = {}
    exec(compile(code, "docs/onnx.md", "exec"), names)
    assert capsys.readouterr().out
    model = faceattr.FaceAttributes(checkpoint, localization_dtype=torch.float32)
    for pixels in (photo, astronaut, astronaut[:60, :80]):
        faces = model.predict(pixels)
        boxes, scores, probabilities = names["predict"](pixels)
        assert len(faces) == len(boxes)
        if faces:
            np.testing.assert_allclose(boxes, [face.box for face in faces], atol=0.2)
            np.testing.assert_allclose(scores, [face.score for face in faces], atol=1e-3)
            # A tenth of a pixel shows in a face of sixteen.
            np.testing.assert_allclose(probabilities, [list(face.attributes.values()) for face in faces], atol=0.01)
    if checkpoint.lnet_o.trunk.stride == 16:
        assert len(names["predict"](photo)[0]) == 3


@pytest.mark.parametrize("positions", [(1, 1), (3, 3)])
def test_torch_export_for_batches_of_any_size(tmp_path, positions):
    save_small_checkpoint(tmp_path / "small.safetensors", positions=positions)
    checkpoint = load_checkpoint(tmp_path / "small.safetensors")
    size = [n + checkpoint.anet.step * (p - 1) for n, p in zip((55, 47), positions, strict=True)]
    net = export._programs(checkpoint, size)["attributes"].net.eval()
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(net, (torch.rand(2, 3, *size),), dynamic_shapes=dynamic)
        for batch in (1, 5):
            crops = torch.rand(batch, 3, *size)
            for result, expected in zip(exported.module()(crops), net(crops), strict=True):
                assert_equal(result, expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_aotinductor(tmp_path, monkeypatch):
    """Packages give what the nets do, for batches and pictures of other sizes than were compiled with."""
    save_small_checkpoint(tmp_path / "small.safetensors", positions=(3, 3))
    save(with_pyramids(load_checkpoint(tmp_path / "small.safetensors")), tmp_path / "small.safetensors")
    programs = export._programs
    monkeypatch.setattr(  # the other two would be a minute more of the compiler
        export, "_programs", lambda *args: {name: programs(*args)[name] for name in ("lnet_o", "attributes")}
    )
    options = ["--output", str(tmp_path / "nets"), "--weights", str(tmp_path / "small.safetensors")]
    assert main(["export", "--format", "aotinductor", *options]) == 0
    checkpoint = load_checkpoint(tmp_path / "small.safetensors")
    description = json.loads((tmp_path / "nets/preprocessing.json").read_text())
    run = {
        name: torch._inductor.aoti_load_package(str(tmp_path / "nets" / net["file"]))
        for name, net in description["files"].items()
    }
    crops = torch.rand(5, 3, *description["crop"]["size"])
    with torch.no_grad():
        for size in [(3, 160, 64), (1, 33, 16), (1, 7, 9)]:
            pictures = torch.rand(size[0], 3, *size[1:])
            assert_equal(run["lnet_o"](pictures), checkpoint.lnet_o.size_maps(pictures))
        features, probabilities = run["attributes"](crops)
        assert_equal(features, checkpoint.anet.pooled_features(crops))
        assert_equal(probabilities, checkpoint.svm(features))
