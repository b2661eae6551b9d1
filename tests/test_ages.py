import numpy as np
import pytest

from faceattr.ages import LIMITS, OLDEST, age_at, read_ages
from faceattr.data.ages import AGE_TAGS, age_tags, parse_age


def survival(low: float, high: float) -> np.ndarray:
    """Probabilities of being at least LIMITS old of somebody who is equally likely of any age between."""
    return np.clip((high - np.array(LIMITS)) / (high - low), 0, 1)[None]


def test_a_uniform_age_is_read_off_where_it_lies():
    # Of the ages from 20 to 40 the quarter below 25, the half below 30.
    probabilities = survival(20, 40)
    assert age_at(probabilities, 0.25)[0] == pytest.approx(25, abs=1e-3)
    [age] = read_ages(probabilities, 0.1)
    assert (age.years, age.low, age.high) == pytest.approx((30, 22, 38), abs=1e-3)
    assert age.to_dict() == {"years": 30.0, "low": 22.0, "high": 38.0}


def test_the_ends():
    none, all_of_them = np.zeros((1, len(LIMITS))), np.ones((1, len(LIMITS)))
    assert age_at(none, 0.5)[0] == pytest.approx(LIMITS[0] / 2)
    assert age_at(all_of_them, 0.5)[0] == pytest.approx((LIMITS[-1] + OLDEST) / 2)


def test_probabilities_that_rise_count_as_the_lowest_so_far():
    probabilities = np.array([[1.0, 1, 0.2, 0.9, 0.9, 0.1, 0, 0]])
    flat = np.array([[1.0, 1, 0.2, 0.2, 0.2, 0.1, 0, 0]])
    assert age_at(probabilities, 0.7) == pytest.approx(age_at(flat, 0.7))
    assert 10 < age_at(probabilities, 0.5)[0] < 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("34", (34, 35)),
        (" 0 ", (0, 1)),
        ("20-29", (20, 30)),
        ("3 - 9", (3, 10)),
        ("70+", (70, 120)),
        ("more than 70", (70, 120)),
        ("12.5", (12.5, 13)),
    ],
)
def test_ages_as_people_write_them(text, expected):
    assert parse_age(text) == expected


def test_an_age_nobody_gives_is_unknown():
    assert np.isnan(parse_age("  ")).all()


@pytest.mark.parametrize("text", ["old", "-3", "130", "29-20", "20-", "nan"])
def test_other_ages_are_refused(text):
    with pytest.raises(ValueError, match="age"):
        parse_age(text)


def test_tags_that_follow_from_ages():
    found = age_tags(np.array([parse_age(text) for text in ("34", "10-19", "70+", "", "5", "60-69")]))
    assert set(found) == {*AGE_TAGS, "Child", "Senior", "Young"}

    def told(name):
        tags, known = found[name]
        return [("yes" if tag else "no") if sure else "?" for tag, sure in zip(tags, known, strict=True)]

    assert told("Age_20") == ["yes", "no", "yes", "?", "no", "yes"]
    assert told("Child") == ["no", "?", "no", "?", "yes", "no"]
    assert told("Senior") == ["no", "no", "yes", "?", "no", "?"]
    assert told("Young") == ["?", "yes", "no", "?", "yes", "no"]
