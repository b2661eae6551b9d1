"""propose_faces.py with a whole checkpoint."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from faceattr.models.svm import LinearSVM
from tests.small_checkpoint import DISCS, draw_photo, save_small_checkpoint
from tests.train.test_face import write_celeba

ROOT = Path(__file__).parents[2]


def test_a_checkpoint_scores_what_its_lnets_propose_as_its_plane_does(tmp_path):
    # A plane that believes in what is green: of the two discs only one is a face, the other stays possible.
    face = LinearSVM(1, 5)
    with torch.no_grad():
        face.weight[0, 0], face.bias[0] = 40, -7
    save_small_checkpoint(tmp_path / "green.safetensors", face=face)
    (tmp_path / "street").mkdir()
    draw_photo(DISCS).save(tmp_path / "street/a.png")
    draw_photo([]).save(tmp_path / "street/b.png")
    command = [sys.executable, ROOT / "training/propose_faces.py", "--celeba", write_celeba(tmp_path / "celeba", 2)]
    command += ["--photos", tmp_path / "street", "--cache", tmp_path / "cache", "--device", "cpu", "--most", "3"]
    command += ["--weights", tmp_path / "green.safetensors", "--doubt", "0.1", tmp_path / "out.npz"]
    subprocess.run(list(map(str, command)), check=True)
    with np.load(tmp_path / "out.npz") as found:
        assert set(found.files) == {"img_celeba", "street"} and found["street"].shape == (2, 3, 4)
        smiling, neutral, nothing = found["street"][0]
        assert (found["street"][1] == 0).all() and (nothing == 0).all()
    for (x, y, height, score), (right_x, right_y, radius, _), expected in (
        (smiling, DISCS[1], 1 / (1 + np.exp(7 - 40 * 90 / 255))),
        (neutral, DISCS[0], 1 / (1 + np.exp(7))),
    ):
        assert np.hypot(x - right_x, y - right_y) < 8 and radius < height < 4 * radius
        assert abs(score - expected) < 0.03
