"""Made-up data that every stage of the cascade can be run on, and settings that make each as short as can be."""

from pathlib import Path

import numpy as np
from PIL import Image

from faceattr.attributes import ATTRIBUTES

SMALL = {
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
    "folds": 2,
    "baselines": "",
    "photo_baseline": "",
}
"""Values of train_all.py's fast.yaml."""


def make_data(folder: Path) -> Path:
    """CelebA's layout with 24 people, three pictures each, aligned and whole; objects; scenes. All of it colours."""
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
    return folder
