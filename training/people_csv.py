"""Writes what sets of faces say of age, sex and masks as one CSV of partly known tags.

    python training/people_csv.py DATA/fairface-train.csv DATA/utkface-more.csv DATA/mask-faces.csv --output people.csv

Each table has a column `image` and any of `age` (years or a group: 34, 20-29, more than 70), `gender` (male, female)
and `label` (with_mask: a mask is worn). Where a table has no labels of masks, nobody wears one. Other columns, such as
race, are not read. The CSV has the columns image, Male, age, Wearing_Mask and partition: by their names alone a tenth
of the pictures are of partition 1, half as many of partition 2.
"""

import argparse
import csv
import zlib
from pathlib import Path

from faceattr.data.ages import parse_age

MALE = {"male": 1, "female": 0, "": ""}


def part(image: str) -> int:
    """The partition of a picture."""
    place = zlib.crc32(Path(image).stem.encode()) % 100
    return 2 if place < 5 else 1 if place < 15 else 0


def rows(path: Path):
    """The table's pictures with their tags."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        for row in table:
            where = f"{path}, line {table.line_num}"
            gender, age = row.get("gender", "").strip().lower(), row.get("age", "").strip()
            if gender not in MALE:
                raise SystemExit(f"{where}: gender {gender!r}, expected male, female or nothing")
            try:
                parse_age(age)
            except ValueError as error:
                raise SystemExit(f"{where}: {error}") from None
            yield row["image"], MALE[gender], age, int(row.get("label", "") == "with_mask"), part(row["image"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    people = [row for path in arguments.tables for row in rows(path)]
    with arguments.output.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["image", "Male", "age", "Wearing_Mask", "partition"])
        out.writerows(people)


if __name__ == "__main__":
    main()
