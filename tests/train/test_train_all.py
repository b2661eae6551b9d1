"""train_all.py: what it passes over, continues, refuses and reports; and every stage of the cascade on made-up data."""

import csv
import fcntl
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml
from small_data import SMALL, SMALL_EVERYONE, make_data

from faceattr.attributes import ATTRIBUTES
from faceattr.cli import main as faceattr_main
from faceattr.models.checkpoint import load_checkpoint

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def train_all(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import train_all

    return train_all


@pytest.fixture
def job(train_all, tmp_path, monkeypatch):
    """Two stages, the second of which fails while there is a file named `broken`; returns what runs them."""
    monkeypatch.setattr(train_all, "HERE", tmp_path)
    (tmp_path / "work.py").write_text(
        "import pathlib, sys\n"
        "out, word = sys.argv[1:]\n"
        "with open(out + '.runs', 'a') as file: file.write(word + ' ')\n"
        "if pathlib.Path('../../broken').exists() and word in ('second', 'wrong'): sys.exit(3)\n"
        "pathlib.Path(out).write_text(word)\n"
        "print('the word is', word)\n"
    )
    stages = [
        {"name": "a", "run": "work.py {output}/a {word}", "makes": "{output}/a"},
        {"name": "b", "run": "work.py {output}/b second", "makes": "{output}/b", "report": "What b says"},
        {"name": "c", "run": "work.py {output}/c {extra}", "needs": "extra"},
    ]
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump({"values": {"word": "first"}, "stages": stages}))
    for name in ("celeba", "objects", "scenes"):
        (tmp_path / "data" / name).mkdir(parents=True)

    def run(*options, data=tmp_path / "data", config=config):
        words = [str(config), "--data", str(data), "--output", str(tmp_path / "out"), "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", ["train_all.py", *words])
        train_all.main()

    return run


def test_what_is_done_is_passed_over_and_what_failed_is_run_again(job, tmp_path):
    (tmp_path / "broken").touch()
    with pytest.raises(SystemExit, match=r"stage b failed \(exit status 3\)"):
        job()
    results = (tmp_path / "out" / "RESULTS.md").read_text()  # what there is is not lost
    assert "**1 of 2 stages are done**" in results and re.search(r"\| b \| \d+, not done \|", results)
    assert "the word is first" in results and "What b says" not in results
    (tmp_path / "broken").unlink()
    job()
    job()
    runs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.runs")}
    assert runs == {"a": "first ", "b": "second second "}
    results = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "## a\n" in results and "the word is first" in results
    assert "## What b says\n" in results and "the word is second" in results
    assert re.search(r"\| a \| \d+ \|", results) and "not done" not in results and " CPU cores, in " in results
    used = json.loads((tmp_path / "out" / "stages" / "a.json").read_text())["processor"]
    assert used > 0 and f" | {used:.0f} |\n| b |" in results  # starting Python takes some
    job("--set", "extra=third")  # a stage that is left out without its value
    assert (tmp_path / "out" / "c").read_text() == "third"


def test_other_options_are_not_mixed_with_what_is_there(job):
    job()
    with pytest.raises(SystemExit, match="stage a was run as\n  work.py .* first\nand is now\n  work.py .* other"):
        job("--set", "word=other")


def test_a_measurement_that_failed_may_be_asked_for_otherwise(job, tmp_path):
    job()
    (tmp_path / "broken").touch()
    with pytest.raises(SystemExit, match="stage c failed"):
        job("--set", "extra=wrong")
    job("--set", "extra=right")
    assert (tmp_path / "out" / "c").read_text() == "right"
    with pytest.raises(SystemExit, match="stage c was run as"):
        job("--set", "extra=third")


def test_two_runs_do_not_work_in_one_folder(job, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="is still at work there"):
            job()
    job()


