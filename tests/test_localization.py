import json

import pytest
import torch
from torch import nn

from faceattr.localization import Localizer, LocalizerSettings, box_iou, read_peaks, suppress
from faceattr.models.lnet import LNet

SIZES = (32.0, 48.0)


def spot_net(chosen: int, on: float = 6.0) -> LNet:
    """A net whose answer is known: a white spot gives the logit `on` in size class `chosen`, all else -14."""
    net = LNet(
        tags=(), sizes=SIZES, trunk={"widths": (1, 1, 1, 1, 1), "batch_norm": False, "mean": (0,) * 3, "std": (1,) * 3}
    )
    for layer in (net.trunk.c1, net.trunk.c2, net.trunk.c3, net.trunk.c4, net.trunk.c5):
        conv = layer[0]
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        middle = conv.kernel_size[0] // 2
        conv.weight.data[:, :, middle, middle] = 1 / conv.in_channels
    nn.init.zeros_(net.head.weight)
    nn.init.constant_(net.head.bias, -14.0)
    net.head.weight.data[chosen] = on + 14
    return net


def photo_with_spots(*spots: tuple[int, int], side: int = 321, radius: int = 2) -> torch.Tensor:
    photo = torch.zeros(3, side, side)
    for x, y in spots:
        photo[:, y - radius : y + radius + 1, x - radius : x + radius + 1] = 1
    return photo


# One scale, at which a pixel of the photo is a pixel of the net.
ONE_SCALE = {"finest_side": 321, "least_side": 321, "largest_enlargement": 1.0, "box_aspect": 1.0}


def test_a_spot_is_found_where_it_is_and_as_large_as_its_class():
    # LNet_s sees 129 pixels of a window of 2 * 32: its spot is of class 48 there, so the face is 48 * 64 / 129 high.
    localizer = Localizer(spot_net(0), spot_net(1), LocalizerSettings(**ONE_SCALE))
    [proposal] = localizer(photo_with_spots((160, 96))).proposals
    x0, y0, x1, y1 = proposal.box
    assert (x0 + x1) / 2 == pytest.approx(160.5, abs=4) and (y0 + y1) / 2 == pytest.approx(96.5, abs=4)
    assert y1 - y0 == pytest.approx(48 * 64 / 129, rel=1e-3)
    assert proposal.score == pytest.approx(torch.tensor(6.0).sigmoid().item(), abs=1e-3)


def test_several_spots_give_several_faces_and_a_dark_photo_none():
    localizer = Localizer(spot_net(0), spot_net(0), LocalizerSettings(**ONE_SCALE))
    spots = [(64, 64), (256, 64), (160, 240)]
    proposals = localizer(photo_with_spots(*spots)).proposals
    centres = {(round((p.box[0] + p.box[2]) / 2), round((p.box[1] + p.box[3]) / 2)) for p in proposals}
    assert len(proposals) == 3
    assert all(min(abs(x - a) + abs(y - b) for a, b in centres) <= 8 for x, y in spots)
    assert localizer(torch.zeros(3, 200, 300)).proposals == []


def test_lnet_s_has_a_say():
    photo = photo_with_spots((160, 160))
    assert Localizer(spot_net(0), spot_net(0, on=-7), LocalizerSettings(**ONE_SCALE))(photo).proposals == []
    assert len(Localizer(spot_net(0), spot_net(0, on=-5), LocalizerSettings(**ONE_SCALE))(photo).proposals) == 1


