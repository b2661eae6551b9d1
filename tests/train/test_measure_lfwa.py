"""The second half of Table 1 by one command, on discs that smile in so far as they are green."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import NEUTRAL, SMILING, save_small_checkpoint

from faceattr.attributes import ATTRIBUTES, TABLE_1
from faceattr.pipeline import FaceAttributes

SCRIPT = Path(__file__).parents[2] / "training" / "measure_lfwa.py"


class MeanGreen:
    """A method that needs no training: smiles are green, and who smiles does not frown."""

    def describe(self, placed):
        return placed[100:136, 70:108, 1].mean() / 255

    def fit(self, described, tags, identities, names):
        self.thresholds = {"accuracy": [0.2] * tags.shape[1]}
        self.contrary = np.corrcoef(described, tags.T)[0, 1:] < 0

    def probabilities(self, described):
        return np.where(self.contrary, 1 - described[:, None], described[:, None])


@pytest.fixture
def data(tmp_path):
    """24 people with two pictures each, whole ones and such that are cut to their middle; half to learn from."""
    save_small_checkpoint(tmp_path / "small.safetensors")
    lines = ["image,identity,partition,Smiling,Sunglasses"]
    for number in range(48):
        folder, side = ("lfw", 250) if number % 3 else ("lfw-rest", 180)
        smiles = number % 4 < 2
        name = f"{folder}/P{number // 2}_{number:04}.jpg"
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (side, side), (0, 0, 0))
        middle = Image.new("RGB", (180, 180), SMILING if smiles else NEUTRAL)
        picture.paste(middle, ((side - 180) // 2, (side - 180) // 2))
        picture.save(path, quality=95)
        lines.append(f"{name},P{number // 2},{0 if number < 24 else 2},{int(smiles)},{int(not smiles)}")
    (tmp_path / "data" / "lfwa-labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_table_and_picture(data, monkeypatch, capsys):
    methods = {"facetracer": MeanGreen, "panda-l": MeanGreen}
    monkeypatch.setattr("faceattr.evaluation.baselines.METHODS", methods)
    words = [str(data / "data"), str(data / "out"), "--weights", str(data / "small.safetensors"), "--device", "cpu"]
    words += ["--methods", "facetracer", "ours", "without-identities"]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith("24 pictures to learn from, 24 to measure")
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in printed.splitlines()[2:]
    }
    published = [str(TABLE_1["LFWA"][column][ATTRIBUTES.index("Smiling")]) for column in TABLE_1["LFWA"]]
    assert rows["Smiling"] == ["50.0", "100.0", "100.0", *published]
    assert rows["Sunglasses"][1:] == ["50.0", "100.0", "", "", "", ""]
    assert rows["**mean of LFWA's 1**"][:3] == ["50.0", "100.0", "100.0"]
    with Image.open(data / "out" / "lfw-rest" / "P0_0000.jpg") as picture:
        assert picture.size == (180, 180)
    for name in ("lfwa.pdf", "lfwa.png", "table.md", "ours.json"):
        assert (data / "out" / name).exists()
    # What is there is not measured again.
    kept = json.loads((data / "out" / "ours.json").read_text())
    kept["attributes"]["Smiling"]["accuracy"] = 0.25
    (data / "out" / "ours.json").write_text(json.dumps(kept))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "| Smiling | 50.0 | 100.0 | 25.0 |" in capsys.readouterr().out


def test_faces_that_were_found_are_not_looked_for_again(data, monkeypatch, capsys):
    monkeypatch.setattr("faceattr.evaluation.baselines.METHODS", {"panda-w": MeanGreen})
    words = [str(data / "data"), str(data / "out"), "--weights", str(data / "small.safetensors"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *words, "--methods", "panda-w"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    figures, found = data / "out" / "panda-w.json", data / "out" / "panda-w.jsonl"
    first = json.loads(figures.read_text())
    assert first["not_found"] < 24 and len(found.read_text().splitlines()) == 48
    # Killed while it wrote the last line.
    lines = found.read_text().splitlines(keepends=True)
    found.write_text("".join(lines[:-1]) + lines[-1][:20])
    figures.unlink()
    looked_at = []

    def detect(self, pixels):
        looked_at.append(pixels)
        return look(self, pixels)

    look = FaceAttributes.detect
    monkeypatch.setattr(FaceAttributes, "detect", detect)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert len(looked_at) == 1 and found.read_text() == "".join(lines)
    assert json.loads(figures.read_text()) == first and capsys.readouterr().out == printed
