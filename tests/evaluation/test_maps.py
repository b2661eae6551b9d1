"""Boxes cut from maps, on maps drawn by hand."""

import numpy as np
import pytest
import torch
from small_checkpoint import NEUTRAL, draw_photo, make_lnet

from faceattr.evaluation.maps import (
    GRID_SIDE,
    baseline_maps,
    cut,
    enlarge,
    max_box_acc_v2,
    overlaps_by_threshold,
    spread,
)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (3, 7), (9, 19)])
def test_a_position_is_spread_to_the_pixel_it_is_centred_on(i, j):
    response = torch.zeros(10, 20)
    response[i, j] = 1
    level = (160, 320)
    grid = spread(response, level, 16)
    assert grid.shape == (GRID_SIDE // 2, GRID_SIDE)
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    pixel = (np.array([row, column]) + 0.5) * 320 / GRID_SIDE - 0.5
    assert np.abs(pixel - [16 * i, 16 * j]).max() <= 320 / GRID_SIDE


def test_enlarge_keeps_places():
    response = np.zeros((6, 12), dtype=np.float32)
    response[4, 2] = 1
    grid = enlarge(response, (240, 120))
    assert grid.shape == (GRID_SIDE // 2, GRID_SIDE)
    row, column = (np.argwhere(grid > 0.99 * grid.max()).mean(0) + 0.5) / (GRID_SIDE / 240)
    assert (row, column) == pytest.approx((4.5 * 20, 2.5 * 20), abs=1.5)


def test_cut():
    score_map = np.zeros((4, 8))
    score_map[0:2, 0:2] = 0.6
    score_map[3, 4:8] = 0.9
    score_map[2, 3] = 0.7  # touches the second by a corner
    boxes = cut(score_map, 0.5, (80, 20))
    assert sorted(boxes.tolist()) == [[0, 0, 20, 10], [30, 10, 80, 20]]
    assert cut(score_map, 0.8, (80, 20)).tolist() == [[40, 15, 80, 20]]
    assert cut(score_map, 0.95, (80, 20)).shape == (0, 4)


def test_one_threshold_for_the_whole_set():
    # In the first photo only a threshold over 0.5 cuts the target, in the second only one under it does.
    first = np.full((10, 10), 0.45)
    first[2:4, 2:4], first[9, 9] = 1, 0
    second = np.zeros((10, 10))
    second[0:5, 0:5], second[0, 0] = 0.3, 1
    targets = [np.array([[2.0, 2, 4, 4]]), np.array([[0.0, 0, 5, 5]])]
    sizes = [(10, 10)] * 2
    best = overlaps_by_threshold([first, second], targets, sizes, np.array([0.2, 0.6]))
    np.testing.assert_allclose(best, [[4 / 100, 1], [1, 1 / 25]])
    assert max_box_acc_v2(best) == 0.5
    assert max_box_acc_v2(best[:, :1]) == 1
    assert max_box_acc_v2(np.array([[0.6], [0.4]])) == pytest.approx(2 / 3)  # at 0.3 and 0.5, not at 0.7


def test_a_flat_map_finds_nothing_and_a_photo_without_target_does_not_count():
    targets = [np.array([[0.0, 0, 4, 4]]), np.zeros((0, 4))]
    best = overlaps_by_threshold([np.ones((4, 4)), np.eye(4)], targets, [(4, 4)] * 2)
    assert best.shape == (50, 1) and not best.any()


def test_baseline_maps_point_at_what_c5_responds_to():
    kernel = torch.zeros(5, 5)
    kernel[1:4, 1:4] = 1 / 9
    net = make_lnet(kernel)
    with torch.no_grad():
        net.head.weight[0] = 1
        net.head.weight[1:] = 0  # the size classes have no say
    photo = torch.from_numpy(np.asarray(draw_photo([(220, 80, 40, NEUTRAL)])).copy()).permute(2, 0, 1) / 255
    maps = baseline_maps(net, photo, 320)
    grid = maps["cam"]
    # One channel with weight 1 averaged over the tags: the two differ by scale and offset alone.
    scaled = [(each - each.min()) / np.ptp(each) for each in maps.values()]
    np.testing.assert_allclose(*scaled, atol=1e-5)
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    assert abs(column * 320 / GRID_SIDE - 220) < 16 and abs(row * 320 / GRID_SIDE - 80) < 16
