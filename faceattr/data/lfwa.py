"""LFWA and LFWA+: attributes of the pictures of LFW, in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceattr.data.table import celeba_name
from faceattr.data.tagged import TaggedPictures

LABELS = ("lfw_att_40.mat", "lfw_att_73.mat")
"""LFWA's file, and LFWA+'s, which has 33 attributes more."""
FOLDERS = ("lfw", "lfw-deepfunneled", "lfw_funneled")


def read_lfwa(
    root: str | Path, labels: str | Path | None = None, images: str | None = None, skip_missing: bool = False
) -> TaggedPictures:
    """Reads LFWA or LFWA+; the person is the identity, partition 0 the official training half, 2 the test half.

    Args:
        root: folder with the label file and indices_train_test.mat, of MATLAB 5 or, where h5py is installed, 7.3.
        labels: the label file, below ``root``; by default the first of LABELS that is there. It holds AttrName (A
            names), name (N paths, NAME/NAME_0001.jpg, either slash) and label ([N, A], 0 or -1 and 1).
        images: subfolder that has a folder a person; by default the first of FOLDERS that is there.
        skip_missing: leave out rows whose picture is not there instead of raising.

    Names that differ from CelebA's in case and punctuation alone become CelebA's.

    Raises:
        ValueError: a file is missing or wrong; the message names file, row and value.
    """
    root = Path(root)
    path = root / (labels or next((name for name in LABELS if (root / name).exists()), LABELS[0]))
    content = read_mat(path, ("AttrName", "name", "label"))
    attributes = tuple(celeba_name(name) for name in _texts(path, "AttrName", content["AttrName"]))
    names = [name.replace("\\", "/") for name in _texts(path, "name", content["name"])]
    values = np.asarray(content["label"])
    if values.shape != (len(names), len(attributes)):
        raise ValueError(
            f"{path}: label is {values.shape}, expected {len(names)} pictures x {len(attributes)} attributes"
        )
    wrong = np.argwhere(~np.isin(values, (-1, 0, 1)))
    if len(wrong):
        row, column = wrong[0]
        problem = f"for {attributes[column]} is {values[row, column]}, expected 0 or 1"
        raise ValueError(f"{path}: label of {names[row]} (row {row + 1}) {problem}")
    lines = {name: row for row, name in enumerate(names, 1)}
    if len(lines) < len(names):
        twice = next(name for row, name in enumerate(names, 1) if lines[name] != row)
        raise ValueError(f"{path}: {twice} is listed twice")
    data = TaggedPictures(
        root / (images or next((name for name in FOLDERS if (root / name).is_dir()), FOLDERS[0])),
        names,
        attributes,
        values > 0,
        np.ones(values.shape, dtype=bool),
        np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)[1].astype(np.int64),
        _read_halves(root / "indices_train_test.mat", len(names)),
    )
    return data.present(path, lines, skip_missing)


def read_mat(path: Path, variables: tuple[str, ...]) -> dict[str, np.ndarray | list[str]]:
    """Variables of a MATLAB file, 5 or 7.3: numeric arrays in MATLAB's shape, cell arrays of text as lists.

    Raises ValueError for a file that is missing, is none of MATLAB's or lacks a variable, and for 7.3 without h5py.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.exists():
        raise ValueError(f"{path}: missing; it is one of LFWA's MATLAB files")
    try:
        content = loadmat(path, variable_names=variables)
    except NotImplementedError:  # what scipy says to 7.3, which is HDF5
        return _read_hdf5(path, variables)
    except (MatReadError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a MATLAB file ({error})") from None
    _require(path, variables, content)
    return {
        name: [str(np.squeeze(cell)) for cell in content[name].ravel()]
        if content[name].dtype == object
        else content[name]
        for name in variables
    }


def _read_hdf5(path: Path, variables: tuple[str, ...]) -> dict[str, np.ndarray | list[str]]:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path}: a MATLAB 7.3 file; to read it: pip install h5py") from None
    try:
        with h5py.File(path) as file:
            _require(path, variables, file)
            content = {}
            for name in variables:
                stored = file[name]
                if h5py.check_ref_dtype(stored.dtype):  # a cell array: references to arrays of characters
                    content[name] = ["".join(map(chr, np.ravel(file[cell][()]))) for cell in np.ravel(stored[()])]
                else:
                    content[name] = stored[()].T
            return content
    except OSError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _require(path: Path, variables: tuple[str, ...], content) -> None:
    missing = [name for name in variables if name not in content]
    if missing:
        raise ValueError(f"{path}: has no variable {missing[0]!r}; needed are {', '.join(variables)}")


def _texts(path: Path, variable: str, value) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{path}: {variable} is an array {value.shape}, expected a cell array of text")
    return [text.strip() for text in value]


def _read_halves(path: Path, count: int) -> np.ndarray:
    """Partition [count] from the numbers, from 1 on, of the training and of the test pictures."""
    content = read_mat(path, ("indices_img_train", "indices_img_test"))
    partitions = np.full(count, -1, dtype=np.int64)
    for partition, name in ((0, "indices_img_train"), (2, "indices_img_test")):
        numbers = np.ravel(content[name])
        wrong = [number for number in numbers if not (number == int(number) and 1 <= number <= count)]
        if wrong:
            raise ValueError(f"{path}: {name} has the value {wrong[0]}, expected a picture's number from 1 to {count}")
        partitions[numbers.astype(np.int64) - 1] = partition
    return partitions
