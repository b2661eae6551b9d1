"""Pictures of people, a folder a person, for the identities that ANet is pre-trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceattr.data.photos import list_pictures
from faceattr.data.tagged import TaggedPictures


def read_people(folder: str | Path) -> TaggedPictures:
    """The pictures below ``folder``, whose folders are the persons; without attributes, all of partition 0.

    Raises:
        ValueError: no picture, one beside the persons' folders, or fewer than two persons; the message says where.
    """
    folder = Path(folder)
    paths = list_pictures(folder)
    loose = next((path for path in paths if path.parent == folder), None)
    if loose is not None:
        raise ValueError(f"{loose}: lies in no person's folder; move it into one, or away")
    names = [str(path.relative_to(folder)) for path in paths]
    people, identities = np.unique([path.parent.relative_to(folder).as_posix() for path in paths], return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"{folder}: one person alone, {people[0]}; there is nobody to tell from")
    none = np.zeros((len(paths), 0), dtype=bool)
    return TaggedPictures(folder, names, (), none, none, identities, np.zeros(len(paths), dtype=np.int64))
