"""The command line from end to end, on a checkpoint whose answers are known (small_checkpoint.py)."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import ATTRIBUTES, NEUTRAL, SMILING, draw_photo, save_aged_checkpoint
from unprivileged import open_folder, unprivileged  # noqa: F401 a fixture

import faceattr
from faceattr.cli import main


@pytest.fixture(scope="module")
def weights(weights):
    return str(weights)


def many_links(photo, folder, count):
    """A folder in which a photo is so many times: 0000.png, ..."""
    folder.mkdir()
    for number in range(count):
        os.link(photo, folder / f"{number:04}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two faces, none, one; two names are equal; two files are no pictures, one is not asked for."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]).save(folder / "a.png")
    draw_photo([]).save(folder / "b.jpg")
    draw_photo([(200, 100, 32, SMILING)]).save(folder / "sub" / "a.png")
    (folder / "c.jpg").write_text("this is text")
    (folder / "d.png").touch()
    (folder / "notes.txt").write_text("no picture by its name")
    return folder


NAMES = ["a.png", "b.jpg", "c.jpg", "d.png", "sub/a.png"]
FACES = [2, 0, 0, 0, 1]


def run(weights, *arguments, **options):
    command = [sys.executable, "-m", "faceattr.cli", arguments[0], "--weights", weights, *map(str, arguments[1:])]
    return subprocess.run(command, capture_output=True, text=True, **options)


class TestFormats:
    def records(self, weights, capsys, *arguments):
        status = main(["predict", "--weights", weights, "--device", "cpu", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    def test_jsonl(self, weights, photos, capsys):
        status, out, err = self.records(weights, capsys, photos, "--format", "jsonl")
        records = [json.loads(line) for line in out.splitlines()]
        assert status == 1
        assert [record["image"] for record in records] == [str(photos / name) for name in NAMES]
        assert [len(record["faces"]) for record in records] == FACES
        good = records[0]
        assert set(good) == {"image", "width", "height", "faces", "error"}
        assert (good["width"], good["height"], good["error"]) == (320, 240, None)
        face = good["faces"][0]
        assert set(face) == {"box", "score", "attributes", "labels", "notes"}
        assert list(face["attributes"]) == list(ATTRIBUTES)
        assert sorted(face["labels"][0] for face in good["faces"]) == ["Frowning", "Smiling"]
        assert records[2]["error"].startswith(str(photos / "c.jpg")) and "0 bytes" in records[3]["error"]
        for name in ("c.jpg", "d.png"):
            assert sum(str(photos / name) in line for line in err.splitlines()) == 1

    def test_json_is_one_array(self, weights, photos, capsys):
        status, out, _ = self.records(weights, capsys, photos, "--format", "json")
        assert status == 1
        assert [len(record["faces"]) for record in json.loads(out)] == FACES

    def test_json_of_nothing(self, weights, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        status, out, err = self.records(weights, capsys, tmp_path / "empty", "--format", "json")
        (record,) = json.loads(out)
        assert status == 1
        assert record["error"] == f"{tmp_path / 'empty'}: no pictures in this folder" and record["error"] in err

    def test_csv(self, weights, photos, capsys):
        status, out, _ = self.records(weights, capsys, photos, "--format", "csv", "--exclude", "Present")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert status == 1
        assert [row["image"] for row in rows] == [str(photos / name) for name in ("a.png", *NAMES)]
        assert list(rows[0])[4:] == ["x0", "y0", "x1", "y1", "score", "Smiling", "Frowning", "notes", "error"]
        first = rows[0]
        assert first["face"] == "1" and 0 <= float(first["x0"]) < float(first["x1"]) <= 320
        assert float(first["Smiling"]) + float(first["Frowning"]) == pytest.approx(1, abs=2e-4)
        assert rows[2]["face"] == "" and rows[2]["error"] == "" and "not a picture" in rows[3]["error"]

    def test_table(self, weights, photos, capsys):
        status, out, _ = self.records(weights, capsys, photos)
        lines = out.splitlines()
        assert status == 1 and len(lines) == 1 + 2 + 4
        assert lines[0].split()[:2] == ["image", "size"] and "320 x 240" in lines[1]
        assert sum("Smiling 1.00" in line for line in lines) == 2
        assert lines[3].endswith("no face") and "error: " in lines[4]

    def test_good_photos_alone_give_status_0(self, weights, photos, capsys):
        status, out, err = self.records(weights, capsys, photos / "a.png", photos / "b.jpg", "--quiet")
        assert status == 0 and err == "" and len(out.splitlines()) == 4

    def test_progress_and_device_on_stderr(self, weights, photos, capsys):
        _, out, err = self.records(weights, capsys, photos / "a.png", "--format", "jsonl")
        assert f"on cpu, weights {weights}" in err and "1/1" in err and "photo/s" in err
        assert len(out.splitlines()) == 1

    def test_options_reach_the_pipeline(self, weights, photos, capsys):
        photo = photos / "a.png"
        arguments = [
            photo,
            "--format",
            "jsonl",
            "--max-faces",
            1,
            "--attributes",
            "Present, Smiling",
            "--thresholds",
            "balanced",
        ]
        (face,) = json.loads(self.records(weights, capsys, *arguments)[1])["faces"]
        assert list(face["attributes"]) == ["Smiling", "Present"] and "Present" in face["labels"]
        arguments = [photo, "--format", "jsonl", "--min-score", 1]
        assert json.loads(self.records(weights, capsys, *arguments)[1])["faces"] == []

    def test_detect(self, weights, photos, capsys):
        status = main(["detect", "--weights", weights, str(photos / "a.png"), "--format", "jsonl"])
        record = json.loads(capsys.readouterr().out)
        assert status == 0
        assert [sorted(face["box"]) != [] and face["attributes"] for face in record["faces"]] == [{}, {}]


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--attributes", "Smilling"], "attribute 'Smilling' is unknown to these weights; choose from Smiling"),
            (["--min-score", "3"], "a score is between 0 and 1"),
            (["--device", "nowhere"], "device 'nowhere' cannot be used"),
            (["--weights", "nothing.safetensors"], "nothing.safetensors: cannot be read"),
        ],
    )
    def test_nothing_starts(self, weights, photos, capsys, arguments, message):
        status = main(["predict", str(photos), "--weights", weights, *arguments])
        captured = capsys.readouterr()
        assert status == 2 and captured.out == ""
        assert captured.err.startswith("faceattr: ") and message in captured.err and captured.err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["predict"],
            ["predict", "a", "--max-faces", "0"],
            ["predict", "a", "--attributes", "A", "--exclude", "B"],
        ],
    )
    def test_usage(self, arguments, capsys):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2 and "usage: faceattr" in capsys.readouterr().err

    def test_output_that_is_a_file(self, weights, photos, tmp_path, capsys):
        (tmp_path / "out").touch()
        assert main(["predict", str(photos), "--weights", weights, "--output", str(tmp_path / "out")]) == 2
        assert f"{tmp_path / 'out'}: cannot be made a folder" in capsys.readouterr().err


def test_streams_that_are_no_files(weights, photos):
    """As in a notebook."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["predict", str(photos / "a.png"), "--weights", weights, "--format", "jsonl", "--quiet"]) == 0
    assert len(json.loads(out.getvalue())["faces"]) == 2 and err.getvalue() == ""


