"""LFW's pictures at one size, the central 180x180 of each, with LFWA's labels, as `faceattr evaluate lfwa` reads them.

python training/lfwa_pictures.py DATA OUT
faceattr evaluate lfwa --root OUT --labels lfwa-labels.csv --crop aligned --face 0.186,0.024,0.817,0.894 --learn

DATA holds lfwa-labels.csv and the folders that it names: pictures of LFW, deep-funnelled, whole (250x250) or cut to
their middle. What is cut off is the black corners of the alignment.
"""

import argparse
import os
import shutil
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from faceattr.data.tag_csv import read_tag_csv

SIDE = 180


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    labels = arguments.data / "lfwa-labels.csv"
    for name in tqdm(read_tag_csv(labels).names, unit="picture"):
        path = arguments.out / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with Image.open(arguments.data / name) as picture:
            left, top = ((side - SIDE) // 2 for side in picture.size)
            picture.convert("RGB").crop((left, top, left + SIDE, top + SIDE)).save(partial, "JPEG", quality=95)
        os.replace(partial, path)
    shutil.copy(labels, arguments.out / labels.name)


if __name__ == "__main__":
    main()
