"""Read any picture as upright 8-bit RGB, in bounded memory, or say what is wrong with it."""

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

# Folders are searched for these. HEIC needs Pillow's plugin; without it the file is reported rather than passed over.
PICTURE_SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pgm .png .ppm .tga .tif .tiff .webp".split()
)

# Decoded rows are converted in bands of about this many pixels, so that no second full-size copy is made.
_BAND_PIXELS = 2**21

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


class ImageError(ValueError):
    """A picture that cannot be used. The message names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture, possibly reduced, and its way back to the coordinates of the original.

    pixels: uint8 RGB [h, w, 3], upright. width, height: of the original, upright, in pixels.
    scale: side in original pixels of the square that one pixel stands for.
    origin: (x, y) in original pixels of the left upper corner of `pixels`; below 0 when turning the picture upright put
        the incomplete last column or row first.
    """

    pixels: np.ndarray
    width: int
    height: int
    scale: int = 1
    origin: tuple[int, int] = (0, 0)

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] (x0, y0, x1, y1) in `pixels` to original pixels, clipped to the picture."""
        moved = np.asarray(boxes, dtype=np.float64) * self.scale + np.tile(self.origin, 2)
        return np.clip(moved, 0, [self.width, self.height] * 2)

    def from_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] in original pixels to `pixels`."""
        return (np.asarray(boxes, dtype=np.float64) - np.tile(self.origin, 2)) / self.scale


def load_image(source) -> np.ndarray:
    """The picture as uint8 RGB [H, W, 3], upright and at full size.

    source: a path, encoded bytes, a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W], with 1, 3 or 4
        channels; arrays and tensors are uint8 in 0..255, uint16 in 0..65535 or floating point in 0..1.
    EXIF orientation is applied, transparency is laid over white, 16 bits are scaled to 8, of an animation the first
    frame is taken. Raises ImageError.
    """
    return load_photo(source, max_side=None).pixels


def load_photo(source, max_side: int | None = 2048) -> Photo:
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
        _check_file(Path(source), name)
        return _from_file(source, name, max_side)
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise ImageError(f"{name}: empty (0 bytes); pass the whole content of a picture file")
        return _from_file(io.BytesIO(source), name, max_side)
    raise ImageError(
        f"{name}: not a picture; pass a path, bytes, a PIL image, an array [H, W, 3] or a tensor [3, H, W]"
    )


def describe(source) -> str:
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


def find_pictures(path: str | os.PathLike) -> Iterator[Path]:
    """The path itself if it is no folder, else the picture files below it, sorted, hidden ones left out."""
    path = Path(path)
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if Path(file).suffix.lower() in PICTURE_SUFFIXES and not file.startswith("."):
                yield Path(folder, file)


def _check_file(path: Path, name: str) -> None:
    try:
        if path.is_dir():
            raise ImageError(f"{name}: is a folder; pass the pictures in it (the command line walks folders)")
        if not path.exists():
            raise ImageError(f"{name}: no such file; check the path")
        if path.is_file() and path.stat().st_size == 0:
            raise ImageError(f"{name}: empty (0 bytes); copy or download the picture again")
    except (OSError, ValueError) as error:  # ValueError also covers a NUL in the path
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: cannot be read ({error}); check the path and its permissions") from error


def _from_file(file, name: str, max_side: int | None) -> Photo:
    Image.init()
    # Pillow would run Ghostscript on an EPS file: no picture is worth running a program that it brings along.
    formats = [known for known in Image.ID if known != "EPS"]
    with _errors_name(name), Image.open(file, formats=formats) as image:
        return _from_pil(image, name, max_side, draft=True)


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes an ImageError about the picture of that name."""
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
        raise ImageError(
            f"{name}: truncated or damaged, cannot be decoded ({error}); copy or download it again"
        ) from error


def _from_pil(image: Image.Image, name: str, max_side: int | None, draft: bool = False) -> Photo:
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
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = full_size if drafted > 1 else image.size

    def band(top: int, bottom: int) -> Image.Image:
        return _rgb(image.crop((0, top, image.width, bottom)), name)

    pixels, factor = _assemble(band, *image.size, max_side)
    scale = drafted * factor
    if orientation in _TRANSPOSE:
        pixels = pixels.transpose(_TRANSPOSE[orientation])
    if orientation in _SIDEWAYS:
        width, height = height, width
    x = width - pixels.width * scale if orientation in _FROM_THE_RIGHT else 0
    y = height - pixels.height * scale if orientation in _FROM_THE_BOTTOM else 0
    return Photo(np.array(pixels), width, height, scale, (x, y))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels of unknown range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name}: 32-bit pixels of unknown range; save it with 8 or 16 bits a channel")
        image = Image.fromarray(_eight_bits(values))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _channels_last(tensor: torch.Tensor, name: str) -> np.ndarray:
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
