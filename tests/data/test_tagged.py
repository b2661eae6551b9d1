"""Pictures of several folders as one set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from faceattr.data.tagged import TaggedPictures, joined


def pictures(folder, names, value):
    tags = np.full((len(names), 2), value)
    numbers = np.arange(len(names))
    return TaggedPictures(Path(folder), names, ("Smiling", "Male"), tags, np.ones_like(tags), numbers, numbers)


def test_joined_keeps_the_order_and_knows_the_paths(tmp_path):
    first, second = pictures(tmp_path / "a", ["1.png", "2.png"], True), pictures(tmp_path / "b", ["1.png"], False)
    both = joined([first, second])
    assert both.paths == [tmp_path / "a/1.png", tmp_path / "a/2.png", tmp_path / "b/1.png"]
    assert both.tags.tolist() == [[True, True], [True, True], [False, False]]
    assert both.partitions.tolist() == [0, 1, 0]
    assert joined([first]) is first


def test_what_one_does_not_know_is_not_known(tmp_path):
    first, second = pictures(tmp_path / "a", ["1.png"], True), pictures(tmp_path / "b", ["1.png"], False)
    both = joined([first, replace(second, identities=None)])
    assert both.identities is None and len(both.partitions) == 2
