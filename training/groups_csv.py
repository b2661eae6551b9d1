"""Writes the labels of FairFace or UTKFace as a CSV that `faceattr evaluate csv` reads, with groups for `--by`.

    python training/groups_csv.py DATA/fairface-train.csv --partition 2 > fairface.csv
    python training/groups_csv.py DATA/utkface > utkface.csv
    faceattr evaluate csv --root DATA --labels fairface.csv --by Adult,Black,White,...

A table has the columns image, age (years or a group), gender and race; of a folder the names of the pictures say it,
AGE_SEX_RACE_*.jpg, sex 0 male, 1 female. The groups are there to measure by; nothing is to learn them.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from people_csv import MALE, part

from faceattr.data.ages import parse_age

RACES = ("White", "Black", "Asian", "Indian", "Other")
AGES = {"Age_0_9": (0, 10), "Age_10_19": (10, 20), "Age_20_39": (20, 40), "Age_40_59": (40, 60), "Age_60": (60, 120)}


def people(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """Picture, gender, age and race of each."""
    if source.is_dir():
        for path in sorted(source.glob("*.jpg")):
            try:
                age, sex, race = (int(word) for word in path.name.split("_")[:3])
            except ValueError:
                raise SystemExit(f"{path}: its name is not AGE_SEX_RACE_...") from None
            yield path.name, ("male", "female")[sex], str(age), RACES[race]
        return
    with source.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield row["image"], row["gender"], row["age"], row["race"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="table, or folder of pictures")
    parser.add_argument("--partition", type=int, nargs="+", help="only these of people_csv.py")
    parser.add_argument("--ages", type=int, nargs=2, metavar=("FROM", "BELOW"), help="only people of such years")
    arguments = parser.parse_args()
    found = list(people(arguments.source))
    races = sorted({race.replace(" ", "_") for *_, race in found if race})
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "age", "Male", "Adult", *AGES, *races])
    for image, gender, age, race in found:
        low, high = parse_age(age)
        if arguments.partition and part(image) not in arguments.partition:
            continue
        if arguments.ages and not (arguments.ages[0] <= low and high <= arguments.ages[1]):
            continue
        adult = int(low >= 20)
        groups = [int(first <= low and high <= last) for first, last in AGES.values()]
        of_race = [int(race.replace(" ", "_") == name) for name in races]
        rows.writerow([image, age, MALE[gender.lower()], adult, *groups, *of_race])


if __name__ == "__main__":
    main()
