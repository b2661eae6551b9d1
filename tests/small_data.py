"""Made-up data that every stage of the cascade can be run on, and settings that make each as short as can be."""

from pathlib import Path

import numpy as np
from PIL import Image

from faceattr.attributes import ATTRIBUTES

TRAINING = Path(__file__).parents[1] / "training"
SMALL = {
    # Which faces nets of a few steps find, for later stages to learn from, is by chance: alike on all machines.
    "precision": "float32",
    "picture_sizes": 33,
    "small_pictures": 33,
    "object_size": 33,
    "object_batch": 4,
    "lnet_batch": 2,
    "small_steps": 1,
    "lnet_steps": 1,
    "anet_batch": 8,
    "tag_epochs": 1,
    "box_pictures": 2,
    "integer_pictures": 2,
    "folds": 2,
    "baselines": "",
    "photo_baseline": "",
}
"""Values of train_all.py's fast.yaml."""
SEXES, AGES = ("female", "male"), (1, 5, 15, 25, 35, 45, 55, 65, 75)
SMALL_EVERYONE = {
    "localization": TRAINING / "configs" / "localization-fast.json",
    "hidden": 16,
    "object_epochs": 1,
    "photo_sizes": 33,
    "photo_batch": 2,
    "round_steps": 1,
    "sure": 0.0001,
    "doubt": 0,
    "anet": "deep",
    "identity_epochs": 1,
    "photo_epochs": 1,
    "views": 1,
    "false_pieces": 6,
    "false_least": 0,
    "face_pictures": 30,
    "other_pictures": 60,
    "least": 0,
}
"""Beside them, those of everyone.yaml."""


def make_data(folder: Path) -> Path:
    """CelebA's layout with 24 people, three pictures each, aligned and whole; objects; scenes; and what everyone.yaml
    wants beside them. All of it colours."""
    random = np.random.default_rng(0)
    celeba = folder / "celeba"
    (celeba / "img_align_celeba").mkdir(parents=True)
    (celeba / "img_celeba").mkdir()
    names = [f"{number:06}.jpg" for number in range(72)]
    tags = random.random((72, 40)) < 0.5
    lines = ["72", " ".join(ATTRIBUTES)]
    lines += [" ".join([name, *("1" if tag else "-1" for tag in row)]) for name, row in zip(names, tags, strict=True)]
    (celeba / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    numbers = "".join(f"{name} {row // 3 + 1}\n" for row, name in enumerate(names))
    (celeba / "identity_CelebA.txt").write_text(numbers)
    (celeba / "list_eval_partition.txt").write_text("".join(f"{name} {i // 24}\n" for i, name in enumerate(names)))

    def save(path, width, height):
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 255, (6, 5, 3), np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)

    for row, name in enumerate(names):
        save(celeba / "img_align_celeba" / name, 178, 218)
        if row % 4 == 0:
            save(celeba / "img_celeba" / name, 120, 90)
    for part in ("train", "val"):
        for number in range(8):
            save(folder / "objects" / part / f"class {number % 2}" / f"{number}.png", 60, 60)
    for number in range(6):
        save(folder / "scenes" / f"{number}.png", 80, 80)
    more = {"fairface-train": 150, "utkface-more": 150, "mask-faces": 30, "faces-wild": 4, "lfw": 4, "negatives": 10}
    for name, count in more.items():
        pictures = [f"{name}/{number}.png" for number in range(count)]
        for picture in pictures:
            save(folder / picture, 90, 80)
        people = [f"{picture},{AGES[i % 9]},{SEXES[i % 2]},x" for i, picture in enumerate(pictures)]
        masks = [f"{picture},with_mask" for picture in pictures]
        table = ["image,label", *masks] if name == "mask-faces" else ["image,age,gender,race", *people]
        (folder / f"{name}.csv").write_text("\n".join(table) + "\n")
    return folder
