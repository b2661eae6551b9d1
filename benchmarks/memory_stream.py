"""Resident memory over a stream of photos of random sizes: python benchmarks/memory_stream.py [--photos 5000]

Photos are scikit-image's astronaut, cat, coffee and rocket as JPEG, PNG and WebP of 100 to 2400 pixels a side, evenly
by the logarithm, one in four turned by EXIF, made as they are asked for. Exit status 1 where the growth from photo 100
exceeds the bound in any row that is printed.
"""

import argparse
import io
import sys
import time
import tracemalloc
from collections import deque

import numpy as np
import skimage.data
from memory import resident
from PIL import Image

import faceattr

BOUND = 100e6


def photos(count, largest, seed=0):
    random = np.random.default_rng(seed)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "cat", "coffee", "rocket")]
    for number in range(count):
        size = np.exp(random.uniform(np.log(100), np.log(largest), 2)).astype(int).tolist()
        exif = Image.Exif()
        exif[0x0112] = int(random.choice([1, 1, 1, 6]))
        data = io.BytesIO()
        format = ("JPEG", "JPEG", "PNG", "WEBP")[number % 4]
        options = {"compress_level": 1} if format == "PNG" else {}
        sources[random.integers(4)].resize(size).save(data, format, exif=exif, **options)
        yield data.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--largest", type=int, default=2400, help="longest side in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--weights")
    parser.add_argument("--python", action="store_true", help="also what Python itself holds (slow)")
    options = parser.parse_args()
    if options.python:
        tracemalloc.start()
    model, start, at_100, largest, growth = faceattr.load(options.weights), time.monotonic(), 0, 0, 0
    titles = (
        "photos",
        "resident, MB",
        "beyond photo 100, MB",
        "mean of 50, MB",
        "largest so far, MB",
        "faces",
        "seconds",
    )
    print(f"| {' | '.join(titles)} |\n|" + " --- |" * len(titles))
    # What is in hand at the moment counts too, of photos of any size: hence also a mean.
    faces, shown, last = 0, {100, 200}, deque(maxlen=50)
    stream = model.iter_predict(photos(options.photos, options.largest), workers=options.workers)
    for number, record in enumerate(stream, 1):
        assert record.error is None, record.error
        faces += len(record.faces)
        now = resident("VmRSS")
        largest = max(largest, now)
        last.append(now)
        at_100 = now if number == 100 else at_100
        if number in shown or number % 500 == 0 or number == options.photos:
            growth = max(growth, now - at_100)
            held = f" {tracemalloc.get_traced_memory()[0] / 1e6:.1f} MB in Python" if options.python else ""
            figures = [now, now - at_100, sum(last) / len(last), largest]
            figures = [number, *(f"{value / 1e6:.0f}" for value in figures), faces]
            print(f"| {' | '.join(map(str, figures))} | {time.monotonic() - start:.0f} |{held}", flush=True)
    sys.exit(growth > BOUND)


if __name__ == "__main__":
    main()
