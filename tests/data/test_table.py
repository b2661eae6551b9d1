"""Tables as people write them: read alike, or refused with their own names."""

import numpy as np
import pytest

from faceattr.data.table import celeba_name, read_table, truth, whole
from faceattr.data.tag_csv import read_tag_csv
from faceattr.evaluation.boxes import read_boxes

PLAIN = "image,identity,partition,Smiling,Wearing_Hat\na.jpg,7,0,1,0\nb.jpg,8,2,0,\nc.jpg,7,2,1,1\n"
HEADER = PLAIN.partition("\n")[0]
WRITTEN = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "blanks": PLAIN.replace(",", " , ").replace("\n", " \n"),
    "other case": PLAIN.replace(HEADER, "Image,IDENTITY,Partition,smiling,Wearing Hat"),
    "pandas' numbers": f"{HEADER}\na.jpg,7.0,0.0,1.0,0.0\nb.jpg,8.0,2.0,0.0,NaN\nc.jpg,7.0,2.0,1.0,1.0\n",
    "pandas' index": f",{HEADER}\n0,a.jpg,7,0,1,0\n1,b.jpg,8,2,0,\n2,c.jpg,7,2,1,1\n",
    "empty lines": PLAIN + "\n,,,,\n\n",
    "words": f"file_name{HEADER[5:]}\na.jpg,7,train,True,no\nb.jpg,8,test,False,NA\nc.jpg,7,test,yes,TRUE\n",
    "old Macs": PLAIN.replace("\n", "\r"),
    "Windows": "\ufeff" + PLAIN.replace("\n", "\r\n"),
}


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    return tmp_path


def read(folder, text):
    path = folder / "tags.csv"
    path.write_text(text, newline="")
    return read_tag_csv(path)


@pytest.mark.parametrize("how", WRITTEN)
def test_one_table_written_in_many_ways(folder, how):
    expected, found = read(folder, PLAIN), read(folder, WRITTEN[how])
    assert found.names == expected.names == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.attributes == ("Smiling", "Wearing_Hat")
    assert found.tags.tolist() == [[True, False], [False, False], [True, True]]
    assert found.known.tolist() == [[True, True], [True, False], [True, True]]
    assert found.partitions.tolist() == [0, 2, 2]
    assert found.identities[0] == found.identities[2] != found.identities[1]


def test_pictures_without_a_person_are_not_of_one(folder):
    data = read(folder, "image,identity,Smiling\na.jpg,,1\nb.jpg,NaN,0\nc.jpg,Ann,0\n")
    assert len(np.unique(data.identities)) == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,Wearing Hat,wearing_hat\na.jpg,1,1\n", "the columns 'Wearing Hat' and 'wearing_hat' mean the same"),
        ("image,Image\na.jpg,1\n", "the columns 'image' and 'Image' mean the same"),
        ("image;Wearing Hat\na.jpg;2.0\n", "line 2: Wearing Hat is '2.0', expected 1, 0, -1"),
        ("image,smiling\na.jpg,0.5\n", "line 2: smiling is '0.5', expected 1, 0, -1"),
        ("Image,Part,PARTITION,smiling\na.jpg,1,3.0,1\n", "line 2: PARTITION '3.0', expected 0, 1 or 2"),
        (",image,Smiling\n5,a.jpg,1\n", "column '' is without a name"),
        ("image,Smiling\na.jpg,1,1\n", "line 2: 3 values for 2 columns"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_own_names(folder, text, message):
    with pytest.raises(ValueError, match="tags.csv") as error:
        read(folder, text)
    assert message in str(error.value)


def test_what_is_no_table_is_refused(folder):
    with pytest.raises(ValueError, match=r"tags.csv, line 2: not a table"):
        read(folder, 'image,Smiling\na.jpg,"' + "1" * 200_000 + '"\n')


def test_boxes_too(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("Image; X0; Y0; X1; Y1; Label\na b.jpg; 1.0; 2; 3; 4.5; face\n\n")
    [photo] = read_boxes(path)
    assert photo.image == "a b.jpg" and photo.boxes.tolist() == [[1, 2, 3, 4.5]] and photo.labels == ("face",)


def test_cells():
    assert [truth(text) for text in ("1", "1.0", "1.", "True", " yes ")] == [True] * 5
    assert [truth(text) for text in ("0", "0.0", "-1", "-1.0", "FALSE", "no")] == [False] * 6
    assert [truth(text) for text in ("", "nan", "NaN", "<NA>", "None")] == [None] * 5
    for text in ("2", "1.5", "maybe", "10"):
        with pytest.raises(ValueError, match="expected 1, 0, -1"):
            truth(text)
    assert [whole(text) for text in ("12.0", "12", "Ann", "1.5", "NaN")] == ["12", "12", "Ann", "1.5", ""]
    assert celeba_name("wearing hat") == "Wearing_Hat" and celeba_name("5 o'clock shadow") == "5_o_Clock_Shadow"
    assert celeba_name("Strong Nose-Mouth Lines") == "Strong_Nose-Mouth_Lines"


def test_a_line_break_in_quotes_is_part_of_a_value(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"x\ny",1\nz,2\n')
    assert read_table(path, "a table").rows == [(3, ["x\ny", "1"]), (4, ["z", "2"])]