def test_the_box_follows_the_settings():
    photo = photo_with_spots((160, 160), radius=1)
    plain = LocalizerSettings(**ONE_SCALE, window_pixels=65)
    shape = {"box_aspect": 2.0, "box_height": 1.5, "offset_s": (0.25, -0.5), "box_below": 0.1}
    shaped = LocalizerSettings(**{**plain.to_dict(), **shape})
    a = torch.tensor(Localizer(spot_net(0), spot_net(0), plain)(photo).proposals[0].box)
    b = torch.tensor(Localizer(spot_net(0), spot_net(0), shaped)(photo).proposals[0].box)
    height = a[3] - a[1]
    torch.testing.assert_close(b[3] - b[1], 1.5 * height)
    torch.testing.assert_close(b[2] - b[0], 0.75 * height)
    torch.testing.assert_close((b[:2] + b[2:]) / 2, (a[:2] + a[2:]) / 2 + height * torch.tensor([0.25, -0.4]))


def test_boxes_are_in_pixels_of_the_photo_whatever_its_size():
    settings = LocalizerSettings(**ONE_SCALE)
    localizer = Localizer(spot_net(0), spot_net(0), settings)
    small = localizer(photo_with_spots((160, 96))).proposals[0].box
    large = photo_with_spots((160, 96)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    [proposal] = localizer(large).proposals
    torch.testing.assert_close(torch.tensor(proposal.box) / 3, torch.tensor(small), atol=5, rtol=0)


def test_boxes_stay_inside_the_photo():
    settings = LocalizerSettings(**{**ONE_SCALE, "box_height": 4.0})
    for proposal in Localizer(spot_net(0), spot_net(0), settings)(photo_with_spots((16, 16), (304, 304))).proposals:
        x0, y0, x1, y1 = proposal.box
        assert 0 <= x0 < x1 <= 321 and 0 <= y0 < y1 <= 321


def test_a_photo_s_result_does_not_depend_on_its_company():
    torch.manual_seed(0)
    net = LNet(tags=(), sizes=SIZES, trunk={"widths": (4, 6, 5, 5, 3)})
    nn.init.normal_(net.head.weight)
    localizer = Localizer(net, net, LocalizerSettings(score_threshold=0.0, proposal_threshold=0.0))
    photos = [torch.rand(3, 90, 130), torch.rand(3, 200, 61)]
    alone = [localizer(photo).proposals for photo in photos]
    assert alone[0] and alone == [localizer(photo).proposals for photo in reversed(photos)][::-1]


def test_response_maps_show_the_spot_where_it_is_in_the_photo():
    settings = LocalizerSettings(**{**ONE_SCALE, "least_side": 100})
    maps = Localizer(spot_net(0), spot_net(0), settings)(photo_with_spots((160, 96), radius=8)).response_maps
    for response in maps.values():
        assert response.shape == (21, 21) and 0 <= response.min() and response.max() <= 1
        row, column = divmod(response.argmax().item(), 21)
        assert abs(16 * row - 96) <= 16 and abs(16 * column - 160) <= 16
        assert response[15:].max() < 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (3000, 7)])
def test_odd_photos_are_no_trouble(shape):
    assert Localizer(spot_net(0), spot_net(0))(torch.zeros(3, *shape)).proposals == []


def test_large_photos_are_reduced_first():
    localizer = Localizer(spot_net(0), spot_net(0))
    levels = localizer._levels(torch.zeros(3, 3000, 2000))
    assert max(levels[0].shape[2:]) == localizer.settings.finest_side
    assert all(max(b.shape[2:]) <= max(a.shape[2:]) / 2 + 1 for a, b in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize(("size", "logit", "closer"), [(0, 6.0, True), (1, 6.0, False), (0, -2.0, False)])
def test_a_closer_look_where_small_faces_are(size, logit, closer):
    # Only where there is a face of the smallest size, and where it is likely enough.
    localizer = Localizer(spot_net(size, on=logit), spot_net(size), LocalizerSettings(**ONE_SCALE, closer=2.0))
    photo = photo_with_spots((160, 96))
    levels = localizer._levels(photo)
    faces, logits, _ = localizer._propose(photo, levels)
    assert [level.shape[3] for level in levels] == ([642, 321] if closer else [321])
    # The spot is twice as large there: another, smaller face is proposed beside the first.
    assert not closer or faces[:, 2].min() < 0.6 * faces[:, 2].max()
    # Both lie where the spot is.
    assert ((faces[:, :2] - torch.tensor([160.0, 96.0])).abs() < 8).all()


@pytest.mark.parametrize("side", [60, 90, 128, 200, 299, 300, 321, 1000])
def test_the_coarsest_scale_shows_a_face_that_fills_the_photo_at_a_known_size(side):
    localizer = Localizer(spot_net(0), spot_net(0), LocalizerSettings())
    assert 28 <= max(localizer._levels(torch.zeros(3, side, side))[-1].shape) < 57


@pytest.mark.parametrize(
    "photo",
    [torch.zeros(1, 3, 8, 8), torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=torch.int32), torch.zeros(3, 0, 8)],
)
def test_a_wrong_photo_is_refused(photo):
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        Localizer(spot_net(0), spot_net(0))(photo)


