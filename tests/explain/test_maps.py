"""A photo's way through a cascade whose faces are red discs (small_checkpoint.py)."""

import numpy as np
import pytest
import torch
from small_checkpoint import NEUTRAL, SMILING, draw_photo, make_anet, save_small_checkpoint

from faceattr.explain import maps
from faceattr.images import load_photo
from faceattr.models.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_small_checkpoint(path)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def photo():
    return load_photo(draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]))


@pytest.fixture(scope="module")
def traced(checkpoint, photo):
    return maps.trace(checkpoint, photo)


def test_peaks_are_at_the_discs(traced, photo):
    rows = maps.peak_rows("photo", photo, traced)
    places = sorted((row["x"], row["y"]) for row in rows if row["net"] == "lnet_o")
    assert np.array(places) == pytest.approx(np.array([[100, 100], [220, 140]]), abs=16)
    # LNet_s's strongest peak is the disc in the middle of its window.
    of_faces = [next((row["x"], row["y"]) for row in rows if row["face"] == number) for number in (1, 2)]
    assert np.array(sorted(of_faces)) == pytest.approx(np.array([[100, 100], [220, 140]]), abs=16)
    assert traced.response_o.max() == traced.graph_o.rho[0]


def test_windows_hold_the_faces(traced):
    assert len(traced.faces) == 2
    for face in traced.faces:
        x0, y0, x1, y1 = face.window
        left, top, right, bottom = face.face.box
        assert x0 < left and y0 < top and right < x1 and bottom < y1
        # A window is two faces high, and the disc is in its middle: red there, grey at the border.
        side = len(face.view)
        assert x1 - x0 == pytest.approx(2 * (bottom - top), rel=0.3)
        assert face.view[side // 2, side // 2, 0] > 240 and abs(face.view[3, 3].astype(int) - 128).max() < 10
        row, column = np.unravel_index(face.response_s.argmax(), face.response_s.shape)
        assert abs(row - 14) <= 4 and abs(column - 14) <= 4  # of 28 cells


def test_decision_graph_of_two_hills():
    y, x = np.mgrid[:12, :20]
    response = np.maximum(
        0.9 * np.exp(-((x - 4) ** 2 + (y - 3) ** 2) / 4), 0.5 * np.exp(-((x - 15) ** 2 + (y - 8) ** 2) / 4)
    )
    graph = maps.decision_graph(response, 0.05, (np.arange(20) + 0.5) / 20, (np.arange(12) + 0.5) / 12)
    assert graph.peaks == 2
    assert graph.place[:2] == pytest.approx(np.array([[4.5 / 20, 3.5 / 12], [15.5 / 20, 8.5 / 12]]))
    assert graph.rho[:2] == pytest.approx([0.9, 0.5])
    assert graph.delta[0] == pytest.approx(np.hypot(12, 20))  # nothing is stronger
    nearest = min(np.hypot(i - 8, j - 15) for i, j in np.argwhere(response > 0.5))
    assert graph.delta[1] == pytest.approx(nearest)
    # The rest are slopes, whose stronger neighbour is next to them; background is left out.
    assert (graph.delta[2:] < 1.5).all() and len(graph.rho) == (response > 0.05).sum()
    assert (np.diff(graph.score[2:]) <= 0).all() and graph.score[0] == pytest.approx(1)


def test_no_response_no_graph():
    graph = maps.decision_graph(np.zeros((3, 4)), 0.1, np.arange(4), np.arange(3))
    assert graph.peaks == 0 and len(graph.rho) == 0


def test_dense_score_peaks_where_the_face_is():
    """ANet's C4 answers to green; the crop that holds the whole green square is found among all offsets."""
    anet = make_anet()
    height, width = anet.config["input_size"]
    pixels = np.zeros((height + 8 * anet.step, width + 8 * anet.step, 3), np.uint8)
    row, column = 2, 6
    pixels[row * anet.step : row * anet.step + height, column * anet.step : column * anet.step + width, 1] = 200
    strength, best = maps.dense_score(anet, pixels)
    assert strength.shape == (9, 9)
    # A crop's strongest cell is full of green for all that cover some of it; none is stronger than the whole one.
    assert strength.max() == pytest.approx(strength[row, column]) and strength[8, 0] < strength[row, column]
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    dense = anet.forward_dense(whole)
    assert best == tuple(dense.best[0].tolist())
    np.testing.assert_array_equal(strength, dense.strength[0].detach())


def test_strength_is_the_largest_response_of_each_crop():
    anet = maps.ANet(features=8)
    images = torch.rand(1, 3, 55 + 2 * anet.step, 47 + anet.step)
    strength = anet.forward_dense(images).strength
    assert strength.shape == (1, 3, 2)
    for i in range(3):
        for j in range(2):
            crop = images[:, :, i * anet.step : i * anet.step + 55, j * anet.step : j * anet.step + 47]
            assert strength[0, i, j].item() == pytest.approx(anet.responses(crop).c4.max().item(), rel=1e-5)


def test_as_json(traced, photo):
    content = maps.to_dict(photo, traced)
    assert [len(face["dense_score"]) for face in content["faces"]] == [maps.OFFSETS] * 2
    assert len(content["windows"]) == 2
    # What the cascade says of the photo is what the pipeline says.
    boxes = sorted(tuple(face["box"]) for face in content["faces"])
    assert np.array(boxes)[:, [0, 2]].mean(1) == pytest.approx([100, 220], abs=8)
