"""A net that begins as what a narrower one computes."""

import pytest
import torch
from tiny_anet import TINY

from faceattr.models.anet import ANet
from faceattr.train.anet import grow

NARROW = {**TINY, "fc_inputs": ("c4",)}
WIDER = {
    **NARROW,
    "stages": (((6, 4, 1),), ((5, 3, 1),)),
    "c3": (8, 3, (2, 1)),
    "c4": (9, 1, (2, 1)),
    "features": 12,
    "attributes": 3,
}


@pytest.mark.parametrize("before", [False, True], ids=["folded", "normalised"])
@pytest.mark.parametrize("after", [False, True], ids=["plain", "with normalisation"])
def test_a_grown_net_computes_what_the_narrower_does(before, after):
    torch.manual_seed(0)
    source, model = ANet(**NARROW, batch_norm=before), ANet(**WIDER, batch_norm=after)
    images = torch.rand(16, 3, 31, 23)
    with torch.no_grad():
        source.train()(images)
    grow(model, source, images)
    with torch.no_grad():
        others = torch.rand(5, 3, 31, 23)
        torch.testing.assert_close(model.eval()(others)[:, :2], source.eval()(others), rtol=1e-4, atol=1e-5)
        assert model.features(others)[:, 9:].abs().sum() > 0


def test_nets_that_differ_in_more_than_widths_are_refused():
    images = torch.rand(4, 3, 31, 23)
    with pytest.raises(ValueError, match="layer 1"):
        grow(ANet(**NARROW), ANet(**WIDER), images)
    with pytest.raises(ValueError, match="c4 alone"):
        grow(ANet(**{**WIDER, "fc_inputs": ("c3", "c4")}), ANet(**NARROW), images)
    with pytest.raises(ValueError, match="layer 3"):
        grow(ANet(**{**WIDER, "c3": (8, 3, (1, 1))}), ANet(**NARROW), images)
