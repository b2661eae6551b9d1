"""The index: only what is new is looked at, whatever happens meanwhile; and searches over it."""

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import torch
from small_checkpoint import (
    ATTRIBUTES,
    BORDER,
    DISCS,
    SMILING,
    draw_photo,
)
from unprivileged import open_folder, unprivileged  # noqa: F401 a fixture

import faceattr
from faceattr.cli import main
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.search.index import Index


@pytest.fixture(scope="module")
def other_model(weights, tmp_path_factory):
    """The same nets with another SVM and one name that is new."""
    checkpoint = load_checkpoint(weights)
    with torch.no_grad():
        checkpoint.svm.bias[0] = 7  # everybody smiles
    metadata = {**checkpoint.metadata, "attributes": ["Smiling", "Frowning", "Alive"]}
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    nets = {name: getattr(checkpoint, name) for name in ("lnet_o", "lnet_s", "anet", "svm", "face")}
    save_checkpoint(path, **nets, metadata=metadata)
    return faceattr.load(path, device="cpu")


@pytest.fixture(scope="module")
def aged(aged_weights):
    return faceattr.load(aged_weights, device="cpu")


@pytest.fixture
def photos(tmp_path):
    """Both faces, none, a smile in a folder of its own, and what is no picture."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    draw_photo(DISCS).save(folder / "a.png")
    draw_photo([]).save(folder / "b.png")
    draw_photo([(200, 100, 32, SMILING)]).save(folder / "sub" / "c.png")
    (folder / "d.jpg").write_text("this is text")
    return folder


def update(db, model, *paths, **options):
    """What was done, and the errors."""
    with Index(db) as index:
        steps = list(index.update(model, paths, **options))
    errors = [error for _, error in steps if error]
    return {name: value for name, value in vars(steps[-1][0]).items() if value} if steps else {}, errors


def found(db, query="", **options):
    with Index(db, read_only=True) as index:
        hits = list(index.search(query, **options))
        assert (
            len(hits) == index.count(query, **{k: v for k, v in options.items() if k == "name"}) or "limit" in options
        )
    return [os.path.basename(hit.prediction.image) for hit in hits]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the pictures that are decoded."""
    from faceattr import pipeline

    names, load_photo = [], pipeline.load_photo

    def load(source, *arguments):
        names.append(os.path.basename(os.fspath(source)))
        return load_photo(source, *arguments)

    monkeypatch.setattr(pipeline, "load_photo", load)
    return names


