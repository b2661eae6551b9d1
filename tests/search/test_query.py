"""The language of searches, run on a table that SQLite itself evaluates."""

import sqlite3

import pytest

from faceattr.search.query import FIELDS, SCALE, compile_query

COLUMNS = {"Smiling": "a0", "Wearing_Hat": "a1", "5_o_Clock_Shadow": "a2", "or": "a3"}
# name of the photo: faces in it, and for its face Smiling, Wearing_Hat, 5_o_Clock_Shadow; or none
PHOTOS = {
    "none": (0, None),
    "smile": (1, (0.9, 0.1, 0.2)),
    "hat": (1, (0.2, 0.8, 0.2)),
    "both": (3, (0.95, 0.6, 0.7)),
    "neither": (1, (0.1, 0.3, 0.9)),
}
AGES = {"smile": (17.5, 15, 20), "hat": (30, 25, 36.5), "both": (64, 58.5, 71)}


@pytest.fixture(scope="module")
def run():
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE photos (id TEXT, faces INTEGER, width INTEGER, height INTEGER)")
    attributes = ", ".join(f"a{i} INTEGER" for i in range(4))
    db.execute(f"CREATE TABLE faces (photo TEXT, score REAL, age REAL, age_low REAL, age_high REAL, {attributes})")
    for name, (faces, values) in PHOTOS.items():
        db.execute("INSERT INTO photos VALUES (?, ?, 640, 480)", (name, faces))
        if values:
            row = [name, 0.9, *AGES.get(name, [None] * 3), *(round(value * SCALE) for value in values), 0]
            db.execute(f"INSERT INTO faces VALUES ({', '.join('?' * len(row))})", row)

    def found(text, tells_age=lambda: True):
        condition = compile_query(text, COLUMNS, lambda name: str(SCALE // 2), tells_age)
        rank = condition.rank or "NULL"
        sql = f"SELECT p.id, {rank} FROM photos p LEFT JOIN faces f ON f.photo = p.id WHERE {condition.where}"
        return {name: None if value is None else value / SCALE for name, value in db.execute(sql)}

    return found


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "none smile hat both neither"),
        ("Smiling", "smile both"),
        ("smiling AND wearing_hat", "both"),
        ('"Wearing Hat"', "hat both"),
        ("'wearing-hat' or smiling", "smile hat both"),
        ("not Smiling", "hat neither"),  # of a face: a photo without one has none that does not smile
        ("not not Smiling", "smile both"),
        ("Smiling or Wearing_Hat and not Smiling", "smile hat both"),
        ("(Smiling or Wearing_Hat) and not Smiling", "hat"),
        ("Smiling>0.92", "both"),
        ("Smiling > 92%", "both"),
        ("Smiling<=.2", "hat neither"),
        ("5_o_clock_shadow>=0.7", "both neither"),
        ("faces>=2", "both"),
        ("faces=0", "none"),
        ("faces != 1", "none both"),
        ("faces=0 or smiling", "none smile both"),
        ("not (faces=1)", "none both"),
        ("score<0.5 or width>640 or height>=481", ""),
        ('"or" or smiling', "smile both"),
        ("age<30", "smile"),
        ("age >= 30", "hat both"),
        ("Age>=60 and Smiling", "both"),
        ("age<=17.5 or age>63.9", "smile both"),
        ("not age<30", "hat both"),  # the age of neither is not known
        ("age_low>=18", "hat both"),
        ("age_high<18", ""),
        ("'age high'<=20", "smile"),
    ],
)
def test_what_is_found(run, text, names):
    assert set(run(text)) == set(names.split())


def test_ranks(run):
    assert run("Smiling and Wearing_Hat") == {"both": 0.6}
    assert run("Smiling or Wearing_Hat") == {"smile": 0.9, "hat": 0.8, "both": 0.95}
    assert run("not Smiling and faces>=1") == {"hat": 0.8, "neither": 0.9}
    assert run("faces>=2") == {"both": None}
    assert run("Smiling<0.15") == {"neither": 0.9}
    assert run("age<30 and Smiling") == {"smile": 0.9} and run("age<30") == {"smile": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Smilling", "'Smilling' at 1 is no attribute of this index; choose from Smiling"),
        ("zzz", "choose from Smiling, Wearing_Hat"),
        ("Smiling Wearing_Hat", "'Wearing_Hat' at 9: and, or, or the end is expected there"),
        ("Smiling and", "ends where an attribute, not, or a bracket is expected"),
        ("(Smiling", "ends where and, or, or a closing bracket"),
        ("Smiling)", r"'\)' at 8"),
        ("Smiling>", "ends where a probability"),
        ("Smiling>high", "'high' at 9: a probability"),
        ("Smiling>90", "'90' at 9: a probability, 0 to 1 or 0% to 100%"),
        ("Smiling=0.5", "'=' at 8: <, <=, > or >="),
        ("faces", "ends where a comparison"),
        ("faces>1e9", "a number"),
        ("faces>" + "9" * 400, "a shorter number"),
        ("faces>2%", "'2%' at 7: a number"),
        ("age", "ends where a comparison, as faces>=2 or age<30"),
        ("age=30", "'=' at 4: <, <=, > or >="),
        ("age<young", "'young' at 5: a number"),
        ("age<30%", "'30%' at 5: a number"),
        ("age<-1", "'-1' at 5: a number"),
        ('"Smiling', "at 1 cannot be read; see the quotes"),
        ("'; DROP TABLE photos; --'", "is no attribute"),
        ("(" * 1000 + "Smiling" + ")" * 1000, "more than 100"),
        ("not " * 1000 + "Smiling", "more than 100"),
        ("and", "'and' at 1: an attribute"),
    ],
)
def test_what_cannot_be_meant(run, text, message):
    with pytest.raises(ValueError, match=f"query: .*{message}|query: {message}"):
        run(text)


@pytest.mark.parametrize("text", ["age<30", "Smiling and not (age_low>=18)"])
def test_ages_of_an_index_without_them(run, text):
    with pytest.raises(ValueError, match="no face of this index has an age; index the photos with weights that tell"):
        run(text, lambda: False)


def test_ages_are_looked_for_where_they_are_asked_for(run):
    run("Smiling and faces>=1", lambda: pytest.fail("a look at all faces"))


def test_fields_do_not_hide_attributes():
    assert not {name.lower() for name in COLUMNS} & set(FIELDS)
