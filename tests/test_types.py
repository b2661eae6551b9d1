"""A user's script type-checks, and what it does wrong is seen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import faceattr

SCRIPT = """
import numpy as np
import torch
from torch import Tensor, nn

import faceattr
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import load_checkpoint
from faceattr.nn import LazyLocallySharedConv2d, LocallySharedConv1d, LocallySharedConv2d
from faceattr.ops import Peaks, assign_peaks, density_peaks, find_peaks, interweave, interweaved_conv2d
from faceattr.ops import locally_shared_conv2d


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.local: LocallySharedConv2d = LocallySharedConv2d.from_conv2d(nn.Conv2d(3, 8, 3), grid=(3, 2))
        self.lazy = LazyLocallySharedConv2d(4, 3, padding="same")

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = interweaved_conv2d(images, self.local.weight, self.local.bias, shift=1, pool=(2, 2))
        return locally_shared_conv2d(scores, self.local.weight)


def of_people(model: faceattr.FaceAttributes, paths: list[str]) -> dict[str, float]:
    faces: list[faceattr.Face] = model.predict(paths[0], boxes=[[1, 2, 3, 4]])
    batches: list[list[faceattr.Face]] = model.predict(paths)
    pixels: list[faceattr.Face] = model.detect(np.zeros((4, 4, 3), np.uint8))
    for record in model.iter_predict(paths, every=2.0):
        name: str = record.image
        error: str | None = record.error
        print(name, error, [face.labels for face in record.faces])
    x0, y0, x1, y1 = batches[0][0].box
    print(x0 + y1, y0 + x1, pixels)
    return faces[0].attributes


def peaks(density: Tensor) -> Tensor:
    distance, parent = density_peaks(density)
    found: Peaks = find_peaks(density, max_peaks=4)
    return assign_peaks(parent, found) + distance + interweave(torch.rand(1, 2, 2, 3, 4, 4))


model = faceattr.load(device="cpu", exclude=["Attractive"])
anet: ANet = load_checkpoint("weights.safetensors").anet
logits: Tensor = anet.forward_dense(torch.rand(1, 3, 55, 47)).logits
line: nn.Module = LocallySharedConv1d(4, 8, 5, grid=3)
"""
WRONG = {
    "faceattr.load().predict(3)\n": "call-overload",
    'faceattr.load().predict("a.jpg")[0].boxes\n': "attr-defined",
    'locally_shared_conv2d(torch.rand(1, 1, 4, 4), torch.rand(1), stride="two")\n': "arg-type",
    "LocallySharedConv2d(3, 8, 3)\n": "call-arg",
}


def test_a_script_type_checks_and_mistakes_are_seen(tmp_path):
    pytest.importorskip("mypy", reason='needs pip install "faceattr[lint]"')
    (tmp_path / "script.py").write_text(SCRIPT + "".join(WRONG))
    options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary"]
    # Where it is installed mypy finds it by itself, and refuses to be told.
    folder = Path(faceattr.__file__).parent.parent
    environment = {"PATH": ""} | ({} if folder.name == "site-packages" else {"MYPYPATH": str(folder)})
    command = [sys.executable, "-m", "mypy", *options, "script.py"]
    report = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    errors = [re.match(r"script.py:(\d+): error: .*\[(.*)\]$", row) for row in report.splitlines() if " error: " in row]
    first = len(SCRIPT.splitlines()) + 1
    assert [(int(one[1]), one[2]) for one in errors] == list(enumerate(WRONG.values(), first)), report
