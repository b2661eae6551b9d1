"""Pictures with attribute tags, whatever files they came from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from faceattr.data.ages import age_tags


@dataclass(frozen=True)
class TaggedPictures:
    """Pictures of one folder with their tags, in the order of the file that lists them."""

    folder: Path
    names: list[str]
    """The pictures' paths below ``folder``, N of them."""
    attributes: tuple[str, ...]
    """Names of the A columns of ``tags``."""
    tags: np.ndarray
    """[N, A] bool."""
    known: np.ndarray
    """[N, A] bool: where it is False nobody has said whether the tag holds."""
    identities: np.ndarray | None
    """[N] int64, equal for pictures of one person; None where nobody has said."""
    partitions: np.ndarray | None
    """[N] int64: 0 train, 1 validation, 2 test, -1 none of them; None where there is no split."""
    ages: np.ndarray | None = None
    """[N, 2] float: each person's age is from the first to below the second, in years; NaN where nobody has said."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[Path]:
        """The picture files."""
        return [self.folder / name for name in self.names]

    def select(self, rows: np.ndarray) -> TaggedPictures:
        """The pictures of some rows (indices or a mask)."""
        return replace(
            self,
            names=np.asarray(self.names, dtype=object)[rows].tolist(),
            tags=self.tags[rows],
            known=self.known[rows],
            identities=None if self.identities is None else self.identities[rows],
            partitions=None if self.partitions is None else self.partitions[rows],
            ages=None if self.ages is None else self.ages[rows],
        )

    def columns(self, attributes: Sequence[str]) -> TaggedPictures:
        """The same pictures with these attributes alone, in this order; nothing is known of those they lack."""
        columns = {name: column for column, name in enumerate(self.attributes)}
        tags, known = (np.zeros((len(self), len(attributes)), dtype=bool) for _ in range(2))
        for column, name in enumerate(attributes):
            if name in columns:
                tags[:, column] = self.tags[:, columns[name]]
                known[:, column] = self.known[:, columns[name]]
        return replace(self, attributes=tuple(attributes), tags=tags, known=known)

    def with_ages(self) -> TaggedPictures:
        """The same with the tags that follow from the pictures' ages (:func:`faceattr.data.ages.age_tags`); a tag that
        somebody has set stays."""
        if self.ages is None:
            return self
        found = age_tags(self.ages)
        data = self.columns(tuple(dict.fromkeys([*self.attributes, *found])))
        for name, (tags, known) in found.items():
            column = data.attributes.index(name)
            new = known & ~data.known[:, column]
            data.tags[new, column], data.known[new, column] = tags[new], True
        return data

    def partition(self, number: int) -> TaggedPictures:
        """The pictures of one partition; ValueError if it has none."""
        if self.partitions is None:
            raise ValueError(f"{self.folder}: the pictures are not split into partitions, so there is no {number}")
        rows = np.flatnonzero(self.partitions == number)
        if not len(rows):
            raise ValueError(f"{self.folder}: no picture of partition {number}")
        return self.select(rows)

    def present(self, listed_in: Path, lines: Mapping[str, int], skip_missing: bool) -> TaggedPictures:
        """The pictures whose files are there; with ``skip_missing`` a warning says how many are not.

        Raises ValueError for the first that is missing, unless ``skip_missing``, and where none is there; the message
        names the picture, the file ``listed_in`` and the line.
        """
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder of pictures")
        there = np.array([path.is_file() for path in self.paths], dtype=bool)
        if not there.any():
            raise ValueError(f"{self.folder}: holds none of the {len(self)} pictures that {listed_in} lists")
        if not (there.all() or skip_missing):
            name = self.names[int(np.argmin(there))]
            raise ValueError(
                f"{self.folder / name}: listed in {listed_in}, line {lines[name]}, but missing; "
                "add it or skip missing pictures"
            )
        if not there.all():
            problem = f"{(~there).sum()} of the {len(self)} pictures that {listed_in} lists are not there"
            warnings.warn(f"{self.folder}: {problem} and left out", stacklevel=3)
        return self.select(there)


def joined(parts: Sequence[TaggedPictures]) -> TaggedPictures:
    """The pictures of several folders, with their full paths as names; one picture may be in more than one.

    The attributes are those of all parts, in the order in which they come; what a part does not speak of is not known
    of its pictures. Partitions are kept if all have them, identities if any has: of the others every picture is of
    somebody else. Ages are not kept. One folder stays as it is.
    """
    if len(parts) == 1:
        return parts[0]
    attributes = tuple(dict.fromkeys(name for part in parts for name in part.attributes))
    parts = [part.columns(attributes) for part in parts]
    names = [str(path.resolve()) for part in parts for path in part.paths]

    def column(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    identities = None
    if any(part.identities is not None for part in parts):
        first = -len(names) - 1  # of people nobody has numbered; numbers are not negative
        starts = np.cumsum([0, *map(len, parts)])
        identities = np.concatenate(
            [
                np.arange(first + start, first + start + len(part)) if part.identities is None else part.identities
                for part, start in zip(parts, starts, strict=False)
            ]
        )
    return TaggedPictures(
        Path("/"), names, attributes, column("tags"), column("known"), identities, column("partitions")
    )


def read_text(path: Path, what: str) -> str:
    """The content of a UTF-8 file; ValueError, which says ``what`` it is, for one that is missing or no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; it is {what}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from None
