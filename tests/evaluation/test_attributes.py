"""The figures against scikit-learn and against cases worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from faceattr.evaluation.attributes import (
    area_under_roc,
    balanced_accuracy,
    calibrated_error,
    calibration_error,
    choose_threshold,
    evaluate,
    identity_bootstrap,
    table,
)


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    tags = random.random(500) < 0.3
    # Rounding makes ties.
    return np.clip(random.normal(0.4 + 0.3 * tags, 0.25), 0, 1).round(2), tags


def test_figures_agree_with_scikit_learn(samples):
    probabilities, tags = samples
    assert area_under_roc(probabilities, tags) == pytest.approx(roc_auc_score(tags, probabilities))
    labels = probabilities > 0.45
    assert balanced_accuracy(labels, tags) == pytest.approx(balanced_accuracy_score(tags, labels))


def test_calibration_error_by_hand():
    # Bins of 0.1: two samples at 0.25 of which one is positive, two at 0.95, both negative.
    probabilities = np.array([0.25, 0.25, 0.95, 0.95])
    tags = np.array([True, False, False, False])
    assert calibration_error(probabilities, tags, bins=10) == pytest.approx((2 * 0.25 + 2 * 0.95) / 4)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_the_calibration_error_of_chance_by_hand():
    # Of two samples at a half none, one or both are positive: 0.5, 0 and 0.5, half of the time 0.
    halves = np.full((2, 2000), 0.5)
    assert calibrated_error(halves) == pytest.approx(0.25, abs=0.01)
    assert calibrated_error(halves, np.arange(4000).reshape(2, 2000) < 2000) == pytest.approx(0.5)
    assert calibrated_error(np.full((40_000, 1), 0.5)) < 0.005
    assert calibrated_error(np.array([[0.0, 1.0]])) == 0
    assert calibrated_error(halves, np.zeros((2, 2000), bool)) is None


@pytest.mark.parametrize("goal", ["accuracy", "balanced"])
def test_no_threshold_beats_the_chosen_one(samples, goal):
    probabilities, tags = samples

    def score(threshold):
        labels = probabilities > threshold
        return balanced_accuracy_score(tags, labels) if goal == "balanced" else (labels == tags).mean()

    chosen = choose_threshold(probabilities, tags, goal)
    assert score(chosen) >= max(score(threshold) for threshold in np.linspace(-0.005, 1.005, 203)) - 1e-12


def test_threshold_lies_between_the_classes():
    assert choose_threshold(
        np.array([0.1, 0.2, 0.6, 0.7]), np.array([False, False, True, True]), "accuracy"
    ) == pytest.approx(0.4)
    assert choose_threshold(np.array([0.1, 0.2]), np.array([False, False]), "balanced") == 0.5
    with pytest.raises(ValueError, match="goal is 'f1'"):
        choose_threshold(np.array([0.1]), np.array([True]), "f1")


def test_trusted_probabilities_decide_the_threshold_themselves():
    random = np.random.default_rng(0)
    probabilities = random.random(2000) ** 3
    tags = random.random(2000) < probabilities
    # Of calibrated probabilities, one half is best for accuracy and the base rate for balance.
    assert choose_threshold(probabilities, tags, "accuracy", trust=1) == pytest.approx(0.5, abs=0.01)
    assert choose_threshold(probabilities, tags, "balanced", trust=1) == pytest.approx(probabilities.mean(), abs=0.01)


def test_evaluate_counts_and_averages():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.1], [0.6, 0.3], [0.1, 0.4]])
    tags = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
    result = evaluate(probabilities, tags, [0.5, 0.35], ["Smiling", "Bald"])
    smiling, bald = result["attributes"]["Smiling"], result["attributes"]["Bald"]
    assert result["n"] == 4
    assert (smiling["accuracy"], smiling["balanced_accuracy"], smiling["auc"], smiling["base_rate"]) == (
        0.5,
        0.5,
        0.75,
        0.5,
    )
    assert (bald["accuracy"], bald["balanced_accuracy"], bald["auc"], bald["base_rate"]) == (0.75, None, None, 0)
    assert result["mean"]["accuracy"] == 0.625
    assert result["mean"]["auc"] == 0.75
    lines = table(result).splitlines()
    assert len(lines) == 4 and lines[-1].startswith("mean of 2") and "0.625" in lines[-1]


@pytest.mark.parametrize(
    ("probabilities", "tags", "thresholds", "message"),
    [
        (np.zeros((2, 1)), np.zeros((3, 1)), [0.5], "must be .N, A. alike"),
        (np.zeros((2, 1)), np.zeros((2, 1)), [0.5, 0.5], "2 thresholds and 1 names for 1 attributes"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), [0.5], r"must lie in \[0, 1\]"),
    ],
)
def test_wrong_input_is_refused(probabilities, tags, thresholds, message):
    with pytest.raises(ValueError, match=message):
        evaluate(probabilities, tags, thresholds, ["Smiling"])


def test_unknown_tags_do_not_count():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.9], [0.6, 0.3]])
    tags = np.array([[1, 0], [1, 0], [0, 0]], dtype=bool)
    known = np.array([[1, 0], [0, 0], [1, 0]], dtype=bool)
    result = evaluate(probabilities, tags, [0.5, 0.5], ["Smiling", "Bald"], known)
    smiling = result["attributes"]["Smiling"]
    assert (smiling["n"], smiling["accuracy"], smiling["auc"], smiling["base_rate"]) == (2, 0.5, 1, 0.5)
    assert result["attributes"]["Bald"]["accuracy"] is None and result["mean"]["accuracy"] == 0.5
    assert result["attributes"]["Bald"]["majority"] is None and "mean of 2" in table(result)


def test_intervals_are_those_of_the_binomial_where_each_picture_is_a_person():
    random = np.random.default_rng(0)
    right = random.random((400, 1)) < 0.8
    tags = random.random((400, 1)) < 0.5
    labels = tags == right
    (interval,), means = identity_bootstrap(labels, tags, np.ones_like(tags), np.arange(400), rounds=4000)
    share = right.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    np.testing.assert_allclose(interval["accuracy"], [share - half, share + half], atol=0.006)
    assert means == interval


def test_more_pictures_of_the_same_people_make_nothing_surer():
    random = np.random.default_rng(1)
    labels, tags = random.random((50, 3)) < 0.6, random.random((50, 3)) < 0.5
    known = random.random((50, 3)) < 0.8
    once = identity_bootstrap(labels, tags, known, np.arange(50))
    nine = [np.repeat(samples, 9, axis=0) for samples in (labels, tags, known)]
    again = identity_bootstrap(*nine, np.repeat(np.arange(50), 9))
    assert once == again
    columns, _ = identity_bootstrap(*nine, np.arange(450))
    width = [high - low for low, high in (columns[0]["accuracy"], once[0][0]["accuracy"])]
    assert width[0] < width[1] / 2


def test_table_s_columns(samples):
    probabilities, tags = samples[0][:, None], samples[1][:, None]
    result = evaluate(probabilities, tags, [0.5], ["Smiling"], identities=np.arange(len(tags)) // 5)
    low, high = result["attributes"]["Smiling"]["intervals"]["accuracy"]
    assert low < result["attributes"]["Smiling"]["accuracy"] < high
    header, row, mean = table(result, {"Paper": [0.25]}).splitlines()
    assert header.split()[-2:] == ["majority", "Paper"] and header.count("95 %") == 2
    assert f"{low:.3f}-{high:.3f}" in row and row.split()[-1] == mean.split()[-1] == "0.250"
