"""HEIC, AVIF, raw photos, colour profiles and videos: as they are displayed, or refused with what to install."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, TiffTags, features
from rich_photos import ADOBE_RGB, DISPLAY_P3, PROPHOTO, dng, film, in_space
from small_checkpoint import NEUTRAL, SMILING, draw_photo

import faceattr
from faceattr.cli import main
from faceattr.colour import SRGB, profile, to_xyz
from faceattr.images import ImageError, load_image, load_photo

D50 = (0.3457, 0.3585)


def picture(height=48, width=64):
    """Smooth colours, as codecs like them, the left upper quarter darker."""
    y, x = np.mgrid[:height, :width] / (max(height, width) - 1)
    pixels = np.stack([60 + 150 * x, 60 + 150 * y, 200 - 120 * x], -1)
    pixels[: height // 2, : width // 2] *= 0.5
    return pixels.astype(np.uint8)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


class TestProfiles:
    @pytest.mark.parametrize(
        "space", [(*DISPLAY_P3,), (*ADOBE_RGB,), (*PROPHOTO, D50)], ids=["Display P3", "Adobe RGB", "ProPhoto"]
    )
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
    def test_colours_are_those_that_are_meant(self, space, format):
        pixels = picture()
        stored = Image.fromarray(in_space(pixels, *space))
        lossy = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
        data = encoded(stored, format, icc_profile=profile(*space), **lossy)
        assert np.abs(np.asarray(stored).astype(int) - pixels).mean() > 2  # the profile matters
        difference = np.abs(load_image(data).astype(int) - pixels)
        assert difference.mean() < 2 and (difference.max() <= 3 or format == "JPEG")

    def test_with_transparency_and_as_a_palette(self):
        pixels = picture()
        stored = Image.fromarray(in_space(pixels, *DISPLAY_P3))
        icc = profile(*DISPLAY_P3)
        alpha = stored.copy()
        alpha.putalpha(255)
        assert np.abs(load_image(encoded(alpha, "PNG", icc_profile=icc)).astype(int) - pixels).max() <= 2
        paletted = stored.quantize(64)
        expected = load_image(encoded(paletted.convert("RGB"), "PNG", icc_profile=icc))
        np.testing.assert_array_equal(load_image(encoded(paletted, "PNG", icc_profile=icc)), expected)

    def test_reduced_and_in_bands(self):
        pixels = np.tile(picture(), (40, 40, 1))
        data = encoded(Image.fromarray(in_space(pixels, *ADOBE_RGB)), "PNG", icc_profile=profile(*ADOBE_RGB))
        photo = load_photo(data)
        assert photo.scale == 2 and np.abs(photo.pixels.mean((0, 1)) - pixels.mean((0, 1))).max() < 1

    def test_srgb_changes_nothing(self):
        pixels = picture()
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        np.testing.assert_array_equal(load_image(encoded(Image.fromarray(pixels), "PNG", icc_profile=icc)), pixels)

    def test_matrices(self):
        """The published one of Adobe RGB (Lindbloom's tables, adapted to D50); that of LittleCMS for sRGB."""
        published = [
            [0.6097559, 0.2052401, 0.1492240],
            [0.3111242, 0.6256560, 0.0632197],
            [0.0194811, 0.0608902, 0.7448387],
        ]
        np.testing.assert_allclose(to_xyz(ADOBE_RGB[0]), published, atol=3e-4)
        srgb = ImageCms.createProfile("sRGB")
        columns = [getattr(srgb, f"{name}_colorant")[0] for name in ("red", "green", "blue")]
        np.testing.assert_allclose(to_xyz(SRGB).T, columns, atol=3e-4)

    @pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
    @pytest.mark.parametrize(
        ("index", "space", "adobe"), [("R03", 0xFFFF, True), ("R03", None, True), ("R03", 1, False), ("R98", 1, False)]
    )
    def test_adobe_rgb_by_exif_alone(self, format, index, space, adobe):
        """As cameras write it: DCF's interoperability index, and an uncalibrated colour space."""
        exif, pixels = Image.Exif(), picture()
        exif[ExifTags.Base.Orientation] = 1
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {ExifTags.Interop.InteropIndex: index}
        if space is not None:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = space
        stored = in_space(pixels, *ADOBE_RGB)
        options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
        read = load_image(encoded(Image.fromarray(stored), format, exif=exif, **options)).astype(int)
        expected, other = (pixels, stored) if adobe else (stored, pixels)
        assert np.abs(read - expected).mean() < 1 and np.abs(read - other).mean() > 2
        # A profile says more.
        icc = profile(*DISPLAY_P3)
        both = load_image(encoded(Image.fromarray(stored), "PNG", exif=exif, icc_profile=icc))
        np.testing.assert_array_equal(both, load_image(encoded(Image.fromarray(stored), "PNG", icc_profile=icc)))

    def png(self, pixels, gamma=None, primaries=None, srgb=False):
        chunks = PngImagePlugin.PngInfo()
        if srgb:
            chunks.add(b"sRGB", b"\0")
        if gamma is not None:
            chunks.add(b"gAMA", struct.pack(">I", round(gamma * 1e5)))
        if primaries is not None:
            points = np.array([(0.3127, 0.3290), *primaries])
            chunks.add(b"cHRM", struct.pack(">8I", *np.rint(points * 1e5).astype(int).ravel()))
        return encoded(Image.fromarray(pixels), "PNG", pnginfo=chunks)

    def test_gamma_and_primaries_of_a_png(self):
        pixels = picture()
        linear = in_space(pixels, SRGB, 1.0)
        difference = np.abs(load_image(self.png(linear, 1.0)).astype(int) - pixels)
        assert difference.mean() < 1.5 and np.abs(linear.astype(int) - pixels).mean() > 30
        wide = in_space(pixels, *DISPLAY_P3)
        for gamma in (1 / 2.2, None):
            assert np.abs(load_image(self.png(wide, gamma, DISPLAY_P3[0])).astype(int) - pixels).max() <= 3
        grey = load_image(self.png(linear[..., 1], 1.0)).astype(int)
        assert np.abs(grey[..., 1] - pixels[..., 1]).mean() < 8 and (grey[..., 0] == grey[..., 2]).all()

    @pytest.mark.parametrize(
        "told",
        [{"gamma": 0.45455}, {"gamma": 0.45455, "primaries": SRGB}, {"gamma": 1.0, "srgb": True}, {"gamma": 0},
         {"primaries": [(0, 0)] * 3}, {"gamma": 1e-5}],
        ids=str,
    )  # fmt: skip
    def test_a_png_that_says_srgb_or_what_cannot_be(self, told):
        np.testing.assert_array_equal(load_image(self.png(picture(), **told)), picture())

    def test_a_profile_of_other_channels_is_none(self):
        grey = picture()[..., 0]
        data = encoded(Image.fromarray(grey), "PNG", icc_profile=profile(*ADOBE_RGB))
        np.testing.assert_array_equal(load_image(data)[..., 0], grey)

    def test_a_picture_of_the_callers(self):
        image = Image.open(
            io.BytesIO(
                encoded(Image.fromarray(in_space(picture(), *ADOBE_RGB)), "PNG", icc_profile=profile(*ADOBE_RGB))
            )
        )
        assert np.abs(load_image(image).astype(int) - picture()).max() <= 2


class TestHeif:
    @pytest.fixture
    def heif(self):
        return pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: pip install 'faceattr[heif]'")

    def data(self, heif, orientation=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = heif.from_pillow(Image.fromarray(picture()))
        buffer = io.BytesIO()
        stored.save(buffer, quality=95, exif=exif.tobytes())
        return buffer.getvalue()

    def test_read_whether_or_not_the_plugin_is_registered(self, heif, tmp_path):
        path = tmp_path / "photo.heic"
        path.write_bytes(self.data(heif))
        script = (
            "import sys; from faceattr.images import load_image; import numpy; "
            "sys.stdout.buffer.write(load_image(sys.argv[1]).tobytes())"
        )
        out = subprocess.run([sys.executable, "-c", script, path], capture_output=True, cwd=tmp_path, check=True).stdout
        pixels = np.frombuffer(out, np.uint8).reshape(48, 64, 3)
        assert np.abs(pixels.astype(int) - picture()).mean() < 4
        np.testing.assert_array_equal(load_image(path.read_bytes()), pixels)

    def test_turned(self, heif):
        photo = load_photo(self.data(heif, 6))
        assert (photo.width, photo.height, photo.orientation) == (48, 64, 6)
        assert np.abs(photo.pixels.astype(int) - np.rot90(picture(), -1)).mean() < 4

    def test_truncated(self, heif):
        data = self.data(heif)
        with pytest.raises(ImageError, match="truncated or damaged|not a picture"):
            load_image(data[: len(data) // 2])

    def test_on_the_command_line(self, heif, weights, tmp_path, capsys):
        stored = heif.from_pillow(draw_photo([(100, 100, 32, SMILING)]))
        stored.save(tmp_path / "a.HEIC", quality=95)
        assert main(["predict", str(tmp_path), "--weights", str(weights), "--quiet", "--format", "jsonl"]) == 0
        (face,) = json.loads(capsys.readouterr().out)["faces"]
        assert face["labels"] == ["Smiling"]

    def test_without_the_plugin(self, heif, tmp_path, monkeypatch):
        path = tmp_path / "photo.heic"
        path.write_bytes(self.data(heif))
        monkeypatch.setattr(Image, "ID", [each for each in Image.ID if each != "HEIF"])
        for source in (path, path.read_bytes()):
            with pytest.raises(ImageError, match=r"HEIC; pip install 'faceattr\[heif\]' to read it, or convert it"):
                load_image(source)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    data = encoded(Image.fromarray(picture()), "AVIF", quality=95)
    assert np.abs(load_image(data).astype(int) - picture()).mean() < 4


class TestRaw:
    @pytest.fixture(autouse=True)
    def rawpy(self):
        return pytest.importorskip("rawpy", reason="rawpy is not installed: pip install 'faceattr[raw]'")

    def write(self, tmp_path, *arguments):
        path = tmp_path / "photo.DNG"
        path.write_bytes(dng(*arguments))
        return path

    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    @pytest.mark.parametrize("previewed", [True, False])
    def test_upright(self, tmp_path, orientation, previewed):
        """Of the preview, which is another picture here, or developed."""
        pixels, preview = picture(200, 300), 255 - picture(1000, 1500)
        photo = load_photo(self.write(tmp_path, pixels, orientation, preview if previewed else None))
        expected = np.rot90(preview if previewed else pixels, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
        assert (photo.height, photo.width) == expected.shape[:2] and photo.orientation == orientation
        difference = photo.pixels.astype(int) - expected
        assert np.abs(difference).mean() < (2 if previewed else 14)  # another curve than the camera's

    @pytest.mark.parametrize("previewed", [True, False])
    def test_told_by_its_content(self, tmp_path, previewed):
        """Without a name, or under one of another kind."""
        path = self.write(tmp_path, picture(200, 300), 6, picture(1000, 1500) if previewed else None)
        expected, others = load_photo(path), [path.read_bytes()]
        for name in ("photo.tif", "photo.jpg", "photo"):
            shutil.copy(path, tmp_path / name)
            others.append(tmp_path / name)
        for other in others:
            photo = load_photo(other)
            assert (photo.width, photo.height, photo.orientation) == (expected.width, expected.height, 6)
            np.testing.assert_array_equal(photo.pixels, expected.pixels)

    def test_a_tiff_stays_one(self, tmp_path):
        """Also one that says which camera it is of and holds more directories below."""
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[271], tags[330] = "Camera", 8
        tags.tagtype[330] = TiffTags.LONG
        Image.fromarray(picture(20, 30)).save(tmp_path / "a.tif", tiffinfo=tags)
        with Image.open(tmp_path / "a.tif") as image:
            assert {271, 330} <= set(image.tag_v2)
        np.testing.assert_array_equal(load_photo(tmp_path / "a.tif").pixels, picture(20, 30))

    def test_a_small_preview_is_not_taken(self, tmp_path):
        photo = load_photo(self.write(tmp_path, picture(200, 300), 1, picture(100, 150)))
        assert (photo.width, photo.height) == (300, 200)

    @pytest.mark.parametrize("content", [b"text" * 100, b"II*\0" + bytes(5000)])
    def test_damaged(self, tmp_path, content):
        path = tmp_path / "photo.nef"
        path.write_bytes(content)
        with pytest.raises(ImageError, match="photo.nef: truncated or damaged"):
            load_photo(path)

    def test_without_rawpy(self, tmp_path, monkeypatch):
        path = self.write(tmp_path, picture())
        monkeypatch.setitem(sys.modules, "rawpy", None)
        with pytest.raises(ImageError, match=r"a raw photo; pip install 'faceattr\[raw\]' to read it"):
            load_photo(path)


class TestVideo:
    @pytest.fixture(autouse=True)
    def av(self):
        return pytest.importorskip("av", reason="PyAV is not installed: pip install 'faceattr[video]'")

    @pytest.fixture(scope="class")
    def path(self, tmp_path_factory):
        """Three seconds at ten frames a second: nobody, a neutral face, a smile."""
        pytest.importorskip("av")
        path = tmp_path_factory.mktemp("films") / "film.mp4"
        scenes = [draw_photo(discs) for discs in ([], [(100, 100, 32, NEUTRAL)], [(200, 100, 32, SMILING)])]
        film(path, [scene for scene in scenes for _ in range(10)])
        return path

    def predict(self, weights, capsys, *arguments):
        status = main(["predict", "--weights", str(weights), "--quiet", "--format", "jsonl", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, [json.loads(line) for line in captured.out.splitlines()], captured.err

    def test_a_record_a_second(self, weights, path, capsys):
        status, records, _ = self.predict(weights, capsys, path)
        assert status == 0 and [record["time"] for record in records] == [0, 1, 2]
        assert [[face["labels"] for face in record["faces"]] for record in records] == [
            [],
            [["Frowning"]],
            [["Smiling"]],
        ]
        assert all(record["image"] == str(path) and record["width"] == 320 for record in records)

    def test_every(self, weights, path, capsys):
        for every, times in (("500ms", [0, 0.5, 1, 1.5, 2, 2.5]), ("1.5", [0, 1.5]), ("1m", [0]), ("2s", [0, 2])):
            _, records, _ = self.predict(weights, capsys, path, "--every", every)
            assert [record["time"] for record in records] == times
        with pytest.raises(SystemExit):
            main(["predict", str(path), "--every", "0s"])

    def test_from_python(self, weights, path):
        records = list(faceattr.load(weights, device="cpu").iter_predict([path, draw_photo([])], every=1.5))
        assert [record.time for record in records] == [0, 1.5, None]

    def test_in_folders_only_when_asked(self, weights, path, capsys):
        draw_photo([]).save(path.parent / "a.png")
        assert len(self.predict(weights, capsys, path.parent)[1]) == 1
        status, records, _ = self.predict(weights, capsys, path.parent, "--every", "1s", "--xmp")
        assert status == 0 and [record.get("time") for record in records] == [None, 0, 1, 2]
        assert [file.name for file in path.parent.glob("*.xmp")] == ["a.png.xmp"]
        main(["predict", str(path), "--weights", str(weights), "--xmp"])
        assert "sidecars are written for photos, none for videos" in capsys.readouterr().err
        for file in (path.parent / "a.png", path.parent / "a.png.xmp"):
            file.unlink()

    def test_formats_and_pictures(self, weights, path, tmp_path, capsys):
        command = ["predict", str(path), "--weights", str(weights), "--quiet"]
        main([*command, "--format", "csv", "--output", str(tmp_path / "out")])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("image,time,width") and lines[2].split(",")[1] == "1.0"
        assert "film.mp4 at 1 s" in (tmp_path / "out" / "gallery.html").read_text()
        assert len(list((tmp_path / "out").glob("film*.faces.jpg"))) == 3
        main(command)
        assert "film.mp4 at 2 s" in capsys.readouterr().out

    def test_a_damaged_end_is_one_error(self, weights, path, tmp_path, capsys):
        mkv = tmp_path / "film.mkv"
        film(mkv, [draw_photo([], (320, 240 + 0)) for _ in range(30)])
        data = mkv.read_bytes()
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(path.read_bytes()[:2000])
        text = tmp_path / "text.mp4"
        text.write_text("no film")
        (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
        good = tmp_path / "z.png"
        draw_photo([]).save(good)
        paths = [cut, text, tmp_path / "nothing.mp4", tmp_path / "half.mkv", good]
        status, records, err = self.predict(weights, capsys, *paths)
        errors = {os.path.basename(record["image"]): record["error"] for record in records if record["error"]}
        assert status == 1 and set(errors) >= {"cut.mp4", "text.mp4", "nothing.mp4"} and "Traceback" not in err
        assert "truncated or damaged" in errors["text.mp4"] and "no such file" in errors["nothing.mp4"]
        assert records[-1]["image"] == str(good) and records[-1]["error"] is None

    def test_sound_alone(self, weights, tmp_path, av, capsys):
        path = tmp_path / "song.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            for packet in [*stream.encode(frame), *stream.encode()]:
                container.mux(packet)
        status, (record,), _ = self.predict(weights, capsys, path)
        assert status == 1 and record["error"] == f"{path}: holds no video"

    def test_without_pyav(self, weights, path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "av", None)
        status, (record,), _ = self.predict(weights, capsys, path)
        assert status == 1 and "a video; pip install 'faceattr[video]' to read it" in record["error"]
