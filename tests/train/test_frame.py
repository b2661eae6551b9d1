"""Frames are put right: on responses that tell how, and fit_frame.py and found_faces.py on nets of a few channels."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkpoint import DISCS, draw_photo, save_small_checkpoint

from faceattr.models.anet import LayerResponses
from faceattr.models.checkpoint import load_checkpoint
from faceattr.train.frame import KEPT, fit_frame
from tests.train.test_face import write_celeba

ROOT = Path(__file__).resolve().parents[2]


def batches(count, noise):
    """Of 12 responses four tell the correction, two are constant, the rest are noise."""
    random = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 4, generator=random)
    for _ in range(count):
        truth = torch.randn(50, 3, generator=random) * torch.tensor([0.05, 0.05, 0.1])
        told = truth @ mix + 3 + noise * torch.randn(50, 4, generator=random)
        rest = torch.randn(50, 6, generator=random)
        yield torch.cat([told, torch.full((50, 1), 300.0), rest, torch.zeros(50, 1)], 1), truth


def test_what_responses_tell_is_learnt():
    correction, explained = fit_frame(batches(100, 0.0))
    assert all(0.7 < share <= 1 for share in explained)
    responses, truth = next(batches(1, 0.0))
    parts = LayerResponses(responses[:, :4].view(50, 4, 1, 1), responses[:, 4:8].view(50, 1, 2, 2), responses[:, 8:])
    found = correction(parts)
    assert torch.nn.functional.mse_loss(found, truth) < 0.3 * truth.var()
    assert correction.bias.abs().max() < 10  # constants are not built on
    # Of responses that tell nothing it makes nothing.
    correction, explained = fit_frame(batches(100, 50.0))
    assert all(abs(share) < 0.05 for share in explained) and correction(parts).abs().max() < 0.1


def test_a_correction_has_its_limits():
    correction, _ = fit_frame(batches(100, 0.0))
    parts = LayerResponses(torch.full((1, 4, 1, 1), 1e6), torch.zeros(1, 1, 2, 2), torch.zeros(1, 4))
    assert correction(parts).abs().flatten().tolist() == pytest.approx([0.3, 0.3, 0.5])


def test_too_few_batches():
    with pytest.raises(ValueError, match=f"one batch in {KEPT} is kept"):
        fit_frame(batches(KEPT - 1, 0.0))


def test_responses_that_are_not_finite():
    spoilt = [(torch.where(responses > 3, torch.inf, responses), truth) for responses, truth in batches(10, 0.0)]
    with pytest.raises(ValueError, match="not finite"):
        fit_frame(spoilt)


def run(script, *words):
    subprocess.run([sys.executable, ROOT / "training" / script, *map(str, words), "--threads", "1"], check=True)


def test_faces_that_are_found_teach_where_they_lie(tmp_path):
    weights, photos = tmp_path / "small.safetensors", tmp_path / "photos"
    save_small_checkpoint(weights)
    photos.mkdir()
    for number in range(3):
        draw_photo(DISCS[:number]).save(photos / f"{number}.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    found = tmp_path / "found"
    found.mkdir()
    (found / "000007.jpg").write_bytes(b"of a run before")
    run("found_faces.py", "--precision", "float32", "--weights", weights, "--photos", photos, "--workers", "1", found)
    with (found / "tags.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [(f"{number:06}.jpg", "1", "0") for number in range(3)]
    # The disc is where faces are in aligned pictures.
    for row in rows:
        with Image.open(found / row["image"]) as image:
            pixels = np.asarray(image).astype(int)
        assert pixels.shape == (218, 178, 3)
        y, x = np.nonzero(pixels[..., 0] - pixels[..., 2] > 100)
        assert abs(x.mean() - 89) < 12 and abs(y.mean() - 118) < 12

    celeba = write_celeba(tmp_path / "celeba", 300)
    words = ["--weights", weights, "--celeba", celeba, "--faces", found, "--pictures", "298", "--workers", "0"]
    run("fit_frame.py", *words, "--output", tmp_path / "framed.safetensors")
    checkpoint = load_checkpoint(tmp_path / "framed.safetensors")
    assert checkpoint.metadata["training"]["frame"]["pictures"] == {"CelebA": 298, "found": 3}
    assert checkpoint.frame.weight.shape == (3, checkpoint.anet.responses_size)

    # Faces are laid by the checkpoint that puts them right.
    (tmp_path / "photos.csv").write_text("image,Smiling\n1.png,1\n")
    words = ["--csv", tmp_path / "photos.csv", "--root", photos, "--weights", tmp_path / "framed.safetensors"]
    run("place_faces.py", *words, "--workers", "1", tmp_path / "laid")
    with Image.open(tmp_path / "laid" / "1.png") as image:
        assert image.size == (178, 218)
