"""Writes the labels in UTKFace's file names as a CSV that `faceattr evaluate csv` reads, with its groups for `--by`.

python training/utkface_csv.py FOLDER > utkface.csv
faceattr evaluate csv --root FOLDER --labels utkface.csv --thresholds 0.5 --by White,Black,Asian,Indian,Other,Adult
"""

import argparse
import csv
import sys
from pathlib import Path

RACES = ("White", "Black", "Asian", "Indian", "Other")
AGES = {"Child": range(0, 10), "Teenager": range(10, 20), "Young_Adult": range(20, 40), "Older": range(40, 200)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of AGE_SEX_RACE_*.jpg; sex 0 male, 1 female")
    parser.add_argument("--adults", action="store_true", help="only faces of people of 20 and older")
    arguments = parser.parse_args()
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "Male", "Adult", *AGES, *RACES])
    for path in sorted(arguments.folder.glob("*.jpg")):
        try:
            age, sex, race = (int(part) for part in path.name.split("_")[:3])
        except ValueError:
            raise SystemExit(f"{path}: its name is not AGE_SEX_RACE_...") from None
        if arguments.adults and age < 20:
            continue
        ages = [int(age in years) for years in AGES.values()]
        races = [int(race == number) for number in range(len(RACES))]
        rows.writerow([path.name, int(sex == 0), int(age >= 20), *ages, *races])


if __name__ == "__main__":
    main()
