"""Datasets of Hugging Face and Parquet files as inputs: the same tags and pictures as were put in."""

import sys

import numpy as np
import pytest
from PIL import Image

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.hub import is_dataset, unpacked
from faceattr.data.tag_csv import read_tag_csv
from faceattr.explain.faces import read_pictures

datasets = pytest.importorskip("datasets")
SPLITS = {"train": 5, "valid": 3, "test": 4}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def celeba():
    """CelebA as it is on the hub: pictures, 40 tags, persons, splits; with one column that is none of these."""
    random = np.random.default_rng(0)

    def split(count, first):
        pictures = [Image.fromarray(random.integers(0, 255, (218, 178, 3), np.uint8)) for _ in range(count)]
        columns = {
            "image": pictures,
            "celeb_id": [100 + (first + i) // 2 for i in range(count)],
            "prompt": ["a face"] * count,
        }
        columns |= {name: (random.random(count) < 0.5).tolist() for name in ATTRIBUTES}
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    starts = dict(zip(SPLITS, np.cumsum([0, *SPLITS.values()]), strict=False))
    return datasets.DatasetDict({name: split(count, int(starts[name])) for name, count in SPLITS.items()})


def as_saved(data, folder):
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_parquet(data, folder):
    (folder / "hub" / "data").mkdir(parents=True)
    for name, split in data.items():
        split.to_parquet(str(folder / "hub" / "data" / f"{name}-00000-of-00001.parquet"))
    return folder / "hub"


@pytest.mark.parametrize("write", [as_saved, as_parquet])
@pytest.mark.filterwarnings("ignore:.*columns that are no tags")
def test_celeba(celeba, tmp_path, write):
    path = write(celeba, tmp_path)
    assert is_dataset(path)
    data = read_celeba(path)
    assert np.bincount(data.partitions).tolist() == list(SPLITS.values())
    assert (
        len(np.unique(data.identities)) == 6
        and data.partition(0).identities.tolist().count(data.partition(0).identities[0]) == 2
    )
    for number, name in enumerate(SPLITS):
        part = data.partition(number)
        for record, tags, file in zip(celeba[name], part.tags, part.paths, strict=True):
            assert tags.tolist() == [record[attribute] for attribute in ATTRIBUTES]
            with Image.open(file) as picture:
                assert (np.asarray(picture) == np.asarray(record["image"])).all()
    assert read_celeba(path, partition=1).names == data.partition(1).names
    assert read_tag_csv(path).tags.tolist() == data.tags.tolist()
    assert read_pictures(path)[1] == "aligned"


def test_columns_that_are_no_tags_are_named(celeba, tmp_path):
    with pytest.warns(UserWarning, match="columns that are no tags are left out: prompt"):
        unpacked(as_saved(celeba, tmp_path))


def test_a_parquet_file_of_ones_own(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 30), "blue").save(tmp_path / "b.jpg")
    content = [(tmp_path / name).read_bytes() for name in ("a.png", "b.jpg")]
    columns = {"image": content, "wearing hat": [1.0, None], "Tall": [-1, 1]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    data = read_tag_csv(tmp_path / "own.parquet")
    assert data.attributes == ("Wearing_Hat", "Tall")
    assert data.tags.tolist() == [[True, False], [False, True]] and data.known.tolist() == [[True, True], [False, True]]
    assert data.identities is not None and len(np.unique(data.identities)) == 2
    assert [path.read_bytes() for path in data.paths] == content
    # What is unpacked is kept, and made anew where the file has changed or the folder is not whole.
    before = data.paths[0].stat().st_mtime_ns
    assert read_tag_csv(tmp_path / "own.parquet").paths[0].stat().st_mtime_ns == before
    data.paths[0].unlink()
    (data.folder / "whole.json").unlink()
    assert read_tag_csv(tmp_path / "own.parquet").paths[0].read_bytes() == content[0]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"photo": [b"x"], "Tall": [1]}, "no column image or img or picture; there are photo, Tall"),
        ({"image": [b"x"], "words": ["tall"]}, "no column of tags"),
        ({"image": [b"x", b"x"], "Tall": ["1", "very"]}, "Tall of row 2 is 'very', expected 1, 0"),
        ({"image": ["lost.png"], "Tall": [1]}, "lost.png, which is not there"),
        ({"image": [3], "Tall": [1]}, "row 1 has int where a picture should be"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, columns, message):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    with pytest.raises(ValueError, match="own.parquet") as error:
        read_tag_csv(tmp_path / "own.parquet")
    assert message in str(error.value)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "own.parquet").touch()
    with pytest.raises(ValueError, match=r"own.parquet: a dataset; to read it: pip install 'faceattr\[datasets\]'"):
        read_tag_csv(tmp_path / "own.parquet")


def test_what_is_no_dataset_stays(tmp_path):
    assert unpacked(tmp_path) == tmp_path and not is_dataset(tmp_path) and not is_dataset(tmp_path / "tags.csv")
