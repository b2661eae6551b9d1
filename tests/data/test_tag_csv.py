"""One's own CSV: values, unknown ones, people, partitions; what is wrong is named by file, line and value."""

import pytest

from faceattr.data.tag_csv import read_tag_csv


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder, text):
    path = folder / "tags.csv"
    path.write_text(text)
    return path


def test_values(folder):
    data = read_tag_csv(write(folder, "image,Smiling,Tall\na.jpg,1,true\nsub/b.jpg,-1,\nc.jpg,0,False\n"))
    assert data.names == ["a.jpg", "sub/b.jpg", "c.jpg"] and data.paths[1] == folder / "sub" / "b.jpg"
    assert data.attributes == ("Smiling", "Tall")
    assert data.tags.tolist() == [[True, True], [False, False], [False, False]]
    assert data.known.tolist() == [[True, True], [True, False], [True, True]]
    assert data.identities is None and data.partitions is None
    with pytest.raises(ValueError, match="not split into partitions"):
        data.partition(2)


def test_people_and_partitions(folder):
    text = "partition,Smiling,identity,image\n0,1,Ann,a.jpg\n2,0,Bob,sub/b.jpg\n2,1,Ann,c.jpg\n"
    data = read_tag_csv(write(folder, text))
    assert data.attributes == ("Smiling",)
    assert data.identities[0] == data.identities[2] != data.identities[1]
    assert data.partition(2).names == ["sub/b.jpg", "c.jpg"]


def test_pictures_may_be_elsewhere(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("labels"), "image,Smiling\na.jpg,1\n")
    assert read_tag_csv(path, folder).paths == [folder / "a.jpg"]


def test_missing_pictures(folder):
    path = write(folder, "image,Smiling\na.jpg,1\nlost.jpg,1\n")
    with pytest.raises(ValueError, match=r"lost.jpg: listed in .*tags.csv, line 3, but missing"):
        read_tag_csv(path)
    assert read_tag_csv(path, skip_missing=True).names == ["a.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: column 'image' is missing; the columns are none"),
        ("picture,Smiling\n", "line 1: column 'image' is missing; the columns are picture, Smiling"),
        ("image,Smiling,Smiling\n", "line 1: column 'Smiling' is there twice"),
        ("image,identity\n", "line 1: no attribute column"),
        ("image,Smiling\n", "has no row but the header"),
        ("image,Smiling\na.jpg,1\nc.jpg,maybe\n", "line 3: Smiling is 'maybe'"),
        ("image,Smiling\na.jpg\n", "line 2: 1 values for 2 columns"),
        ("image,Smiling\na.jpg,1\na.jpg,1\n", "line 3: a.jpg is listed twice"),
        ("image,Smiling\n,1\n", "line 2: no picture is named"),
        ("image,Smiling,partition\na.jpg,1,3\n", "line 2: partition '3'"),
    ],
)
def test_a_wrong_row_is_named(folder, text, message):
    path = write(folder, text)
    with pytest.raises(ValueError, match=message) as error:
        read_tag_csv(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="none.csv: missing"):
        read_tag_csv(tmp_path / "none.csv")
