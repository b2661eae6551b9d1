"""LFWA's MATLAB files, written here as MATLAB writes them: version 5 by scipy, 7.3 as HDF5 behind MATLAB's header."""

import numpy as np
import pytest
from scipy.io import savemat

from faceattr.data.lfwa import read_lfwa

NAMES = ["Ann_Lee\\Ann_Lee_0001.jpg", "Ann_Lee\\Ann_Lee_0002.jpg", "Bo_Ek\\Bo_Ek_0001.jpg"]
ATTRIBUTES = ["5 o' Clock Shadow", "Smiling ", "Round Jaw"]
LABEL = np.array([[0, 1, 0], [0, 0, 1], [1, 1, 0]])


def save_5(path, **variables):
    def cells(value):
        return np.array([[text] for text in value], dtype=object) if isinstance(value, list) else value

    savemat(path, {name: cells(value) for name, value in variables.items()})


def save_73(path, **variables):
    h5py = pytest.importorskip("h5py", reason="MATLAB 7.3 files need h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, list):
                references = np.empty((1, len(value)), dtype=h5py.ref_dtype)
                for i, text in enumerate(value):
                    codes = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
                    references[0, i] = file.create_dataset(f"#refs#/{name}{i}", data=codes).ref
                file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            else:
                file.create_dataset(name, data=np.asarray(value).T)
    header = b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(116) + bytes(8) + bytes([0, 2]) + b"IM"
    with open(path, "r+b") as file:
        file.write(header)


@pytest.fixture(params=[save_5, save_73], ids=["5", "7.3"])
def save(request):
    return request.param


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        path = tmp_path / "lfw" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def write(save, root, file="lfw_att_40.mat", names=NAMES, label=LABEL, train=(1, 2), test=(3,)):
    save(root / file, AttrName=ATTRIBUTES, name=names, label=label)
    halves = {"indices_img_train": np.array([train]).T, "indices_img_test": np.array([test]).T}
    save(root / "indices_train_test.mat", **halves)


def test_both_versions(save, root):
    write(save, root)
    data = read_lfwa(root)
    assert data.attributes == ("5_o_Clock_Shadow", "Smiling", "Round_Jaw")
    assert data.names[2] == "Bo_Ek/Bo_Ek_0001.jpg" and all(path.is_file() for path in data.paths)
    assert data.tags.tolist() == LABEL.astype(bool).tolist() and data.known.all()
    assert data.identities[0] == data.identities[1] != data.identities[2]
    assert data.partition(0).names == data.names[:2] and data.partition(2).names == data.names[2:]


def test_lfwa_plus_is_read_by_name_or_where_it_is_alone(root):
    write(save_5, root, "lfw_att_73.mat", label=2 * LABEL - 1)
    assert read_lfwa(root).tags.tolist() == LABEL.astype(bool).tolist()
    write(save_5, root)
    assert read_lfwa(root, labels="lfw_att_73.mat").attributes[2] == "Round_Jaw"


def test_missing_pictures(root):
    write(save_5, root)
    (root / "lfw/Ann_Lee/Ann_Lee_0002.jpg").unlink()
    with pytest.raises(ValueError, match=r"Ann_Lee_0002.jpg: listed in .*lfw_att_40.mat, line 2, but missing"):
        read_lfwa(root)
    assert read_lfwa(root, skip_missing=True).partitions.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.where(LABEL, 7, 0)}, r"label of Ann_Lee/Ann_Lee_0001.jpg \(row 1\) for Smiling is 7"),
        ({"label": LABEL[:2]}, "label is .*expected 3 pictures x 3 attributes"),
        ({"names": [NAMES[0], NAMES[0], NAMES[2]]}, "Ann_Lee_0001.jpg is listed twice"),
        ({"test": (4,)}, "indices_train_test.mat: indices_img_test has the value 4"),
    ],
)
def test_wrong_values_are_named(save, root, changes, message):
    write(save, root, **changes)
    with pytest.raises(ValueError, match=message):
        read_lfwa(root)


def test_wrong_files(root):
    with pytest.raises(ValueError, match="lfw_att_40.mat: missing"):
        read_lfwa(root)
    (root / "lfw_att_40.mat").write_text("this is text")
    with pytest.raises(ValueError, match="lfw_att_40.mat: not a MATLAB file"):
        read_lfwa(root)
    save_5(root / "lfw_att_40.mat", name=NAMES, label=LABEL)
    with pytest.raises(ValueError, match="has no variable 'AttrName'"):
        read_lfwa(root)
