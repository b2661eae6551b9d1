"""Batches and losses of ANet's two stages against cases worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_anet import TINY

from faceattr.data.faces import FaceCache
from faceattr.models.anet import ANet
from faceattr.train.anet import (
    LOGIT_SCALE,
    MARGINS,
    IdentityLoss,
    IdentityNet,
    TagLoss,
    few_a_person,
    for_tags,
    freeze,
    paired_rows,
    predict,
    shuffled_rows,
    similarity_loss,
    with_margin,
)
from faceattr.train.loop import fit


@pytest.fixture
def faces(tmp_path):
    """Twelve bright or dark pictures."""
    for number in range(12):
        Image.new("RGB", (178, 218), (200, 200, 200) if number % 2 else (50, 50, 50)).save(tmp_path / f"{number}.png")
    return FaceCache(tmp_path, [f"{number}.png" for number in range(12)], (31, 23), tmp_path / "faces.npy")


def test_similarity_by_hand():
    features = torch.tensor([[0.0, 0.0], [1.0, 3.0], [5.0, 5.0], [2.0, 0.0]])
    # Pairs of identity 7: (0, 1), (0, 3), (1, 3) with squared distances 10, 4, 10.
    assert similarity_loss(features, torch.tensor([7, 7, 8, 7])).item() == pytest.approx((10 + 4 + 10) / 3)
    assert similarity_loss(features, torch.tensor([1, 2, 3, 4])).item() == 0


def test_an_epoch_of_shuffled_rows_visits_every_picture_once():
    epoch = np.concatenate([shuffled_rows(20, 5, 0, step) for step in range(4)])
    assert sorted(epoch) == list(range(20))
    following = np.concatenate([shuffled_rows(20, 5, 0, step) for step in range(4, 8)])
    assert sorted(following) == list(range(20)) and not np.array_equal(epoch, following)


def test_an_epoch_of_paired_rows_visits_every_picture_once_in_pairs():
    identities = np.repeat(np.arange(10), 4)
    batches = [paired_rows(identities, 8, 3, step) for step in range(5)]
    assert sorted(np.concatenate(batches)) == list(range(40))
    for batch in batches:
        pairs = identities[batch].reshape(-1, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
    assert not np.array_equal(batches[0], paired_rows(identities, 8, 4, 0))


def test_tags_are_learnt_from_pictures(faces):
    torch.manual_seed(0)
    model = ANet(**TINY)
    tags = np.stack([np.arange(12) % 2 == 1, np.arange(12) % 2 == 0], 1)
    loss = TagLoss(faces, np.arange(12), tags, batch=6, seed=0, input_size=(31, 23))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        value, figures = loss(model, step)
        value.backward()
        optimizer.step()
    with torch.no_grad():
        logits = predict(model.eval(), faces, np.arange(12), batch=5)
    assert np.array_equal(logits.numpy() > 0, tags)
    assert 0 <= figures["accuracy"] <= 1


def test_views_are_crops_of_the_same_pictures(faces):
    tags = np.eye(12, dtype=bool)[:, :2]
    loss = TagLoss(faces, np.arange(12), tags, batch=6, seed=0, input_size=(31, 23), views=3)
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            seen.append(images)
            return self.weight.expand(len(images), 2)

    loss(Recorder(), 0)
    rows = shuffled_rows(12, 2, 0, 0)
    bright = seen[0].mean((1, 2, 3)) > 0.5
    # Odd pictures are bright; each comes three times, cropped differently.
    assert bright.tolist() == np.repeat(rows % 2 == 1, 3).tolist()
    assert len(seen[0].unique(dim=0)) == 6


def test_loss_of_a_net_that_knows_nothing(faces):
    identities = np.repeat([0, 1, 2], 4)
    net = IdentityNet(ANet(**TINY), 3)
    torch.nn.init.zeros_(net.identity)
    loss = IdentityLoss(faces, np.arange(12), identities, batch=6, weight=0.5, seed=0, input_size=(31, 23))
    value, figures = loss(net, 0)
    assert figures["softmax"] == pytest.approx(np.log(3), rel=1e-5)
    assert value.item() == pytest.approx(figures["softmax"] + 0.5 * figures["similarity"], rel=1e-5)
    value.backward()
    assert net.anet.c3.weight.grad is not None


def test_margins_by_hand():
    cosines = torch.tensor([[0.5, 0.1], [-1.0, 0.3], [0.2, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    logits = LOGIT_SCALE * cosines
    assert with_margin(logits, labels, "none", 0.4) is logits
    expected = cosines.clone()
    expected[[0, 1, 2], labels] -= 0.2
    torch.testing.assert_close(with_margin(logits, labels, "cosface", 0.2), LOGIT_SCALE * expected)
    # 60 degrees and 0.3 more; a half turn stays one; a perfect fit falls to the margin's cosine.
    expected[[0, 1, 2], labels] = torch.tensor([np.cos(np.pi / 3 + 0.3), -1, np.cos(0.3)], dtype=torch.float64)
    torch.testing.assert_close(
        with_margin(logits, labels, "arcface", 0.3), LOGIT_SCALE * expected, atol=LOGIT_SCALE * 1e-3, rtol=0
    )


@pytest.mark.parametrize("margin", MARGINS)
def test_a_margin_asks_for_more_and_has_a_gradient(faces, margin):
    identities = np.repeat([0, 1, 2], 4)
    torch.manual_seed(0)
    net = IdentityNet(ANet(**TINY), 3)
    plain = IdentityLoss(faces, np.arange(12), identities, 6, 0.5, 0, (31, 23))(net, 0)[1]
    value, figures = IdentityLoss(faces, np.arange(12), identities, 6, 0.5, 0, (31, 23), margin)(net, 0)
    assert figures["correct"] == plain["correct"]
    assert (figures["softmax"] > plain["softmax"] + 1) == (margin != "none")
    value.backward()
    assert net.anet.c3.weight.grad.isfinite().all() and net.identity.grad.abs().sum() > 0


def test_few_pictures_a_person():
    identities = np.array([7, 3, 7, 7, 3, 9, 7])
    assert few_a_person(identities, 2).tolist() == [True, True, True, False, True, True, False]
    assert few_a_person(identities, 9).all()


@pytest.mark.parametrize("frozen", ["shared", "features"])
def test_frozen_layers_stay_as_they_are(faces, tmp_path, frozen):
    torch.manual_seed(0)
    model = ANet(**{**TINY, "batch_norm": True})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(*([model.shared] if frozen == "shared" else list(model.children())[:-1]))
    tags = np.stack([np.arange(12) % 2 == 1, np.arange(12) % 2 == 0], 1)
    loss = TagLoss(faces, np.arange(12), tags, batch=6, seed=0, input_size=(31, 23))
    trained = fit(
        model, torch.optim.AdamW(model.parameters(), lr=0.01), loss, steps=5, folder=tmp_path / "run", warmup=1
    )
    for name, tensor in trained.state_dict().items():
        stays = name.startswith("shared.") if frozen == "shared" else not name.startswith("head.")
        assert torch.equal(tensor, before[name]) == stays, name


def test_after_identities_the_last_layer_learns_tags(faces, tmp_path):
    identities = np.repeat([0, 1, 2], 4)
    loss = IdentityLoss(faces, np.arange(12), identities, batch=6, weight=0.5, seed=0, input_size=(31, 23))
    net = IdentityNet(ANet(**TINY), 3)
    net = fit(net, torch.optim.AdamW(net.parameters()), loss, steps=1, folder=tmp_path / "identities", warmup=1)
    anet = for_tags(net)
    before = anet.head.weight.clone()
    tags = np.eye(12, dtype=bool)[:, :2]
    loss = TagLoss(faces, np.arange(12), tags, batch=6, seed=0, input_size=(31, 23))
    trained = fit(anet, torch.optim.AdamW(anet.parameters()), loss, steps=2, folder=tmp_path / "tags", warmup=1)
    assert not torch.equal(trained.head.weight, before)
