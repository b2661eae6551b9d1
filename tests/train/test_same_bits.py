"""The cascade from nothing, its cache of decoded pictures deleted, half made or whole, its stages killed or not:
the same bits come out."""

import itertools
import multiprocessing
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from killable import run
from PIL import Image
from safetensors.torch import load_file
from small_data import SMALL, make_data

from faceattr.data import faces, photos
from faceattr.data.faces import FaceCache
from faceattr.data.photos import decode_pictures

TRAINING = Path(__file__).parents[2] / "training"
# Servers that have imported what a stage needs, and computed nothing: a process of theirs starts at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["faceattr.train.loop", "faceattr.train.svm", "faceattr.evaluation.predict"])


@pytest.fixture
def cascade(tmp_path, monkeypatch):
    """The stages from LNet+ to the SVMs, on made-up data, in a folder of that name."""
    monkeypatch.syspath_prepend(str(TRAINING))
    # The server imports from the folder it is started in: not from the sources, where the package is not built.
    monkeypatch.chdir(tmp_path)
    import train_all

    data = make_data(tmp_path / "data")

    def stages(name):
        config = train_all.read_config(TRAINING / "configs" / "fast.yaml")
        folders = {kind: data / kind for kind in ("celeba", "objects", "scenes")}
        folders |= {"output": tmp_path / name, "here": TRAINING / "configs"}
        small = {key: str(value) for key, value in SMALL.items()} | {"small_steps": "2", "lnet_steps": "2"}
        values = train_all.fill_values(config, folders, small, "fast.yaml")
        names = [stage["name"] for stage in config["stages"]]
        chosen = config["stages"][: names.index("svm") + 1]
        return [train_all.Stage(stage, values, tmp_path / name / "stages") for stage in chosen]

    def start(stage, kill=None):
        """Whether the stage came to its end."""
        script, *words = stage.words
        if script in train_all.PARALLEL:
            words += ["--workers", "0", "--threads", "1", "--device", "cpu"]
        output = tmp_path / "output.txt"
        process = PROCESSES.Process(target=run, args=(str(TRAINING / script), words, kill, str(output)))
        process.start()
        process.join()
        assert process.exitcode == 0 or kill and process.exitcode == -9, (
            f"{stage.name}: {output.read_text()[-3000:] if output.exists() else 'did not start'}"
        )
        return process.exitcode == 0

    return stages, start


def products(folder):
    """Every file that stages leave, but for logs, the cache and records of what was run."""
    paths = [*folder.rglob("*.safetensors"), *folder.rglob("*.npy"), *folder.rglob("*.json"), *folder.rglob("*.jpg")]
    kept = [path for path in paths if not {"cache", "stages"} & set(path.relative_to(folder).parts)]
    kept = [path for path in kept if not path.name.startswith("objects-")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def differences(name, whole, killed):
    """Which file, and of tensors which and by how much, for who has to find the reason."""
    if not name.endswith(".safetensors"):
        return name
    expected, found = load_file(whole / name), load_file(killed / name)
    if found.keys() != expected.keys():
        return f"{name}: other tensors"
    largest = {key: (found[key].double() - expected[key].double()).abs().max().item() for key in expected}
    wrong = {key: error for key, error in largest.items() if error}
    return f"{name}: {wrong or 'the header'}"


@pytest.mark.slow
def test_neither_the_cache_nor_kills_change_a_bit(cascade, tmp_path):
    stages, start = cascade
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for stage in stages("whole"):
        assert start(stage)
    expected = products(whole)
    names = {Path(name).parts[0] for name in expected}
    assert {"lnet_plus", "lnet_o", "lnet_s", "identities", "tags", "tags_photos", "svm.safetensors"} <= names

    kills, found = 0, {}
    for number, stage in enumerate(stages("killed")):
        shutil.rmtree(killed / "cache", ignore_errors=True)
        if number % 2 == 0:  # else it is not there and, when decoding was killed, half made
            shutil.copytree(whole / "cache", killed / "cache")
        for kill in ("decoding", "training", None):
            if start(stage, kill):
                break
            kills += 1
        for cache in (killed / "cache").glob("*.npy"):
            assert cache.read_bytes() == (whole / "cache" / cache.name).read_bytes(), f"{stage.name}: {cache.name}"
        found = products(killed)
        wrong = [differences(name, whole, killed) for name in found if found[name] != expected[name]]
        assert wrong == [], stage.name
    assert kills > 10 and found.keys() == expected.keys()


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 255, (218, 178, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def of_photos(pictures, folder):
    return decode_pictures(pictures, (30, 20), cache=folder / "cache.npy").images


def of_faces(pictures, folder):
    return FaceCache(pictures[0].parent, [path.name for path in pictures], (31, 23), folder / "cache.npy").pictures


@pytest.mark.parametrize("decode", [of_photos, of_faces])
def test_a_cache_that_lost_a_part_is_made_anew(pictures, tmp_path, decode):
    folder = tmp_path / "made"
    expected = np.array(decode(pictures, folder))
    for path in sorted(folder.iterdir()):
        path.unlink()
        assert (decode(pictures, folder) == expected).all(), f"without {path.name}"
    (folder / "cache.json").write_text('{"shape": [3')
    assert (decode(pictures, folder) == expected).all()


class Killed(BaseException):
    """In place of a kill: nobody tidies up."""


@pytest.mark.parametrize("decode", [of_photos, of_faces])
def test_a_cache_is_made_anew_after_a_kill_at_any_point(pictures, tmp_path, monkeypatch, decode):
    """Before each picture is written and each file or note put in its place, on what earlier kills have left."""
    expected = np.array(decode(pictures, tmp_path / "whole"))
    folder, left = tmp_path / "killed", 0

    def die_in_time():
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def one_by_one(decode, *arguments):
        for picture in decode(*arguments):
            die_in_time()
            yield picture

    replace = os.replace
    for point in itertools.count():
        left = point
        with monkeypatch.context() as patched:
            for module in (faces, photos):
                patched.setattr(module, "decode", partial(one_by_one, module.decode))
            patched.setattr(os, "replace", lambda *paths: (die_in_time(), replace(*paths)))
            try:
                decode(pictures, folder)
                break
            except Killed:
                shutil.copytree(folder, tmp_path / f"after {point}")
        assert (decode(pictures, tmp_path / f"after {point}") == expected).all(), f"killed at point {point}"
    assert point == (5 if decode is of_faces else 4) and (decode(pictures, folder) == expected).all()


@pytest.mark.parametrize("decode", [of_photos, of_faces])
def test_decoding_draws_no_number_that_training_would_have(pictures, tmp_path, decode):
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    decode(pictures, tmp_path / "made")
    assert torch.equal(torch.rand(4), expected)