class TestOutput:
    def test_pictures(self, weights, photos, tmp_path, capsys):
        output = tmp_path / "out" / "pictures"
        main(["predict", str(photos), "--weights", weights, "--output", str(output)])
        assert f"pictures are in {output}" in capsys.readouterr().err
        names = {path.name for path in output.iterdir()}
        pictures = {f"{stem}.{kind}.jpg" for stem in ("a", "a-2", "b") for kind in ("faces", "lnet_o", "lnet_s")}
        assert names == {*pictures, "gallery.html", ".faceattr-output"}
        for path in output.glob("*.jpg"):
            with Image.open(path) as picture:
                assert picture.size == (320, 240)

        def green(name):
            pixels = np.asarray(Image.open(output / name)).astype(int)
            return (pixels[..., 1] > 180) & (pixels[..., 0] < 140)  # the frames' colour

        assert not green("b.faces.jpg").any()
        rows, columns = np.nonzero(green("a-2.faces.jpg"))  # one face, at (200, 100), about 32 pixels large
        assert 75 < rows.min() < 90 and 110 < rows.max() < 125 and 175 < columns.min() < 195

    def test_page_of_all_photos(self, weights, photos, tmp_path):
        (tmp_path / "out").mkdir()
        taken = tmp_path / "out" / "gallery.html"
        taken.write_text("no picture, but asked for by name")
        main(["predict", str(photos), str(taken), "--weights", weights, "--output", str(taken.parent)])
        assert taken.read_text() == "no picture, but asked for by name"
        page = (tmp_path / "out" / "gallery-2.html").read_text()
        found = [json.loads(photo) for photo in re.findall(r'class="photo">(.*)</script>', page)]
        assert [photo["name"] for photo in found] == ["a.png", "b.jpg", "sub/a.png"] and str(photos) not in page
        assert [len(photo["faces"]) for photo in found] == [2, 0, 1] and "Frowning" in page
        (face,) = found[2]["faces"]
        assert face["labels"] == [[1, 0, 0]] and face["values"][0][0] > 0.99 and face["notes"][0].startswith("score ")
        left, _, width, _ = face["box"]
        assert left < 100 * 200 / 320 < left + width

    def test_ages(self, photos, tmp_path):
        save_aged_checkpoint(tmp_path / "w.safetensors")
        arguments = ["--weights", str(tmp_path / "w.safetensors"), "--output", str(tmp_path / "out"), "--quiet"]
        main(["predict", str(photos / "sub"), *arguments])
        assert '"age 45 (41 to 49)"' in (tmp_path / "out" / "gallery.html").read_text()

    def test_page_of_boxes_alone(self, weights, photos, tmp_path):
        main(["detect", str(photos / "a.png"), "--weights", weights, "--output", str(tmp_path / "out"), "--quiet"])
        page = (tmp_path / "out" / "gallery.html").read_text()
        assert '"attributes":[]' in page and page.count('"box":') == 2

    def test_inputs_are_never_overwritten(self, weights, photos, capsys):
        taken = photos / "a.faces.jpg"
        shutil.copy(photos / "b.jpg", taken)
        before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
        main(["predict", str(photos), "--weights", weights, "--output", str(photos)])
        assert all(path.read_bytes() == content for path, content in before.items())
        assert {"a-2.faces.jpg", "a-3.faces.jpg", "a.faces.faces.jpg"} <= {path.name for path in photos.iterdir()}


