import numpy as np
import pytest
import torch

from faceattr.data import composites
from faceattr.data.composites import Composer, inside, sample, similarity, size_tags
from faceattr.data.photos import Pictures

SIZES = np.array([40.0, 50.0, 62.5])


def plain(count: int, rows: int, columns: int, colour: tuple[int, int, int]) -> Pictures:
    images = np.empty((count, rows, columns, 3), dtype=np.uint8)
    images[:] = colour
    return Pictures(images, np.tile([rows, columns], (count, 1)))


def tags_of(heights, visible):
    tags, known = size_tags(np.array([heights]), np.array([visible]), SIZES)
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


def test_inside_is_the_visible_part_of_the_frame():
    aspect = composites.FACE_ASPECT
    centres = np.array([[50.0, 50.0], [0.0, 50.0], [0.0, 0.0], [-500.0, 50.0]])
    np.testing.assert_allclose(inside(centres, np.full(4, 20 * aspect), 0, 100), [1, 0.5, 0.25, 0], atol=1e-9)


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


@pytest.fixture
def composer(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    tags = np.zeros((5, 40), dtype=bool)
    tags[:, 3] = True
    return Composer(plain(5, 164, 134, (255, 255, 255)), tags, [plain(6, 60, 60, (0, 0, 0))], SIZES.tolist())


def test_a_white_face_is_in_the_picture_exactly_when_a_tag_says_so(composer):
    batch = composer.batch(64, 97, np.random.default_rng(0))
    assert batch.images.shape == (64, 3, 97, 97) and batch.tags.shape == batch.known.shape == (64, 43)
    light = batch.images.mean((1, 2, 3))
    has_size = (batch.tags[:, 40:] * batch.known[:, 40:]).amax(1) > 0
    # The oval of the smallest tagged face covers at least 0.6 * 0.7 * pi / 4 of its aligned picture.
    least = 0.5 * (40 / 1.25**0.55 / composites.FACE_HEIGHT) ** 2 * 134 / 164 * 0.33 / 97**2
    assert has_size.any() and (light[has_size] > least).all()
    empty = light == 0
    assert empty.any() and (batch.tags[empty] == 0).all() and (batch.known[empty] == 1).all()


def test_attributes_are_known_only_where_one_whole_face_or_none_is(composer):
    batch = composer.batch(64, 97, np.random.default_rng(1))
    known = batch.known[:, :40]
    assert ((known == 0).all(1) | (known == 1).all(1)).all() and 0 < known.mean() < 1
    faces = (batch.tags[:, 3] == 1) & (known[:, 3] == 1)
    assert (batch.images[faces].mean((1, 2, 3)) > 0).all()
    assert (batch.tags[:, [0, 1, 2, *range(4, 40)]] == 0).all()


def test_the_same_generator_gives_the_same_batch(composer):
    a, b = (composer.batch(8, 65, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(a.images, b.images) and torch.equal(a.tags, b.tags) and torch.equal(a.known, b.known)
    assert not torch.equal(a.images, composer.batch(8, 65, np.random.default_rng(8)).images)


def test_cuts_of_photos_show_the_proposed_face_at_the_size_their_tag_names(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    photos = plain(1, 320, 320, (0, 0, 0))
    # A white square of 80 pixels round (200, 120) is the "face": 80 high.
    photos.images[0, 80:160, 160:240] = 255
    proposals = np.array([[200.0, 120.0, 80.0]])
    black = plain(4, 60, 60, (0, 0, 0))
    composer = Composer(
        plain(1, 164, 134, (0, 0, 0)),
        np.zeros((1, 40), bool),
        [black],
        SIZES.tolist(),
        photos,
        np.ones((1, 40), bool),
        proposals,
        1.0,
    )
    batch = composer.batch(32, 129, np.random.default_rng(0))
    side = batch.images.mean(1).sum((1, 2)).sqrt()
    for k, size in enumerate(SIZES):
        rows = (batch.tags[:, 40 + k] > 0) & (batch.known[:, 40 + k] > 0)
        assert rows.any()
        # The white square may leave the picture a little; it never looks larger than its class.
        assert (side[rows] < size * 1.25**0.6).all() and (side[rows] > size / 1.25**0.6 * 0.75).all()


def test_trimming_repeats_the_border_of_what_is_kept(composer):
    torch.manual_seed(0)
    canvas = torch.rand(40, 3, 65, 65)
    before = canvas.clone()
    centres = np.tile([[20.0, 40.0]], (40, 1))
    heights = np.where(np.arange(40) % 2, 0.0, 30.0)
    low, high = composer._trim(canvas, centres, heights, np.random.default_rng(0))
    kept = [(0, 0, 65, 65) == (*a, *b) for a, b in zip(low, high, strict=True)]
    assert 15 < sum(kept) < 40
    for after, whole, (x0, y0), (x1, y1) in zip(canvas, before, low.astype(int), high.astype(int), strict=True):
        torch.testing.assert_close(after[:, y0:y1, x0:x1], whole[:, y0:y1, x0:x1])
        assert (after[:, :, :x0] == after[:, :, x0 : x0 + 1]).all() and (after[:, y1:] == after[:, y1 - 1 : y1]).all()
    # A face is at most a little cut.
    assert (inside(centres, heights, low, high)[::2] > 0.6).all()


def test_photos_are_cut_to_the_windows_that_are_proposed(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    random = np.random.default_rng(0)
    # A photo of 200 x 150 in an array of 320: what lies beyond must repeat its border.
    photos = Pictures(np.zeros((1, 320, 320, 3), np.uint8), np.array([[150, 200]]))
    photos.images[0, :150, :200] = random.integers(0, 255, (150, 200, 3))
    # The face, 50 high, is in the middle of the first window; the second is beside it and leaves the photo.
    proposals = np.array([[80.0, 70.0, 50.0]])
    windows = np.array([[[80.5, 70.5, 48.5], [180.0, 140.0, 30.0], [0.0, 0.0, 0.0]]])
    composer = Composer(
        plain(1, 164, 134, (0, 0, 0)),
        np.zeros((1, 40), bool),
        [plain(2, 60, 60, (0, 0, 0))],
        SIZES.tolist(),
        photos,
        np.ones((1, 40), bool),
        proposals,
        1.0,
        windows,
        window=2.0,
    )
    batch = composer.batch(24, 97, np.random.default_rng(0))
    padded = np.pad(photos.images[0, :150, :200], ((0, 100), (0, 100), (0, 0)), mode="edge")
    first = torch.from_numpy(padded[22:119, 32:129].copy()).permute(2, 0, 1) / 255  # of 97 pixels: cut, not resampled
    second = torch.from_numpy(padded[110:170, 150:210].copy()).permute(2, 0, 1)[None] / 255
    second = torch.nn.functional.interpolate(second, size=(97, 97), mode="bilinear", align_corners=False)[0]
    seen = set()
    for image, tags, known in zip(batch.images, batch.tags, batch.known, strict=True):
        errors = [
            (image - other).abs().mean().item() for window in (first, second) for other in (window, window.flip(2))
        ]
        assert min(errors) < 0.02
        shown = np.argmin(errors) // 2
        seen.add(np.argmin(errors))
        # 50 of 97 pixels: the second size class, 50.4. In the other window a sliver of it is left at most.
        assert (tags[41] > 0) == (shown == 0) and known[41] == 1 and (known[0] > 0) == (shown == 0)
    assert seen == {0, 1, 2, 3}


def test_photos_without_a_window_are_left_out():
    photos = plain(3, 320, 320, (0, 0, 0))
    proposals = np.array([[100.0, 100.0, 50.0], [100.0, 100.0, 50.0], [0.0, 0.0, 0.0]])
    windows = np.zeros((3, 2, 3))
    windows[[0, 2], 0] = (100, 100, 50)
    composer = Composer(
        plain(1, 164, 134, (0, 0, 0)),
        np.zeros((1, 40), bool),
        [plain(2, 60, 60, (0, 0, 0))],
        SIZES.tolist(),
        photos,
        np.ones((3, 40), bool),
        proposals,
        1.0,
        windows,
    )
    assert composer.usable.tolist() == [0]
