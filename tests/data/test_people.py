"""A folder a person."""

import pytest
from PIL import Image

from faceattr.data.people import read_people


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_folders_are_persons(tmp_path):
    for name in ("Bo Li/1.jpg", "Ann/2.jpg", "Ann/1.png"):
        save(tmp_path / name)
    data = read_people(tmp_path)
    assert data.names == ["Ann/1.png", "Ann/2.jpg", "Bo Li/1.jpg"] and data.identities.tolist() == [0, 0, 1]
    assert data.partitions.tolist() == [0, 0, 0] and data.attributes == ()
    save(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="loose.jpg: lies in no person's folder"):
        read_people(tmp_path)


def test_one_person_cannot_be_told_from_others(tmp_path):
    save(tmp_path / "Ann" / "1.jpg")
    with pytest.raises(ValueError, match="one person alone, Ann"):
        read_people(tmp_path)
    with pytest.raises(ValueError, match="no picture found"):
        read_people(tmp_path / "nobody")
