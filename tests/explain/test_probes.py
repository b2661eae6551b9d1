"""What classifiers learn from, and what they are measured on."""

import numpy as np
import pytest
from wired_nets import tagged

from faceattr.explain.probes import check_tags, fit_probes, halves, probe

TAGS = np.random.default_rng(1).random((60, 3)) < 0.5


def test_partitions_are_the_halves():
    pictures = tagged(TAGS, partitions=np.repeat([2, 0, 1], 20))
    rows = halves(pictures)
    assert rows.test.tolist() == list(range(20)) and rows.fit.tolist() == list(range(40, 60))


def test_halves_share_no_identity():
    people = np.arange(60) // 3
    rows = halves(tagged(TAGS, identities=people))
    assert sorted([*rows.fit, *rows.test]) == list(range(60))
    assert not set(people[rows.fit]) & set(people[rows.test])
    with pytest.raises(ValueError, match="folder: pictures of at least two people"):
        halves(tagged(TAGS, identities=np.zeros(60)))


def test_figures_of_what_is_told_and_what_is_not():
    known = np.ones_like(TAGS)
    known[:, 2] = False
    pictures = tagged(TAGS, known=known)
    rows = halves(pictures)
    features = np.column_stack([np.where(TAGS[:, 0], 1.0, -1.0), np.ones(60)])
    told, untold, unknown = probe(features, pictures, rows)
    assert told["accuracy"] == told["auc"] == 1
    share = TAGS[rows.test, 1].mean()
    assert untold["majority"] == pytest.approx(max(share, 1 - share)) and abs(untold["auc"] - 0.5) < 0.05
    assert unknown == {"accuracy": None, "auc": None, "majority": None}


def test_an_attribute_without_both_classes_is_what_it_always_is():
    tags = TAGS.copy()
    tags[:, 0], tags[:, 1] = True, False
    weights, biases = fit_probes(np.random.default_rng(0).random((60, 4)), tagged(tags), np.arange(60))
    assert not weights[:2].any() and weights[2].any() and biases[:2].tolist() == [1, -1]


def test_pictures_without_tags():
    with pytest.raises(ValueError, match="folder: no tags; give a folder with label files"):
        check_tags(tagged(np.zeros((3, 0)), attributes=()))
