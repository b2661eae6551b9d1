"""Which pictures are found, each once, and that nothing is passed over without a word."""

import json
import os

import pytest
from unprivileged import open_folder, unprivileged  # noqa: F401 a fixture

from faceattr.collection import OUTPUT_LIST, collect, find_pictures


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found.pictures]


def test_walks_sorted_and_leaves_other_files_out(tmp_path):
    make(tmp_path, "b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp", ".git/d.png", "film.mp4", "e.NEF")
    assert [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)] == [
        "a.png",
        "b.JPG",
        "e.NEF",
        "sub/c.webp",
    ]
    assert names(collect([tmp_path], videos=True), tmp_path) == ["a.png", "b.JPG", "e.NEF", "film.mp4", "sub/c.webp"]


def test_a_file_is_itself_whatever_its_name(tmp_path):
    assert list(find_pictures(tmp_path / "missing.txt")) == [tmp_path / "missing.txt"]


def test_the_same_file_by_other_ways_is_one_picture(tmp_path, monkeypatch):
    make(tmp_path, "photos/a.jpg", "photos/sub/b.jpg")
    (tmp_path / "album").symlink_to(tmp_path / "photos" / "sub")
    monkeypatch.chdir(tmp_path)
    found = collect(["./photos/a.jpg", "photos/a.jpg", "photos", "photos/../photos/a.jpg", "album/b.jpg"])
    assert [str(path) for path in found.pictures] == ["photos/a.jpg", "photos/sub/b.jpg"] and not found.errors


@pytest.mark.parametrize("path", ["x" * 300 + ".jpg", "a/" * 3000 + "b.jpg", "nul\0.jpg"])
def test_names_that_no_file_can_have_are_left_to_the_reader(path):
    assert [str(picture) for picture in collect([path]).pictures] == [path]


def test_an_empty_path_is_no_folder(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    found = collect([""])
    assert found.pictures == [] and "an empty path" in found.errors[0][1]


def test_folders_that_may_not_be_read(open_folder):  # noqa: F811
    make(open_folder, "a.jpg", "closed/b.jpg", "deep/closed/c.jpg", "z.jpg")
    for name in ("closed", "deep/closed"):
        (open_folder / name).chmod(0)
    with unprivileged():
        found = collect([open_folder])
        inside = collect([open_folder / "closed" / "b.jpg"])
    assert names(found, open_folder) == ["a.jpg", "z.jpg"]
    assert [path for path, _ in found.errors] == [str(open_folder / "closed"), str(open_folder / "deep/closed")]
    assert all("cannot be read (Permission denied); check its permissions" in error for _, error in found.errors)
    assert [path.name for path in inside.pictures] == ["b.jpg"]  # reading it says what is wrong
    with unprivileged(), pytest.raises(ValueError, match="closed: this folder cannot be read"):
        list(find_pictures(open_folder))


def test_a_folder_without_pictures(tmp_path):
    make(tmp_path, "notes.txt")
    assert collect([tmp_path]).errors == [(str(tmp_path), f"{tmp_path}: no pictures in this folder")]
    make(tmp_path, "a.jpg")
    assert collect([tmp_path, tmp_path]).errors == []


def test_linked_folders(tmp_path):
    make(tmp_path, "photos/a.jpg", "other/b.jpg", "other/sub/c.jpg")
    (tmp_path / "photos" / "album").symlink_to(tmp_path / "other")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    (tmp_path / "other" / "up").symlink_to(tmp_path)
    found = collect([tmp_path / "photos"])
    assert names(found, tmp_path / "photos") == ["a.jpg"]
    (note,) = found.notes()
    assert note.startswith(str(tmp_path / "photos" / "album")) and "and 1 more" in note and "--follow-links" in note
    found = collect([tmp_path / "photos"], follow_links=True)
    # Each once, although the links go round.
    assert sorted(path.name for path in found.pictures) == ["a.jpg", "b.jpg", "c.jpg"] and list(found.notes()) == []


def test_pictures_that_were_written_are_no_photos(tmp_path):
    make(tmp_path, "a.jpg", "out/a.faces.jpg", "out/mine.jpg")
    (tmp_path / "out" / OUTPUT_LIST).write_text(json.dumps("a.faces.jpg") + "\n" + '"half')
    found = collect([tmp_path])
    assert names(found, tmp_path) == ["a.jpg", "out/mine.jpg"] and found.own == 1
    assert list(found.notes()) == ["1 pictures that --output wrote were passed over"]


def test_the_folder_of_each_picture(tmp_path):
    make(tmp_path, "photos/sub/a.jpg", "b.jpg")
    found = collect([tmp_path / "photos", tmp_path / "b.jpg"])
    assert found.folders == [tmp_path / "photos", tmp_path]


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    make(tmp_path, name)
    assert [path.name for path in collect([tmp_path]).pictures] == [name]
