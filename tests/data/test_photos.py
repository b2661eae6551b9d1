from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceattr.data.objects import ObjectFolder
from faceattr.data.photos import decode_pictures, hold_out, list_pictures


def write(path: Path, width: int, height: int, colour: tuple[int, int, int]):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def test_decoding_keeps_the_aspect_when_asked(tmp_path):
    write(tmp_path / "a.png", 40, 20, (255, 0, 0))
    write(tmp_path / "b.png", 10, 30, (0, 255, 0))
    pictures = decode_pictures(list_pictures(tmp_path), (16, 16), keep_aspect=True)
    np.testing.assert_array_equal(pictures.extents, [[8, 16], [16, 5]])
    assert (pictures.images[0, :8] == (255, 0, 0)).all() and (pictures.images[0, 8:] == 0).all()
    assert (pictures.images[1, :, :5] == (0, 255, 0)).all() and (pictures.images[1, :, 5:] == 0).all()
    stretched = decode_pictures(list_pictures(tmp_path), (16, 16))
    assert (stretched.images[0] == (255, 0, 0)).all()


def test_a_cache_is_used_and_must_fit(tmp_path):
    write(tmp_path / "in" / "a.png", 8, 8, (1, 2, 3))
    cache = tmp_path / "cache" / "pictures.npy"
    first = decode_pictures(list_pictures(tmp_path / "in"), (4, 4), cache=cache)
    write(tmp_path / "in" / "a.png", 8, 8, (200, 200, 200))  # no longer read
    again = decode_pictures(list_pictures(tmp_path / "in"), (4, 4), cache=cache)
    np.testing.assert_array_equal(first.images, again.images)
    assert (again.images == (1, 2, 3)).all()
    with pytest.raises(ValueError, match="delete it"):
        decode_pictures(list_pictures(tmp_path / "in"), (5, 4), cache=cache)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="bad.jpg"):
        decode_pictures(list_pictures(tmp_path), (4, 4))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        list_pictures(tmp_path)


def test_hold_out_goes_by_name_alone():
    paths = [Path(f"folder/{i}.jpg") for i in range(1000)]
    train, held = hold_out(paths, 0.2)
    assert not set(train) & set(held) and len(train) + len(held) == 1000
    assert 150 < len(held) < 250
    again = hold_out([Path("elsewhere") / path.name for path in reversed(paths)], 0.2)[1]
    assert {path.name for path in again} == {path.name for path in held}


def test_object_folders_are_labelled_by_folder(tmp_path):
    for name, count in (("cat", 2), ("apple", 1)):
        for i in range(count):
            write(tmp_path / name / f"{i}.png", 9, 9, (9, 9, 9))
    objects = ObjectFolder(tmp_path, size=8)
    assert objects.classes == ["apple", "cat"] and objects.labels.tolist() == [0, 1, 1]
    assert objects.images.shape == (3, 8, 8, 3) and len(objects) == 3
