"""What the commands write."""

import csv
import json

import numpy as np
import pytest

from faceattr.explain.output import FreeNames, make_folder, write_csv, write_json


def test_names_are_told_apart(tmp_path):
    free = FreeNames(tmp_path)
    names = [free.path(stem, "maps.png").name for stem in ("a", "A", "a", "a-2", "b")]
    assert names == ["a.maps.png", "A-2.maps.png", "a-3.maps.png", "a-2-2.maps.png", "b.maps.png"]


def test_csv_and_json(tmp_path):
    write_csv(
        tmp_path / "a.csv",
        [{"name": "x, y", "value": np.float32(0.5), "none": None}, {"name": "z", "value": 1 / 3, "none": 2}],
    )
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert rows == [{"name": "x, y", "value": "0.5", "none": ""}, {"name": "z", "value": "0.333333", "none": "2"}]
    write_json(tmp_path / "a.json", {1: np.array([[0.5, np.nan]]), "b": (np.int64(3), np.bool_(True), None)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"1": [[0.5, None]], "b": [3, True, None]}


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: cannot be made a folder .* choose another with --output"):
        make_folder(tmp_path / "file")
