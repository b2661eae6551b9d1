"""Decoding in worker processes: the same pictures in the same order, errors that name the picture."""

import os

import numpy as np
import pytest
from PIL import Image

from faceattr.data.decode import decode
from faceattr.data.faces import FaceCache
from faceattr.data.photos import decode_pictures, list_pictures


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 255, (218, 178, 3), np.uint8)
        Image.fromarray(pixels).resize((178, 218)).save(tmp_path / f"{number:02}.jpg")
    return tmp_path


def test_workers_are_other_processes_and_keep_the_order():
    paths = list(range(50))
    found = list(decode(paths, lambda path: (path, os.getpid()), workers=2))
    assert [path for path, _ in found] == paths
    assert os.getpid() not in {process for _, process in found} and len({process for _, process in found}) == 2
    assert {process for _, process in decode(paths, lambda path: (path, os.getpid()))} == {os.getpid()}


def test_workers_decode_the_same(folder):
    paths = list_pictures(folder)
    alone, together = (decode_pictures(paths, (30, 24), keep_aspect=True, workers=workers) for workers in (0, 2))
    assert np.array_equal(alone.images, together.images) and np.array_equal(alone.extents, together.extents)
    names = [path.name for path in paths]
    alone, together = (FaceCache(folder, names, (55, 47), folder / f"{workers}.npy", workers) for workers in (0, 2))
    assert np.array_equal(alone.pictures, together.pictures)


def test_an_error_in_a_worker_names_the_picture(folder):
    (folder / "39.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"39.jpg: cannot be read as a picture \(cannot identify image file") as error:
        decode_pictures(list_pictures(folder), (30, 24), workers=2)
    assert "Traceback" not in str(error.value)


def test_a_cache_of_other_pictures_is_not_taken_for_these(folder, tmp_path):
    paths = list_pictures(folder)
    cache = tmp_path / "pictures.npy"
    decode_pictures(paths[:20], (30, 24), cache=cache)
    with pytest.raises(ValueError, match="holds other pictures, 20 at .30, 24. are needed; delete it"):
        decode_pictures(paths[20:], (30, 24), cache=cache)


def test_a_cache_that_was_cut_short_is_made_anew(folder, tmp_path):
    paths = list_pictures(folder)[:4]
    cache = tmp_path / "pictures.npy"
    whole = decode_pictures(paths, (30, 24), cache=cache).images.copy()
    (tmp_path / "pictures.json").unlink()  # written last
    cache.write_bytes(cache.read_bytes()[:1000])
    assert np.array_equal(decode_pictures(paths, (30, 24), cache=cache).images, whole)
