"""Records with ages, as text."""

import csv
import io
import json

import pytest

from faceattr.ages import Age
from faceattr.pipeline import Face, Prediction
from faceattr.records import RecordWriter

FACES = [
    Face((1, 2, 3, 4), 0.9, {"Smiling": 0.75}, ("Smiling",), age=Age(34.26, 28, 41.4)),
    Face((5, 6, 7, 8), 0.8, {"Smiling": 0.25}),
]
PHOTOS = [Prediction("a.jpg", 10, 20, FACES), Prediction("b.jpg", 10, 20), Prediction("c.jpg", error="damaged")]


def written(format, **options):
    text = io.StringIO()
    with RecordWriter(text, format, ("Smiling",), **options) as writer:
        for photo in PHOTOS:
            writer.write(photo)
    return text.getvalue()


def test_csv_has_the_age_and_its_interval():
    rows = list(csv.reader(io.StringIO(written("csv", aged=True))))
    assert {len(row) for row in rows} == {15}
    assert [rows[0].index(name) for name in ("score", "age", "age_low", "age_high", "Smiling")] == [8, 9, 10, 11, 12]
    assert rows[1][9:13] == ["34.3", "28.0", "41.4", "0.7500"]
    assert rows[2][9:13] == ["", "", "", "0.2500"]
    assert rows[3][3:] == [""] * 12 and rows[4][14] == "damaged"


def test_csv_of_weights_that_tell_no_age_has_no_such_columns():
    rows = list(csv.reader(io.StringIO(written("csv"))))
    assert {len(row) for row in rows} == {12} and "age" not in rows[0]


@pytest.mark.parametrize(
    ("format", "start"), [("csv", "image,width,"), ("table", "image "), ("json", "[]"), ("jsonl", "")]
)
def test_no_record(format, start):
    text = io.StringIO()
    with RecordWriter(text, format, ("Smiling",), aged=True):
        pass
    assert text.getvalue().startswith(start) and text.getvalue().count("\n") == (format != "jsonl")
    assert format != "csv" or text.getvalue() == written("csv", aged=True).partition("\n")[0] + "\n"


def test_json_and_table():
    first = json.loads(written("jsonl").splitlines()[0])
    assert first["faces"][0]["age"] == {"years": 34.3, "low": 28.0, "high": 41.4} and "age" not in first["faces"][1]
    assert "age 34 (28 to 41), Smiling 0.75" in written("table")


@pytest.mark.parametrize("format", ["csv", "table"])
def test_a_face_alone_with_an_age(format):
    text = io.StringIO()
    with RecordWriter(text, format, (), aged=True) as writer:
        writer.write(Prediction("a.jpg", 10, 20, [Face((1, 2, 3, 4), None, age=Age(7, 5, 9))]))
    assert ("7.0,5.0,9.0" if format == "csv" else "age 7 (5 to 9)") in text.getvalue()
