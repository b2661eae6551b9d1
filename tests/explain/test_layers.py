"""Layers that know one attribute and not the other."""

import numpy as np
import pytest
import torch
from wired_nets import net_on_one_cell, tagged

from faceattr.explain.layers import gains, measure, summary
from faceattr.explain.probes import halves


def test_each_layer_by_what_it_knows():
    random = np.random.default_rng(0)
    tags = random.random((300, 2)) < 0.5
    pictures = tagged(tags, attributes=("Male", "Smiling"))
    noise = random.random((300, 5))
    by_layer = measure({"fc": np.column_stack([tags[:, :1], noise]), "c3": noise}, pictures, halves(pictures))
    assert by_layer["fc"]["Male"]["accuracy"] == 1 and by_layer["fc"]["Smiling"]["accuracy"] < 0.65
    means = summary(by_layer)
    # Male belongs to identity, Smiling does not.
    assert means["fc"]["identity"] == {"accuracy": 1, "auc": 1} and means["fc"]["others"]["auc"] < 0.65
    assert means["c3"]["identity"]["auc"] < 0.65
    least, most = gains(by_layer)
    assert most == ("Male", 1 - by_layer["c3"]["Male"]["auc"]) and least[0] == "Smiling" and least[1] < 0.15


def test_responses_are_of_the_plain_crop_in_the_middle():
    net = net_on_one_cell(1, 2, positions=(3, 3))
    crops = np.random.default_rng(0).integers(0, 256, (3, *net.crop_size, 3), dtype=np.uint8)
    responses = net.responses(crops)
    plain = torch.from_numpy(crops[:, 4:-4, 4:-4]).permute(0, 3, 1, 2) / 255
    expected = net.anet.responses(plain)
    assert {layer: values.shape for layer, values in responses.items()} == {
        "fc": (3, 4),
        "c4": (3, 960),
        "c3": (3, 1200),
    }
    np.testing.assert_allclose(responses["fc"], net.anet.features(plain), rtol=1e-6)
    np.testing.assert_allclose(responses["c3"], expected.c3.flatten(1), rtol=1e-6)
    # The wired cell alone responds: by the mean green of what it sees.
    assert np.flatnonzero(responses["c3"][0]).tolist() == [1 * 4 + 2, 20 + 1 * 4 + 1]
    assert responses["fc"][:, 0] == pytest.approx(responses["c3"][:, 6])
