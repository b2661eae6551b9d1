"""The faces of a folder, cut as each net takes them, with the tags that are known of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faceattr.collection import find_pictures
from faceattr.crops import carried, crop_window
from faceattr.data.celeba import celeba_root, is_celeba, read_celeba
from faceattr.data.faces import FACE
from faceattr.data.hub import is_dataset
from faceattr.data.lfwa import read_lfwa
from faceattr.data.tag_csv import read_tag_csv
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.predict import ALIGNED_FACES, aligned_boxes
from faceattr.explain.nets import Net
from faceattr.pipeline import FaceAttributes


@dataclass(frozen=True)
class Faces:
    """N faces, one of each picture.

    pictures: those in which a face was found, with their tags.
    crops: for each net uint8 [N, *crop_size, 3].
    """

    pictures: TaggedPictures
    crops: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.pictures)


def read_pictures(root: Path, crop: str | None = None, skip_missing: bool = False) -> tuple[TaggedPictures, str]:
    """The pictures of a folder, and "aligned" or "detect": how their faces are to be had.

    root: a folder with CelebA's label files, with LFWA's, with one CSV of tags, or with pictures alone.
    crop: None chooses "aligned" for CelebA, whose subfolder of aligned or of whole pictures follows, else "detect".

    Raises:
        ValueError: as the readers of `faceattr.data`, and for a folder without pictures.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; --root takes a folder of pictures")
    if is_celeba(celeba_root(root)):
        crop = crop or "aligned"
        return read_celeba(root, "img_align_celeba" if crop == "aligned" else "img_celeba", skip_missing), crop
    crop = crop or "detect"
    if is_dataset(root):
        return read_tag_csv(root, None, skip_missing), crop
    if any(root.glob("lfw_att_*.mat")):
        return read_lfwa(root, skip_missing=skip_missing), crop
    tables = sorted(root.glob("*.csv"))
    if len(tables) > 1:
        raise ValueError(f"{root}: holds {len(tables)} CSV files; leave the one with the tags, or none")
    if tables:
        return read_tag_csv(tables[0], root, skip_missing), crop
    names = [str(path.relative_to(root)) for path in find_pictures(root)]
    if not names:
        raise ValueError(f"{root}: no pictures in this folder")
    nothing = np.zeros((len(names), 0), dtype=bool)
    return TaggedPictures(root, names, (), nothing, nothing, None, None), crop


def some(pictures: TaggedPictures, count: int, partition: int | None = None) -> TaggedPictures:
    """At most `count` pictures, evenly from the whole list; of `partition` alone where the pictures have it."""
    if partition is not None and pictures.partitions is not None and (pictures.partitions == partition).any():
        pictures = pictures.partition(partition)
    return pictures.select(np.linspace(0, len(pictures) - 1, min(count, len(pictures))).astype(int))


def cut_faces(
    nets: Sequence[Net],
    pictures: TaggedPictures,
    crop: str,
    localiser: FaceAttributes,
    *,
    workers: int = 2,
    quiet: bool = True,
) -> Faces:
    """The best face of each picture; pictures without a face are left out.

    crop: "aligned": the face is where aligned pictures have it; "detect": `localiser` finds it.

    Raises:
        ValueError: a picture cannot be read (the message names it), or no picture has a face.
    """
    given, frame = None, localiser.metadata["preprocessing"]["aligned_box"]
    if crop == "aligned":
        given, frame = aligned_boxes(pictures.paths, aligned_face(pictures)), FACE
    rows, crops = [], [[] for _ in nets]
    stream = localiser.iter_predict(pictures.paths, given, detect_only=True, workers=workers, keep_photos=True)
    with closing(stream):
        progress = tqdm(stream, total=len(pictures), desc="faces", unit="picture", disable=quiet, dynamic_ncols=True)
        for row, prediction in enumerate(progress):
            if prediction.error is not None:
                raise ValueError(prediction.error)
            if not prediction.faces:
                continue
            rows.append(row)
            for net, cut in zip(nets, crops, strict=True):
                cut.append(cut_face(net, prediction.photo, carried(prediction.faces[0].frame, frame, net.aligned_box)))
    if not rows:
        raise ValueError(f"{pictures.folder}: no face found in {len(pictures)} pictures")
    return Faces(pictures.select(np.array(rows)), [np.stack(cut) for cut in crops])


def cut_face(net: Net, photo, box: Sequence[float]) -> np.ndarray:
    """What the net sees of the face in a box, in pixels of the original of `photo`: uint8 [*crop_size, 3]."""
    window = net.crop.window(box, net.anet.config["input_size"], net.anet.step)
    return crop_window(photo.pixels, photo.from_original(window), net.crop_size)


def aligned_face(pictures: TaggedPictures) -> tuple[float, ...]:
    """Where the face is in aligned pictures, in parts of their width and height."""
    return ALIGNED_FACES["lfwa" if pictures.folder.name.startswith("lfw") else "celeba"]
