"""ablate.py on made-up faces: every reading of a variant, and one pre-training for all that go on from it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from small_data import make_data

SCRIPT = Path(__file__).parents[2] / "training" / "ablate.py"


def test_variants_that_share_a_pre_training(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data")

    def run(*variants):
        words = [
            "--celeba",
            data / "celeba",
            "--cache",
            tmp_path / "cache",
            "--output",
            tmp_path / "out",
            "--epochs",
            2,
        ]
        words += ["--identity-epochs", 1, "--batch", 8, "--workers", 0, "--device", "cpu", "--precision", "float32"]
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, words), "--variants", *variants])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    frozen = "identities, all layers frozen"
    run("pre-trained on identities")
    [state] = (tmp_path / "out" / "identities").glob("*/state.safetensors")
    before = state.stat().st_mtime_ns
    printed = run("pre-trained on identities", frozen)
    assert [state] == list((tmp_path / "out" / "identities").glob("*/state.safetensors"))
    assert state.stat().st_mtime_ns == before  # not trained again
    results = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert set(results) == {"pre-trained on identities", frozen}
    for name, readings in results.items():
        assert set(readings) == {"logits", "SVM, one view", "SVM, views"}
        for title, figures in readings.items():
            assert np.isfinite(list(figures.values())).all() and f"| {name} | {title} |" in printed
    # The tags change the features of the one and leave those of the other.
    assert results["pre-trained on identities"] != results[frozen]