class TestUpdate:
    def test_holds_what_predict_says(self, model, photos, tmp_path):
        done, errors = update(tmp_path / "db", model, photos)
        assert done == {"new": 3, "failed": 1} and len(errors) == 1 and "d.jpg: not a picture" in errors[0]
        with Index(tmp_path / "db", read_only=True) as index:
            assert index.attributes == ATTRIBUTES and index.roots == (str(photos),)
            assert index.counts() == {"photos": 3, "faces": 3, "unreadable": 1, "missing": 0}
            for hit in index.search():
                expected = model.predict(hit.prediction.image)
                assert (hit.prediction.width, hit.prediction.height) == (320, 240)
                for face, other in zip(hit.prediction.faces, expected, strict=True):
                    assert (face.box, face.score, face.labels, face.notes) == (
                        other.box, other.score, other.labels, other.notes
                    )  # fmt: skip
                    assert face.attributes == pytest.approx(other.attributes, abs=1e-6)
                assert index.thumbnail(hit.id).startswith(b"\xff\xd8")

    def test_again_looks_at_nothing(self, model, photos, tmp_path, decoded):
        update(tmp_path / "db", model, photos)
        del decoded[:]
        done, _ = update(tmp_path / "db", model, photos)
        # What could not be read is tried again: a permission or a missing package is not in the file.
        assert done == {"unchanged": 3, "failed": 1} and decoded == ["d.jpg"]

    def test_changes(self, model, photos, tmp_path, decoded):
        db = tmp_path / "db"
        update(db, model, photos)
        del decoded[:]
        draw_photo(DISCS[:1]).save(photos / "b.png")
        draw_photo(DISCS).save(photos / "e.png")
        os.utime(photos / "a.png", ns=(1, 1))  # touched alone
        os.rename(photos / "sub" / "c.png", photos / "moved.png")
        shutil.copy(photos / "a.png", photos / "z.png")
        (photos / "d.jpg").unlink()
        done, errors = update(db, model, photos)
        # e.png is a copy as well: of the same pixels, saved in the same way.
        assert done == {"changed": 1, "moved": 1, "copies": 2, "unchanged": 1, "vanished": 1} and errors == []
        assert "moved.png" not in decoded and "a.png" not in decoded and "z.png" not in decoded
        assert sorted(found(db)) == ["a.png", "b.png", "e.png", "moved.png", "z.png"]
        assert found(db, "Smiling", order="path") == ["a.png", "e.png", "moved.png", "z.png"]
        assert found(db, "faces=1", order="path") == ["b.png", "moved.png"]

    def test_vanished_and_back(self, model, photos, tmp_path, decoded):
        db = tmp_path / "db"
        update(db, model, photos)
        os.rename(photos / "sub", tmp_path / "elsewhere")
        assert update(db, model, photos)[0]["vanished"] == 1
        assert "c.png" not in found(db)
        with Index(db) as index:
            assert index.counts()["missing"] == 1
        os.rename(tmp_path / "elsewhere", photos / "sub")
        del decoded[:]
        done, _ = update(db, model, photos)
        assert done == {"unchanged": 3, "failed": 1} and "c.png" in found(db) and decoded == ["d.jpg"]

    def test_a_collection_that_is_not_there_has_not_vanished(self, model, photos, tmp_path):
        db = tmp_path / "db"
        update(db, model, photos)
        os.rename(photos, tmp_path / "unmounted")
        done, errors = update(db, model, photos)
        assert done == {"failed": 1} and "no such file" in errors[0] and len(found(db)) == 3
        with Index(db) as index:
            assert index.counts()["unreadable"] == 1 and index.roots == (str(photos),)

    def test_a_photo_that_is_named_and_gone(self, model, photos, tmp_path):
        db = tmp_path / "db"
        update(db, model, photos)
        (photos / "a.png").unlink()
        done, errors = update(db, model, photos / "a.png")
        assert done == {"failed": 1} and "no such file" in errors[0] and "a.png" not in found(db)

    def test_a_folder_that_may_not_be_entered_hides_what_it_has(self, model, photos, open_folder):  # noqa: F811
        shutil.copytree(photos, open_folder / "photos")
        db = open_folder / "db"
        model.predict(photos / "a.png")
        with unprivileged():
            update(db, model, open_folder / "photos")
        (open_folder / "photos" / "sub").chmod(0)
        with unprivileged():
            done, errors = update(db, model, open_folder / "photos")
        assert "vanished" not in done and "this folder cannot be read" in errors[0]
        assert "c.png" in found(db)

    def test_another_checkpoint_keeps_the_boxes(self, model, other_model, photos, tmp_path, monkeypatch):
        db = tmp_path / "db"
        update(db, model, photos)
        before = {hit.prediction.image: hit.prediction.faces for hit in Index(db).search()}
        monkeypatch.setattr(other_model, "localizer", None)  # would fail
        (photos / "d.jpg").unlink()
        assert update(db, other_model, photos)[0] == {"rescored": 2, "unchanged": 1, "vanished": 1}
        assert update(db, other_model, photos)[0] == {"unchanged": 3}
        with Index(db) as index:
            assert index.attributes == (*ATTRIBUTES, "Alive")
            for hit in index.search("Smiling and Alive>0.9"):
                for face, old in zip(hit.prediction.faces, before[hit.prediction.image], strict=True):
                    assert (face.box, face.score, face.notes) == (old.box, old.score, old.notes)
                    assert "Present" not in face.attributes and "Smiling" in face.labels
        assert len(found(db, "Smiling")) == 2 and found(db, "Present") == []

    @pytest.mark.parametrize("scale", [1, 0.5])
    def test_scored_anew_is_as_found_anew(self, weights, model, tmp_path, monkeypatch, scale):
        """Also by a checkpoint that frames faces otherwise: here by a box of half the height about the same middle."""
        checkpoint = load_checkpoint(weights)
        old, preprocessing = checkpoint.metadata["preprocessing"], dict(checkpoint.metadata["preprocessing"])
        x0, y0, x1, y1 = old["aligned_box"]
        (x, dx), (y, dy) = ((x0 + x1) / 2, (x1 - x0) / 2 * scale), ((y0 + y1) / 2, (y1 - y0) / 2 * scale)
        preprocessing["aligned_box"] = [x - dx, y - dy, x + dx, y + dy]
        preprocessing["localization"] = {**old["localization"], "box_height": scale}
        preprocessing["crop"] = {**old["crop"], "height": old["crop"]["height"] / scale}
        nets = {name: getattr(checkpoint, name) for name in ("lnet_o", "lnet_s", "anet", "svm", "face")}
        metadata = {**checkpoint.metadata, "preprocessing": preprocessing, "training": {"another": True}}
        save_checkpoint(tmp_path / "w.safetensors", **nets, metadata=metadata)
        other = faceattr.load(tmp_path / "w.safetensors", device="cpu")
        (tmp_path / "photos").mkdir()
        draw_photo([*BORDER, *DISCS]).save(tmp_path / "photos" / "a.png")
        expected = [face.attributes for face in other.predict(tmp_path / "photos" / "a.png")]
        update(tmp_path / "db", model, tmp_path / "photos")
        monkeypatch.setattr(other, "localizer", None)  # would fail
        assert update(tmp_path / "db", other, tmp_path / "photos")[0] == {"rescored": 1}
        (hit,) = Index(tmp_path / "db").search()
        assert len(expected) == 3 and min(face.box[0] for face in hit.prediction.faces) == 0
        for face, values in zip(hit.prediction.faces, expected, strict=True):
            assert face.attributes == pytest.approx(values, abs=1e-4)
        # And back again.
        assert update(tmp_path / "db", model, tmp_path / "photos")[0] == {"rescored": 1}
        (hit,) = Index(tmp_path / "db").search()
        for face, found in zip(hit.prediction.faces, model.predict(tmp_path / "photos" / "a.png"), strict=True):
            assert face.attributes == pytest.approx(found.attributes, abs=1e-4) and face.box == found.box
            assert face.frame == pytest.approx(found.frame)

    def test_ages(self, model, aged, photos, tmp_path):
        db = tmp_path / "db"
        update(db, model, photos)
        with pytest.raises(ValueError, match="query: no face of this index has an age"):
            found(db, "age<40")
        assert update(db, aged, photos)[0] == {"rescored": 2, "unchanged": 1, "failed": 1}
        shutil.copy(photos / "sub" / "c.png", photos / "copy.png")
        assert update(db, aged, photos)[0]["copies"] == 1
        assert found(db, "age<40") == ["a.png"] and found(db, "age<40 and Smiling") == []
        assert found(db, "age_low>40", order="path") == ["a.png", "copy.png", "c.png"]
        with Index(db, read_only=True) as index:
            assert index.tells_age
            for hit in index.search():
                assert [face.age for face in hit.prediction.faces] == [
                    face.age for face in aged.predict(hit.prediction.image)
                ]
        # Weights that do not tell leave none behind that they have not found.
        update(db, model, photos)
        with Index(db, read_only=True) as index:
            assert not index.tells_age

    def test_thresholds_are_each_checkpoints_own(self, model, other_model, photos, tmp_path):
        db = tmp_path / "db"
        update(db, model, photos / "a.png")
        update(db, other_model, photos / "sub")
        # "Present" was scored by the first alone, 0.9933: below its threshold for accuracy, above the balanced one.
        assert found(db, "Present") == []
        with Index(db) as index:
            assert [len(hit.numbers) for hit in index.search("Present", thresholds="balanced")] == [2]
            assert index.histogram("Smiling") == {"Smiling": 2, "Frowning": 0, "Present": 0, "Alive": 0}
            with pytest.raises(ValueError, match="thresholds='best': the weights have accuracy, balanced"):
                list(index.search("Present", thresholds="best"))

    def test_names_that_are_no_text(self, model, photos, tmp_path):
        name = os.fsdecode(b"\xff\xfe 'quoted\".png")
        os.rename(photos / "a.png", photos / name)
        update(tmp_path / "db", model, photos)
        assert name in found(tmp_path / "db", "Smiling")
        assert update(tmp_path / "db", model, photos)[0]["unchanged"] == 3

    def test_linked_ways_to_a_photo_are_one(self, model, photos, tmp_path):
        (tmp_path / "link").symlink_to(photos)
        update(tmp_path / "db", model, photos)
        assert update(tmp_path / "db", model, tmp_path / "link")[0] == {"unchanged": 3, "failed": 1}

    def test_videos_are_none(self, model, photos, tmp_path):
        _, errors = update(tmp_path / "db", model, photos / "film.mp4", photos / "a.png")
        assert errors == [f"{photos / 'film.mp4'}: a video; an index holds photos"]

    def test_a_kill_loses_a_batch_at_most(self, weights, photos, tmp_path, model):
        many = tmp_path / "many"
        many.mkdir()
        for number in range(400):
            draw_photo(DISCS, (320, 240 + number)).save(many / f"{number:03}.png", compress_level=1)
        command = [sys.executable, "-m", "faceattr.cli", "index", many, "--db", "db", "--weights", weights, "--quiet"]
        count, db = 0, tmp_path / "db"
        for wanted in (60, 200):
            process = subprocess.Popen(command, cwd=tmp_path)
            while process.poll() is None and count < wanted:
                time.sleep(0.05)
                if db.exists():
                    try:
                        with Index(db, read_only=True) as index:  # found() asks twice, while another writes
                            count = index.count("")
                    except ValueError:  # being made
                        pass
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert sqlite3.connect(db).execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert len(found(db)) >= count > 0
        left = len(found(db))
        assert left < 400
        done, errors = update(db, model, many)
        assert done == {"new": 400 - left, "unchanged": left} and errors == []

    def test_two_runs_at_once(self, weights, photos, tmp_path):
        many = tmp_path / "many"
        many.mkdir()
        for number in range(60):
            draw_photo(DISCS[: number % 3], (320, 240 + number)).save(many / f"{number:03}.png")
        command = [sys.executable, "-m", "faceattr.cli", "index", many, "--db", "db", "--weights", weights, "--quiet"]
        runs = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for each in runs:
            assert each.communicate(timeout=120)[1] == "" and each.returncode == 0
        with Index(tmp_path / "db") as index:
            assert index.counts() == {"photos": 60, "faces": 60, "unreadable": 0, "missing": 0}

    def test_interrupted_it_keeps_what_is_done(self, model, photos, tmp_path):
        with Index(tmp_path / "db") as index:
            steps = index.update(model, [photos])
            next(steps)
            steps.close()
            assert index.counts()["photos"] >= 1


