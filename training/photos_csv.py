"""Writes the tags of CelebA's whole photos as a CSV that `faceattr evaluate csv` reads, some of them as partition 2.

python training/photos_csv.py CELEBA > photos.csv
faceattr evaluate csv --root CELEBA/img_celeba --labels photos.csv --partition 2 --baseline panda-w

Where all whole photos at hand are of partition 0: partition 2 are those whose number is divisible by six and of which
there is no aligned picture, to be kept from ANet; the others are partition 0.
"""

import argparse
import csv
import sys
from pathlib import Path

from faceattr.data.celeba import read_celeba


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path, help="label files, img_celeba and img_align_celeba")
    arguments = parser.parse_args()
    data = read_celeba(arguments.celeba, "img_celeba", skip_missing=True)
    aligned = set(read_celeba(arguments.celeba, "img_align_celeba", skip_missing=True).names)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "identity", "partition", *data.attributes])
    for name, identity, tags in zip(data.names, data.identities, data.tags, strict=True):
        kept = int(Path(name).stem) % 6 == 0 and name not in aligned
        rows.writerow([name, identity, 2 if kept else 0, *tags.astype(int)])


if __name__ == "__main__":
    main()
