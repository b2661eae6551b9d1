import numpy as np

from faceattr.data.layout import FACE_ASPECT, Layout, inside, size_tags

SIZES = np.array([40.0, 50.0, 62.5])


def tags_of(heights, visible, sure=(True, True, True), complete=True):
    places = np.zeros((1, 3, 2))
    layout = Layout(np.array([heights]), places, np.array([sure]), np.array([visible]), np.array([complete]))
    tags, known = size_tags(layout, SIZES)
    return tags[0].tolist(), known[0].tolist()


def test_a_face_belongs_to_the_class_of_its_size():
    assert tags_of([50.0, 0, 0], [1.0, 0, 0]) == ([False, True, False], [True, True, True])
    assert tags_of([0.0, 0, 0], [0.0, 0, 0]) == ([False, False, False], [True, True, True])
    assert tags_of([20.0, 150, 0], [1.0, 1, 0]) == ([False, False, False], [True, True, True])


def test_between_two_classes_there_is_no_telling():
    # 0.7 of the way from 50 to 62.5: surely of the third class, perhaps of the second.
    height = 50 * 1.25**0.7
    assert tags_of([height, 0, 0], [1.0, 0, 0]) == ([False, False, True], [True, False, True])


def test_a_cut_face_makes_its_tag_unknown_and_a_sliver_counts_for_nothing():
    assert tags_of([50.0, 0, 0], [0.6, 0, 0]) == ([False, False, False], [True, False, True])
    assert tags_of([50.0, 0, 0], [0.2, 0, 0]) == ([False, False, False], [True, True, True])
    # Another, whole face of that size settles it.
    assert tags_of([50.0, 51, 0], [0.6, 1, 0]) == ([False, True, False], [True, True, True])


def test_a_face_that_is_not_sure_makes_its_tag_and_its_neighbours_unknown():
    assert tags_of([50.0, 0, 0], [1.0, 0, 0], [False] * 3) == ([False, False, False], [False, False, False])
    assert tags_of([30.0, 0, 0], [1.0, 0, 0], [False] * 3) == ([False, False, False], [False, True, True])
    # Another that is sure settles it.
    assert tags_of([50.0, 50, 0], [1.0, 1, 0], [False, True, True]) == ([False, True, False], [False, True, False])


def test_where_faces_may_be_missing_no_size_is_known_not_to_be_there():
    assert tags_of([50.0, 0, 0], [1.0, 0, 0], complete=False) == ([False, True, False], [False, True, False])
    assert tags_of([0.0, 0, 0], [0.0, 0, 0], complete=False) == ([False] * 3, [False] * 3)


def test_lots_of_pictures_are_joined_with_as_many_faces_as_the_most_have():
    one = Layout(np.array([[7.0]]), np.ones((1, 1, 2)), np.array([[True]]), np.array([[0.5]]), np.array([True]))
    sure = np.array([[True, False]])
    two = Layout(np.array([[8.0, 9.0]]), np.ones((1, 2, 2)), sure, np.array([[1.0, 1.0]]), np.array([False]))
    both = Layout.joined([one, two])
    assert both.heights.tolist() == [[7, 0], [8, 9]] and both.sure.tolist() == [[True, False], [True, False]]
    assert both.centres.shape == (2, 2, 2) and both.visible.tolist() == [[0.5, 0], [1, 1]]
    assert both.complete.tolist() == [True, False]
    assert both.of(np.array([1, 1])).complete.tolist() == [False, False]


def test_inside_is_the_visible_part_of_the_frame():
    centres = np.array([[50.0, 50.0], [0.0, 50.0], [0.0, 0.0], [-500.0, 50.0]])
    np.testing.assert_allclose(inside(centres, np.full(4, 20 * FACE_ASPECT), 0, 100), [1, 0.5, 0.25, 0], atol=1e-9)