def test_values_may_be_several_words(job, tmp_path):
    job("--set", "word=first", "extra='two words'")
    assert (tmp_path / "out" / "c").read_text() == "two words"
    with pytest.raises(SystemExit, match="--set words: expected is NAME=VALUE; quote one with blanks"):
        job("--set", "word=two", "words")
    with pytest.raises(SystemExit, match="job.yaml has no 'wrod'; extra, output, word"):
        job("--set", "wrod=first")


def test_make_passes_values_on_as_the_shell_reads_them():
    values = ["DATA=d", "PYTHON_TRAIN=p", "SET=picture_sizes='81 97' photo_baseline="]
    command = ["make", "-n", "--no-print-directory", "reproduce", *values]
    recipe = subprocess.run(command, cwd=TRAINING.parent, capture_output=True, text=True, check=True).stdout
    words = shlex.split(recipe.replace("\\\n", " "))
    assert words[words.index("--set") + 1 :] == ["picture_sizes=81 97", "photo_baseline="]


@pytest.mark.parametrize("value", ["first", "./first"])
def test_a_word_is_no_path_even_if_there_is_such_a_file(job, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    Path("first").touch()
    job("--set", f"word={value}")
    assert (tmp_path / "out" / "a").read_text() == ("first" if value == "first" else str(tmp_path / "first"))


def test_wrong_input_is_named(job, tmp_path):
    with pytest.raises(SystemExit, match="nowhere/celeba: no such folder of celeba"):
        job(data=tmp_path / "nowhere")
    for text, message in (
        ("stages: [", "cannot be read as YAML"),
        ("stage: []", "expected are the keys base, values and stages"),
        ("{base: job.yaml, values: {wrod: x}}", "job.yaml has no value 'wrod'"),
        ("{values: {}, stages: [{name: a, runs: b}]}", "a stage has name and run"),
        ("{values: {}, stages: [{name: a, run: 'work.py {nothing}'}]}", "a: no value 'nothing'; give it with --set"),
    ):
        config = tmp_path / "wrong.yaml"
        config.write_text(text)
        with pytest.raises(SystemExit, match=message):
            job(config=config)


def test_data_may_come_as_shards(job, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, name in enumerate(("celeba", "objects", "scenes")):
        (tmp_path / "data" / name / "file").write_text(name)
        with tarfile.open(shards / f"{number}.tar", "w") as archive:
            archive.add(tmp_path / "data" / name, name)
    job(data=shards)
    assert (tmp_path / "out" / "data" / "objects" / "file").read_text() == "objects"


def test_shards_stay_in_their_folder(job, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(__file__, "../../outside")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shard.tar").rename(tmp_path / "shards" / "shard.tar")
    with pytest.raises(SystemExit, match="'../../outside' lies outside the folder"):
        job(data=tmp_path / "shards")
    assert not (tmp_path / "outside").exists()


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.mark.parametrize("config", ["fast", "everyone"])
def test_every_stage_of_the_cascade_runs(train_all, config, data, tmp_path, monkeypatch):
    def run(stage, processes, device, lock):
        """In this process: sixteen others would import torch sixteen times."""
        stage.record.parent.mkdir(parents=True, exist_ok=True)
        script, *options = stage.words
        printed = io.TextIOWrapper(io.BytesIO())
        with redirect_stdout(printed):
            if script == "faceattr":
                assert faceattr_main([*options, "--device", "cpu", "--quiet"]) == 0
            else:
                workers = ["--workers", "0", "--threads", "1", "--device", "cpu"]
                monkeypatch.setattr(sys, "argv", [script, *(workers if script in train_all.PARALLEL else []), *options])
                runpy.run_path(str(TRAINING / script), run_name="__main__")
        printed.seek(0)
        stage.output.write_text(printed.read())
        stage.record.write_text(json.dumps({"command": stage.words, "seconds": 1.0}))
        stage.seconds = 1.0
        assert stage.makes.exists()

    monkeypatch.setattr(train_all.Stage, "run", run)
    words = [str(TRAINING / "configs" / f"{config}.yaml"), "--data", str(data), "--output", str(tmp_path / "run")]
    values = dict(SMALL)
    if config == "everyone":
        without = " ".join(f"--without {data / name} 1" for name in ("objects/train", "scenes", "negatives"))
        values |= SMALL_EVERYONE | {"face_without": without}
    for name, value in values.items():
        words += ["--set", f"{name}={value}"]
    monkeypatch.setattr(sys, "argv", ["train_all.py", *words])
    train_all.main()
    results = (tmp_path / "run" / "RESULTS.md").read_text()
    assert "mean of 40" in results and "| tags_on_photos | 1 |" in results
    checkpoint = load_checkpoint(tmp_path / "run" / "faceattr.safetensors")
    training = checkpoint.metadata["training"]
    assert training["lnet_o"]["pictures"] == training["lnet_s"]["pictures"]
    assert training["lnet_s"]["steps"] == 1
    if config == "fast":
        assert training["lnet_o"]["pictures"] | {"without": 0} == {"faces": 24, "without": 0, "photos": 6}
        assert training["svm"]["pictures"] == training["svm"]["held_out"] == 24
    else:
        assert training["lnet_o"]["pictures"]["photos"] == 6 + 30 + 4 + 4
        assert checkpoint.age is not None and set(checkpoint.metadata["attributes"]) > set(ATTRIBUTES)
    assert sum(training["anet"]["images"].values()) == training["anet"]["pictures"] > 0
    rows = list(csv.reader((tmp_path / "run" / "predictions.csv").open()))
    assert rows[0][: 1 + len(ATTRIBUTES)] == ["image", *ATTRIBUTES] and len(rows) == 1 + 24


def test_what_cannot_be_measured_is_said_at_the_start(train_all, data):
    celeba = data / "celeba"
    assert train_all.check_celeba(celeba, "official", 2) == [
        "Pictures of partitions 0, 1 and 2: 24 + 24 + 24 of img_align_celeba, 6 + 6 + 6 of img_celeba."
    ]
    for number in range(48, 72):
        (celeba / "img_celeba" / f"{number:06}.jpg").unlink(missing_ok=True)
    notes = train_all.check_celeba(celeba, "official", 2)
    assert "6 + 6 + 0 of img_celeba" in notes[0]
    assert "Whole photos are not measured" in notes[1] and "--set photo_partition=0" in notes[1]
    assert len(train_all.check_celeba(celeba, "official", 0)) == 1

    for number in range(24, 48):
        (celeba / "img_align_celeba" / f"{number:06}.jpg").unlink()
    with pytest.raises(ValueError, match="img_align_celeba: has no picture of partition 1 of the official split"):
        train_all.check_celeba(celeba, "official", 0)


def test_what_later_stages_would_lack_stops_the_first(train_all, data, tmp_path, monkeypatch):
    shutil.rmtree(data / "celeba" / "img_align_celeba")
    (data / "celeba" / "img_align_celeba").mkdir()
    config = str(TRAINING / "configs" / "fast.yaml")
    words = ["train_all.py", config, "--data", str(data), "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="img_align_celeba: holds none of the 72 pictures"):
        train_all.main()
    assert not (tmp_path / "run" / "stages").exists()


@pytest.mark.parametrize("name", ["cascade", "everyone", "paper", "fast"])
def test_the_configurations_fill_every_command(train_all, name, tmp_path):
    path = TRAINING / "configs" / f"{name}.yaml"
    config = train_all.read_config(path)
    folders = dict.fromkeys(("celeba", "objects", "scenes", "data", "output", "lfwa", "boxes"), Path("a folder/x"))
    values = train_all.fill_values(config, {**folders, "here": path.parent}, {}, name)
    assert json.loads(Path(*shlex.split(values["localization"])).read_text())
    for stage in config["stages"]:
        words = train_all.Stage(stage, values, tmp_path).words
        assert words[0] == "faceattr" or (TRAINING / words[0]).exists()
        assert "a" not in words  # a folder is one word, whatever its name holds
