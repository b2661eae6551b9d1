"""Boxes framed alike, and the detectors where they are installed."""

import numpy as np
import pytest

from faceattr.evaluation.boxes import best_overlaps
from faceattr.evaluation.detectors import DETECTORS, framed_alike, framing, load_detector

RNG = np.random.default_rng(0)


def faces(count):
    """A face a photo: x0, y0, x1, y1."""
    low = RNG.uniform(0, 200, (count, 2))
    size = RNG.uniform(30, 90, (count, 1)) * [1, 1.3]
    return [box[None] for box in np.concatenate([low, low + size], 1)]


def framed_otherwise(boxes):
    """From brows to lip: narrower, lower by a fifth and of another height."""
    result = []
    for [(x0, y0, x1, y1)] in boxes:
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2 + 0.2 * (y1 - y0), 0.8 * (x1 - x0), 0.5 * (y1 - y0)
        result.append(np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]]))
    return result


def test_another_framing_is_undone():
    marked = faces(40)
    found = framed_otherwise(marked)
    assert framing(found, marked) == pytest.approx([0, -0.4, 1.25, 2], abs=1e-9)
    assert best_overlaps(marked, found).max() < 0.5
    assert best_overlaps(marked, framed_alike(found, marked)).min() > 0.999


def test_each_half_is_framed_by_the_other():
    marked = faces(40)
    found = framed_otherwise(marked)
    even = [boxes if number % 2 == 0 else np.zeros((0, 4)) for number, boxes in enumerate(found)]
    # The odd photos, from which the even ones' framing would come, tell nothing.
    assert framed_alike(even, marked)[0] == pytest.approx(even[0])
    assert framed_alike(found, marked)[0] == pytest.approx(marked[0])


def test_what_lies_elsewhere_does_not_count():
    marked = faces(9)
    far = [boxes + 1000 for boxes in marked]
    assert framing(far, marked).tolist() == [0, 0, 1, 1]
    assert framing([*far, np.zeros((0, 4))], [*marked, marked[0]]).tolist() == [0, 0, 1, 1]
    two = [np.concatenate([away, near]) for away, near in zip(far, framed_otherwise(marked), strict=True)]
    assert framing(two, marked) == pytest.approx([0, -0.4, 1.25, 2], abs=1e-9)


def test_a_missing_package_is_named(monkeypatch):
    def missing():
        import no_such_detector

        return no_such_detector

    monkeypatch.setitem(DETECTORS, "haar", missing)
    with pytest.raises(ValueError, match=r"--detector haar: needs no_such_detector.*'faceattr\[detectors\]'"):
        load_detector("haar")


@pytest.mark.parametrize("name, package", [("haar", "cv2"), ("hog", "dlib"), ("blazeface", "mediapipe")])
def test_a_detector_finds_the_astronaut(name, package):
    pytest.importorskip(package)
    skimage = pytest.importorskip("skimage.data")
    detect = load_detector(name)
    found = detect(skimage.astronaut())
    assert found.shape[1] == 5 and (np.diff(found[:, 4]) <= 0).all()
    x0, y0, x1, y1 = found[0, :4]
    assert x0 < 224 < x1 and y0 < 115 < y1 and 60 < y1 - y0 < 200
    assert detect(np.zeros((60, 80, 3), np.uint8)).shape == (0, 5)
