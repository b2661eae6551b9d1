import numpy as np
import torch

from faceattr.data import windows
from faceattr.data.layout import Layout
from faceattr.data.windows import WindowComposer


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
        return images, told, told, Layout(heights, self.places[:, None], sure, np.ones((count, 1)))


def test_windows_are_cut_where_the_net_proposes_and_tagged_by_what_they_show(monkeypatch):
    monkeypatch.setattr(windows, "degrade", lambda images, random: images)
    scenes = Scenes([(24, 24), (24, 24), (40, 30)])
    composer = WindowComposer.__new__(WindowComposer)
    composer.composer, composer.window = scenes, 2.0
    # The first window holds the face, 16 of 32 pixels high; the second is beside it; in the third it is cut.
    proposed = np.array([[24.0, 24.0, 16.0], [48.0, 48.0, 8.0], [58.0, 30.0, 16.0]])
    composer._propose = lambda images, random: proposed
    batch = composer.batch(3, 32, np.random.default_rng(0))
    assert batch.images.shape == (3, 3, 32, 32)
    assert batch.images[0].mean() == 0.25 and batch.images[1].sum() == 0
    # The tag that all faces have, then the two sizes: 16 is nearer to the first.
    assert batch.tags.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert batch.known[0].tolist()[:2] == [1, 1] and batch.known[1].tolist() == [0, 1, 1]
    assert batch.known[2].tolist()[0] == 0
