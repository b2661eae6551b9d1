"""Two sets of answers that differ in known places."""

import numpy as np
import pytest
from wired_nets import net_on_one_cell, tagged

from faceattr.explain.compare import disagreement, measure, shared_attributes

BEFORE = np.array([[0.9, 0.2], [0.4, 0.2], [0.8, 0.2], [0.1, 0.2]])
AFTER = np.array([[0.9, 0.2], [0.6, 0.3], [0.1, 0.2], [0.2, 0.2]])


def answers(values):
    return values >= 0.5, values


def test_what_changed():
    pictures = tagged([[1], [1], [1], [0]], known=[[1], [1], [1], [0]], attributes=["Smiling"])
    smiling, male = measure(answers(BEFORE), answers(AFTER), ["Smiling", "Male"], pictures)
    assert (smiling["before"], smiling["after"], smiling["gained"], smiling["lost"]) == (0.5, 0.5, 0.25, 0.25)
    assert smiling["moved"] == pytest.approx((0.2 + 0.7 + 0.1) / 4)
    assert smiling["accuracy_before"] == smiling["accuracy_after"] == pytest.approx(2 / 3)
    assert male["moved"] == pytest.approx(0.1 / 4) and male["gained"] == 0 and male["accuracy_before"] is None


def test_disagreement_counts_labels_that_changed():
    assert disagreement(answers(BEFORE), answers(AFTER)) == pytest.approx([0, 0.2, 0.7, 0])


def test_shared_attributes():
    net = net_on_one_cell(0, 0)
    assert shared_attributes(net, net) == ["Smiling", "Male", "Young"]
    other = type(net)(net.path, net.anet, ("Tall",), net.svm, net.thresholds, net.crop, net.aligned_box)
    with pytest.raises(ValueError, match="have no attribute in common"):
        shared_attributes(net, other)
    identities = type(net)(net.path, net.anet, (), None, None, net.crop, net.aligned_box)
    with pytest.raises(ValueError, match="wired: has learnt identities alone"):
        shared_attributes(identities, net)
