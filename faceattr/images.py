"""Read any picture as upright 8-bit sRGB, in bounded memory, or say what is wrong with it."""

import io
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from faceattr.colour import implied_profile

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray | torch.Tensor
"""What `load_image` takes."""

RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf .srw "
    ".x3f".split()
)
# Folders are searched for these. HEIC and raw photos need packages of their own; without them such a file is reported
# rather than passed over.
PICTURE_SUFFIXES = RAW_SUFFIXES | frozenset(
    ".avif .bmp .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pgm .png .ppm .tga .tif .tiff .webp".split()
)

_LEAST_PREVIEW = 1024
"""A raw photo's embedded preview with a shorter long side, in pixels, is too small to look for faces in."""
_EXIF_OF_RAW = {3: 3, 5: 8, 6: 6}
"""EXIF's orientation for LibRaw's `flip`; others are 1."""

# Decoded rows are converted in bands of about this many pixels, so that no second full-size copy is made.
_BAND_PIXELS = 2**21
_MAKE, _SUB_IFDS, _DNG_VERSION = 271, 330, 50706  # TIFF tags, of which raw photos have the first two or the last

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}
_FROM_THE_RIGHT = {2, 3, 6, 7}  # orientations whose upright x runs against the stored axis
_FROM_THE_BOTTOM = {3, 4, 7, 8}  # likewise y


_reading = threading.local()


class ImageError(ValueError):
    """A picture that cannot be used. The message names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture, possibly reduced, and its way back to the coordinates of the original.

    pixels: uint8 RGB [h, w, 3], upright. width, height: of the original, upright, in pixels.
    scale: side in original pixels of the square that one pixel stands for.
    origin: (x, y) in original pixels of the left upper corner of `pixels`; below 0 when turning the picture upright put
        the incomplete last column or row first.
    orientation: EXIF's, 1 to 8: how the picture lay in its file.
    """

    pixels: np.ndarray
    width: int
    height: int
    scale: int = 1
    origin: tuple[int, int] = (0, 0)
    orientation: int = 1

    def to_original(self, boxes: ArrayLike, clip: bool = True) -> np.ndarray:
        """Boxes [..., 4] (x0, y0, x1, y1) in `pixels` to original pixels, clipped to the picture or as they are."""
        moved = np.asarray(boxes, dtype=np.float64) * self.scale + np.tile(self.origin, 2)
        return np.clip(moved, 0, [self.width, self.height] * 2) if clip else moved

    def from_original(self, boxes: ArrayLike) -> np.ndarray:
        """Boxes [..., 4] in original pixels to `pixels`."""
        return (np.asarray(boxes, dtype=np.float64) - np.tile(self.origin, 2)) / self.scale


def load_image(source: Picture) -> np.ndarray:
    """The picture as uint8 RGB [H, W, 3], upright and at full size.

    source: a path, encoded bytes, a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W], with 1, 3 or 4
        channels; arrays and tensors are uint8 in 0..255, uint16 in 0..65535 or floating point in 0..1.
    EXIF orientation is applied, colours are brought to sRGB by the picture's ICC profile, transparency is laid over
    white, 16 bits are scaled to 8; of an animation the first frame is taken, of a raw photo the preview that the camera
    put in, where it is large enough. Without an ICC profile, EXIF's Adobe RGB and a PNG's gamma and primaries are
    honoured. Raises ImageError.
    """
    return load_photo(source, max_side=None).pixels


def load_photo(source: Picture, max_side: int | None = 2048) -> Photo:
    """Like `load_image`, reduced by a whole factor so that no side exceeds `max_side` pixels (None: full size).

    A JPEG is reduced while it is decoded; of other files one decoded copy is held for the time of the call.
    """
    name = describe(source)
    if isinstance(source, Image.Image):
        with _errors_name(name):
            return _from_pil(source, name, max_side)
    if isinstance(source, torch.Tensor):
        return _from_array(_channels_last(source, name), name, max_side)
    if isinstance(source, np.ndarray):
        return _from_array(source, name, max_side)
    if isinstance(source, str | os.PathLike):
        check_file(source)
        if Path(name).suffix.lower() in RAW_SUFFIXES:
            return _from_raw(source, name, max_side)
        return _from_file(source, name, max_side)
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise ImageError(f"{name}: empty (0 bytes); pass the whole content of a picture file")
        return _from_file(io.BytesIO(source), name, max_side)
    raise ImageError(
        f"{name}: not a picture; pass a path, bytes, a PIL image, an array [H, W, 3] or a tensor [3, H, W]"
    )


