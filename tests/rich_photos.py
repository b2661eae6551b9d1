"""Pictures as cameras and phones write them, made from pixels: colour profiles, raw photos, films."""

import io
import struct

import numpy as np
from PIL import Image

from faceattr import colour

# Chromaticities of red, green, blue and the exponent of the curve.
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2
ADOBE_RGB = colour.ADOBE_RGB, colour.ADOBE_GAMMA
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8


def in_space(pixels, primaries, gamma, white=colour.D65):
    """sRGB pixels, uint8, as the same colours in another space."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.linalg.solve(colour.to_xyz(primaries, white), colour.to_xyz(colour.SRGB))
    return np.rint(255 * (linear @ matrix.T).clip(0, 1) ** (1 / gamma)).astype(np.uint8)


def dng(pixels, orientation=1, preview=None):
    """A raw photo: the Bayer pattern of uint8 RGB pixels [H, W, 3] at 16 bits, and a JPEG preview of other pixels."""
    height, width = pixels.shape[:2]
    linear = ((pixels / 255) ** 2.2 * 65535).astype(np.uint16)
    bayer = linear[..., 1].copy()
    bayer[::2, ::2], bayer[1::2, 1::2] = linear[::2, ::2, 0], linear[1::2, 1::2, 2]
    jpeg = io.BytesIO()
    if preview is not None:
        Image.fromarray(preview).save(jpeg, "JPEG", quality=95)
    jpeg, data = jpeg.getvalue(), bayer.astype("<u2").tobytes()

    def fields(position, raw):
        """One directory and what does not fit into it."""
        rows, more = b"", b""
        start = position + 2 + 12 * len(raw) + 4
        for tag, (kind, *values) in sorted(raw.items()):
            code = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 10: "ii"}[kind]
            if kind == 2:
                content, count = values[0], len(values[0])
            else:
                content = b"".join(struct.pack("<" + code, *np.atleast_1d(value).tolist()) for value in values)
                count = len(values)
            if len(content) > 4:
                rows += struct.pack("<HHII", tag, kind, count, start + len(more))
                more += content + bytes(len(content) % 2)
            else:
                rows += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
        return struct.pack("<H", len(raw)) + rows + b"\0" * 4 + more

    def whole(sub, data_at, jpeg_at):
        camera = {
            254: (4, 0), 256: (4, width), 257: (4, height), 258: (3, 16), 259: (3, 1), 262: (3, 32803),
            273: (4, data_at), 277: (3, 1), 278: (4, height), 279: (4, len(data)), 33421: (3, 2, 2),
            33422: (1, 0, 1, 1, 2), 50714: (4, 0), 50717: (4, 65535),
        }  # fmt: skip
        common = {
            271: (2, b"Test\0"), 272: (2, b"Camera\0"), 274: (3, orientation), 50706: (1, 1, 4, 0, 0),
            50708: (2, b"Test Camera\0"), 50721: (10, *[(round(v * 10000), 10000) for v in XYZ_TO_CAMERA.ravel()]),
            50728: (5, (1, 1), (1, 1), (1, 1)), 50778: (3, 21),
        }  # fmt: skip
        if not jpeg:
            return fields(8, {**camera, **common}) + b""
        first = {
            254: (4, 1), 256: (4, preview.shape[1]), 257: (4, preview.shape[0]), 258: (3, 8, 8, 8), 259: (3, 7),
            262: (3, 6), 273: (4, jpeg_at), 277: (3, 3), 278: (4, preview.shape[0]), 279: (4, len(jpeg)), 330: (4, sub),
            **common,
        }  # fmt: skip
        start = fields(8, first)
        return start + bytes(sub - 8 - len(start)) + fields(sub, camera)

    sub, data_at = 2048, 4096
    head = whole(sub, data_at, data_at + len(data))
    return b"II*\0" + struct.pack("<I", 8) + head.ljust(data_at - 8, b"\0") + data + jpeg


XYZ_TO_CAMERA = np.linalg.inv(np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]))


def film(path, images, rate=10, rotation=0):
    """A video of PIL images, `rate` a second. Needs PyAV."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        stream.bit_rate = 4_000_000
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
