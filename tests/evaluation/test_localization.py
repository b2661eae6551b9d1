"""Localisation figures on photos whose faces, red discs, are marked."""

import json

import numpy as np
import pytest
from small_checkpoint import NEUTRAL, draw_photo, save_small_checkpoint

from faceattr.cli import main
from faceattr.evaluation.detectors import DETECTORS
from faceattr.models.lnet import LNet
from faceattr.train.loop import save_model

BOXES = {"a.png": (100, 100), "b.png": (220, 140), "c.png": (200, 60)}


@pytest.fixture
def folder(tmp_path):
    """One disc is marked well, one is not marked but another place is, one is marked as something else."""
    save_small_checkpoint(tmp_path / "small.safetensors")
    lines = ["image,x0,y0,x1,y1,label"]
    for name, (x, y) in BOXES.items():
        draw_photo([(x, y, 32, NEUTRAL)]).save(tmp_path / name)
        shift = 100 if name == "b.png" else 0
        # As high as the disc and 1.38 times as high as wide, which is what the localiser reports.
        box = (x - shift - 16 / 1.38, y - 16, x - shift + 16 / 1.38, y + 16)
        label = "mask" if name == "c.png" else "face"
        lines.append(",".join([name, *(f"{edge:.2f}" for edge in box), label]))
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    return tmp_path


def run(capsys, folder, *arguments):
    weights = str(folder / "small.safetensors")
    status = main(["evaluate", "boxes", "--root", str(folder), "--weights", weights, "--quiet", *map(str, arguments)])
    return status, capsys.readouterr()


def test_figures(folder, capsys):
    status, captured = run(capsys, folder, "--format", "json", "--plot", folder / "recall.png")
    result = json.loads(captured.out)
    assert status == 0 and (result["n"], result["targets"]) == (3, 3)
    assert result["overlap"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert result["recall"][:5] == pytest.approx([2 / 3] * 5) and result["recall_best_alone"] == result["recall"]
    assert result["precision"][:5] == pytest.approx([2 / 3] * 5)
    assert result["false_positives_per_image"][:5] == pytest.approx([1 / 3] * 5)
    assert all(before >= after for before, after in zip(result["recall"], result["recall"][1:], strict=False))
    # The centre box, 87 x 120 in the middle of 320 x 240, is ten times as large as any of them.
    assert result["recall_centre"] == [0] * 9
    assert result["max_box_acc_v2"]["proposals"] <= 2 / 3
    assert set(result["max_box_acc_v2"]) == {"proposals", "response_map", "mean_c5", "cam", "centre"}
    assert (folder / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_the_response_map_finds_what_is_marked(folder, capsys):
    _, captured = run(capsys, folder, "--format", "json", "--targets", "mask")
    result = json.loads(captured.out)
    assert result["targets"] == 1 and result["recall"][4] == 1
    assert result["precision"][0] == pytest.approx(2 / 3)  # a.png's face is a face too, if not a target
    # The map has a position every 16 pixels, half a face: it points, and frames roughly.
    assert result["max_box_acc_v2"]["response_map"] > 0 == result["max_box_acc_v2"]["centre"]


def test_table(folder, capsys):
    status, captured = run(capsys, folder, "--targets", "face", "--min-score", 1)
    lines = captured.out.splitlines()
    assert status == 0 and lines[0].split() == ["overlap", *(f"0.{i}" for i in range(1, 10))]
    assert lines[1].split() == ["recall", *["0.000"] * 9]  # no score reaches 1
    assert not any(line.startswith("precision") for line in lines)
    assert lines[-2].startswith("MaxBoxAccV2: proposals 0.000") and lines[-1] == "3 photos, 2 faces to be found"


def test_methods_beside(folder, capsys, monkeypatch):
    """A detector that frames a part of each marked face, and the same weights once more."""
    marked = {name: [x - (100 if name == "b.png" else 0), y] for name, (x, y) in BOXES.items()}
    order = iter(marked.values())

    def detector():
        def detect(pixels):
            x, y = next(order)
            return np.array([[x - 8, y - 8, x + 8, y + 8, 1.0]])

        return detect

    monkeypatch.setitem(DETECTORS, "haar", detector)
    save_model(LNet(sizes=[20.0, 30.0]), folder / "lnet.safetensors")
    beside = ("--beside", f"again={folder / 'small.safetensors'}", "--beside", f"random={folder / 'lnet.safetensors'}")
    plot = ("--plot", folder / "recall.pdf")
    _, captured = run(capsys, folder, "--detector", "haar", *beside, *plot, "--format", "json")
    result = json.loads(captured.out)
    methods = result["methods"]
    maps = ("", ", response map", ", mean of C5", ", CAM")
    nets = [f"{net}{reading}" for net in ("LNets", "again", "random") for reading in maps]
    assert list(methods) == [*nets, "haar", "centre box"]
    assert methods["haar"] == [1] * 9  # framed as the others' faces are marked
    assert methods["again"] == methods["LNets"]
    assert (folder / "recall.pdf").read_bytes().startswith(b"%PDF")
    order = iter(marked.values())
    _, captured = run(capsys, folder, "--detector", "haar", "--photos", 2)
    assert "boxes framed alike" in captured.out and "2 photos" in captured.out


def test_what_cannot_be_evaluated(folder, capsys):
    status, captured = run(capsys, folder, "--targets", "hat")
    assert status == 2 and "no box with the labels hat; there are face, mask" in captured.err
    (folder / "b.png").unlink()
    status, captured = run(capsys, folder)
    assert status == 2 and "b.png: no such file" in captured.err
    (folder / "boxes.csv").unlink()
    status, captured = run(capsys, folder, "--labels", "boxes.csv")
    assert status == 2 and "boxes.csv: missing" in captured.err