class TestProcess:
    """What only a process of its own can show."""

    def test_end_to_end(self, weights, photos, tmp_path):
        result = run(weights, "predict", photos, "--format", "jsonl", "--output", "out", cwd=tmp_path)
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.returncode == 1
        assert [len(record["faces"]) for record in records] == FACES
        assert "Traceback" not in result.stderr
        assert len(list((tmp_path / "out").glob("*.*"))) == 11

    def test_broken_pipe(self, weights, photos, tmp_path):
        many = many_links(photos / "a.png", tmp_path / "many", 200)
        command = [sys.executable, "-m", "faceattr.cli", "predict", many, "--weights", weights, "--format", "jsonl"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert json.loads(process.stdout.readline())["image"] == str(many / "0000.png")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert "Traceback" not in errors and "BrokenPipe" not in errors

    def test_interrupt(self, weights, photos, tmp_path):
        many = many_links(photos / "a.png", tmp_path / "many", 2000)
        command = [sys.executable, "-m", "faceattr.cli", "predict", many, "--weights", weights, "--format", "json"]
        with open(tmp_path / "out.json", "w+") as out:
            # A shell's background job ignores SIGINT, and so would its children: as at a prompt, it is not ignored.
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            while process.poll() is None and os.path.getsize(out.name) < 1000:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
            out.seek(0)  # the process moved the common position
            records = json.load(out)
        assert process.returncode == 128 + signal.SIGINT
        assert 0 < len(records) < 2000 and "Traceback" not in errors

    def test_help_is_quick_to_import(self, tmp_path):
        script = "import sys, faceattr.cli; faceattr.cli._parser(); print('torch' in sys.modules)"
        result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert result.stdout == "False\n", result.stderr


def test_info(weights, capsys):
    assert main(["info", "--weights", weights]) == 0
    out = capsys.readouterr().out
    assert f"faceattr {faceattr.__version__}" in out and "torch " in out and f"weights {weights}" in out
    lines = dict(line.strip().split(": ", 1) for line in out.splitlines() if line.startswith("  "))
    assert json.loads(lines["attributes"]) == list(ATTRIBUTES) and json.loads(lines["format_version"]) == 4


def test_info_times_the_cascade(weights, capsys, tmp_path, monkeypatch):
    from faceattr import speed

    monkeypatch.setattr(speed, "_milliseconds", lambda run, device, seconds: run() and 12.0)
    photo = tmp_path / "photo.png"
    draw_photo([(100, 100, 32, SMILING)]).save(photo)
    assert main(["info", "--weights", weights, "--device", "cpu", "--benchmark", str(photo)]) == 0
    out = capsys.readouterr().out
    assert "300x300 pixels with 1 faces" in out and "whole cascade 12.0 ms" in out
    assert float(out.split("threads: ")[1].split()[0]) > 0


class TestHardships:
    """What collections and machines are like: the run goes on, and says what was wrong."""

    def predict(self, weights, capsys, *arguments):
        status = main(["predict", "--weights", weights, "--device", "cpu", "--format", "jsonl", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, [json.loads(line) for line in captured.out.splitlines()], captured.err

    def test_paths_that_cannot_be_read(self, weights, photos, open_folder, capsys):  # noqa: F811
        shutil.copytree(photos, open_folder / "photos")
        closed = open_folder / "photos" / "sub"
        closed.chmod(0)
        long = str(open_folder / ("x" * 300 + ".jpg"))
        weights = shutil.copy(weights, open_folder)
        os.chmod(weights, 0o644)
        self.predict(weights, capsys, photos / "a.png")  # loads modules from where only root may look
        with unprivileged():
            status, records, err = self.predict(weights, capsys, "", long, closed / "a.png", open_folder / "photos")
        assert status == 1 and len(records) == 8, err
        errors = {record["image"]: record["error"] for record in records if record["error"]}
        assert "an empty path" in errors[""] and "File name too long" in errors[long]
        assert "(Permission denied); check" in errors[str(closed / "a.png")]
        assert "this folder cannot be read" in errors[str(closed)]
        assert [len(record["faces"]) for record in records if not record["error"]] == [2, 0]
        assert err.count("Permission denied") == 2 and "Traceback" not in err

    def test_no_weights_have_such_a_name(self, photos, capsys):
        assert main(["predict", str(photos), "--weights", "x" * 300]) == 2
        assert "File name too long" in capsys.readouterr().err

    def test_files_that_are_none(self, weights, photos, capsys):
        os.mkfifo(photos / "pipe.jpg")
        (photos / "round.jpg").symlink_to("round.jpg")
        (photos / "gone.jpg").symlink_to("nothing.jpg")
        status, records, err = self.predict(weights, capsys, photos, "--output", photos.parent / "out")
        errors = {os.path.basename(record["image"]): record["error"] for record in records}
        assert status == 1 and "Traceback" not in err
        assert "is a pipe" in errors["pipe.jpg"] and "links to what is not there" in errors["gone.jpg"]
        assert "symbolic links" in errors["round.jpg"] and errors["a.png"] is None

    @pytest.mark.parametrize("name", ["あ" * 82 + ".png", "x" * 251 + ".png", os.fsdecode(b"\xff" * 240 + b".png")])
    def test_output_of_long_names(self, weights, photos, tmp_path, capsys, name):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            shutil.copy(photos / "a.png", tmp_path / folder / name)
        out = tmp_path / "out"
        status, _, err = self.predict(weights, capsys, tmp_path / "one", tmp_path / "two", "--output", out, "--quiet")
        assert (status, err) == (0, "") and len(list(out.glob("*.faces.jpg"))) == 2

    def test_output_inside_the_input_is_no_input(self, weights, photos, capsys):
        for output in (photos, photos / "out", photos / "sub" / "out"):
            for _ in range(3):
                _, records, err = self.predict(weights, capsys, photos, "--output", output)
                assert [os.path.relpath(record["image"], photos) for record in records] == NAMES
        assert "pictures that --output wrote were passed over" in err
        # Neither for a run that writes nothing, nor are names taken twice.
        _, records, _ = self.predict(weights, capsys, photos)
        assert len(records) == len(NAMES) and len(list((photos / "out").glob("*.faces.jpg"))) == 3

    def test_one_run_at_a_time_writes_into_a_folder(self, weights, photos, tmp_path, capsys):
        from faceattr.gallery import Gallery

        with Gallery(tmp_path / "out", []):
            status, records, err = self.predict(weights, capsys, photos, "--output", tmp_path / "out")
            assert status == 2 and records == [] and "another run writes its pictures here" in err
        assert self.predict(weights, capsys, photos, "--output", tmp_path / "out")[0] == 1

    def limited(self, weights, arguments, cwd, size):
        """Runs with files limited in size, as a disk that gets full limits them."""
        import resource

        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
        return run(weights, "predict", *arguments, cwd=cwd, preexec_fn=limit)

    def test_no_room_for_pictures(self, weights, photos, tmp_path):
        arguments = [photos, "--format", "jsonl", "--output", "out", "--quiet"]
        result = self.limited(weights, arguments, tmp_path, 900)
        assert result.returncode == 1 and len(result.stdout.splitlines()) == 5  # all records
        assert result.stderr.count("no more pictures are written") == 1 and "Traceback" not in result.stderr
        assert "(File too large); choose another folder" in result.stderr
        assert not list((tmp_path / "out").glob("*gallery.html*"))

    def test_no_room_for_the_page(self, weights, photos, tmp_path):
        arguments = ["photos", "--format", "jsonl", "--output", "out", "--quiet"]
        result = self.limited(weights, arguments, tmp_path, 13000)  # the page alone is larger
        assert len(result.stdout.splitlines()) == 5 and "Traceback" not in result.stderr
        assert "gallery.html: cannot be written (File too large)" in result.stderr
        assert not list((tmp_path / "out").glob("*gallery*")) and not list((tmp_path / "out").glob(".gallery*"))

    def test_no_room_for_results(self, weights, photos, tmp_path):
        command = [sys.executable, "-m", "faceattr.cli", "predict", photos, "--weights", weights]
        with open("/dev/full", "w") as full:
            for format in ("json", "csv"):
                result = subprocess.run(
                    [*command, "--format", format], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
                )
                assert result.returncode == 2
                assert "No space left on device" in result.stderr and "Traceback" not in result.stderr

    @pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
    def test_started_without_standard_streams(self, weights, photos, tmp_path, closed):
        command = (
            f"exec {sys.executable} -m faceattr.cli predict {photos} --weights {weights} --format jsonl --output out"
        )
        result = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert len(result.stdout.splitlines()) == (0 if " >&-" in f" {closed}" else 5)
        assert len(list((tmp_path / "out").glob("*.faces.jpg"))) == 3

    def test_terminated(self, weights, photos, tmp_path):
        many = many_links(photos / "a.png", tmp_path / "many", 2000)
        command = [sys.executable, "-m", "faceattr.cli", "predict", many, "--weights", weights, "--format", "json"]
        with open(tmp_path / "out.json", "w+") as out:
            process = subprocess.Popen(
                [*command, "--output", "out"], cwd=tmp_path, stdout=out, stderr=subprocess.DEVNULL
            )
            while process.poll() is None and os.path.getsize(out.name) < 1000:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            out.seek(0)
            records = json.load(out)
        assert process.returncode == 128 + signal.SIGTERM and 0 < len(records) < 2000
        assert (tmp_path / "out" / "gallery.html").read_text().rstrip().endswith("</html>")

    def test_warnings_have_the_name_of_the_photo(self, weights, photos, capsys):
        data = io.BytesIO()
        Image.new("RGB", (64, 64)).save(data, "JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05\x01\x12")
        (photos / "exif.jpg").write_bytes(data.getvalue())
        status, _, err = self.predict(weights, capsys, photos / "exif.jpg")
        assert status == 0 and f"faceattr: {photos / 'exif.jpg'}: Corrupt EXIF data" in err
        assert self.predict(weights, capsys, photos / "exif.jpg", "--quiet")[::2] == (0, "")

    def test_names_cannot_write_on_the_terminal(self, weights, photos, capsys):
        (photos / "\x1b[2Jevil\n.jpg").write_text("text")
        main(["predict", "--weights", weights, "--quiet", str(photos)])
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err and r"\x1b[2Jevil\n.jpg: not a picture" in captured.err

    def test_no_names(self, capsys):
        with pytest.raises(SystemExit):
            main(["predict", "a.jpg", "--attributes", ","])
        assert "',' holds no name" in capsys.readouterr().err

    def test_none_left(self, weights, photos, capsys):
        names = ",".join(ATTRIBUTES)
        assert main(["predict", "--weights", weights, str(photos), "--exclude", names]) == 2
        assert "for boxes alone use detect" in capsys.readouterr().err
