import math

import numpy as np
import pytest

from faceattr.evaluation import boxes as metrics

FACE = np.array([[10.0, 10.0, 30.0, 50.0]])


def test_overlaps_of_known_boxes():
    half = [[10, 10, 20, 50]]  # half of the face
    shifted = [[20, 10, 40, 50]]  # 1/3: 10x40 shared of 30x40
    apart = [[100, 100, 120, 140]]
    found = metrics.overlaps(FACE, np.array(half + shifted + apart + FACE.tolist()))
    np.testing.assert_allclose(found, [[0.5, 1 / 3, 0, 1]])


def test_largest_is_by_area():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 5, 30], [0, 0, 12, 12.0]])
    np.testing.assert_array_equal(metrics.largest(boxes), boxes[1:2])
    assert metrics.largest(np.zeros((0, 4))).shape == (0, 4)


def test_recall_counts_targets_and_photos_without_one_do_not_count():
    targets = [FACE, FACE, np.zeros((0, 4)), FACE]
    proposals = [FACE + 0.0, np.array([[20, 10, 40, 50.0], [10, 10, 20, 50]]), FACE, np.zeros((0, 4))]
    best = metrics.best_overlaps(targets, proposals)
    np.testing.assert_allclose(best, [1, 0.5, 0])
    np.testing.assert_allclose(metrics.recall_curve(best, [0.3, 0.5, 0.6]), [2 / 3, 2 / 3, 1 / 3])
    assert np.isnan(metrics.recall_curve(np.zeros(0), [0.5])).all()


def test_precision_is_over_all_proposals_and_any_face_will_do():
    truth = [np.concatenate([FACE, FACE + 100]), np.zeros((0, 4)), FACE]
    proposals = [np.concatenate([FACE + 100, FACE + 500]), FACE, np.zeros((0, 4))]
    assert metrics.precision(truth, proposals) == pytest.approx(1 / 3)
    assert math.isnan(metrics.precision([FACE], [np.zeros((0, 4))]))


def test_share_with_proposal():
    assert metrics.share_with_proposal([FACE, np.zeros((0, 4)), FACE, FACE]) == 0.75


def test_centre_box():
    np.testing.assert_allclose(metrics.centre_box(200, 100, share=0.5, aspect=1.25), [[80, 25, 120, 75]])


def test_read_boxes(tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("image,x0,y0,x1,y1,label\nb.jpg,1,2,3,4.5,face\na.jpg,0,0,9,9,face\nb.jpg,5,5,6,7,mask\n")
    first, second = metrics.read_boxes(file)
    assert (first.image, second.image) == ("b.jpg", "a.jpg")
    np.testing.assert_array_equal(first.boxes, [[1, 2, 3, 4.5], [5, 5, 6, 7]])
    np.testing.assert_array_equal(first.labelled(["mask"]), [[5, 5, 6, 7]])
    assert second.labelled(["mask"]).shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x0,y0,x1,label\n", "line 1: column 'y1' is missing"),
        ("image,x0,y0,x1,y1,label\na,1,2,three,4,face\n", "line 2.*three"),
        ("image,x0,y0,x1,y1,label\na,1,2,3,4,face\na,5,2,3,4,face\n", "line 3.*no area"),
        ("image,x0,y0,x1,y1,label\na,1,2\n", "line 2"),
    ],
)
def test_a_wrong_file_names_line_and_value(tmp_path, text, message):
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        metrics.read_boxes(file)


def test_false_boxes_per_photo_count_the_photos_without_any():
    truth = [FACE, np.zeros((0, 4)), FACE, FACE]
    proposals = [np.concatenate([FACE, FACE + 100]), FACE, np.array([[20, 10, 40, 50.0]]), np.zeros((0, 4))]
    assert metrics.false_boxes_per_photo(truth, proposals, 0.5) == 3 / 4
    assert metrics.false_boxes_per_photo(truth, proposals, 0.3) == 2 / 4  # the third overlaps by 1/3
    assert metrics.false_boxes_per_photo([FACE], [np.zeros((0, 4))]) == 0
