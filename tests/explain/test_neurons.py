"""Neurons wired to one attribute each."""

import numpy as np
import pytest
from wired_nets import tagged

from faceattr.explain.neurons import faces_a_mean, kept_by_the_few, mean_faces, measure
from faceattr.explain.probes import Halves

RNG = np.random.default_rng(0)
TAGS = RNG.random((200, 3)) < 0.5
KNOWN = np.ones_like(TAGS)


def test_concepts_and_sparsity():
    # Neuron 0 says the first attribute, 1 the contrary of the second, 2 mixes the first with noise, 3 always the same.
    features = np.column_stack([TAGS[:, 0], 2 * ~TAGS[:, 1], TAGS[:, 0] + RNG.random(200), np.zeros(200)]).astype(float)
    neurons = measure(features, TAGS, KNOWN)
    assert neurons.concept[:3].tolist() == [0, 1, 0]
    assert neurons.strength[[0, 1, 3]] == pytest.approx([1, -1, 0])
    assert neurons.strength[2] == pytest.approx(np.corrcoef(features[:, 2], TAGS[:, 0])[0, 1])
    assert neurons.active[[0, 1, 3]] == pytest.approx([TAGS[:, 0].mean(), (~TAGS[:, 1]).mean(), 0])
    assert neurons.active_a_face == pytest.approx((features > 0).mean())
    # Neuron 2 stands for the same concept as 0, less well.
    assert set(neurons.most_selective(8)[:2].tolist()) == {0, 1}
    assert 2 not in neurons.most_selective(8) and len(neurons.most_selective(1)) == 1


def test_unknown_tags_do_not_count():
    features, known = TAGS[:, :1].astype(float), KNOWN.copy()
    tags = TAGS.copy()
    tags[:50, 0], known[:50, 0], known[:, 2] = ~tags[:50, 0], False, False
    neurons = measure(features, tags, known)
    assert neurons.correlation[0, 0] == pytest.approx(1) and neurons.correlation[0, 2] == 0


def test_mean_faces_of_thirds():
    responses = RNG.permutation(9).astype(float)
    crops = np.broadcast_to((10 * responses).astype(np.uint8)[:, None, None, None], (9, 2, 2, 3))
    high, middle, low = mean_faces(crops, responses, 3)
    assert (high == 70).all() and (middle == 40).all() and (low == 10).all()
    high, middle, low = mean_faces(crops, responses, 1)
    assert (high == 80).all() and (middle == 40).all() and (low == 0).all()
    with pytest.raises(ValueError, match="2 faces have no 1 strongest, middle and weakest"):
        mean_faces(crops[:2], responses[:2], 1)


def test_of_a_rare_concept_few_faces_are_averaged():
    known = np.ones(90, dtype=bool)
    assert faces_a_mean(np.arange(90) < 45, known) == 30
    assert faces_a_mean(np.arange(90) < 6, known) == faces_a_mean(np.arange(90) >= 6, known) == 6
    assert faces_a_mean(np.arange(90) < 6, np.arange(90) > 2) == 3
    assert faces_a_mean(np.ones(90, dtype=bool), known) == 30  # nobody lacks it


def test_what_the_few_keep():
    pictures, rows = tagged(TAGS), Halves(np.arange(100), np.arange(100, 200))
    noise = RNG.random((200, 27))
    strong = kept_by_the_few(np.column_stack([10.0 * TAGS, noise]), pictures, rows)
    # The neurons that decide are the strongest: noise alone is lost.
    assert strong["a_face"] > strong["all"] > 0.8 and strong["an_attribute"] > 0.9
    assert strong["majority"] < 0.65
    # They are the weakest: each attribute still finds its own, a face's strongest tell nothing.
    weak = kept_by_the_few(np.column_stack([0.1 * TAGS, 1 + noise]), pictures, rows)
    assert weak["all"] > 0.8 and weak["an_attribute"] > 0.9 and weak["a_face"] < 0.7
