"""CelebA's label files: what is right is read, what is wrong is named by file, line and value."""

import numpy as np
import pytest

from faceattr.attributes import ATTRIBUTES, GROUPS, TABLE_1
from faceattr.data.celeba import paper_partitions, read_celeba, read_landmarks


@pytest.fixture
def root(tmp_path):
    """Three pictures; the second has every attribute."""
    rows = [["-1"] * 40, ["1"] * 40, ["-1"] * 39 + ["1"]]
    lines = ["3", " ".join(ATTRIBUTES) + " "] + [f"{i:06}.jpg " + "  ".join(row) for i, row in enumerate(rows, 1)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 7\n000002.jpg 9\n000003.jpg 7\n")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 0\n")
    (tmp_path / "img_align_celeba").mkdir()
    for i in (1, 2, 3):
        (tmp_path / "img_align_celeba" / f"{i:06}.jpg").touch()
    return tmp_path


def test_labels_are_read(root):
    data = read_celeba(root)
    assert data.names == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert data.tags.sum(1).tolist() == [0, 40, 1] and data.tags[2, ATTRIBUTES.index("Young")]
    assert data.identities.tolist() == [7, 9, 7]
    train = data.partition(0)
    assert train.names == ["000001.jpg", "000003.jpg"] and np.array_equal(train.tags, data.tags[[0, 2]])
    with pytest.raises(ValueError, match="no picture of partition 2"):
        data.partition(2)


def as_downloaded(root):
    """Anno/, Eval/ and Img/, as CelebA's archive has them."""
    for folder, names in {
        "Anno": ["list_attr_celeba.txt", "identity_CelebA.txt", "list_landmarks_align_celeba.txt"],
        "Eval": ["list_eval_partition.txt"],
        "Img": ["img_align_celeba"],
    }.items():
        (root / folder).mkdir()
        for name in names:
            (root / name).rename(root / folder / name)
    return root


def as_torchvision(root):
    """All of it in celeba/ below the root that torchvision is given."""
    (root / "celeba").mkdir()
    for path in list(root.iterdir()):
        if path.name != "celeba":
            path.rename(root / "celeba" / path.name)
    return root


@pytest.mark.parametrize("lay", [as_downloaded, as_torchvision, lambda root: as_torchvision(as_downloaded(root))])
def test_layouts(root, lay):
    points = " ".join(["69 111 108 111 88 135 72 152 106 152"])
    rows = [f"{number:06}.jpg {points}" for number in (1, 2, 3)]
    (root / "list_landmarks_align_celeba.txt").write_text("\n".join(["3", "eyes nose mouth", *rows]) + "\n")
    expected = read_celeba(root)
    found = read_celeba(lay(root))
    assert found.names == expected.names and (found.tags == expected.tags).all()
    assert (found.identities == expected.identities).all() and (found.partitions == expected.partitions).all()
    assert all(path.is_file() for path in found.paths)
    assert len(read_landmarks(root, aligned=True)) == 3


def test_empty_lines_at_the_end_are_none(root):
    for path in root.glob("*.txt"):
        path.write_text(path.read_text() + "\n\n")
    assert len(read_celeba(root)) == 3


def test_missing_pictures_are_an_error_unless_skipped(root):
    (root / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"000002.jpg: listed in .*list_attr_celeba.txt, line 4, but missing"):
        read_celeba(root)
    assert read_celeba(root, skip_missing=True).names == ["000001.jpg", "000003.jpg"]
    assert read_celeba(root, partition=0).names == ["000001.jpg", "000003.jpg"]
    for name in ("000001.jpg", "000003.jpg"):
        (root / "img_align_celeba" / name).unlink()
    with pytest.raises(ValueError, match="holds none of the 3 pictures"):
        read_celeba(root, skip_missing=True)


def test_pictures_of_the_other_form_are_not_missing(root):
    (root / "img_celeba").mkdir()
    (root / "img_align_celeba" / "000002.jpg").rename(root / "img_celeba" / "000002.jpg")
    with pytest.warns(UserWarning, match="img_align_celeba: 1 pictures are left out, which are in img_celeba alone"):
        assert read_celeba(root).names == ["000001.jpg", "000003.jpg"]
    with pytest.warns(UserWarning, match="img_celeba: 2 pictures are left out"):
        assert read_celeba(root, images="img_celeba").names == ["000002.jpg"]
    (root / "img_celeba" / "000002.jpg").unlink()
    with pytest.raises(ValueError, match="000002.jpg: listed in"):
        read_celeba(root)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "3\n", "4\n", "line 1: announces 4 pictures, 3 follow"),
        ("list_attr_celeba.txt", "3\n", "three\n", "line 1: the number of pictures expected, got 'three'"),
        ("list_attr_celeba.txt", "Young", "Old", "line 2: unknown attribute 'Old'"),
        ("list_attr_celeba.txt", " Young", "", "line 2: 39 names"),
        ("list_attr_celeba.txt", "000002.jpg 1", "000002.jpg 0", "line 4: value '0', expected 1 or -1"),
        ("list_attr_celeba.txt", "000002.jpg 1", "000002.jpg", "line 4: 39 values"),
        ("list_attr_celeba.txt", "000003", "000002", "line 5: 000002.jpg is listed twice"),
        ("identity_CelebA.txt", " 9", " nine", "line 2: value 'nine', expected an identity number"),
        ("identity_CelebA.txt", "000002.jpg 9", "000002.jpg", "line 2: '000002.jpg', expected a picture's name"),
        ("identity_CelebA.txt", "000002.jpg 9\n", "", "no row for 000002.jpg"),
        ("list_eval_partition.txt", "jpg 1", "jpg 3", "line 2: value '3', expected a partition 0, 1 or 2"),
        ("list_eval_partition.txt", "000003", "000002", "line 3: 000002.jpg is listed twice"),
    ],
)
def test_a_wrong_row_is_named(root, file, old, new, message):
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_celeba(root)
    assert str(path) in str(error.value)


