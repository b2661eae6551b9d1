"""Size of an index of synthetic photos, and how long searches take: python benchmarks/search_index.py [--photos 100000]

Photos have 0 to 4 faces with an age and 40 attributes each, probabilities drawn near 0 and 1 as real ones lie, and no
thumbnails; what those take is measured on one of scikit-image's astronaut. Times are medians of five of CPU time, with
the index in the page cache.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import skimage.data

from faceattr.ages import Age
from faceattr.attributes import ATTRIBUTES
from faceattr.images import Photo
from faceattr.pipeline import Face, Prediction
from faceattr.search.index import Index, _row, _Task

QUERIES = (
    "",
    "Smiling",
    "Smiling and Eyeglasses and not Young",
    "(Smiling>0.9 or Wearing_Hat) and not Male and faces>=2",
    "age<30 and Smiling",
    "faces=0",
)


def fill(index, count, random):
    metadata = {"attributes": ATTRIBUTES, "thresholds": {"accuracy": [0.5] * 40}, "sha256": "synthetic"}
    metadata["preprocessing"] = {"aligned_box": [38.3, 47.7, 139.7, 187.7]}
    model = index._add_model(SimpleNamespace(metadata=metadata))
    batch = []
    for number in range(count):
        faces = []
        for _ in range(random.choice(5, p=[0.3, 0.4, 0.15, 0.1, 0.05])):
            x, y, side = random.uniform(0, 3000), random.uniform(0, 2000), random.uniform(50, 900)
            values = random.beta(0.3, 1.0, 40)
            attributes = dict(zip(ATTRIBUTES, values.tolist(), strict=True))
            years = float(random.uniform(1, 80))
            age, box = Age(years, 0.8 * years, 1.2 * years), (x, y, x + side, y + 1.2 * side)
            faces.append(Face(box, float(random.uniform(0.5, 1)), attributes, age=age))
        path = f"/photos/{2000 + number % 25}/{number % 400:03}/IMG_{number:06}.jpg"
        prediction = Prediction(path, 4000, 3000, faces)
        batch.append(_row(_Task(path, int(random.integers(10**7)), number, random.bytes(16)), prediction))
        if len(batch) == 1000 or number == count - 1:
            index._write(batch, model)
            batch = []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    count = parser.parse_args().photos
    pixels = skimage.data.astronaut()
    photo = Prediction("", 512, 512, [], photo=Photo(pixels, 512, 512))
    thumbnail = len(_row(_Task(""), photo)[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "faces.sqlite")
        with Index(path) as index:
            start = time.perf_counter()
            fill(index, count, np.random.default_rng(0))
            filled = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        with Index(path, read_only=True) as index:
            counts = index.counts()
            what = f"{counts['photos']} photos with {counts['faces']} faces"
            print(f"{what}, written in {filled:.0f} s: {size / 1e6:.1f} MB")
            print(f"thumbnails besides, {thumbnail / 1e3:.1f} kB each: {count * thumbnail / 1e6:.0f} MB")
            print("\n| query | photos | all counted, ms | first 100, ms | histogram, ms |\n|" + " --- |" * 5)
            for query in QUERIES:
                runs = (
                    lambda query=query: index.count(query),
                    lambda query=query: list(index.search(query, limit=100)),
                    lambda query=query: index.histogram(query),
                )
                times = [1000 * statistics.median(_seconds(run) for _ in range(5)) for run in runs]
                print(
                    f"| {query or 'none'} | {index.count(query)} | "
                    + " | ".join(f"{each:.0f}" for each in times)
                    + " |"
                )


def _seconds(run):
    start = time.process_time()  # others may work on the machine; the index is in memory
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
