"""A small part of the training data as links, in the layout of the whole, to try every stage in minutes.

python training/take_part.py --celeba CELEBA --objects OBJECTS --scenes SCENES --pictures N OUT
"""

import argparse
import os
from pathlib import Path

import numpy as np

from faceattr.data.celeba import celeba_file, celeba_root, read_celeba
from faceattr.data.photos import list_pictures
from faceattr.data.tagged import TaggedPictures


def take_part(celeba: Path, objects: Path, scenes: Path, pictures: int, out: Path) -> dict[str, Path]:
    """Links N pictures of each of CelebA's partitions, aligned and whole, of the objects and of the scenes.

    Pictures of one person are neighbours. Returns the folders, by name. What is linked already stays.
    """
    folders = {name: out / name for name in ("celeba", "objects", "scenes")}
    for name in ("list_attr_celeba", "identity_CelebA", "list_eval_partition"):
        for suffix in (".txt", ".csv"):
            path = celeba_file(celeba_root(celeba), name + suffix)
            if path.exists():
                _link(path, folders["celeba"] / path.name)
    for images in ("img_align_celeba", "img_celeba"):
        data = read_celeba(celeba, images, skip_missing=True)
        order = people_first(data)
        for number in range(3):
            for row in order[data.partitions[order] == number][:pictures]:
                _link(data.folder / data.names[row], folders["celeba"] / images / data.names[row])
    for source, target in ((objects / "train", "objects/train"), (objects / "val", "objects/val"), (scenes, "scenes")):
        paths = list_pictures(source)
        for row in np.linspace(0, len(paths) - 1, min(pictures, len(paths))).astype(int):
            _link(paths[row], out / target / paths[row].relative_to(source))
    return folders


def people_first(data: TaggedPictures) -> np.ndarray:
    """Rows by person, each tag's people in turn, so that a few pictures show every attribute."""
    people = np.arange(len(data)) if data.identities is None else np.unique(data.identities, return_inverse=True)[1]
    chance = np.random.default_rng(0).permutation(people.max() + 1)
    place = np.full(len(chance), len(chance))
    for column in data.tags.T:
        tagged = np.unique(people[column])
        turn = np.argsort(np.argsort(chance[tagged]))
        place[tagged] = np.minimum(place[tagged], turn)
    return np.lexsort((people, chance[people], place[people]))


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        os.symlink(path.resolve(), link)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("celeba", "objects", "scenes"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=600, help="of each kind")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    take_part(**vars(arguments))


if __name__ == "__main__":
    main()