@pytest.fixture
def kaggle(root):
    """The same labels as Kaggle has them: CSV, pictures one folder deeper, no identities."""
    _, header, *rows = (root / "list_attr_celeba.txt").read_text().splitlines()
    lines = ["image_id," + ",".join(header.split())] + [",".join(row.split()) for row in rows]
    (root / "list_attr_celeba.csv").write_text("\n".join(lines))
    partitions = (root / "list_eval_partition.txt").read_text().replace(" ", ",")
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + partitions)
    for name in ("list_attr_celeba", "list_eval_partition", "identity_CelebA"):
        (root / f"{name}.txt").unlink()
    pictures = root / "img_align_celeba"
    pictures.rename(root / "inner")
    pictures.mkdir()
    (root / "inner").rename(pictures / "img_align_celeba")
    return root


def test_kaggle_s_layout(kaggle):
    data = read_celeba(kaggle)
    assert data.names == ["000001.jpg", "000002.jpg", "000003.jpg"] and data.known.all()
    assert data.paths[0].is_file()
    assert data.tags.sum(1).tolist() == [0, 40, 1] and data.tags[2, ATTRIBUTES.index("Young")]
    assert data.partitions.tolist() == [0, 1, 0] and data.identities is None
    with pytest.raises(ValueError, match="the paper's split goes by identity; add identity_CelebA.csv"):
        read_celeba(kaggle, split="paper")
    (kaggle / "identity_CelebA.txt").write_text("000001.jpg 7\n000002.jpg 9\n000003.jpg 7\n")
    assert read_celeba(kaggle).identities.tolist() == [7, 9, 7]
    (kaggle / "identity_CelebA.csv").write_text("image_id,id\n000001.jpg,17\n000002.jpg,19\n000003.jpg,17\n")
    assert read_celeba(kaggle).identities.tolist() == [17, 19, 17]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.csv", "Young", "Old", "line 1: unknown attribute 'Old'"),
        ("list_attr_celeba.csv", "000002.jpg,1", "000002.jpg,yes", "line 3: value 'yes', expected 1 or -1"),
        ("list_attr_celeba.csv", "000002.jpg,1", "000002.jpg", "line 3: 39 values"),
        ("list_attr_celeba.csv", "000003", "000002", "line 4: 000002.jpg is listed twice"),
        ("list_eval_partition.csv", "jpg,1", "jpg,5", "line 3: value '5', expected a partition 0, 1 or 2"),
    ],
)
def test_a_wrong_row_of_kaggle_s_is_named(kaggle, file, old, new, message):
    path = kaggle / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_celeba(kaggle)
    assert str(path) in str(error.value)


def test_the_paper_s_split_goes_by_identity(root):
    numbers = np.array([1, 8000, 8001, 9000, 9001, 10000, 10001])
    assert paper_partitions(numbers).tolist() == [0, 0, 1, 1, 2, 2, -1]
    (root / "identity_CelebA.txt").write_text("000001.jpg 8001\n000002.jpg 10177\n000003.jpg 9500\n")
    assert read_celeba(root, split="paper").partitions.tolist() == [1, -1, 2]
    assert read_celeba(root, split="paper", partition=2).names == ["000003.jpg"]
    with pytest.raises(ValueError, match="split is 'random'"):
        read_celeba(root, split="random")


def test_landmarks(root):
    assert read_landmarks(root, aligned=True) is None
    names = " ".join(
        f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
    )
    path = root / "list_landmarks_align_celeba.txt"
    path.write_text(
        f"2\n{names}\n000001.jpg 69 109  106 113   77 142   73 152  108 154\n000002.jpg 1 2 3 4 5 6 7 8 9 10\n"
    )
    landmarks = read_landmarks(root, aligned=True)
    assert landmarks["000001.jpg"].tolist() == [[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]]
    csv = root / "list_landmarks_celeba.csv"
    csv.write_text(f"image_id,{names.replace(' ', ',')}\n000003.jpg,1,2,3,4,5,6,7,8,9,10\n")
    assert read_landmarks(root, aligned=False)["000003.jpg"].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    path.write_text(path.read_text().replace("108 154", "108"))
    with pytest.raises(ValueError, match=r"align_celeba.txt, line 3: '69 109 .* 108', expected x and y"):
        read_landmarks(root, aligned=True)


def test_missing_and_binary_files(root):
    (root / "identity_CelebA.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="identity_CelebA.txt: not a text file"):
        read_celeba(root)
    (root / "identity_CelebA.txt").unlink()
    with pytest.raises(ValueError, match="identity_CelebA.txt: missing"):
        read_celeba(root)


def test_groups_and_table_cover_the_attributes():
    assert len(set(ATTRIBUTES)) == 40
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(ATTRIBUTES)
    # The paper's own means, printed in the table's last column.
    means = {"CelebA": (81, 79, 85, 87), "LFWA": (74, 71, 81, 84)}
    for data, expected in means.items():
        for column, mean in zip(TABLE_1[data].values(), expected, strict=True):
            assert len(column) == 40 and abs(sum(column) / 40 - mean) < 1
