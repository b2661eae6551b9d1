import numpy as np
import pytest
import torch

from faceattr.data import composites
from faceattr.data.composites import Composer, FaceSet
from faceattr.data.cuts import PhotoSet
from faceattr.data.layout import inside
from faceattr.data.photos import Pictures

SIZES = np.array([40.0, 50.0, 62.5])


def plain(count: int, rows: int, columns: int, colour: tuple[int, int, int]) -> Pictures:
    images = np.empty((count, rows, columns, 3), dtype=np.uint8)
    images[:] = colour
    return Pictures(images, np.tile([rows, columns], (count, 1)))


@pytest.fixture
def composer(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    tags = np.zeros((5, 40), dtype=bool)
    tags[:, 3] = True
    faces = FaceSet(plain(5, 164, 134, (255, 255, 255)), tags, np.ones_like(tags))
    return Composer([faces], [plain(6, 60, 60, (0, 0, 0))], SIZES.tolist())


def test_a_white_face_is_in_the_picture_exactly_when_a_tag_says_so(composer):
    batch = composer.batch(64, 97, np.random.default_rng(0))
    assert batch.images.shape == (64, 3, 97, 97) and batch.tags.shape == batch.known.shape == (64, 43)
    light = batch.images.mean((1, 2, 3))
    has_size = (batch.tags[:, 40:] * batch.known[:, 40:]).amax(1) > 0
    # The oval of the smallest tagged face covers at least 0.6 * 0.7 * pi / 4 of its aligned picture; what is put before
    # it, at most half of that.
    least = 0.25 * (40 / 1.25**0.55 / composites.FACE_HEIGHT) ** 2 * 134 / 164 * 0.33 / 97**2
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


def test_what_is_put_before_a_face_leaves_most_of_it(composer):
    canvas = torch.ones(200, 3, 96, 96)
    centres, heights = np.full((200, 2), 48.0), np.full(200, 69.0)
    composer._cover(canvas, centres, heights, np.random.default_rng(0))
    covered = (canvas[:, 0, 14:83, 23:73] == 0).float().mean((1, 2))
    some = covered > 0
    assert 20 < some.sum() < 70 and covered[some].min() > 0.07 and covered.max() < 0.43 and covered[some].std() > 0.05


def test_the_same_generator_gives_the_same_batch(composer):
    a, b = (composer.batch(8, 65, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(a.images, b.images) and torch.equal(a.tags, b.tags) and torch.equal(a.known, b.known)
    assert not torch.equal(a.images, composer.batch(8, 65, np.random.default_rng(8)).images)


def test_tags_that_are_not_known_of_a_set_stay_so(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    nothing = np.zeros((2, 40), dtype=bool)
    faces = FaceSet(plain(2, 100, 100, (255, 255, 255)), nothing, nothing, (0.5, 0.4), 1.1)
    batch = Composer([faces], [plain(2, 60, 60, (0, 0, 0))], SIZES).batch(64, 97, np.random.default_rng(0))
    bright = batch.images.mean((1, 2, 3)) > 0
    assert bright.any() and not bright.all()
    assert (batch.known[bright, :40] == 0).all() and (batch.known[~bright, :40] == 1).all()
    assert (batch.tags[bright, 40:].sum() > 0).all()


def test_pieces_of_photos_show_the_proposed_face_at_the_size_their_tag_names(monkeypatch):
    monkeypatch.setattr(composites, "degrade", lambda images, random: images)
    pictures = plain(2, 320, 320, (0, 0, 0))
    # A white square of 80 pixels round (200, 120) is the "face": 80 high. Nothing is sure of the other photo.
    pictures.images[0, 80:160, 160:240] = 255
    found = np.zeros((2, 3, 3))
    found[:, 1] = (200.0, 120.0, 80.0)
    sure = np.array([[False, True, False], [False, False, True]])
    told = np.ones((2, 40), bool)
    faces = FaceSet(plain(1, 164, 134, (0, 0, 0)), told[:1], told[:1])
    photos = PhotoSet(pictures, found, sure, told)
    composer = Composer([faces], [plain(4, 60, 60, (0, 0, 0))], SIZES.tolist(), [photos], 1.0)
    batch = composer.batch(32, 129, np.random.default_rng(0))
    assert (batch.images.mean(1).amax((1, 2)) > 0).any()
    side = batch.images.mean(1).sum((1, 2)).sqrt()
    for k, size in enumerate(SIZES):
        rows = (batch.tags[:, 40 + k] > 0) & (batch.known[:, 40 + k] > 0)
        assert rows.any()
        # The white square may leave the picture a little; it never looks larger than its class.
        assert (side[rows] < size * 1.25**0.6).all() and (side[rows] > size / 1.25**0.6 * 0.75).all()
    told = batch.known[:, 0] > 0
    assert told.any() and (batch.tags[told, :40] == 1).all() and (side[told] > 0).all()


def test_photos_without_a_sure_face_are_left_out():
    pictures = plain(3, 320, 320, (0, 0, 0))
    found = np.tile([100.0, 100.0, 50.0], (3, 2, 1))
    found[2, 0, 2] = 0
    sure = np.array([[True, False], [False, False], [True, False]])
    told = np.ones((3, 40), bool)
    photos = PhotoSet(pictures, found, sure)
    assert photos.usable().tolist() == [0]
    none = PhotoSet(pictures, found, np.zeros_like(sure))
    faces = FaceSet(plain(3, 164, 134, (0, 0, 0)), told, told)
    assert Composer([faces], [pictures], SIZES, [none], 0.5).photo_share == 0


def test_pieces_of_crowds_tell_of_the_faces_there_and_of_no_absence():
    found = np.tile([100.0, 100.0, 50.0], (3, 1, 1))
    told = np.ones((3, 40), bool)
    faces = FaceSet(plain(3, 164, 134, (0, 0, 0)), told, told)
    for complete in (True, False):
        photos = PhotoSet(plain(3, 320, 320, (0, 0, 0)), found, np.ones((3, 1), bool), complete=complete)
        composer = Composer([faces], [plain(4, 60, 60, (0, 0, 0))], SIZES.tolist(), [photos], 1.0)
        batch = composer.batch(64, 129, np.random.default_rng(0))
        tags, known = batch.tags[:, 40:] > 0, batch.known[:, 40:] > 0
        assert (tags & known).any() and (~tags & known).any() == complete


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