@pytest.mark.parametrize("largest", [1.0, 2.0])  # reduced, and enlarged
def test_bytes_are_seen_as_the_fractions_they_stand_for(largest):
    torch.manual_seed(0)
    net = LNet(tags=(), sizes=SIZES, trunk={"widths": (4, 6, 5, 5, 3)})
    nn.init.normal_(net.head.weight)
    settings = {"score_threshold": 0.0, "proposal_threshold": 0.0, "finest_side": 200, "largest_enlargement": largest}
    localizer = Localizer(net, net, LocalizerSettings(**settings))
    height, width = (300, 260) if largest == 1 else (75, 65)
    photo = torch.randint(256, (height, width, 3), dtype=torch.uint8).permute(2, 0, 1)
    as_bytes, as_fractions = localizer._levels(photo), localizer._levels(photo / 255)
    for a, b in zip(as_bytes, as_fractions, strict=True):
        torch.testing.assert_close(a, b, atol=1.01 / 255, rtol=0)
    assert len(localizer(photo).proposals) > 0


def test_each_window_is_cut_alone():
    torch.manual_seed(0)
    localizer = Localizer(spot_net(0), spot_net(0), LocalizerSettings(finest_side=200, window_pixels=33))
    photo = torch.rand(3, 200, 150)
    levels = localizer._levels(photo)
    faces = torch.tensor([[75.0, 90.0, 16.0], [20.0, 30.0, 90.0], [149.0, 1.0, 33.0], [60.0, 60.0, 5.0]])
    together = localizer._cut(photo, levels, faces)
    alone = torch.cat([localizer._cut(photo, levels, face[None]) for face in faces])
    torch.testing.assert_close(together, alone)
    # A window as large as its level's pixels shows just these.
    exact = localizer._cut(photo, levels, torch.tensor([[100.5, 80.5, 16.5]]))[0]
    torch.testing.assert_close(exact, photo[:, 64:97, 84:117], atol=1e-4, rtol=0)


