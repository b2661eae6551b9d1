"""Pre-training and fine-tuning of the localisation nets on small made-up pictures."""

import math

import numpy as np
import pytest
import torch

from faceattr.data.composites import Batch, Composer, FaceSet
from faceattr.data.photos import Pictures
from faceattr.models.lnet import LNet, LNetPlus
from faceattr.train.lnet import finetune, pretrain, random_crops, tag_loss, ten_crops

TINY = {"widths": (8, 8, 8, 8, 8)}


class Colours:
    """Four classes, each a colour, with some noise."""

    def __init__(self, count: int):
        random = np.random.default_rng(count)
        self.labels = np.arange(count) % 4
        colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30]])
        noise = random.integers(-30, 30, (count, 40, 40, 3))
        self.images = (colours[self.labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)

    def __len__(self):
        return len(self.labels)


def test_random_crops_are_pieces_of_their_own_picture():
    images = torch.stack([torch.zeros(3, 30, 30), torch.full((3, 30, 30), 0.5)])
    crops = random_crops(images, 17, np.random.default_rng(0))
    assert crops.shape == (2, 3, 17, 17)
    assert (crops[0] == 0).all() and crops[1].mean() > 0.2
    # A crop of a constant picture is constant in each channel: tone may change, nothing else comes in.
    assert crops[1].flatten(1).std(1).max() < 1e-5


def test_ten_crops_are_the_centre_the_corners_and_their_mirror_images():
    # Red is the column, green the row: the crop is told by its corners.
    row, column = np.mgrid[0:64, 0:64] / 63
    image = torch.from_numpy(np.stack([column, row, 0 * row])).float()
    crops = ten_crops(image.expand(300, -1, -1, -1), 56, np.random.default_rng(0))
    found = {tuple((crop[:2, [0, -1], [0, -1]] * 63).round().int().flatten().tolist()) for crop in crops}
    first, last = [0, 4, 8], [55, 59, 63]
    expected = set()
    for x, y in ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
        expected |= {(first[x], last[x], first[y], last[y]), (last[x], first[x], first[y], last[y])}
    assert found == expected


def test_pretraining_learns_to_tell_colours(tmp_path):
    torch.manual_seed(0)
    model = LNetPlus(classes=4, hidden=(), trunk=TINY)
    options = {"batch_size": 16, "size": 33, "learning_rate": 0.1}
    pretrain(model, Colours(64), Colours(16), folder=tmp_path, epochs=10, **options)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    accuracy = [float(value) for _, name, value in rows if name == "accuracy"]
    assert accuracy[-1] > 0.8 > accuracy[0]


def test_loss_by_hand():
    # One attribute, two size classes. The second class is unknown in the first picture and the attribute in the second.
    tags = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    known = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, 1.0, 50.0], [9.0, -1.0, -3.0]])
    batch = Batch(torch.zeros(2, 3, 1, 1), tags, known)

    def present(z):
        return math.log(1 + math.exp(-z))

    def absent(z):
        return math.log(1 + math.exp(z))

    attribute = present(2)
    classes = ((present(1) + absent(-1)) / 2 + absent(-3)) / 2
    any_size = [math.log(math.exp(1) + math.exp(50)), math.log(math.exp(-1) + math.exp(-3))]
    face = (present(any_size[0]) + absent(any_size[1])) / 2
    loss, figures = tag_loss(logits, batch, attributes=1, weight=0.5)
    assert loss.item() == pytest.approx(classes + face + 0.5 * attribute, rel=1e-5)
    assert figures["attributes"] == pytest.approx(attribute, rel=1e-5)


def test_a_face_of_unknown_size_class_leaves_the_face_tag_out():
    # One attribute (unknown) and two size classes: the first is known to be absent, the second is not known.
    batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    sizes = torch.tensor([[-2.0, 7.0]], requires_grad=True)
    tag_loss(torch.cat([torch.zeros(1, 1), sizes], 1), batch, attributes=1)[0].backward()
    assert sizes.grad[0, 0] > 0 and sizes.grad[0, 1] == 0


@pytest.fixture
def composer():
    white = Pictures(np.full((3, 40, 33, 3), 255, np.uint8), np.tile([40, 33], (3, 1)))
    black = Pictures(np.zeros((3, 40, 40, 3), np.uint8), np.tile([40, 40], (3, 1)))
    told = np.ones((3, 2), bool)
    return Composer([FaceSet(white, told, told)], [black], [20.0, 30.0])


def tune(composer, folder, steps, resume=False):
    torch.manual_seed(0)
    model = LNet(tags=("a", "b"), sizes=(20.0, 30.0), trunk=TINY)
    options = {"batch_size": 4, "picture_sizes": (33, 49), "resume": resume}
    return finetune(model, composer, folder=folder, steps=steps, **options)


def test_finetuning_repeats_bit_for_bit(composer, tmp_path):
    a = tune(composer, tmp_path / "a", 3).state_dict()
    b = tune(composer, tmp_path / "b", 3).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = tune(composer, tmp_path / "a", 3, resume=True).state_dict()
    assert all(torch.equal(a[name], again[name]) for name in a)
