"""measure_integers.py on nets of a few channels."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_checkpoint import DISCS, draw_photo, save_small_checkpoint

import faceattr
from faceattr.localization import LocalizerSettings
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import LNet
from faceattr.models.quantized import computes_in_integers
from tests.train.test_face import write_celeba

SCRIPT = Path(__file__).parents[2] / "training" / "measure_integers.py"


def save_pyramids(path: Path, bias: float) -> None:
    """A checkpoint whose LNets have pyramids; the bias of their heads says how likely a face is anywhere."""
    save_small_checkpoint(path)
    torch.manual_seed(0)
    net = LNet(tags=("a",), sizes=(20.0, 25.0), trunk={"kind": "pyramid", "widths": (2, 3, 4, 5)}).eval()
    torch.nn.init.constant_(net.head.bias, bias)
    checkpoint = replace(load_checkpoint(path), lnet_o=net.fold_batch_norm(), lnet_s=net)
    save_checkpoint(path, **checkpoint.nets(), metadata=checkpoint.metadata)


def measure(monkeypatch, folder: Path, bias: float) -> Path:
    save_pyramids(folder / "cascade.safetensors", bias)
    celeba = write_celeba(folder / "celeba", 3)
    (folder / "photos").mkdir()
    (folder / "photos" / "bad.jpg").write_bytes(b"no picture")
    words = ["--weights", folder / "cascade.safetensors", "--celeba", celeba, "--photos", folder / "photos"]
    output = folder / "measured.safetensors"
    monkeypatch.setattr(sys, "argv", ["measure_integers.py", *map(str, words), "--output", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return output


@pytest.mark.parametrize("bias, measured", [(0.0, 10), (-20.0, 0)])  # faces everywhere, and nowhere
def test_what_is_measured(monkeypatch, tmp_path, capsys, bias, measured):
    output = measure(monkeypatch, tmp_path, bias)
    out, err = capsys.readouterr()
    assert "left out: " in err and "bad.jpg" in err
    assert ("they compute in float32" in out) == (not measured)
    preprocessing = load_checkpoint(output).metadata["preprocessing"]
    assert len(preprocessing["largest_anet"]) == bool(measured)
    settings = LocalizerSettings(**preprocessing["localization"])
    assert (len(settings.largest_o), len(settings.largest_s)) == (measured, measured)
    assert settings.integers == bool(measured) and json.dumps(settings.to_dict())


@pytest.mark.skipif(not computes_in_integers(), reason="torch has no 8-bit integer kernels here")
def test_what_is_measured_is_used(monkeypatch, tmp_path):
    weights, photo = measure(monkeypatch, tmp_path, 0.0), draw_photo(DISCS)
    exact = faceattr.load(weights, localization_dtype=torch.float32)
    rounded = faceattr.load(weights, localization_dtype=torch.qint8)
    boxes = [(84, 84, 116, 116), (204, 124, 236, 156)]
    features, others = (np.stack([face.features for face in net.predict(photo, boxes)]) for net in (rounded, exact))
    assert features[1].max() > 0.2 and 0 < np.abs(features - others).max() < 0.01
    # Of another type than float32, ANet is as it is.
    half = faceattr.load(weights, dtype=torch.bfloat16, localization_dtype=torch.qint8)
    assert half.predict(photo, boxes)[1].features.max() > 0.2
