"""measure_integers.py on nets of a few channels."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_checkpoint import save_small_checkpoint

from faceattr.localization import LocalizerSettings
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import LNet
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


@pytest.mark.parametrize("bias, measured", [(0.0, 10), (-20.0, 0)])  # faces everywhere, and nowhere
def test_what_is_measured(monkeypatch, tmp_path, capsys, bias, measured):
    save_pyramids(tmp_path / "cascade.safetensors", bias)
    celeba = write_celeba(tmp_path / "celeba", 3)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no picture")
    words = ["--weights", tmp_path / "cascade.safetensors", "--celeba", celeba, "--photos", tmp_path / "photos"]
    output = tmp_path / "measured.safetensors"
    monkeypatch.setattr(sys, "argv", ["measure_integers.py", *map(str, words), "--output", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    out, err = capsys.readouterr()
    assert "left out: " in err and "bad.jpg" in err
    assert ("they compute in float32" in out) == (not measured)
    settings = LocalizerSettings(**load_checkpoint(output).metadata["preprocessing"]["localization"])
    assert (len(settings.largest_o), len(settings.largest_s)) == (measured, measured)
    assert settings.integers == bool(measured) and json.dumps(settings.to_dict())
