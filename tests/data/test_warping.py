import numpy as np
import torch

from faceattr.data.warping import sample, similarity


def test_similarity_takes_the_source_point_to_the_target():
    source, target = np.array([[7.0, 9.0]]), np.array([[40.0, 30.0]])
    matrix = similarity(np.array([2.0]), np.array([np.pi / 2]), np.array([1.0]), source, target)[0]
    np.testing.assert_allclose(matrix @ [40, 30, 1], [7, 9], atol=1e-9)
    # Two pixels of the output are one of the source, turned by a right angle.
    moved = matrix @ [42, 30, 1] - matrix @ [40, 30, 1]
    np.testing.assert_allclose(np.abs(moved), [0, 1], atol=1e-9)


def test_sample_with_the_identity_is_the_picture():
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 21, 21)
    identity = np.tile(np.eye(2, 3), (2, 1, 1))
    torch.testing.assert_close(sample(picture, identity, 21, np.ones(2)), picture, atol=1e-5, rtol=0)


def test_sample_averages_when_it_shrinks():
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, :, :, ::4] = 1
    matrix = np.array([[[4.0, 0, 0], [0, 4.0, 0]]])
    torch.testing.assert_close(
        sample(picture, matrix, 16, np.array([4.0])), torch.full((1, 3, 16, 16), 0.25), atol=1e-5, rtol=0
    )