def test_values_must_be_finite():
    photo = torch.zeros(3, 40, 40)
    photo[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        Localizer(spot_net(0), spot_net(0))(photo)


def test_mirrored_windows():
    torch.manual_seed(0)
    net = LNet(tags=(), sizes=SIZES, trunk={"widths": (4, 6, 5, 5, 3)})
    nn.init.normal_(net.head.weight)
    settings = {"score_threshold": 0.0, "proposal_threshold": 0.0, "window_pixels": 65, "max_windows": 3}
    plain, mirrored = (
        Localizer(net, net, LocalizerSettings(**settings, mirrored=value), torch.float32) for value in (False, True)
    )
    photo = torch.rand(3, 129, 129)
    faces = torch.tensor([[64.5, 64.5, 60.0], [20.0, 40.0, 33.0]])
    other = torch.stack([129 - faces[:, 0], faces[:, 1], faces[:, 2]], 1)

    def look(localizer, image, where):
        return localizer._refine(image, localizer._levels(image), where, torch.zeros(2), torch.Size((9, 9)))

    # A photo and its mirror image are seen alike, which they are not by one look.
    (one, logits, response), (two, other_logits, other_response) = (
        look(mirrored, photo, faces),
        look(mirrored, photo.flip(2), other),
    )
    torch.testing.assert_close(logits, other_logits)
    torch.testing.assert_close(response, other_response.flip(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one[:, 1:], two[:, 1:], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(look(plain, photo, faces)[1], look(plain, photo.flip(2), other)[1], atol=1e-3)
    # What will not be reported is looked at once.
    always = LocalizerSettings(**{**settings, "score_threshold": 1.0}, mirrored=True)
    sure = Localizer(net, net, always, torch.float32)
    torch.testing.assert_close(look(sure, photo, faces), look(plain, photo, faces))
    with pytest.raises(ValueError, match="80 pixels cannot be mirrored, they must have a multiple of 16 and one more"):
        Localizer(net, net, LocalizerSettings(mirrored=True, window_pixels=80))


def test_bfloat16_nets_find_the_same_face():
    photo = photo_with_spots((160, 96))
    [exact], [rounded] = (
        Localizer(spot_net(0), spot_net(0), LocalizerSettings(**ONE_SCALE), dtype)(photo).proposals
        for dtype in (torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(torch.tensor(rounded.box), torch.tensor(exact.box), atol=4, rtol=0)


def test_settings_survive_json():
    settings = LocalizerSettings(finest_side=123, offset_o=(0.1, -0.2))
    assert LocalizerSettings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_read_peaks_refines_place_and_size():
    maps = torch.full((2, 9, 9), -20.0)
    maps[0, 2, 3] = maps[0, 2, 4] = 3.0  # halfway between two columns
    maps[0, 2, 4] += 1e-3
    maps[1, 2, 4] = 3.0 + 1e-3  # as likely to be of the second size
    maps[1, 7, 7] = 1.0
    other = torch.full((2, 9, 9), -20.0)
    other[1, 4, 4] = 1.0
    [faces, lone], [logits, of_lone] = read_peaks(torch.stack([maps, other]), torch.tensor([20.0, 45.0]), 16, 0.1, 8)
    assert faces.shape == (2, 3)
    # A map with fewer peaks is filled up.
    torch.testing.assert_close(lone[0], torch.tensor([64.5, 64.5, 45.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(of_lone, torch.tensor([1.0, -torch.inf]), atol=2e-3, rtol=0)
    # Weights: column 3 has e^3, column 4 twice that.
    torch.testing.assert_close(faces[0], torch.tensor([16 * (3 + 2 / 3) + 0.5, 32.5, 30.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(faces[1], torch.tensor([112.5, 112.5, 45.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(logits, torch.tensor([3.0 + 0.6931, 1.0]), atol=2e-3, rtol=0)


def test_suppress_keeps_the_stronger_of_two():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [5, 0, 15, 10]])
    scores = torch.tensor([0.5, 0.9, 0.2, 0.4])
    # IoU of boxes 1 and 3 is 6/14 < 0.5, of boxes 0 and 1 9/11.
    assert suppress(boxes, scores, 0.5).tolist() == [1, 3, 2]
    assert suppress(boxes, scores, 0.4).tolist() == [1, 2]
    assert suppress(boxes[:0], scores[:0], 0.5).tolist() == []


def test_box_iou_of_empty_boxes_is_zero():
    assert box_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_torch_s_defaults_change_nothing(device, dtype):
    localizer, photo = Localizer(spot_net(0), spot_net(0), dtype=torch.float32), photo_with_spots((160, 96))
    expected = localizer(photo)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):  # as torch.set_default_device
            found = localizer(photo)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(found.proposals) > 0 and found.proposals == expected.proposals
    for name, response in expected.response_maps.items():
        torch.testing.assert_close(found.response_maps[name], response, rtol=0, atol=0)
