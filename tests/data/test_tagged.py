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
    first, second = pictures(tmp_path / "a", ["1.png"], True), pictures(tmp_path / "b", ["1.png", "2.png"], False)
    second = replace(second, attributes=("Male", "Child"))
    both = joined([first, second])
    assert both.attributes == ("Smiling", "Male", "Child")
    assert both.known.tolist() == [[True, True, False], [False, True, True], [False, True, True]]
    assert both.tags.tolist() == [[True, True, False], [False, False, False], [False, False, False]]
    assert joined([first, replace(second, partitions=None)]).partitions is None


def test_people_nobody_has_numbered_are_all_different(tmp_path):
    first, second = pictures(tmp_path / "a", ["1.png", "2.png"], True), pictures(tmp_path / "b", ["1.png"], False)
    both = joined([replace(second, identities=None), first, replace(second, identities=None)])
    assert both.identities.tolist()[1:3] == [0, 1] and len(set(both.identities.tolist())) == 4
    assert joined([replace(part, identities=None) for part in (first, second)]).identities is None


def test_ages_make_tags_where_nobody_has_set_them(tmp_path):
    one = pictures(tmp_path, ["1.png", "2.png", "3.png"], True)
    assert one.with_ages() is one
    ages = np.array([[70.0, 71], [25, 26], [np.nan, np.nan]])
    young = replace(one, attributes=("Smiling", "Young"), ages=ages, known=np.array([[1, 0], [1, 1], [1, 0]], bool))
    told = young.with_ages()
    column = told.attributes.index("Young")
    assert told.known[:, column].tolist() == [True, True, False] and told.tags[:2, column].tolist() == [False, True]
    senior = told.attributes.index("Senior")
    assert told.tags[:, senior].tolist() == [True, False, False] and told.known[:, senior].tolist() == [
        True,
        True,
        False,
    ]
    assert told.tags[:, 0].all() and young.attributes == ("Smiling", "Young")
