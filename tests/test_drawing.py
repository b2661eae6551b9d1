import numpy as np
import pytest

from faceattr.drawing import draw_faces, draw_response_map

GREY = np.full((200, 300, 3), 128, np.uint8)


class TestDrawFaces:
    def test_frames_and_captions(self):
        image = np.asarray(draw_faces(GREY, np.array([[50, 60, 100, 140]]), [["Smiling 98%"]])).astype(int)
        changed = (image != 128).any(-1)
        rows, columns = np.nonzero(changed[:, :102])
        assert (columns.min(), rows.min(), rows.max()) == (50, 60, 140)
        assert not changed[70:130, 55:95].any()  # the face itself stays as it is
        assert changed[60:75, 104:150].any() and not changed[:, 250:].any()  # the caption is beside it
        assert (GREY == 128).all()

    @pytest.mark.parametrize("box", [[-20, -20, 400, 300], [250, 150, 299, 199], [0, 0, 300, 200], [1, 1, 1.5, 1.5]])
    def test_captions_stay_inside(self, box):
        captions = [[f"Wearing Lipstick {number}%" for number in range(6)]]
        image = np.asarray(draw_faces(GREY, np.array([box]), captions))
        assert image.shape == GREY.shape and (image > 220).all(-1).any()

    def test_no_faces_and_a_tiny_photo(self):
        np.testing.assert_array_equal(np.asarray(draw_faces(GREY, np.zeros((0, 4)), [])), GREY)
        assert draw_faces(GREY[:1, :1], np.array([[0, 0, 1, 1]]), [["Smiling 98%"]]).size == (1, 1)

    def test_one_caption_a_face(self):
        with pytest.raises(ValueError):
            draw_faces(GREY, np.zeros((2, 4)), [[]])


class TestDrawResponseMap:
    def test_the_peak_is_the_lightest(self):
        response = np.zeros((4, 6))
        response[1, 4] = 3
        image = np.asarray(draw_response_map(GREY, response)).astype(int).sum(-1)
        row, column = np.unravel_index(image.argmax(), image.shape)
        assert abs(row - 75) <= 25 and abs(column - 225) <= 25
        assert image[:, :100].max() < image.max() / 2

    def test_covers_the_photo_at_its_size(self):
        assert draw_response_map(GREY[:, :7], np.random.default_rng(0).random((3, 2))).size == (7, 200)

    @pytest.mark.parametrize("response", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((2, 5), -7.5)])
    def test_without_contrast(self, response):
        image = np.asarray(draw_response_map(GREY, response, opacity=1.0))
        assert (image == image[0, 0]).all()

    def test_what_is_not_finite_counts_as_the_least(self):
        response = np.array([[0.0, 1.0, 0.5, 0.0]])
        odd = np.array([[np.nan, 1.0, 0.5, -np.inf]])
        odd_image, image = draw_response_map(GREY, odd), draw_response_map(GREY, np.where(response == 0, 0.5, response))
        np.testing.assert_array_equal(np.asarray(odd_image), np.asarray(image))
