"""Every way a picture can be odd is either read right or refused with the reason."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from unprivileged import open_folder, unprivileged  # noqa: F401 a fixture

from faceattr.images import ImageError, load_image, load_photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


class TestSources:
    pixels = noise(23, 31)

    @pytest.mark.parametrize("as_path", [str, lambda path: path], ids=["str", "Path"])
    def test_path(self, tmp_path, as_path):
        path = tmp_path / "bild mit ümlaut.png"
        Image.fromarray(self.pixels).save(path)
        np.testing.assert_array_equal(load_image(as_path(path)), self.pixels)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes(self, kind):
        np.testing.assert_array_equal(load_image(kind(encoded(Image.fromarray(self.pixels)))), self.pixels)

    def test_pil(self):
        np.testing.assert_array_equal(load_image(Image.fromarray(self.pixels)), self.pixels)

    def test_array_and_tensor(self):
        np.testing.assert_array_equal(load_image(self.pixels), self.pixels)
        np.testing.assert_array_equal(load_image(self.pixels[::-1, ::2]), self.pixels[::-1, ::2])
        np.testing.assert_array_equal(load_image(torch.from_numpy(self.pixels).permute(2, 0, 1)), self.pixels)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_floating_point_is_zero_to_one(self, dtype):
        # Multiples of 1/255 that survive bfloat16's eight bits within half a step.
        tensor = (torch.tensor([0, 51, 102, 204, 255]) / 255).to(dtype).expand(3, 2, 5)
        np.testing.assert_array_equal(load_image(tensor)[0, :, 0], [0, 51, 102, 204, 255])

    def test_grey_and_one_channel(self):
        grey = self.pixels[..., 0]
        for source in (grey, grey[..., None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
            np.testing.assert_array_equal(load_image(source), np.repeat(grey[..., None], 3, axis=2))

    def test_result_is_writable_and_own(self):
        pixels = self.pixels.copy()
        load_image(pixels)[:] = 0
        np.testing.assert_array_equal(pixels, self.pixels)

    def test_a_callers_pil_image_is_not_drafted(self):
        image = Image.open(io.BytesIO(encoded(Image.fromarray(noise(800, 800)), "JPEG")))
        assert load_photo(image, max_side=100).scale == 8
        assert image.size == (800, 800)


class TestPixelFormats:
    def test_cmyk(self):
        image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))  # magenta and yellow ink: red
        np.testing.assert_allclose(load_image(encoded(image, "JPEG"))[0, 0], RED, atol=3)

    def test_sixteen_bits(self):
        values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
        expected = [0, 1, 128, 255]
        for source in (encoded(Image.fromarray(values)), encoded(Image.fromarray(values), "TIFF"), values):
            np.testing.assert_array_equal(load_image(source)[0, :, 0], expected)
        # What older Pillow versions make of a 16-bit PNG.
        np.testing.assert_array_equal(load_image(Image.fromarray(values.astype(np.int32)))[0, :, 2], expected)

    def test_palette_with_alpha(self):
        image = Image.new("P", (2, 1))
        image.putpalette([*RED, *BLUE])
        image.putdata([0, 1])
        pixels = load_image(encoded(image, transparency=0))
        np.testing.assert_array_equal(pixels[0], [WHITE, BLUE])

    def test_alpha_is_laid_over_white(self):
        pixels = np.array([[[0, 0, 255, 255], [0, 0, 255, 0], [0, 0, 255, 128]]], dtype=np.uint8)
        expected = np.array([[BLUE, WHITE, (127, 127, 255)]])
        for source in (pixels, encoded(Image.fromarray(pixels)), torch.from_numpy(pixels).permute(2, 0, 1)):
            np.testing.assert_allclose(load_image(source).astype(int), expected, atol=1)

    def test_grey_with_alpha_and_transparent_colour(self):
        grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), "LA")
        np.testing.assert_array_equal(load_image(encoded(grey))[0, :, 0], [10, 255])
        rgb = Image.fromarray(np.array([[GREEN, RED]], dtype=np.uint8))
        np.testing.assert_array_equal(load_image(encoded(rgb, transparency=GREEN))[0], [WHITE, RED])

    def test_one_bit(self):
        image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
        np.testing.assert_array_equal(load_image(encoded(image))[0, :, 0], [0, 255])

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_animation_gives_its_first_frame(self, format):
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(load_image(data)[4, 4], RED)

    def test_floating_point_and_wide_integer_files_are_refused(self):
        for values in (np.ones((3, 3), np.float32), np.full((3, 3), 70000, np.int32)):
            with pytest.raises(ImageError, match="unknown range; save it with 8 or 16 bits"):
                load_image(encoded(Image.fromarray(values), "TIFF"))


class TestOrientation:
    """The oracle is Pillow's own exif_transpose on the full picture."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
    def test_exif_is_applied(self, orientation, format):
        # Corners in four colours, large enough for JPEG to keep them.
        pixels = np.zeros((32, 48, 3), dtype=np.uint8)
        pixels[:16, :16], pixels[:16, -16:], pixels[-16:, :16] = RED, GREEN, BLUE
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(pixels)
        upright = {
            1: pixels,
            2: pixels[:, ::-1],
            3: pixels[::-1, ::-1],
            4: pixels[::-1],
            5: pixels.swapaxes(0, 1),
            6: np.rot90(pixels, -1),
            7: np.rot90(pixels, 2).swapaxes(0, 1),
            8: np.rot90(pixels),
        }[orientation]
        options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
        loaded = load_photo(encoded(stored, format, exif=exif, **options))
        assert (loaded.width, loaded.height) == upright.shape[1::-1]
        np.testing.assert_allclose(loaded.pixels.astype(int), upright.astype(int), atol=4)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_boxes_find_their_way_back_exactly(self, orientation, format):
        # 203 x 331 divides by nothing, so the last column and row of the reduced picture are incomplete.
        stored = np.full((203, 331, 3), 255, dtype=np.uint8)
        stored[96:128, 160:224] = 0
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(stored), format, exif=exif)
        upright = load_image(data)
        rows, columns = np.nonzero(upright[..., 0] < 128)
        mark = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])

        photo = load_photo(data, max_side=42)
        assert photo.scale == 8 and max(photo.pixels.shape) <= 42
        assert (photo.height, photo.width) == upright.shape[:2]
        # The mark lies on the grid of 8 x 8 squares of the stored picture, so its edges are edges of the reduced one.
        small = photo.from_original(mark)
        np.testing.assert_array_equal(small, np.rint(small))
        x0, y0, x1, y1 = small.astype(int)
        dark = np.zeros(photo.pixels.shape[:2], dtype=bool)
        dark[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(photo.pixels[..., 0] < 128, dark)
        np.testing.assert_array_equal(photo.to_original(small), mark)

    def test_boxes_are_clipped_to_the_picture(self):
        photo = load_photo(noise(203, 331), max_side=42)
        height, width = photo.pixels.shape[:2]
        np.testing.assert_array_equal(photo.to_original([-5, -5, width, height]), [0, 0, 331, 203])

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_meaningless_exif_is_ignored(self):
        pixels = noise(8, 8)
        data = encoded(Image.fromarray(pixels), exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
        np.testing.assert_array_equal(load_image(data), pixels)


class TestReduction:
    def test_mean_of_whole_squares(self):
        pixels = noise(64, 96)
        photo = load_photo(pixels, max_side=24)
        assert photo.scale == 4
        expected = pixels.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(photo.pixels.astype(float), expected, atol=0.51)

    def test_bands_do_not_show(self):
        pixels = noise(3001, 2003)  # several bands, none of the sides a multiple of the factor
        whole = np.asarray(Image.fromarray(pixels).reduce(2))
        np.testing.assert_array_equal(load_photo(pixels, max_side=2048).pixels, whole)
        np.testing.assert_array_equal(load_photo(encoded(Image.fromarray(pixels), "BMP")).pixels, whole)
        np.testing.assert_array_equal(load_image(pixels), pixels)

    @pytest.mark.parametrize("size", [(20000, 20), (20, 20000)])
    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_very_long(self, size, format):
        photo = load_photo(encoded(Image.new("RGB", size, BLUE), format))
        assert (photo.width, photo.height) == size
        assert max(photo.pixels.shape[:2]) <= 2048 and min(photo.pixels.shape[:2]) >= 1
        np.testing.assert_allclose(photo.pixels[-1, -1], BLUE, atol=2)
        np.testing.assert_array_equal(photo.to_original([0, 0, 20000, 20000]), [0, 0, *size])

    def test_one_pixel(self):
        np.testing.assert_array_equal(load_image(encoded(Image.new("RGB", (1, 1), RED))), [[RED]])


def png_header(width, height):
    """A PNG that claims any size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


class TestBadInput:
    def refused(self, source, *, names, match):
        with pytest.raises(ImageError, match=match) as caught:
            load_photo(source)
        assert str(caught.value).startswith(names)

    def test_missing_file(self, tmp_path):
        path = str(tmp_path / "nothing.jpg")
        self.refused(path, names=path, match="no such file; check the path")

    def test_folder(self, tmp_path):
        self.refused(tmp_path, names=str(tmp_path), match="is a folder; pass the pictures in it")

    def test_text_named_jpg(self, tmp_path):
        path = tmp_path / "text.jpg"
        path.write_text("this is no picture\n" * 20)
        self.refused(path, names=str(path), match="not a picture that Pillow can read; convert it to JPEG or PNG")

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
    def test_truncated(self, tmp_path, format):
        data = encoded(Image.fromarray(noise(200, 300)), format)
        path = tmp_path / f"cut.{format.lower()}"
        path.write_bytes(data[: len(data) // 2])
        self.refused(path, names=str(path), match="(truncated or damaged|not a picture that Pillow can read)")

    def test_truncated_jpeg_that_is_reduced_while_decoded(self):
        data = encoded(Image.fromarray(noise(3000, 3000)), "JPEG")
        self.refused(data[: len(data) // 2], names="bytes", match="truncated or damaged")

    def test_truncated_pil_image(self):
        data = encoded(Image.fromarray(noise(200, 300)), "JPEG")
        with Image.open(io.BytesIO(data[: len(data) // 2])) as image:
            self.refused(image, names="PIL image", match="truncated or damaged")

    def test_empty_file_and_bytes(self, tmp_path):
        path = tmp_path / "empty.png"
        path.touch()
        self.refused(path, names=str(path), match=r"empty \(0 bytes\); copy or download")
        self.refused(b"", names="bytes (0)", match=r"empty \(0 bytes\)")

    def test_decompression_bomb(self):
        self.refused(png_header(50000, 50000), names="bytes", match="decompression bomb.*MAX_IMAGE_PIXELS")

    def test_postscript_is_not_run(self):
        data = encoded(Image.fromarray(noise(8, 8)), "EPS")
        self.refused(data, names="bytes", match="not a picture that Pillow can read")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_tensor(self, value):
        tensor = torch.full((3, 8, 8), 0.5)
        tensor[1, 2, 3] = value
        self.refused(tensor, names="tensor [3, 8, 8]", match="NaN or infinite")

    def test_floats_out_of_range(self):
        self.refused(torch.rand(3, 8, 8) * 200, names="tensor", match="scale or clip them to 0..1, or pass uint8")

    @pytest.mark.parametrize("shape", [(8,), (8, 8), (8, 8, 3), (2, 8, 8), (1, 3, 8, 8)])
    def test_tensor_shapes(self, shape):
        self.refused(torch.zeros(shape), names=f"tensor {list(shape)}", match=r"a tensor is \[C, H, W\]")

    @pytest.mark.parametrize("shape", [(8,), (3, 8, 8), (8, 8, 2), (1, 8, 8, 3)])
    def test_array_shapes(self, shape):
        self.refused(np.zeros(shape, np.uint8), names=f"array {list(shape)}", match=r"an array is \[H, W\]")

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.complex64, object])
    def test_array_dtypes(self, dtype):
        self.refused(np.zeros((8, 8, 3), dtype), names="array", match=f"{np.dtype(dtype)} pixels; pass uint8")

    @pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3)])
    def test_no_pixels(self, shape):
        self.refused(np.zeros(shape, np.uint8), names="array", match="has no pixels")

    @pytest.mark.parametrize("source", [None, 3, object(), {"a": 1}])
    def test_no_picture_at_all(self, source):
        self.refused(source, names=type(source).__name__, match="not a picture; pass a path")

    def test_closed_pil_image(self, tmp_path):
        Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
        image = Image.open(tmp_path / "a.png")
        image.close()
        self.refused(image, names=str(tmp_path), match="cannot be read")

    def test_nul_in_the_path(self):
        self.refused("a\0b.jpg", names="a\0b.jpg", match="(no such file|cannot be read)")

    @pytest.mark.parametrize("tensor", [torch.zeros(3, 8, 8).to_sparse(), torch.zeros(3, 8, 8, device="meta")])
    def test_tensors_without_pixels(self, tensor):
        self.refused(tensor, names="tensor [3, 8, 8]", match="sparse, quantized or meta tensor has no pixels")

    def test_empty_path(self):
        self.refused("", names="''", match="an empty path")

    @pytest.mark.parametrize("path", ["x" * 300 + ".jpg", "a/" * 3000])
    def test_path_that_no_file_can_have(self, path):
        self.refused(path, names=path, match="File name too long")

    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "x.jpg")
        self.refused(tmp_path / "x.jpg", names=str(tmp_path), match="is a pipe, socket or device")

    def test_links_to_nothing_and_to_themselves(self, tmp_path):
        (tmp_path / "gone.jpg").symlink_to("nothing")
        (tmp_path / "round.jpg").symlink_to("round.jpg")
        self.refused(tmp_path / "gone.jpg", names=str(tmp_path), match="links to what is not there")
        self.refused(tmp_path / "round.jpg", names=str(tmp_path), match="cannot be read .Too many levels of symb")

    def test_permission_is_no_damage(self, open_folder):  # noqa: F811
        path = open_folder / "a.png"
        Image.fromarray(noise(8, 8)).save(path)
        path.chmod(0)
        with unprivileged():
            self.refused(path, names=str(path), match=r"cannot be read \(Permission denied\); check")


class TestSoundPictures:
    """What is odd about these is beside the pixels."""

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
    @pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"x" * 60])
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_unusable_exif(self, format, exif):
        pixels = noise(16, 16)
        options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
        data = encoded(Image.fromarray(pixels), format, exif=exif, **options)
        assert load_photo(data).orientation == 1 and load_image(data).shape == (16, 16, 3)

    def test_orientation_that_is_none(self):
        exif = Image.Exif()
        exif[0x0112] = 77
        assert load_photo(encoded(Image.fromarray(noise(8, 9)), exif=exif)).orientation == 1

    def test_a_damaged_profile(self):
        pixels = noise(8, 8)
        np.testing.assert_array_equal(load_image(encoded(Image.fromarray(pixels), icc_profile=b"x" * 200)), pixels)

    def test_eight_bits_in_thirty_two(self):
        values = np.arange(256, dtype=np.int32).reshape(16, 16)
        for source in (Image.fromarray(values), encoded(Image.fromarray(values), "TIFF")):
            np.testing.assert_array_equal(load_image(source)[..., 0], values)
        # The range is the whole picture's: a dark part of a 16-bit picture stays dark.
        values = np.zeros((3000, 2000), np.int32)
        values[:1500], values[-1, -1] = 200, 65535
        assert load_image(Image.fromarray(values))[:1500].max() == 1


# Peak memory of one 100-megapixel photo above that of the imports, in MiB. A JPEG is decoded at an eighth of its size;
# of other files Pillow holds all pixels, at four bytes each (381 MiB), beside which conversion needs little.
MEASURE = """
import resource, sys
from faceattr.images import load_photo
from PIL import Image
Image.init()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
photo = load_photo(sys.argv[1])
assert (photo.width, photo.height) == (11000, 9100) and max(photo.pixels.shape) <= 2048, photo.pixels.shape
print(peak() - before)
"""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("format", "mode", "bound"),
    [("JPEG", "RGB", 60), ("JPEG", "CMYK", 60), ("PNG", "RGB", 440), ("PNG", "RGBA", 440), ("PNG", "P", 160)],
)
def test_memory_of_a_100_megapixel_photo(tmp_path, format, mode, bound):
    path = tmp_path / "large"
    options = {"compress_level": 1} if format == "PNG" else {}
    Image.new(mode, (11000, 9100)).save(path, format, **options)
    result = subprocess.run([sys.executable, "-c", MEASURE, path], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < bound
