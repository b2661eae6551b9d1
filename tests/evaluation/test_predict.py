"""ANet sees of an aligned picture what it was trained on, whatever box the localiser reports."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import SMILING

import faceattr
from faceattr.data.faces import FACE
from faceattr.evaluation.predict import ALIGNED_FACES, crown_to_chin, predict_pictures, write_predictions
from faceattr.pipeline import Prediction


@pytest.mark.parametrize("aligned_box", [FACE, (30.0, 60.0, 150.0, 180.0), (45.5, 40.0, 130.0, 200.0)])
def test_the_crop_of_an_aligned_picture(model, tmp_path, monkeypatch, aligned_box):
    path = tmp_path / "a.png"
    Image.new("RGB", (178, 218), SMILING).save(path)
    monkeypatch.setitem(model.metadata["preprocessing"], "aligned_box", aligned_box)
    found = predict_pictures(model, [path], np.full(3, 0.5), ALIGNED_FACES["celeba"])
    assert found.boxes[0] == pytest.approx(aligned_box)
    assert crown_to_chin(model, found.boxes[0]) == pytest.approx(FACE)
    # The same face at half the size, elsewhere: the box goes along.
    half = [edge / 2 + shift for edge, shift in zip(FACE, (10, 20, 10, 20), strict=True)]
    face = [edge / side for edge, side in zip(half, (178, 218) * 2, strict=True)]
    found = predict_pictures(model, [path], np.full(3, 0.5), face)
    expected = [edge / 2 + shift for edge, shift in zip(aligned_box, (10, 20, 10, 20), strict=True)]
    assert found.boxes[0] == pytest.approx(expected)


def test_pictures_stored_on_their_side(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # upright it is 100 wide, 200 high
    Image.new("RGB", (200, 100), SMILING).save(tmp_path / "a.jpg", exif=exif)
    found = predict_pictures(model, [tmp_path / "a.jpg"], np.full(3, 0.5), (0.2, 0.4, 0.6, 0.8))
    assert found.boxes[0] == pytest.approx([20, 80, 60, 160])


def test_the_face_with_the_best_score_counts(model, monkeypatch, tmp_path):
    faces = [faceattr.Face((0, 0, 9, 9), 0.9, dict.fromkeys(model.attributes, 0.7)), faceattr.Face((1, 1, 5, 5), 0.6)]
    predictions = [Prediction("a", 10, 10, faces), Prediction("b", 10, 10, [])]
    monkeypatch.setattr(type(model), "iter_predict", lambda *_, **__: (each for each in predictions))
    found = predict_pictures(model, [tmp_path / "a", tmp_path / "b"], np.array([0.1, 0.2, 0.3]))
    assert found.values.tolist() == [[0.7, 0.7, 0.7], [0.1, 0.2, 0.3]] and found.found.tolist() == [True, False]
    assert found.boxes[0].tolist() == [0, 0, 9, 9]
    failed = dataclasses.replace(predictions[0], error="a: cannot be read")
    monkeypatch.setattr(type(model), "iter_predict", lambda *_, **__: (each for each in [failed]))
    with pytest.raises(ValueError, match="a: cannot be read"):
        predict_pictures(model, [tmp_path / "a"], np.zeros(3))


def test_predictions_file(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a,b.jpg", "c.jpg"], np.array([[0.25, 1], [0, 1e-9]]), ["Bald", "Smiling"])
    text = 'image,Bald,Smiling\n"a,b.jpg",0.250000,1.000000\nc.jpg,0.000000,0.000000\n'
    assert (tmp_path / "p.csv").read_text() == text
