import math

import numpy as np
import pytest
from PIL import Image

from faceattr.crops import CropSettings, crop_window


def ramp(height=60, width=80):
    """Red tells the column, green the row, both twice as bright as the index."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)


class TestCropWindow:
    def test_whole_pixels_are_a_slice(self):
        np.testing.assert_array_equal(crop_window(ramp(), (10, 20, 34, 50), (30, 24)), ramp()[20:50, 10:34])

    def test_fractions_and_scale(self):
        # Each of 8 x 8 output pixels covers 2.5 x 3 of the photo; of a ramp its mean is the value at its middle.
        crop = crop_window(ramp(), (20.25, 10.5, 40.25, 34.5), (8, 8)).astype(float)
        middle = np.arange(8) + 0.5
        np.testing.assert_allclose(crop[3, 2:6, 0], (2 * (20.25 + 2.5 * middle - 0.5))[2:6], atol=1)
        np.testing.assert_allclose(crop[2:6, 3, 1], (2 * (10.5 + 3 * middle - 0.5))[2:6], atol=1)

    def test_is_antialiased(self):
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        np.testing.assert_allclose(crop_window(stripes, (0, 0, 64, 64), (8, 8))[2:6, 2:6], 127.5, atol=6)

    def test_much_too_large_a_window_as_resampled_at_once(self):
        random = np.random.default_rng(0)
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((1600, 1200))
        photo = np.clip(np.asarray(coarse) + random.normal(0, 20, (1200, 1600, 3)), 0, 255).astype(np.uint8)
        window = (100.3, 20.7, 1500.9, 1190.2)
        whole = Image.fromarray(photo).resize((96, 80), Image.Resampling.LANCZOS, window)
        difference = crop_window(photo, window, (80, 96)).astype(int) - np.asarray(whole)
        assert np.abs(difference).max() <= 4 and np.abs(difference).mean() < 0.5

    def test_outside_repeats_the_border(self):
        photo = ramp()
        crop = crop_window(photo, (-10, -5, 90, 65), (70, 100))
        np.testing.assert_array_equal(crop, np.pad(photo, ((5, 5), (10, 10), (0, 0)), mode="edge"))

    @pytest.mark.parametrize("window", [(10, 10, 10, 20), (30, 10, 20, 20), (80, 0, 90, 10), (-9, 0, 0, 9)])
    def test_no_area_in_the_photo(self, window):
        with pytest.raises(ValueError, match="crop_window: window .* has no area in a photo of 80 x 60"):
            crop_window(ramp(), window, (8, 8))

    def test_nan(self):
        with pytest.raises(ValueError, match="has no area"):
            crop_window(ramp(), (float("nan"), 0, 10, 10), (8, 8))


class TestCropSettings:
    def test_window(self):
        settings = CropSettings(centre=(0.1, -0.2), height=1.5)
        # A face 40 high, centred on (50, 60): the crop is 60 high, 30 wide, centred on (54, 52).
        assert settings.window((40, 40, 60, 80), (100, 50), step=4) == pytest.approx((39, 22, 69, 82))

    def test_positions_widen_the_window_at_the_same_scale(self):
        settings = CropSettings(height=1.0, positions=(3, 2))
        assert settings.size((100, 50), step=4) == (108, 54)
        assert settings.window((0, 0, 20, 50), (100, 50), step=4) == pytest.approx((-3.5, -2, 23.5, 52))


def test_a_corrected_box_has_the_crop_that_was_asked_for():
    settings, box = CropSettings(centre=(0.1, -0.05), height=1.5), (40.0, 30.0, 100.0, 110.0)
    assert settings.corrected(box, (0, 0, 0)) == pytest.approx(box)
    x0, y0, x1, y1 = settings.window(box, (48, 40), 8)
    height = y1 - y0
    corrected = settings.corrected(box, (0.2, -0.1, math.log(1.25)))
    left, top, right, bottom = settings.window(corrected, (48, 40), 8)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx(
        ((x0 + x1) / 2 + 0.2 * height, (y0 + y1) / 2 - 0.1 * height)
    )
    assert bottom - top == pytest.approx(1.25 * height)
    # The box keeps its shape.
    assert (corrected[2] - corrected[0]) / (corrected[3] - corrected[1]) == pytest.approx(60 / 80)
