"""One's own attributes on frozen features: what the script writes, `faceattr predict` uses."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from small_checkpoint import NEUTRAL, SMILING, draw_photo, save_aged_checkpoint

import faceattr
from faceattr.models.checkpoint import load_checkpoint

SCRIPT = Path(__file__).parents[2] / "training" / "fit_svm.py"


@pytest.fixture
def photos(tmp_path):
    """Twenty discs, more or less green, of ten people, and a photo without one; tags.csv of who is green."""
    random = np.random.default_rng(0)
    rows = [["image", "identity", "partition", "Green", "Sometimes"]]
    for number in range(20):
        green = number % 2 == 0
        colour = tuple(np.array(SMILING if green else NEUTRAL) + [0, int(random.integers(20)), 0])
        place = random.integers(90, 150, 2)
        draw_photo([(*place.tolist(), 32, colour)]).save(tmp_path / f"{number:02}.png")
        # Of the second attribute a third of the tags is unknown; the others say the contrary of the first.
        sometimes = "" if number % 3 == 0 else str(int(not green))
        rows.append([f"{number:02}.png", f"person {number // 2}", 0 if number < 14 else 2, int(green), sometimes])
    draw_photo([]).save(tmp_path / "empty.png")
    rows.append(["empty.png", "nobody", 0, 0, 0])
    with open(tmp_path / "tags.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def fit(monkeypatch, *words):
    machine = ("--device", "cpu", "--threads", "1", "--workers", "1")
    monkeypatch.setattr(sys, "argv", ["fit_svm.py", *map(str, words), *machine])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_ages_stay(photos, monkeypatch):
    save_aged_checkpoint(photos / "aged.safetensors")
    output = photos / "own.safetensors"
    fit(monkeypatch, "--csv", photos / "tags.csv", "--weights", photos / "aged.safetensors", "--folds", 2, "--output",
        output)  # fmt: skip
    model = faceattr.load(output, device="cpu")
    assert model.attributes == ("Green", "Sometimes")
    assert [face.age.years for face in model.predict(photos / "01.png")] == [pytest.approx(35, abs=0.1)]


def test_new_attributes_are_predicted_from_frozen_features(weights, photos, monkeypatch, capsys):
    output = photos / "own.safetensors"
    fit(monkeypatch, "--csv", photos / "tags.csv", "--weights", weights, "--folds", 2, "--output", output)
    figures = json.loads((photos / "own.json").read_text())
    assert figures["held out"]["accuracy"] == 1 and "held out, 6 pictures" in capsys.readouterr().out
    before, after = load_checkpoint(weights), load_checkpoint(output)
    for net in ("lnet_o", "lnet_s"):
        old, new = getattr(before, net).state_dict(), getattr(after, net).state_dict()
        assert all((old[name] == new[name]).all() for name in old)
    model = faceattr.load(output, device="cpu")
    assert model.attributes == ("Green", "Sometimes")
    for number in range(20):
        (face,) = model.predict(photos / f"{number:02}.png")
        green = number % 2 == 0
        assert face.labels == (("Green",) if green else ("Sometimes",))
        # The net's own head says the same as the SVMs.
        assert (face.attributes["Green"] > 0.5) == green
    assert model.predict(photos / "empty.png") == []


def test_attributes_that_cannot_be_learnt_are_named(weights, photos, monkeypatch):
    table = (photos / "tags.csv").read_text().splitlines()
    (photos / "same.csv").write_text("\n".join(["image,Never", *(line.split(",")[0] + ",0" for line in table[1:])]))
    with pytest.raises(ValueError, match="attribute Never is False for all 10 samples; nothing separates them"):
        fit(monkeypatch, "--csv", photos / "same.csv", "--weights", weights, "--folds", 2, "--output", photos / "x")
    (photos / "faceless.csv").write_text("image,Odd\nempty.png,1\n")
    with pytest.raises(ValueError, match="no face found in 1 pictures"):
        fit(monkeypatch, "--csv", photos / "faceless.csv", "--weights", weights, "--output", photos / "x")
