"""Figures of ages against cases worked out by hand."""

import numpy as np
import pytest

from faceattr.ages import Age
from faceattr.data.ages import parse_age
from faceattr.evaluation.ages import describe_ages, evaluate_ages


def ages(*texts):
    return np.array([parse_age(text) for text in texts])


def test_years():
    # True are 30.5, 8.5 and 70.5 on average; of the last but one nobody has said, of the last no face was found.
    found = [Age(33, 28, 38), Age(8.5, 8.6, 9), Age(60, 50, 71), Age(20, 10, 30), None]
    result = evaluate_ages(found, ages("30", "8", "70", "", "40"))
    assert (result["n"], result["not_found"]) == (3, 1)
    assert result["years"] == {
        "n": 3,
        "mean_error": pytest.approx((2.5 + 0 + 10.5) / 3),
        "in_interval": pytest.approx(2 / 3),
    }
    assert result["groups"] == {"n": 0, "mean_distance": None, "in_group": None, "in_or_next": None}


def test_groups():
    found = [Age(29.5, 20, 40), Age(15, 10, 20), Age(64, 50, 80), Age(90, 80, 99), Age(30, 25, 35)]
    result = evaluate_ages(found, ages("20-29", "20-29", "more than 70", "70+", "20-29"))
    assert result["years"]["n"] == 0 and result["years"]["mean_error"] is None
    assert result["groups"] == {
        "n": 5, "mean_distance": pytest.approx((0 + 5 + 6 + 0 + 0) / 5), "in_group": 0.4, "in_or_next": 1.0,
    }  # fmt: skip
    # Nine and forty are two groups from 20-29, two is next to 3-9.
    found = [Age(9, 5, 12), Age(40, 35, 45), Age(2, 1, 3)]
    assert evaluate_ages(found, ages("20-29", "20-29", "3-9"))["groups"]["in_or_next"] == pytest.approx(1 / 3)


def test_children_and_seniors():
    # The group 10-19 says nothing of who is below 13, 60-69 nothing of who is 65 or older.
    told = ages("5", "12", "13", "10-19", "64", "65", "60-69", "70+")
    found = [Age(years, years - 5, years + 5) for years in (6, 14, 12.9, 11, 65, 66, 80, 30)]
    result = evaluate_ages(found, told)
    # Known below 13: of two children one is taken for one; of five others four are not.
    assert result["Child"] == {
        "n": 7, "accuracy": pytest.approx(5 / 7), "balanced_accuracy": pytest.approx((1 / 2 + 4 / 5) / 2),
        "base_rate": pytest.approx(2 / 7),
    }  # fmt: skip
    # 65 and 70+ are seniors, of whom one is taken for one; of five others 64 is too.
    assert result["Senior"] == {
        "n": 7, "accuracy": pytest.approx(5 / 7), "balanced_accuracy": pytest.approx((1 / 2 + 4 / 5) / 2),
        "base_rate": pytest.approx(2 / 7),
    }  # fmt: skip


def test_in_words():
    lines = list(describe_ages(evaluate_ages([Age(33, 28, 38), Age(25, 20, 30), None], ages("30", "10-19", "5"))))
    assert lines == [
        "age, years known of 1 pictures: mean error 2.5 years, 1.000 are in the interval of 80 %",
        "age, group known of 1 pictures: 0.000 in it, 1.000 in it or the next, on average 5.0 years away",
        "Child by age, below 13, known of 1 pictures: accuracy 1.000, base rate 0.000",
        "Senior by age, 65 or older, known of 2 pictures: accuracy 1.000, base rate 0.000",
        "age: no face found in 1 pictures of known age, which are left out",
    ]


def test_nothing_found():
    result = evaluate_ages([None, None], ages("30", ""))
    assert (result["n"], result["not_found"], result["Child"]["accuracy"]) == (0, 1, None)
    assert list(describe_ages(result)) == ["age: no face found in 1 pictures of known age, which are left out"]
