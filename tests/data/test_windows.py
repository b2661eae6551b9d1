import numpy as np
import torch

from faceattr.data import windows
from faceattr.data.layout import Layout
from faceattr.data.windows import WindowComposer
from faceattr.models.lnet import LNet


class Scenes:
    """Black scenes of 64 pixels with a white square, 16 high, round a place; what a composer would make of them."""

    sizes = np.array([14.0, 20.0])

    def __init__(self, places):
        self.places = np.asarray(places, dtype=float)

    def scenes(self, count, size, random):
        images = torch.zeros(count, 3, size, size)
        heights = np.full((count, 1), 16.0)
        for image, (x, y) in zip(images, self.places.astype(int), strict=True):
            image[:, y - 8 : y + 8, x - 8 : x + 8] = 1
        told = np.ones((count, 1), dtype=bool)
        sure = np.ones((count, 1), dtype=bool)
        return (
            images,
            told,
            told,
            Layout(heights, self.places[:, None], sure, np.ones((count, 1)), np.ones(count, dtype=bool)),
        )


def test_windows_are_cut_where_the_net_proposes_and_tagged_by_what_they_show(monkeypatch):
    monkeypatch.setattr(windows, "degrade", lambda images, random: images)
    scenes = Scenes([(24, 24), (40, 30)])
    composer = WindowComposer.__new__(WindowComposer)
    composer.composer, composer.window = scenes, 2.0
    # The first window holds the face, 16 of 32 pixels high; the second is beside it; in the fourth it is cut.
    first = [[24.0, 24.0, 16.0], [48.0, 48.0, 8.0], [24.0, 24.0, 16.0]]
    second = [[58.0, 30.0, 16.0], [40.0, 30.0, 16.0], [10.0, 10.0, 8.0]]
    composer._propose = lambda images, random: np.array([first, second])
    batch = composer.batch(5, 32, np.random.default_rng(0))
    assert batch.images.shape == (5, 3, 32, 32)
    assert batch.images[0].mean() == 0.25 and batch.images[1].sum() == 0
    # The tag that all faces have, then the two sizes: 16 is nearer to the first.
    assert batch.tags.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert batch.known[0].tolist()[:2] == [1, 1] and batch.known[1].tolist() == [0, 1, 1]
    assert batch.known[3].tolist()[0] == 0


def test_proposals_are_the_net_s_where_it_has_some(monkeypatch):
    net = LNet(tags=("a",), sizes=(20.0, 25.2, 31.75), trunk={"kind": "pyramid", "widths": (1, 1, 1, 1)}).eval()
    composer = WindowComposer(Scenes([]), net)
    found = torch.full((2, 3, 8, 8), -9.0)
    found[0, 1, 2, 5] = 4
    monkeypatch.setattr(windows, "size_maps", lambda net, images: found)
    proposed = composer._propose(torch.zeros(2, 3, 45, 45), np.random.default_rng(0))
    assert proposed.shape == (2, 3, 3)
    # 45 pixels are 64 for the net, which knows 20 where the composer's first size is 14.
    [nearest] = np.argsort(np.abs(proposed[0, :, 0] - 40.5 * 45 / 64))[:1]
    np.testing.assert_allclose(proposed[0, nearest], np.array([40.5, 16.5, 25.2]) * 45 / 64, rtol=0.03)
    assert (proposed > 0).all() and (proposed[..., :2] < 45).all()
