"""Regions of a net that is wired to one cell of C3."""

import numpy as np
import pytest
from PIL import Image
from wired_nets import net_on_one_cell

from faceattr.explain import regions

ROW, COLUMN = 3, 0


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)], ids=["a crop", "several crops"])
def net(request):
    return net_on_one_cell(ROW, COLUMN, request.param)


@pytest.fixture(scope="module")
def crops(net):
    return np.random.default_rng(0).integers(0, 256, (6, *net.crop_size, 3), dtype=np.uint8)


def seen(net):
    """[rows, columns] of C2's positions: what the wired cell sees of the crop, and in how many of the views."""
    views = np.zeros([len(middles) for middles in regions.centres(net)])
    for i in range(net.crop.positions[0]):
        for j in range(net.crop.positions[1]):
            # A cell of 2 x 2 outputs with filters of 3 x 3 sees 4 x 4 positions.
            views[2 * ROW + i : 2 * ROW + 4 + i, 2 * COLUMN + j : 2 * COLUMN + 4 + j] += 1
    return views


def test_contributions_are_where_the_net_is_wired_and_add_up(net, crops):
    contributions, decisions = regions.weight_maps(net, crops)
    np.testing.assert_allclose(decisions, net.decisions(net.features(crops)), rtol=1e-5)
    # No bias speaks for Smiling and Male: the contributions are the whole decision.
    np.testing.assert_allclose(contributions[:, :2].sum((2, 3)), decisions[:, :2], rtol=1e-5)
    assert not contributions[:, 2].any()
    views = seen(net)
    # Smiling is read on its own side by the crop, and by the mirror image on the other.
    both = views + np.fliplr(views)
    assert ((contributions[:, 0] != 0).any(0) <= (both > 0)).all()
    for side in (views, np.fliplr(views)):
        assert contributions[:, 0][:, side > 0].sum() > 0


def test_both_methods_find_the_cell(net, crops):
    contributions, decisions = regions.weight_maps(net, crops)
    weights = regions.depends_on(contributions, decisions)
    falls = regions.occlusion_maps(net, crops)
    occlusion = regions.moves(falls, decisions)
    assert falls.shape == contributions.shape
    views = seen(net)
    both = views + np.fliplr(views) > 0
    for column in (0, 1):  # the decision and its mirror image see the same
        assert weights[column][~both].max() == 0 and weights[column].max() > 0
        assert both[np.unravel_index(occlusion[column].argmax(), both.shape)]
        assert regions.agreement(weights[column], occlusion[column]) > 0.3
        assert regions.extent(weights[column]) <= both.mean()
    # Nothing moves what is always the same, and covering what is far from the cell moves nothing.
    assert not weights[2].any() and not occlusion[2].any() and not falls[:, :, 0].any()


def test_covers_leave_no_pixel_out(net):
    for spans, length, middles in zip(regions.covers(net), net.crop_size, regions.centres(net), strict=True):
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(after[0] <= before[1] for before, after in zip(spans, spans[1:], strict=False))
        assert all(low <= middle <= high for (low, high), middle in zip(spans, middles, strict=True))


def test_centres_are_those_of_the_fields(net):
    # One green pixel changes the positions whose field it lies in, evenly round it.
    rows, columns = regions.centres(net)
    image = np.zeros((1, *net.crop_size, 3), np.uint8)
    y, x = round(rows[4]), round(columns[3])
    image[0, y - 1 : y + 1, x - 1 : x + 1, 1] = 255
    response = net.anet.shared(net.images(image))[0, 0].numpy()
    hit = np.argwhere(response > 0)
    assert abs(hit - [4, 3]).max() == 1 and hit.mean(0) == pytest.approx([4, 3], abs=0.5)


def test_shares_of_the_variance():
    random = np.random.default_rng(0)
    contributions = np.zeros((50, 2, 2, 2))
    contributions[:, 0, 0, 0] = random.normal(size=50)  # decides the first attribute
    contributions[:, 0, 1, 1] = 5  # large, but the same for everyone
    contributions[:, 1, 0, 1] = 2 * contributions[:, 0, 0, 0]
    contributions[:, 1, 1, 0] = -contributions[:, 0, 0, 0]  # counteracts
    shares = regions.depends_on(contributions, contributions.sum((2, 3)) + 3)
    assert shares[0] == pytest.approx(np.array([[1, 0], [0, 0]]))
    assert shares[1] == pytest.approx(np.array([[0, 2], [0, 0]]))


def test_moves_in_standard_deviations():
    decisions = np.array([[1.0, 4], [3, 4]])
    falls = np.zeros((2, 2, 1, 2))
    falls[:, 0, 0, 1] = [2, -4]
    falls[:, 1] = 1
    assert regions.moves(falls, decisions).tolist() == [[[0, 3]], [[0, 0]]]


def test_extent_and_agreement():
    point, even = np.zeros((4, 5)), np.ones((4, 5))
    point[1, 2] = 3
    assert regions.extent(point) == pytest.approx(1 / 20) and regions.extent(even) == pytest.approx(1)
    assert regions.extent(np.zeros((4, 5))) == 0
    assert [regions.agreement(point, 2 * point + 1), regions.agreement(point, -point)] == pytest.approx([1, -1])
    assert regions.agreement(point, even) == 0


def test_over_crop_puts_a_place_on_its_pixels(net):
    region = np.zeros([len(middles) for middles in regions.centres(net)])
    region[5, 2] = 1
    heat = regions.over_crop(net, region)
    assert heat.shape == net.crop_size
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = regions.centres(net)
    assert abs(y + 0.5 - rows[5]) <= 0.5 and abs(x + 0.5 - columns[2]) <= 0.5


def test_for_is_red_and_against_is_blue():
    heat = np.zeros((8, 8))
    heat[1, 1], heat[6, 6] = 2, -1
    image = np.asarray(regions.draw_signed(np.full((8, 8, 3), 128, np.uint8), heat)).astype(int)
    assert image[1, 1, 0] > 150 > image[1, 1, 2] and image[6, 6, 2] > 128 > image[6, 6, 0]
    assert (image[1, 6] == 128).all() and isinstance(regions.draw_signed(image.astype(np.uint8), heat), Image.Image)