def describe(source: object) -> str:
    """How messages and records name a picture."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "") or "PIL image")
    if isinstance(source, bytes | bytearray | memoryview):
        return f"bytes ({len(source)})"
    if isinstance(source, torch.Tensor):
        return f"tensor {list(source.shape)}"
    if isinstance(source, np.ndarray):
        return f"array {list(source.shape)}"
    return type(source).__name__


def being_read() -> str | None:
    """The name of the picture that this thread reads just now: for warnings, which do not say."""
    return getattr(_reading, "name", None)


def check_file(path: str | os.PathLike) -> None:
    """Raises ImageError for what is no file with something in it, or may not be looked at."""
    name = describe(path)
    if not name:
        raise ImageError("'': an empty path; give the name of a picture")
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        problem = (
            "links to what is not there; check the link" if os.path.islink(path) else "no such file; check the path"
        )
        raise ImageError(f"{name}: {problem}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _cannot_be_read(name, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a folder; pass the pictures in it (the command line walks folders)")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: is a pipe, socket or device; save the picture as a file")  # a pipe may never answer
    if status.st_size == 0:
        raise ImageError(f"{name}: empty (0 bytes); copy or download the picture again")


def _cannot_be_read(name: str, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or error
    return ImageError(f"{name}: cannot be read ({reason}); check the path, its permissions and the disk")


@cache
def _register_plugins() -> None:
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _from_file(
    file: str | os.PathLike[str] | io.BytesIO, name: str, max_side: int | None, orientation: int | None = None
) -> Photo:
    with _errors_name(name):
        _register_plugins()
        # Pillow would run Ghostscript on an EPS file: no picture is worth running a program that it brings along.
        formats = [known for known in Image.ID if known != "EPS"]
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError as error:
            if "HEIF" not in Image.ID and _is_heif(file):
                raise ImageError(f"{name}: HEIC; pip install 'faceattr[heif]' to read it, or convert it") from error
            if _is_known_to_libraw(file):
                return _from_raw(file, name, max_side)
            raise
        with image:
            # A raw photo, whatever it is called: what Pillow sees of it is a thumbnail.
            tags = getattr(image, "tag_v2", ()) if image.format == "TIFF" else ()
            if _DNG_VERSION in tags or (_MAKE in tags and _SUB_IFDS in tags and _is_known_to_libraw(file)):
                return _from_raw(file, name, max_side)
            return _from_pil(image, name, max_side, draft=True, orientation=orientation)


def _is_heif(file: str | os.PathLike[str] | io.BytesIO) -> bool:
    with _opened(file) as opened:
        start = opened.read(12)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@contextmanager
def _opened(file: str | os.PathLike[str] | io.BytesIO) -> Iterator[BinaryIO]:
    if isinstance(file, io.BytesIO):
        file.seek(0)
        yield file
    else:
        with open(file, "rb") as opened:
            yield opened


def _is_known_to_libraw(file: str | os.PathLike[str] | io.BytesIO) -> bool:
    try:
        import rawpy
    except ImportError:
        return False
    try:
        with _opened(file) as opened, rawpy.imread(opened):
            return True
    except rawpy.LibRawError:
        return False


def _from_raw(path_or_content: str | os.PathLike[str] | io.BytesIO, name: str, max_side: int | None) -> Photo:
    try:
        import rawpy
    except ImportError as error:
        raise ImageError(f"{name}: a raw photo; pip install 'faceattr[raw]' to read it, or convert it") from error
    with _errors_name(name), _opened(path_or_content) as file, rawpy.imread(file) as raw:
        orientation = _EXIF_OF_RAW.get(raw.sizes.flip, 1)
        try:
            preview: Any = raw.extract_thumb()
        except rawpy.LibRawError:
            preview = None
        if preview is not None and preview.format == rawpy.ThumbFormat.JPEG:
            with Image.open(io.BytesIO(preview.data), formats=["JPEG"]) as image:
                large = max(image.size) >= _LEAST_PREVIEW
            if large:
                return _from_file(io.BytesIO(preview.data), name, max_side, orientation)
        # As bright as the camera meant it; upright already.
        developed = _from_array(raw.postprocess(use_camera_wb=True, no_auto_bright=True), name, max_side)
        return replace(developed, orientation=orientation)


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes an ImageError about the picture of that name."""
    before, _reading.name = being_read(), name
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture that Pillow can read; convert it to JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: refused as a decompression bomb ({error}); if you trust it, reduce it first or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit in memory; reduce it first") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not the decoder's
            raise _cannot_be_read(name, error) from error
        raise ImageError(
            f"{name}: truncated or damaged, cannot be decoded ({_reason(error)}); copy or download it again"
        ) from error
    finally:
        _reading.name = before


def _reason(error: Exception) -> str:
    """What a decoder says, of which LibRaw speaks in bytes."""
    said = error.args[0] if error.args else error
    return said.decode(errors="replace") if isinstance(said, bytes) else str(error)


