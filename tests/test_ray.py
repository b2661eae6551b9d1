"""Prediction on a local Ray with two workers: nothing is lost or doubled, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_checkpoint import DISCS, draw_photo, save_aged_checkpoint

import faceattr
from faceattr import ray as faceattr_ray
from faceattr.cli import main

NO_RAY = "Ray is not installed: pip install 'faceattr[ray]'"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven files: 0 to 2 faces each, and one that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        draw_photo(DISCS[: i % 3]).save(folder / f"{i:02}.png")
    (folder / "text.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def expected(weights, photos):
    """The records that the local engine gives."""
    model = faceattr.load(weights, device="cpu")
    return [prediction.to_dict() for prediction in model.iter_predict(sorted(photos.iterdir()))]


@pytest.fixture(scope="module")
def local_ray():
    ray = pytest.importorskip("ray", reason=NO_RAY)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def predict(photos, output, weights, **options):
    return faceattr_ray.predict_parts(
        sorted(photos.iterdir()), output, weights, part_size=2, workers=2, device="cpu", **options
    )


def read(output):
    parts = sorted(output.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def same(records, expected):
    assert [record["image"] for record in records] == [record["image"] for record in expected]
    for record, other in zip(records, expected, strict=True):
        assert record["error"] == other["error"] and len(record["faces"]) == len(other["faces"])
        for face, of_other in zip(record["faces"], other["faces"], strict=True):
            assert face["box"] == pytest.approx(of_other["box"]) and face["labels"] == of_other["labels"]
            assert face["attributes"] == pytest.approx(of_other["attributes"], abs=1e-4)


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(local_ray, photos, weights, expected, tmp_path, monkeypatch):
    marker = str(tmp_path / "killed")

    class Dying(faceattr_ray.PartWriter):
        """Is killed, once, in the middle of the third part."""

        def records(self, images):
            for record in super().records(images):
                if record["image"].endswith("05.png") and not os.path.exists(marker):
                    open(marker, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield record

    monkeypatch.setattr(faceattr_ray, "PartWriter", Dying)
    output = tmp_path / "parts"
    done = predict(photos, output, weights)
    assert os.path.exists(marker)
    assert (done.photos, done.failed, done.kept_parts) == (11, 1, 0)
    same(read(output), expected)
    assert len(list(output.glob("part-*-of-00006.jsonl"))) == 6 and not list(output.glob(".*"))


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(local_ray, photos, weights, expected, tmp_path):
    output = tmp_path / "parts"
    predict(photos, output, weights)
    kept, lost = output / "part-00000-of-00006.jsonl", output / "part-00002-of-00006.jsonl"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (output / ".part-00002-of-00006.jsonl.0.partial").write_text("half a rec")
    done = predict(photos, output, weights)
    assert (done.photos, done.failed, done.kept_parts) == (2, 1, 5) and kept.stat().st_mtime_ns == before
    same(read(output), expected)
    assert not list(output.glob(".*"))
    assert predict(photos, output, weights).photos == 0
    with pytest.raises(ValueError, match="holds the parts of another job .options differ."):
        predict(photos, output, weights, detect_only=True)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_part_goes_on_where_its_worker_was_killed(photos, weights, expected, tmp_path, format, monkeypatch):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    images = [str(path) for path in sorted(photos.iterdir())]
    path = tmp_path / f"part-00000-of-00001.{format}"

    class Dying(faceattr_ray.PartWriter):
        def records(self, images):
            for number, record in enumerate(super().records(images)):
                if number == 4:
                    raise KeyboardInterrupt
                yield record

    with pytest.raises(KeyboardInterrupt):
        Dying(weights, device="cpu").write(path, images)
    (partial,) = tmp_path.glob(".*.partial")
    partial.write_text(partial.read_text() + '{"image": "half')
    writer, looked_at = faceattr_ray.PartWriter(weights, device="cpu"), []
    iter_predict = writer.model.iter_predict
    monkeypatch.setattr(
        writer.model, "iter_predict", lambda paths, **options: looked_at.extend(paths) or iter_predict(paths, **options)
    )
    assert writer.write(path, images) == (11, 1)
    assert looked_at == images[4:]
    if format == "jsonl":
        same(read(tmp_path), expected)


def test_parquet_keeps_ages(photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    save_aged_checkpoint(tmp_path / "w.safetensors")
    writer, images = faceattr_ray.PartWriter(tmp_path / "w.safetensors", device="cpu"), sorted(photos.iterdir())[:3]
    writer.write(tmp_path / "part.parquet", [str(path) for path in images])
    records = parquet.read_table(tmp_path / "part.parquet").to_pylist()
    for record, faces in zip(records, writer.model.predict(images), strict=True):
        assert [face["age"] for face in record["faces"]] == [pytest.approx(face.to_dict()["age"]) for face in faces]
    assert len(records[2]["faces"]) == 2


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_failures_of_parts_that_were_there_count(photos, weights, tmp_path, format, monkeypatch):
    """A run that was killed said nothing of them."""
    pytest.importorskip("ray", reason=NO_RAY)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("nothing is left to do"))
    images = sorted(map(str, photos.iterdir()))
    writer = faceattr_ray.PartWriter(weights, device="cpu")
    for number in range(6):
        part = images[2 * number : 2 * number + 2]
        writer.write(tmp_path / f"part-{number:05}-of-00006.{format}", part)
    done = predict(photos, tmp_path, weights, format=format)
    assert (done.photos, done.failed, done.kept_parts) == (0, 1, 6)


def test_videos_are_refused(weights, tmp_path):
    pytest.importorskip("ray", reason=NO_RAY)
    with pytest.raises(ValueError, match="film.mp4: a video; these are for the local engine"):
        faceattr_ray.predict_parts(["film.mp4"], tmp_path, weights)


@pytest.mark.slow
def test_parquet(local_ray, photos, weights, expected, tmp_path):
    from pyarrow import parquet

    predict(photos, tmp_path, weights, format="parquet")
    table = parquet.read_table(sorted(tmp_path.glob("part-*.parquet")))
    records = table.to_pylist()
    for record in records:
        for face in record["faces"]:
            face["attributes"] = dict(face["attributes"])
    same(records, expected)


@pytest.mark.slow
def test_map_batches(local_ray, photos, weights, expected):
    import ray.data

    files = sorted(photos.iterdir())
    rows = [{"image": path.read_bytes()} for path in files[:3]]
    dataset = ray.data.from_items(rows, override_num_blocks=1).map_batches(
        faceattr_ray.PredictBatches,
        fn_constructor_kwargs={"weights": str(weights), "device": "cpu"},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=2,
    )
    records = dataset.take_all()
    assert [record["image"] for record in records] == [f"bytes ({len(row['image'])})" for row in rows]
    found = [len(json.loads(record["faces"])) for record in records]
    assert found == [0, 1, 2] and {record["width"] for record in records} == {320}


def test_map_batches_without_ray(photos, weights, expected):
    batch = {"image": np.array([str(path) for path in sorted(photos.iterdir())], dtype=object)}
    records = faceattr_ray.PredictBatches(weights, device="cpu")(batch)
    assert list(records) == ["image", "width", "height", "faces", "error"]
    columns = [dict(zip(records, row, strict=True)) for row in zip(*records.values(), strict=True)]
    same([{**column, "faces": json.loads(column["faces"])} for column in columns], expected)


@pytest.mark.slow
def test_the_command_survives_its_own_death(photos, weights, expected, tmp_path):
    pytest.importorskip("ray", reason=NO_RAY)
    command = [
        sys.executable,
        "-m",
        "faceattr.cli",
        "predict",
        str(photos),
        "--engine",
        "ray",
        "--output",
        str(tmp_path),
    ]
    command += ["--weights", str(weights), "--device", "cpu", "--part-size", "1", "--workers", "2", "--quiet"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("part-*")) and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 1  # text.jpg
    same(read(tmp_path), expected)


def test_what_cannot_start(photos, weights, tmp_path, capsys, monkeypatch):
    arguments = ["predict", str(photos), "--engine", "ray", "--weights", str(weights)]
    assert main(arguments) == 2
    assert "give the folder for its parts with --output" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no picture"):
        faceattr_ray.predict_parts([], tmp_path, weights)
    with pytest.raises(ValueError, match="format is 'csv'"):
        faceattr_ray.predict_parts(["a.jpg"], tmp_path, weights, format="csv")
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert "Ray is not installed; pip install 'faceattr[ray]'" in capsys.readouterr().err
