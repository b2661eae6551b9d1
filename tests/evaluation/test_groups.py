"""Gaps between groups, and intervals that draw the same people for both."""

import numpy as np
import pytest

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.groups import by_groups
from faceattr.evaluation.plots import plot_attributes, plot_groups


def pictures(tags, attributes, identities=None, known=None):
    tags = np.asarray(tags, dtype=bool)
    known = np.ones_like(tags) if known is None else known
    names = [str(row) for row in range(len(tags))]
    return TaggedPictures("", names, attributes, tags, known, identities, None)


@pytest.fixture
def people():
    """200 people with two pictures each: the first 120 are men, half of all are young. The model is right of men in
    nine of ten pictures, of young women in six of ten, of old women in eight of ten; a person's two fare alike."""
    random = np.random.default_rng(0)
    identities = np.repeat(np.arange(200), 2)
    man, young = identities < 120, identities % 2 == 0
    rate = np.where(man, 0.9, np.where(young, 0.6, 0.8))
    right = np.repeat(random.random(200), 2) < rate
    truth = random.random(400) < 0.5
    said = np.where(right, truth, ~truth)
    return said[:, None] * 1.0, pictures(truth[:, None], ("Smiling",), identities), np.stack([man, young], 1), right


def divide(people, wanted, **options):
    values, data, groups, _ = people
    tags = pictures(groups, ("Male", "Young"), **options)
    return by_groups(values, data, [0.5], np.ones(len(data), dtype=bool), tags, wanted)


def test_a_gap_and_its_interval(people):
    _, _, groups, right = people
    found, gaps = divide(people, [["Male"]])
    men, women = right[groups[:, 0]].mean(), right[~groups[:, 0]].mean()
    assert found["Male"]["n"] == 240 and found["not Male"]["n"] == 160
    assert found["Male"]["mean"]["accuracy"] == pytest.approx(men)
    gap = gaps["Male"]["accuracy"]
    assert gap["gap"] == pytest.approx(men - women) and (gap["better"], gap["worse"]) == ("Male", "not Male")
    low, high = gap["interval"]
    # Of 120 and 80 people, whose two pictures fare alike: twice the standard error of the difference on both sides.
    error = np.sqrt(men * (1 - men) / 120 + women * (1 - women) / 80)
    assert low < gap["gap"] < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_groups_by_two_tags(people):
    _, _, groups, right = people
    found, gaps = divide(people, [["Male", "Young"], ["Young"]])
    assert list(found) == [
        "Male, Young",
        "Male, not Young",
        "not Male, Young",
        "not Male, not Young",
        "Young",
        "not Young",
    ]
    young_women = right[~groups[:, 0] & groups[:, 1]].mean()
    assert found["not Male, Young"]["mean"]["accuracy"] == pytest.approx(young_women)
    gap = gaps["Male+Young"]["accuracy"]
    assert gap["worse"] == "not Male, Young"
    assert gap["gap"] == pytest.approx(max(group["mean"]["accuracy"] for group in found.values()) - young_women)
    assert gap["interval"][0] > 0


def test_who_is_not_known_is_in_no_group(people):
    known = np.ones((400, 2), dtype=bool)
    known[:100, 0] = False
    found, _ = divide(people, [["Male"]], known=known)
    assert found["Male"]["n"] == 140 and found["not Male"]["n"] == 160


def test_equal_groups_are_two(people):
    """As many right of the one as of the other: no gap, but an interval."""
    values, data, _, right = people
    half = np.zeros(400, dtype=bool)
    rights, wrongs = np.flatnonzero(right), np.flatnonzero(~right)
    chosen = np.concatenate([rights[: len(rights) // 2 * 2], wrongs[: len(wrongs) // 2 * 2]])
    half[rights[: len(rights) // 2]] = half[wrongs[: len(wrongs) // 2]] = True
    tags = pictures(half[chosen, None], ("Group",))
    found, gaps = by_groups(values[chosen], data.select(chosen), [0.5], right[chosen] | True, tags, [["Group"]])
    gap = gaps["Group"]["accuracy"]
    assert {gap["better"], gap["worse"]} == set(found) == {"Group", "not Group"}
    assert gap["gap"] == 0 and gap["interval"][0] < -0.02 < 0.02 < gap["interval"][1]


def test_one_group_alone_has_no_gap(people):
    values, data, groups, _ = people
    men = np.flatnonzero(groups[:, 0])
    tags = pictures(groups[men], ("Male", "Young"))
    found, gaps = by_groups(values[men], data.select(men), [0.5], np.ones(len(men), dtype=bool), tags, [["Male"]])
    assert list(found) == ["Male"] and gaps == {"Male": {"accuracy": None, "balanced_accuracy": None}}


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures(people, tmp_path, suffix):
    found, gaps = divide(people, [["Male"], ["Male", "Young"]])
    plot_groups(found, gaps, tmp_path / f"groups.{suffix}")
    row = {"accuracy": 0.8, "majority": 0.6}
    result = {"attributes": {"Smiling": row, "Sunglasses": row, "Bald": {"accuracy": None, "majority": None}}}
    plot_attributes(result, {"PANDA": result}, tmp_path / f"attributes.{suffix}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    for name in ("groups", "attributes"):
        content = (tmp_path / f"{name}.{suffix}").read_bytes()
        assert content.startswith(start) and len(content) > 3000
