"""Placement of faces against known geometry, and both methods on pictures whose tags one part shows."""

import numpy as np
import pytest
import torch
from PIL import Image

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import area_under_roc
from faceattr.evaluation.baselines import Placement, evaluate_baseline
from faceattr.evaluation.facetracer import FaceTracer
from faceattr.evaluation.panda import Panda
from faceattr.evaluation.parts import LANDMARKS, PARTS, cut_part, place_by_box, place_by_landmarks

FACE = (38.3, 47.7, 139.7, 187.7)  # crown to chin in an aligned picture


def smooth_picture():
    y, x = np.mgrid[:218, :178]
    return np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)


def test_an_aligned_picture_stays_as_it_is():
    picture = smooth_picture()
    np.testing.assert_allclose(place_by_box(picture, FACE).astype(float), picture, atol=1)
    np.testing.assert_allclose(place_by_landmarks(picture, LANDMARKS).astype(float), picture, atol=1)


def test_a_face_elsewhere_is_brought_into_place():
    picture = smooth_picture()
    photo = np.zeros((600, 600, 3), np.uint8)
    photo[100:536, 50:406] = np.asarray(Image.fromarray(picture).resize((356, 436)))
    box = np.array(FACE) * 2 + [50, 100, 50, 100]
    np.testing.assert_allclose(place_by_box(photo, box).astype(float), picture, atol=2)
    placed = place_by_landmarks(photo, LANDMARKS * 2 + [50, 100])
    np.testing.assert_allclose(placed[2:-2, 2:-2].astype(float), picture[2:-2, 2:-2], atol=2)


def test_landmarks_also_turn():
    picture = smooth_picture()
    turned = np.rot90(picture)  # a point x, y goes to y, 177 - x
    placed = place_by_landmarks(turned, np.stack([LANDMARKS[:, 1], 177 - LANDMARKS[:, 0]], 1))
    np.testing.assert_allclose(placed[2:-2, 2:-2].astype(float), picture[2:-2, 2:-2], atol=1)
    with pytest.raises(ValueError, match="define no scale"):
        place_by_landmarks(picture, np.zeros((5, 2)))


def test_parts_are_cut_where_they_are():
    picture = np.zeros((218, 178, 3), np.uint8)
    x0, y0, x1, y1 = PARTS["mouth"]
    picture[y0:y1, x0:x1] = 255
    assert cut_part(picture, "mouth", 16) == pytest.approx(1)
    assert cut_part(picture, "hair", 16).max() == 0
    for points, part in ((LANDMARKS[:2], "eyes"), (LANDMARKS[2:3], "nose"), (LANDMARKS[3:], "mouth")):
        x0, y0, x1, y1 = PARTS[part]
        assert (points > [x0, y0]).all() and (points < [x1, y1]).all()


@pytest.fixture
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the nets are too small to share
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("method", [FaceTracer(), Panda(epochs=3)], ids=["facetracer", "panda"])
def test_tags_are_learnt_from_their_part(method):
    """One tag is the colour of the mouth, one is a pattern on the hair; a third is not to be seen."""
    random = np.random.default_rng(0)
    tags = random.random((240, 3)) < 0.5
    pictures = random.integers(80, 170, (240, 218, 178, 3), dtype=np.uint8)
    stripes = np.where(np.arange(60) // 6 % 2, 250, 5)[:, None, None].astype(np.uint8)
    for picture, (mouth, hair, _) in zip(pictures, tags, strict=True):
        picture[140:176, 60:120] = (200, 40, 40) if mouth else (40, 40, 200)
        picture[22:82, 32:146] = stripes if hair else stripes.mean().astype(np.uint8)
    described = np.stack([method.describe(picture) for picture in pictures])
    method.fit(described[:160], tags[:160], np.arange(160) // 2)
    probabilities = method.probabilities(described[160:])
    assert probabilities.shape == (80, 3) and set(method.thresholds) == {"accuracy", "balanced"}
    mouth, hair, nothing = (area_under_roc(probabilities[:, i], tags[160:, i]) for i in range(3))
    assert mouth > 0.98 and hair > 0.98 and 0.3 < nothing < 0.7


def test_placement_by_landmarks_or_by_where_faces_are(tmp_path):
    picture = smooth_picture()
    Image.fromarray(picture).resize((356, 436)).save(tmp_path / "a.png")
    by_landmarks = Placement(landmarks={"a.png": LANDMARKS * 2})(tmp_path, "a.png")
    by_face = Placement(np.array(FACE) / [178, 218, 178, 218])(tmp_path, "a.png")
    for placed in (by_landmarks, by_face):
        np.testing.assert_allclose(placed[2:-2, 2:-2].astype(float), picture[2:-2, 2:-2], atol=2)
    with pytest.raises(ValueError, match="a.png: has no landmarks"):
        Placement(landmarks={})(tmp_path, "a.png")


def test_a_method_needs_every_tag(tmp_path):
    tags = np.ones((2, 1), dtype=bool)
    known = np.array([[True], [False]])
    data = TaggedPictures(tmp_path, ["a.png", "b.png"], ("Bald",), tags, known, None, None)
    with pytest.raises(ValueError, match="b.png: Bald is not known; facetracer needs every tag"):
        evaluate_baseline("facetracer", data, data, Placement(FACE), "0.5")


def test_too_few_pictures(tmp_path):
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        Image.fromarray(smooth_picture()).save(tmp_path / name)
    tags = np.arange(6)[:, None] < [3, 0]
    data = TaggedPictures(tmp_path, names, ("Young", "Bald"), tags, np.ones_like(tags), None, None)
    placement = Placement(np.array(FACE) / [178, 218, 178, 218])
    with pytest.raises(
        ValueError, match="facetracer, from 6 pictures: attribute Bald is False for all .* give it more"
    ):
        evaluate_baseline("facetracer", data, data, placement, "0.5")