class TestFiles:
    def test_what_is_no_index(self, model, tmp_path, photos):
        (tmp_path / "text").write_text("this is text, and rather long for a header" * 10)
        db = sqlite3.connect(tmp_path / "foreign")
        db.execute("CREATE TABLE mine (a)")
        db.close()
        for name in ("text", "foreign"):
            with pytest.raises(ValueError, match=f"{name}: is no index of faceattr"):
                Index(tmp_path / name)
            with pytest.raises(ValueError, match=f"{name}: is no index of faceattr"):
                Index(tmp_path / name, read_only=True)
        with pytest.raises(ValueError, match="nothing: no such file; make it with faceattr index"):
            Index(tmp_path / "nothing", read_only=True)
        os.mkfifo(tmp_path / "pipe")  # may never answer
        for path in (tmp_path, tmp_path / "pipe", "/dev/null"):
            for read_only in (True, False):
                with pytest.raises(ValueError, match=f"{path}: is no file; give an index"):
                    Index(path, read_only)
        with pytest.raises(ValueError, match="cannot be used"):
            Index(tmp_path / "no" / "folder")
        assert not (tmp_path / "nothing").exists()

    def test_another_version(self, model, photos, tmp_path):
        update(tmp_path / "db", model, photos)
        db = sqlite3.connect(tmp_path / "db")
        db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(ValueError, match="is of version 99, this faceattr reads 2; index the photos into a new"):
            Index(tmp_path / "db")

    def test_read_where_nothing_may_be_written(self, model, photos, open_folder):  # noqa: F811
        update(open_folder / "db", model, photos)
        open_folder.chmod(0o555)
        (open_folder / "db").chmod(0o444)
        with unprivileged():
            assert len(found(open_folder / "db")) == 3
            with pytest.raises(ValueError, match="cannot be used|readonly"):
                Index(open_folder / "db")


