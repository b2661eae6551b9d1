"""The cache against Pillow, the crop's geometry against marked pixels, augmentation against its ranges."""

import numpy as np
import pytest
import torch
from PIL import Image

from faceattr.data.faces import CROP, FACE, PICTURE, Augmentation, FaceCache, _change_tone, augment, crop, displace

SIZE = (55, 47)
PLAIN = Augmentation(scale=0, shift=0, rotation=0, tone=0, coarse=0, noise=0, flip=False, grey=0, tight=0)


def ramp() -> torch.Tensor:
    """A decoded picture whose red is x and whose green is y, in pixels of the aligned picture."""
    x, y = torch.meshgrid(torch.arange(PICTURE[0]), torch.arange(PICTURE[1]), indexing="xy")
    return torch.stack([x, y, torch.zeros_like(x)])[None].to(torch.uint8)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 255, (218, 178, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_cache_holds_the_pictures_and_is_read_again(folder):
    path = folder / "cache" / "faces.npy"
    faces = FaceCache(folder, ["a.png", "b.png"], SIZE, path)
    height, width = faces.pictures.shape[2:]
    with Image.open(folder / "b.png") as image:
        expected = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.array_equal(faces.batch([1])[0].numpy(), expected)
    # A quarter more than the crop needs.
    assert height / 218 * (CROP[3] - CROP[1]) == pytest.approx(1.25 * SIZE[0], rel=0.02)
    written = path.stat().st_mtime_ns
    assert len(FaceCache(folder, ["a.png", "b.png"], SIZE, path)) == 2
    assert path.stat().st_mtime_ns == written
    assert len(FaceCache(folder, ["a.png"], SIZE, path)) == 1


def test_milder_augmentation():
    full, half = Augmentation(), Augmentation().milder(0.5)
    assert (half.scale, half.rotation, half.noise) == (full.scale / 2, full.rotation / 2, full.noise / 2)
    assert (half.grey, half.tight, half.flip) == (full.grey, full.tight, full.flip)
    assert full.milder(1) == full


def test_cache_names_the_picture_that_does_not_do(folder):
    (folder / "text.png").write_text("no picture")
    Image.new("RGB", (100, 100)).save(folder / "small.png")
    for name, message in (("text.png", "cannot be read"), ("none.png", "cannot be read"), ("small.png", "100x100")):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            FaceCache(folder, ["a.png", name], SIZE, folder / "faces.npy")
        assert not (folder / "faces.npy").exists()


def test_crop_takes_the_crop(size=SIZE):
    image = crop(ramp(), size, size)[0] * 255
    x0, y0, x1, y1 = CROP
    # Pixel k of an output of n covers [k, k + 1] / n of the crop; the ramp's value at a place is half a pixel less.
    for axis, (low, high, length) in enumerate(((x0, x1, size[1]), (y0, y1, size[0]))):
        expected = low + (torch.arange(length) + 0.5) / length * (high - low) - 0.5
        line = image[0, 20] if axis == 0 else image[1, :, 20]
        torch.testing.assert_close(line, expected, atol=0.01, rtol=0)


def test_a_wider_crop_keeps_the_scale_and_holds_the_plain_one():
    wide = crop(ramp(), (SIZE[0] + 8, SIZE[1] + 4), SIZE)
    torch.testing.assert_close(wide[:, :, 4:-4, 2:-2], crop(ramp(), SIZE, SIZE), atol=1e-4, rtol=0)


def test_augmentation_of_nothing_is_the_plain_crop():
    images = augment(ramp(), SIZE, PLAIN, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, crop(ramp(), SIZE, SIZE))


def test_augmentation_repeats_with_its_seed_and_stays_in_range():
    pictures = ramp().expand(20, -1, -1, -1)
    first = augment(pictures, SIZE, Augmentation(), torch.Generator().manual_seed(1))
    assert torch.equal(first, augment(pictures, SIZE, Augmentation(), torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augment(pictures, SIZE, Augmentation(), torch.Generator().manual_seed(2)))
    assert first.shape == (20, 3, *SIZE) and 0 <= first.min() and first.max() <= 1


def test_flips_scales_shifts_and_rotations_stay_within_their_limits():
    pictures = ramp().expand(200, -1, -1, -1)

    def place(**settings):
        """Red and green slopes and centres: the affine map that was drawn, picture by picture."""
        settings = {**PLAIN.__dict__, **settings}
        return augment(pictures, SIZE, Augmentation(**settings), torch.Generator().manual_seed(0)) * 255

    plain = crop(ramp(), SIZE, SIZE)[0] * 255
    slope = plain[0, 27, 24] - plain[0, 27, 23]
    flipped = place(flip=True)[:, 0, 27, 24] - place(flip=True)[:, 0, 27, 23]
    assert set((flipped / slope).round(decimals=2).tolist()) == {1.0, -1.0}
    scales = (place(scale=0.15)[:, 0, 27, 24] - place(scale=0.15)[:, 0, 27, 23]) / slope
    assert 1 / 1.15 - 0.02 < scales.min() < 0.9 and 1.1 < scales.max() < 1.15 + 0.02
    shifts = (place(shift=0.06)[:, 1, 27, 23] - plain[1, 27, 23]) / (CROP[3] - CROP[1])
    assert -0.061 < shifts.min() < -0.05 and 0.05 < shifts.max() < 0.061
    turned = place(rotation=10.0)
    angles = torch.rad2deg(
        torch.atan2(turned[:, 1, 27, 24] - turned[:, 1, 27, 23], turned[:, 0, 27, 24] - turned[:, 0, 27, 23])
    )
    assert -10.5 < angles.min() < -9 and 9 < angles.max() < 10.5


def test_displaced_crops_and_the_way_back():
    images, corrections = displace(ramp().expand(300, -1, -1, -1), SIZE, torch.Generator().manual_seed(0))
    # What is seen in the middle of the crop, and how that changes to the right and down: the affine map that was drawn.
    seen = images[:, :2, 27, 23] * 255 + 0.5
    right = (images[:, :2, 27, 26] - images[:, :2, 27, 20]) * 255 / 6
    down = (images[:, :2, 30, 23] - images[:, :2, 24, 23]) * 255 / 6
    jacobian = torch.stack([right, down], 2)
    middle = torch.tensor([CROP[0] + CROP[2], CROP[1] + CROP[3]]) / 2
    # Where the face's own crop would have its middle, in heights of this one.
    expected = torch.linalg.solve(jacobian, (middle - seen)[:, :, None])[:, :, 0] / SIZE[0]
    log_scale = ((CROP[3] - CROP[1]) / SIZE[0] / jacobian.det().abs().sqrt()).log()
    # Noise, and cuts through the middle, hide the map of a few.
    assert ((corrections[:, :2] - expected).abs() < 0.01).all(1).float().mean() > 0.85
    assert ((corrections[:, 2] - log_scale).abs() < 0.02).float().mean() > 0.85
    assert 0.4 < (jacobian.det() < 0).float().mean() < 0.6  # mirrored
    assert 0.04 < corrections[:, 0].std() < 0.08 and 0.1 < corrections[:, 2].std() < 0.18


def test_tight_pictures_end_beside_the_face():
    pictures = ramp().expand(200, -1, -1, -1)
    settings = Augmentation(**{**PLAIN.__dict__, "tight": 0.5})
    images = augment(pictures, SIZE, settings, torch.Generator().manual_seed(0)) * 255
    plain = crop(ramp(), SIZE, SIZE)[0] * 255
    whole = (images - plain).abs().amax((1, 2, 3)) < 0.1
    assert 80 < whole.sum() < 120
    for axis in (0, 1):  # red is x, green is y
        low, high = images[~whole, axis].flatten(1).aminmax(dim=1)
        side = FACE[2 + axis] - FACE[axis]
        for edge, outwards in ((low, FACE[axis] - low), (high, high - FACE[2 + axis])):
            inside = (edge > plain[axis].min() + 1) & (edge < plain[axis].max() - 1)
            assert inside.any() and -0.11 < (outwards[inside] / side).min() < -0.05
            assert 0.1 < (outwards[inside] / side).max() < 0.36


def test_grey_pictures_have_no_colour():
    pictures = torch.rand(200, 3, 30, 30).mul(255).to(torch.uint8)
    settings = Augmentation(**{**PLAIN.__dict__, "grey": 0.3})
    images = augment(pictures, SIZE, settings, torch.Generator().manual_seed(0))
    assert 35 < ((images - images.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-5).sum() < 85


def test_tone_step_by_step():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 5, 4, generator=random) * 0.4 + 0.3
    saturation, contrast = torch.tensor([[0.8], [1.2]]), torch.tensor([[1.1], [0.9]])
    gain = torch.tensor([[0.9, 1.0, 1.1], [1.05, 0.95, 1.0]])
    brightness, gamma = torch.tensor([[0.05], [-0.05]]), torch.tensor([[1.2], [0.8]])
    changed = _change_tone(images, saturation, gain, contrast, brightness, gamma)
    for n in range(2):
        grey = images[n].mean(0)
        expected = (grey + (images[n] - grey) * saturation[n]) * gain[n][:, None, None]
        expected = expected.mean() + (expected - expected.mean()) * contrast[n] + brightness[n]
        torch.testing.assert_close(changed[n], expected.clamp(0, 1) ** gamma[n])