def _from_pil(
    image: Image.Image, name: str, max_side: int | None, draft: bool = False, orientation: int | None = None
) -> Photo:
    """orientation: of a picture that does not say it itself."""
    full_size = image.size
    _check_size(*full_size, name)
    if draft and max_side is not None:
        # Asks a JPEG decoder for 1/2, 1/4 or 1/8; other formats ignore it. An image of the caller's is left alone.
        wanted = math.ceil(max(full_size) / max_side)
        power = min(8, 1 << (wanted.bit_length() - 1))
        image.draft(None, (max(1, full_size[0] // power), max(1, full_size[1] // power)))
    try:
        image.load()
    except ValueError as error:  # "Operation on closed image"
        raise ImageError(f"{name}: cannot be read ({error}); pass an open image") from error
    drafted = round(max(full_size) / max(image.size))
    # After load(): Pillow turns TIFF files upright itself.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, orientation or 1)
    except Exception:  # the pixels are sound: EXIF that cannot be read turns nothing
        orientation = orientation or 1
    width, height = full_size if drafted > 1 else image.size
    white, transform = _white(image, name), _to_srgb(image)

    def band(top: int, bottom: int) -> Image.Image:
        return _rgb(image.crop((0, top, image.width, bottom)), name, white, transform)

    pixels, factor = _assemble(band, *image.size, max_side)
    scale = drafted * factor
    if orientation in _TRANSPOSE:
        pixels = pixels.transpose(_TRANSPOSE[orientation])
    if orientation in _SIDEWAYS:
        width, height = height, width
    x = width - pixels.width * scale if orientation in _FROM_THE_RIGHT else 0
    y = height - pixels.height * scale if orientation in _FROM_THE_BOTTOM else 0
    # HEIC lies upright when it is decoded; what its EXIF said is for those who read the file otherwise.
    lay = image.info.get("original_orientation") or orientation
    return Photo(np.array(pixels), width, height, scale, (x, y), lay if lay in _TRANSPOSE else 1)


def _white(image: Image.Image, name: str) -> int:
    """The value of white in a picture of whole numbers, of the whole of it: a dark band must not pass for 8 bits."""
    if image.mode != "I":
        return 255 if image.mode != "F" and not image.mode.startswith("I;16") else 65535
    extrema: Any = image.getextrema()  # one pair: of one band
    low, high = extrema
    if low < 0 or high > 65535:
        raise ImageError(f"{name}: 32-bit pixels of unknown range; save it with 8 or 16 bits a channel")
    return 255 if high <= 255 and image.format not in ("PNG", "PPM") else 65535  # these two have 16 bits


def _to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What brings pixels of the picture, as RGB, L or CMYK, to sRGB; None where they are that, or nothing says more."""
    data, mode = image.info.get("icc_profile"), "RGB"
    if data:
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        mode = "CMYK" if image.mode == "CMYK" else "L" if grey else "RGB"
    elif image.mode != "CMYK":
        try:
            data = implied_profile(image)
        except Exception:  # chromaticities that are none
            return None
    if not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        if space != {"L": "GRAY"}.get(mode, mode) or "sRGB" in ImageCms.getProfileDescription(profile):
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a damaged profile; the pixels are sound
        return None

    def convert(pixels: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(pixels.convert(mode), transform)
        assert converted is not None  # it would be, in place
        return converted

    return convert


def _rgb(
    image: Image.Image, name: str, white: int = 255, to_srgb: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels of unknown range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        image = Image.fromarray(values.astype(np.uint8) if white == 255 else _eight_bits(values))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB") if to_srgb is None else to_srgb(image)


def _channels_last(tensor: torch.Tensor, name: str) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        raise ImageError(f"{name}: a sparse, quantized or meta tensor has no pixels to look at; pass a dense one")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        hint = "; pass the pictures of a batch as a list" if tensor.ndim == 4 else ""
        raise ImageError(f"{name}: a tensor is [C, H, W] with 1, 3 or 4 channels{hint}")
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().cpu().permute(1, 2, 0).numpy()


def _from_array(array: np.ndarray, name: str, max_side: int | None) -> Photo:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name}: an array is [H, W], or [H, W, C] with 1, 3 or 4 channels")
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"{name}: {array.dtype} pixels; pass uint8 (0..255), uint16 (0..65535) or floating point (0..1)"
        )
    height, width, channels = array.shape
    _check_size(width, height, name)

    def band(top: int, bottom: int) -> Image.Image:
        rows = np.ascontiguousarray(_eight_bits(array[top:bottom], name))
        return _rgb(Image.fromarray(rows[..., 0] if channels == 1 else rows), name)

    pixels, scale = _assemble(band, width, height, max_side)
    return Photo(np.array(pixels), width, height, scale)


def _eight_bits(values: np.ndarray, name: str = "") -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: holds NaN or infinite pixels; replace them first")
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            f"{name}: floating-point pixels from {values.min():g} to {values.max():g}; scale or clip them to 0..1, "
            "or pass uint8"
        )
    return np.rint(values * 255).astype(np.uint8)


def _check_size(width: int, height: int, name: str) -> None:
    if width == 0 or height == 0:
        raise ImageError(f"{name}: has no pixels ({width} x {height})")


def _assemble(
    band: Callable[[int, int], Image.Image], width: int, height: int, max_side: int | None
) -> tuple[Image.Image, int]:
    """Joins RGB bands (rows top to bottom - 1), each reduced by the factor that brings both sides to `max_side`."""
    factor = 1 if max_side is None else max(1, math.ceil(max(width, height) / max_side))
    step = factor * max(1, _BAND_PIXELS // (width * factor))  # whole output rows, so that bands do not show
    if step >= height:
        return band(0, height).reduce(factor), factor
    joined = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    for top in range(0, height, step):
        joined.paste(band(top, min(top + step, height)).reduce(factor), (0, top // factor))
    return joined, factor