class TestSearch:
    @pytest.fixture
    def db(self, model, photos, tmp_path):
        update(tmp_path / "db", model, photos)
        return tmp_path / "db"

    def test_one_face_has_to_fit(self, db):
        assert found(db, "Smiling and Frowning") == [] and sorted(found(db, "Smiling")) == ["a.png", "c.png"]
        with Index(db) as index:
            (hit,) = index.search("Smiling and faces=2")
            assert len(hit.prediction.faces) == 1 and hit.prediction.faces[0].labels == ("Smiling",)
            assert hit.probability == pytest.approx(hit.prediction.faces[0].attributes["Smiling"])
            assert len(index.faces_of(hit.id)) == 2 and index.photo_path(hit.id) == hit.prediction.image

    def test_order_limit_name(self, db):
        assert found(db, order="path", limit=1, offset=1) == ["b.png"]
        assert found(db, name="SUB") == ["c.png"] and found(db, name="%") == [] and found(db, name="S_B") == []
        hits = list(Index(db).search("Smiling"))
        assert [hit.probability for hit in hits] == sorted((hit.probability for hit in hits), reverse=True)
        with pytest.raises(ValueError, match="order='size': it must be one of"):
            found(db, order="size")

    def run(self, capsys, *arguments):
        status = main(["search", *map(str, arguments)])
        return status, capsys.readouterr()

    def test_formats(self, db, photos, capsys):
        status, out = self.run(capsys, db, "Smiling", "--format", "jsonl", "--order", "path")
        records = [json.loads(line) for line in out.out.splitlines()]
        assert status == 0 and [len(record["faces"]) for record in records] == [1, 1]
        assert set(records[0]) == {"image", "width", "height", "faces", "error"}
        rows = list(csv.DictReader(io.StringIO(self.run(capsys, db, "--format", "csv")[1].out)))
        assert len(rows) == 4 and set(ATTRIBUTES) <= set(rows[0])
        assert len(json.loads(self.run(capsys, db, "faces=0", "--format", "json")[1].out)) == 1
        out = self.run(capsys, db, "Smiling", "--format", "paths", "--order", "path")[1].out
        assert out.splitlines() == [str(photos / "a.png"), str(photos / "sub" / "c.png")]
        assert "Smiling 1.00" in self.run(capsys, db, "Smiling")[1].out

    def test_paths_of_any_bytes(self, model, tmp_path, capfdbinary):
        """Line ends, Japanese and bytes that are no text: what a program reads can be opened."""
        folder = tmp_path / "photos"
        folder.mkdir()
        names = [b"a b.png", b"a\nb.png", "\u5199\u771f.png".encode(), b"bad\xff.png"]
        for name in names:
            with open(os.fsencode(folder) + b"/" + name, "wb") as file:
                draw_photo(DISCS).save(file, "PNG")
        db = tmp_path / "faces.sqlite"
        update(db, model, folder)
        paths = {os.fsencode(folder) + b"/" + name for name in names}
        for format, end in (("paths", b"\n"), ("paths0", b"\0")):
            assert main(["search", str(db), "Smiling", "--format", format]) == 0
            out = capfdbinary.readouterr().out
            assert sorted(out) == sorted(b"".join(path + end for path in paths))
            if format == "paths0":
                assert set(out.split(end)[:-1]) == paths

    def test_nothing_found_is_said(self, db, capsys):
        for format, out in (("csv", "image,width,"), ("table", "image "), ("json", "[]"), ("paths", "")):
            status, said = self.run(capsys, db, "Smiling and faces>=99", "--format", format)
            assert status == 0 and said.out.startswith(out) and said.err == "faceattr: no photo fits\n"

    def test_long_names_of_links_are_text(self, model, tmp_path, capsys):
        photo = tmp_path / ("\u5199" * 80 + "aa.png")
        draw_photo(DISCS).save(photo)
        db = tmp_path / "faces.sqlite"
        update(db, model, photo)
        assert self.run(capsys, db, "--links", tmp_path / "l")[0] == 0
        (link,) = os.listdir(os.fsencode(tmp_path / "l"))
        assert link.decode().startswith("00001-\u5199") and link.endswith(b".png") and len(link) > 245

    def test_formats_with_ages(self, aged, db, photos, capsys):
        assert "age 45" not in self.run(capsys, db, "Smiling")[1].out
        update(db, aged, photos)
        (face,) = json.loads(self.run(capsys, db, "age<40", "--format", "json")[1].out)[0]["faces"]
        assert face["age"] == {"years": 35.0, "low": 31.0, "high": 39.0}
        rows = list(csv.DictReader(io.StringIO(self.run(capsys, db, "faces>=0", "--format", "csv")[1].out)))
        assert [row["age"] for row in rows if row["face"]] == ["45.0" if float(row["Smiling"]) > 0.5 else "35.0"
                                                               for row in rows if row["face"]]  # fmt: skip
        assert [row["age_high"] for row in rows if not row["face"]] == [""]
        assert "age 45 (41 to 49), Smiling 1.00" in self.run(capsys, db, "Smiling")[1].out

    def test_a_page_and_links(self, aged, db, photos, tmp_path, capsys):
        arguments = [db, "Smiling", "--order", "path", "--format", "none"]
        arguments += ["--page", tmp_path / "p.html", "--links", tmp_path / "l"]
        for _ in range(2):  # an earlier search's are replaced
            assert self.run(capsys, *arguments)[0] == 0
        page = (tmp_path / "p.html").read_text()
        assert '"name":"a.png"' in page and '"name":"sub/c.png"' in page and str(photos) not in page
        links = sorted((tmp_path / "l").iterdir())
        assert [link.name for link in links] == ["00001-a.png", "00002-c.png"]
        assert links[1].resolve() == photos / "sub" / "c.png"
        update(db, aged, photos)
        self.run(capsys, *arguments)
        assert '"age 45 (41 to 49)"' in (tmp_path / "p.html").read_text() and "age 45" not in page
        status, out = self.run(capsys, *arguments[:-1], photos)
        assert status == 2 and "holds more than links" in out.err

    def test_errors(self, db, tmp_path, capsys):
        assert self.run(capsys, db, "Smilling")[0] == 2
        status, out = self.run(capsys, tmp_path / "nothing.sqlite")
        assert status == 2 and "no such file; make it with" in out.err


def test_command(weights, photos, tmp_path, capsys):
    arguments = ["index", str(photos), "--db", str(tmp_path / "db"), "--weights", str(weights), "--device", "cpu"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "d.jpg: not a picture" in err and "3 new, 1 failed" in err
    assert "3 photos with 3 faces, 1 unreadable" in err
    (photos / "d.jpg").unlink()
    assert main([*arguments, "--quiet"]) == 0 and capsys.readouterr().err == ""
