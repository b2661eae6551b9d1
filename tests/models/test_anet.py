"""ANet against itself crop by crop, its geometry against the paper's, and what it refuses."""

import pytest
import torch
from tiny_anet import TINY

from faceattr.models.anet import CONFIGS, ANet

SMALL = {**TINY, "attributes": 3}


def random_net(**config) -> ANet:
    """A float64 net in evaluation mode whose every parameter and statistic is random."""
    torch.manual_seed(0)
    net = ANet(**config).double()
    for name, tensor in net.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            # Negative scales too: the order of normalisation and pooling then matters.
            tensor.normal_()
    return net.eval()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"fc_inputs": ("c4",)},
        {"batch_norm": True},
        {"c3": (6, 3, (1, 1)), "c4": (7, 2, (1, 3))},
        {"c3": (6, 3, (5, 2)), "c4": (7, 2, (2, 1))},
        {"input_size": (111, 95), "stages": (((4, 4, 1),), ((5, 3, 1),), ((6, 3, 1),))},
        {"input_size": (119, 103), "stages": (((4, 5, 2), (5, 3, 1)), ((6, 3, 1), (7, 3, 1))), "batch_norm": True},
    ],
    ids=["paper", "fc on c4", "batch norm", "shared c3", "coarse grids", "three stages", "stride and depth"],
)
def test_dense_equals_every_crop(config):
    net = random_net(**config)
    height, width = net.config["input_size"]
    images = torch.randn(2, 3, height + 2 * net.step, width + net.step, dtype=torch.float64)
    views = ((0, 0), (-1, 0), (1, 1))
    with torch.no_grad():
        dense = net.forward_dense(images, views)
        assert dense.logits.shape == (2, 40, 3, 2)
        for i in range(3):
            for j in range(2):
                crops = images[:, :, i * net.step :, j * net.step :][:, :, :height, :width]
                torch.testing.assert_close(dense.logits[:, :, i, j], net(crops), rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(dense.features[:, :, i, j], net.features(crops), rtol=1e-10, atol=1e-10)
    for n in range(2):
        i, j = dense.best[n].tolist()
        near = [(i, j), (max(i - 1, 0), j), (min(i + 1, 2), min(j + 1, 1))]
        assert torch.equal(dense.views[n], torch.cat([dense.features[n, :, row, column] for row, column in near]))


def test_best_is_where_c4_responds_most():
    net = random_net()
    images = torch.randn(1, 3, 55 + 4 * 3, 47 + 4 * 2, dtype=torch.float64)
    captured = []
    net.norm4.register_forward_hook(lambda module, inputs, output: captured.append(output.amax().item()))
    with torch.no_grad():
        best = net.forward_dense(images).best[0].tolist()
        captured.clear()
        for i in range(4):
            for j in range(3):
                net(images[:, :, 4 * i : 4 * i + 55, 4 * j : 4 * j + 47])
    assert best == list(divmod(captured.index(max(captured)), 3))


def test_paper_configuration_has_the_papers_sizes():
    net = ANet(**CONFIGS["paper"])
    assert net.step == 4
    assert net.shared(torch.zeros(1, 3, 55, 47)).shape == (1, 40, 12, 10)
    assert net.c3.weight.shape == (5, 4, 60, 40, 3, 3)
    assert net.c4.weight.shape == (4, 3, 80, 60, 2, 2)
    assert net.fc.weight.shape == (160, 60 * 5 * 4 + 80 * 4 * 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configurations_fit_the_size_allowed(name):
    net = ANet(**CONFIGS[name])
    assert net(torch.zeros(2, 3, *net.config["input_size"])).shape == (2, 40)
    # As float16; the bundle of 25 MB also holds two LNets of 2 MB.
    assert sum(parameter.numel() for parameter in net.parameters()) * 2 < 14e6


def test_config_rebuilds_the_net():
    net = ANet(**SMALL, batch_norm=True)
    twin = ANet(**net.config)
    twin.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 31, 23)
    assert torch.equal(net.eval()(images), twin.eval()(images))


def test_folding_keeps_the_outputs_and_drops_the_normalisation():
    net = random_net(batch_norm=True)
    folded = net.fold_batch_norm()
    assert not any("norm" in name for name in folded.state_dict())
    images = torch.randn(2, 3, 55, 47, dtype=torch.float64)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-10, atol=1e-10)


def test_every_parameter_gets_a_gradient():
    net = ANet(**SMALL, batch_norm=True)
    net(torch.randn(4, 3, 31, 23)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (32, 23)}, r"stage 1: 2x2 max-pooling does not fit a 29x20 map"),
        ({"stages": (((4, 4, 2),), ((5, 3, 1),))}, r"stage 1: kernel 4 with stride 2 does not fit a 31x23 map"),
        ({"stages": (((4, 40, 1),),)}, r"stage 1: kernel 40 with stride 1 does not fit a 31x23 map"),
        ({"c3": (6, 3, (3, 1))}, r"c3: a grid of 3 rows does not divide 4 rows .* whole 2x2 pooling windows"),
        ({"c3": (6, 3, (4, 1))}, r"c3: a grid of 4 rows"),
        ({"c4": (7, 1, (2, 3))}, r"c4: a grid of 3 columns does not divide 1 columns"),
        ({"fc_inputs": ("c3",)}, r"fc_inputs is \('c3',\), it must be"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match="ANet: " + message):
        ANet(**{**SMALL, **change})


def test_wrong_images_are_refused():
    net = ANet(**SMALL).eval()
    with pytest.raises(ValueError, match=r"images have shape \(1, 3, 31, 24\), expected \[N, 3, 31, 23\]"):
        net(torch.zeros(1, 3, 31, 24))
    with pytest.raises(
        ValueError, match=r"forward_dense: images have shape .* expected \[N, 3, 31 \+ 4 \* i, 23 \+ 4 \* j\]"
    ):
        net.forward_dense(torch.zeros(1, 3, 31, 25))
    with pytest.raises(ValueError, match="training mode"):
        ANet(**SMALL, batch_norm=True).forward_dense(torch.zeros(1, 3, 31, 23))


def test_pooled_features_are_the_mean_over_crops_and_mirror_images():
    net = random_net()
    images = torch.randn(2, 3, 59, 51, dtype=torch.float64)
    with torch.no_grad():
        crops = [
            view[:, :, i : i + 55, j : j + 47] for view in (images, images.flip(3)) for i in (0, 4) for j in (0, 4)
        ]
        expected = torch.stack([net.features(each) for each in crops]).mean(0)
        torch.testing.assert_close(net.pooled_features(images), expected, rtol=1e-10, atol=1e-10)


def test_some_of_the_logits_alone():
    net = random_net(**SMALL)
    images = torch.rand(2, 3, 31, 23, dtype=torch.float64)
    torch.testing.assert_close(net.with_logits([2, 0])(images), net(images)[:, [2, 0]])
    assert net.with_logits([1]).config["attributes"] == 1
