"""A resumed run against an uninterrupted one, bit for bit; the schedule; what goes to disk."""

import csv
import math
import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from faceattr.train.loop import Ahead, cosine, fit, generator, load_model, save_model


class Net(nn.Sequential):
    def __init__(self, width: int = 8):
        super().__init__(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 1))
        self.config = {"width": width}


class Killed(Exception):
    pass


def train(folder, steps=30, kill_at=None, resume=False, **options):
    def loss(model, step):
        if step == kill_at:
            raise Killed
        images = torch.randn(16, 3, generator=generator(5, step))
        value = (model(images)[:, 0] - images.sum(1)).square().mean()
        return value, {"twice": 2 * value.item()}

    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return fit(
        model,
        optimizer,
        loss,
        steps=steps,
        folder=folder,
        warmup=5,
        save_every=4,
        log_every=2,
        resume=resume,
        **options,
    )


def log(folder):
    return list(csv.reader((folder / "log.csv").open(newline="")))


@pytest.mark.parametrize("kill_at", [1, 4, 13, 29])
def test_a_killed_and_resumed_run_ends_as_an_uninterrupted_one(tmp_path, kill_at):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "parts", kill_at=kill_at)
    parts = train(tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    assert (tmp_path / "whole" / "state.safetensors").read_bytes() == (
        tmp_path / "parts" / "state.safetensors"
    ).read_bytes()
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


def test_a_kill_before_a_state_is_in_its_place_leaves_the_one_before(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    saved, replace = [], os.replace

    def die_at_the_third(*paths):
        saved.append(paths)
        if len(saved) == 3:
            paths[0].write_bytes(paths[0].read_bytes()[:-9])  # nor is it whole yet
            raise Killed
        replace(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die_at_the_third)
        with pytest.raises(Killed):
            train(tmp_path / "parts")
    assert (tmp_path / "parts" / "state.partial").exists()
    parts = train(tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


def test_training_learns_and_logs(tmp_path):
    evaluated = []
    train(
        tmp_path, steps=200, evaluate=lambda net: evaluated.append(net.training) or {"score": 1.0}, evaluate_every=150
    )
    rows = log(tmp_path)
    losses = [float(value) for step, figure, value in rows[1:] if figure == "loss"]
    assert losses[-1] < 0.8 * losses[0] and len(losses) == 100
    assert [row for row in rows if row[1] == "score"] == [["150", "score", "1"], ["200", "score", "1"]]
    assert evaluated == [False, False]
    twice = [float(value) for step, figure, value in rows[1:] if figure == "twice"]
    assert twice[0] == pytest.approx(2 * losses[0], rel=1e-5)


def test_the_log_is_there_for_tensorboard_too(tmp_path):
    train(tmp_path, steps=10)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    of_csv = [(int(step), float(value)) for step, figure, value in log(tmp_path)[1:] if figure == "loss"]
    of_board = [(event.step, event.value) for event in events.Scalars("loss")]
    assert of_board == [(step, pytest.approx(value, rel=1e-5)) for step, value in of_csv]


@pytest.mark.parametrize("kill_at", [None, 7, 19, 24])
def test_training_stops_when_validation_has_not_improved_and_keeps_the_best(tmp_path, kill_at):
    scores = [0.1, 0.4, 0.3, 0.4, 0.2, 0.9]  # the best at step 10; at 25 the third evaluation without a better one
    weights = {}

    def evaluate(net):
        tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        step = next((step for step, known in weights.items() if same(known, tensors)), 5 * (len(weights) + 1))
        weights[step] = tensors
        return {"score": scores[step // 5 - 1]}

    def same(a, b):
        return all(torch.equal(a[name], b[name]) for name in a)

    options = {"evaluate": evaluate, "evaluate_every": 5, "watch": "score", "patience": 3}
    if kill_at is not None:
        with pytest.raises(Killed):
            train(tmp_path, kill_at=kill_at, **options)
    best = train(tmp_path, resume=True, **options)
    assert list(weights) == [5, 10, 15, 20, 25]
    assert same(best.state_dict(), weights[10]) and not best.training
    assert max(int(row[0]) for row in log(tmp_path)[1:]) == 25
    # A run that has stopped stays so.
    again = train(tmp_path, resume=True, **options)
    assert same(again.state_dict(), weights[10]) and list(weights) == [5, 10, 15, 20, 25]


def test_what_is_watched_must_be_measured(tmp_path):
    with pytest.raises(ValueError, match="evaluation gives no 'auc' but score"):
        train(tmp_path, evaluate=lambda net: {"score": 1.0}, evaluate_every=2, watch="auc", patience=1)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="0 steps to train; are there fewer pictures than a batch holds"):
        train(tmp_path, steps=0)


def test_without_resume_a_run_starts_anew(tmp_path):
    first = train(tmp_path, steps=8).state_dict()
    train(tmp_path, steps=12)
    assert all(torch.equal(first[name], tensor) for name, tensor in train(tmp_path, steps=8).state_dict().items())


def test_a_state_of_another_model_is_refused(tmp_path):
    train(tmp_path, steps=4)
    model = Net(width=9)
    with pytest.raises(ValueError, match="the state of another model"):
        fit(
            model,
            torch.optim.AdamW(model.parameters()),
            lambda model, step: None,
            steps=8,
            folder=tmp_path,
            resume=True,
        )


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = Net()
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fit(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            lambda model, step: (model(torch.randn(4, 3)).sum() * math.nan, {}),
            steps=1,
            folder=tmp_path,
        )


def test_learning_rate_rises_then_falls_by_half_a_cosine():
    assert [cosine(step, 100, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert (
        cosine(4, 100, 4) == 1 and cosine(52, 100, 4) == pytest.approx(0.5) and cosine(100, 100, 4) == pytest.approx(0)
    )


def test_ahead_gives_each_step_its_own_batch():
    made = []
    batches = Ahead(lambda step: made.append(step) or step * 10)
    assert [batches(step) for step in (3, 4, 5)] == [30, 40, 50]
    assert batches(9) == 90  # after a jump too
    assert sorted(made)[:4] == [3, 4, 5, 6] and len(made) == len(set(made))


def test_generators_differ_by_each_number():
    draws = {torch.rand((), generator=generator(*key)).item() for key in ((0, 1), (1, 0), (0, 2), (0, 1, 1))}
    assert len(draws) == 4
    assert torch.equal(torch.rand(3, generator=generator(0, 1)), torch.rand(3, generator=generator(0, 1)))


def test_a_model_is_saved_with_its_configuration(tmp_path):
    model = Net(width=5).eval()
    save_model(model, tmp_path / "net.safetensors", epochs=3)
    twin, metadata = load_model(Net, tmp_path / "net.safetensors")
    assert metadata == {"config": {"width": 5}, "epochs": 3} and not twin.training
    images = torch.randn(2, 3)
    assert torch.equal(model(images), twin(images))
