"""average_nets.py on nets of a few channels."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from faceattr.models.lnet import LNet
from faceattr.train.loop import load_model, save_model

SCRIPT = Path(__file__).parents[2] / "training" / "average_nets.py"


def save_net(path: Path, seed: int, sizes=(20.0, 25.0)) -> LNet:
    torch.manual_seed(seed)
    net = LNet(tags=("a",), sizes=sizes, trunk={"kind": "pyramid", "widths": (2, 3, 4, 5)})
    net(torch.rand(4, 3, 33, 33))  # the running means of batch normalisation are no longer 0
    save_model(net, path, steps=seed, stage="tags")
    return net.eval()


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["average_nets.py", *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_mean_of_nets(monkeypatch, tmp_path):
    nets = [save_net(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]
    run(monkeypatch, *(tmp_path / f"{seed}.safetensors" for seed in range(3)), tmp_path / "new" / "mean.safetensors")
    mean, notes = load_model(LNet, tmp_path / "new" / "mean.safetensors")
    assert (notes["mean_of"], notes["steps"], notes["stage"]) == (3, 0, "tags")
    for name, value in mean.state_dict().items():
        expected = sum(net.state_dict()[name].double() for net in nets) / 3
        torch.testing.assert_close(value, expected.to(value.dtype))
    assert mean.trunk.c1[1].running_mean.abs().sum() > 0


def test_nets_of_other_sizes_have_no_mean(monkeypatch, tmp_path, capsys):
    save_net(tmp_path / "a.safetensors", 0)
    save_net(tmp_path / "b.safetensors", 0, sizes=(20.0, 30.0))
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "mean.safetensors")
    assert "b.safetensors: is another net than" in capsys.readouterr().err
    assert not (tmp_path / "mean.safetensors").exists()


def test_one_net_has_no_mean(monkeypatch, tmp_path, capsys):
    """As where the place for the mean was forgotten: the second net would be overwritten."""
    for seed in range(2):
        save_net(tmp_path / f"{seed}.safetensors", seed)
    before = (tmp_path / "1.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "0.safetensors", tmp_path / "1.safetensors")
    assert "two nets and more" in capsys.readouterr().err
    assert (tmp_path / "1.safetensors").read_bytes() == before
