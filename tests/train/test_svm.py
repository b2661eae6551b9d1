"""Calibration against a case worked out by hand, planes against separable data, folds against leaks."""

import numpy as np
import pytest
import torch

from faceattr.train.svm import decisions_by_folds, fit_planes, fit_platt, fit_svm, to_base_rates


def test_platt_by_hand():
    # Decisions of two values: the sigmoid has a parameter for each, so it meets the mean target of both exactly.
    decisions = np.array([1.0] * 8 + [-1.0] * 10)
    tags = np.array([True] * 6 + [False] * 2 + [True] * 1 + [False] * 9)
    slope, offset = fit_platt(decisions, tags)
    positive, negative = (7 + 1) / (7 + 2), 1 / (11 + 2)
    high, low = (6 * positive + 2 * negative) / 8, (1 * positive + 9 * negative) / 10
    assert 1 / (1 + np.exp(slope + offset)) == pytest.approx(high, abs=1e-5)
    assert 1 / (1 + np.exp(-slope + offset)) == pytest.approx(low, abs=1e-5)


def test_platt_stays_finite_where_classes_separate():
    slope, offset = fit_platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert -100 < slope < 0 and abs(offset) < 1


def test_planes_separate_what_a_plane_separates():
    random = np.random.default_rng(0)
    # Scales far apart, and one feature that never responds.
    features = np.concatenate([random.normal(3, [1, 50, 0.01], (200, 3)), np.zeros((200, 1))], 1)
    tags = np.stack([features[:, 0] > 3, features[:, 1] / 50 - features[:, 2] / 0.01 > -300], 1)
    weights, biases = fit_planes(features, tags, 1000.0)
    assert np.mean((features @ weights.T + biases > 0) == tags) > 0.99
    with pytest.raises(ValueError, match="attribute 1 is False for all 200 samples"):
        fit_planes(features, tags & [True, False], 1.0)


def test_a_prior_of_nothing_changes_nothing():
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 4))
    tags = features[:, :1] + 0.3 * random.normal(size=(300, 1)) > 0
    alone, nothing = fit_planes(features, tags, 1.0), fit_planes(features, tags, 1.0, (np.zeros((1, 4)), np.zeros(1)))
    for plane, same in zip(alone, nothing, strict=True):
        np.testing.assert_allclose(plane, same, atol=1e-3)


def test_a_prior_is_kept_where_there_is_little_to_learn_from():
    random = np.random.default_rng(0)
    truth = random.normal(size=50)
    features = random.normal(size=(4000, 50))
    tags = (features @ truth + 2 * random.normal(size=4000) > 3)[:, None]
    prior = (truth[None], np.array([-3.0]))
    few, many = slice(60), slice(60, None)

    def accuracy(planes):
        return np.mean((features[many] @ planes[0].T + planes[1] > 0) == tags[many])

    best = accuracy(prior)
    assert accuracy(fit_planes(features[few], tags[few], 1e-5)) < best - 0.1
    assert accuracy(fit_planes(features[few], tags[few], 1e-5, prior)) > best - 0.03
    # With a strong loss and a useless prior the samples decide.
    useless = (random.normal(size=(1, 50)), np.zeros(1))
    assert accuracy(fit_planes(features[many], tags[many], 10.0, useless)) > best - 0.02


def test_folds_keep_identities_together():
    random = np.random.default_rng(0)
    # The features are the identity alone and the tag is drawn by identity: seen persons are known, new ones guesses.
    identities = np.repeat(np.arange(40), 10)
    features = np.eye(40)[identities]
    tags = (random.random(40) < 0.5)[identities][:, None]
    weights, biases = fit_planes(features, tags, 100.0)
    assert np.mean((features @ weights.T + biases > 0) == tags) == 1
    decisions = decisions_by_folds(features, tags, identities, 100.0, 5)
    # An unseen person has no feature that was ever on: all decisions of a fold are the same.
    assert len(np.unique(decisions.round(9))) <= 5


def test_probabilities_of_the_module_are_platts():
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 5)).astype(np.float32)
    tags = features[:, :2] + random.normal(scale=0.5, size=(300, 2)) > [0.0, 0.8]
    svm, thresholds, probabilities, strength = fit_svm(features, tags, np.arange(300), strengths=(0.01, 0.1))
    assert strength in (0.01, 0.1) and probabilities.shape == (300, 2)
    assert {goal: len(values) for goal, values in thresholds.items()} == {"accuracy": 2, "balanced": 2}
    with torch.no_grad():
        decisions = svm.decision(torch.from_numpy(features))
        expected = 1 / (1 + torch.exp(svm.slope * decisions + svm.offset))
        torch.testing.assert_close(svm(torch.from_numpy(features)), expected)
    # Cross-validated and final probabilities tell the same on easy data.
    assert np.abs(svm(torch.from_numpy(features)).detach().numpy() - probabilities).mean() < 0.03
    # Rare positives want a lower threshold for balance than for accuracy.
    assert thresholds["balanced"][1] < thresholds["accuracy"][1]


def test_samples_whose_tag_is_not_known_are_as_if_they_were_not_there():
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 4))
    tags = np.stack([features[:, 0] > 0, features[:, 1] > 0.3], 1)
    known = np.ones(tags.shape, bool)
    known[120:, 1] = False
    wrong = tags.copy()
    wrong[120:, 1] = random.random(80) < 0.5  # must not matter
    with_unknown = fit_svm(features, wrong, np.arange(200), strengths=(0.1,), known=known)
    # The features are scaled over all samples, so that the planes may differ a little from those of a part alone.
    part = fit_svm(features[:120], tags[:120], np.arange(120), strengths=(0.1,))
    np.testing.assert_allclose(with_unknown[0].weight[1].detach(), part[0].weight[1].detach(), rtol=0.05, atol=0.02)
    full = fit_svm(features, tags, np.arange(200), strengths=(0.1,))
    assert torch.equal(with_unknown[0].weight[0], full[0].weight[0])
    assert with_unknown[1]["accuracy"][0] == full[1]["accuracy"][0]
    with pytest.raises(ValueError, match="attribute Hat is not known for any sample"):
        fit_planes(features, tags, 0.1, known=np.zeros(tags.shape, bool), names=("Hat", "Beard"))
    with pytest.raises(ValueError, match="2 persons .* are too few for 5 folds"):
        fit_svm(features, tags, np.arange(200) % 2)


def test_base_rates_move_probabilities_and_no_decision_for_balance():
    random = np.random.default_rng(0)

    def sample(count, rate):
        tags = random.random((count, 1)) < rate
        return (tags + random.normal(scale=0.7, size=(count, 1))).astype(np.float32), tags

    features, tags = sample(4000, 0.2)
    svm, thresholds, _, _ = fit_svm(features, tags, np.arange(4000), strengths=(0.01,))
    common, common_tags = sample(20_000, 0.5)
    inputs = torch.from_numpy(common)
    with torch.no_grad():
        before = svm(inputs).numpy()
        moved = to_base_rates(svm, thresholds, tags.mean(0), np.array([0.5]))
        after = svm(inputs).numpy()
    assert before.mean() < 0.4
    assert after.mean() == pytest.approx(0.5, abs=0.02)
    assert moved["accuracy"] == thresholds["accuracy"]
    np.testing.assert_array_equal(after > moved["balanced"], before > thresholds["balanced"])
    right_before = (before > thresholds["accuracy"]) == common_tags
    right_after = (after > moved["accuracy"]) == common_tags
    assert right_after.mean() > right_before.mean()
