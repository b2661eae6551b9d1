"""Tables as people write them: separated by commas, semicolons or tabs, with blanks, other cases, pandas' numbers."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from faceattr.attributes import ATTRIBUTES
from faceattr.data.tagged import read_text

PARTITIONS = {"0": 0, "1": 1, "2": 2, "train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "": -1}
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "-1", "false", "no")
_UNKNOWN = ("", "nan", "na", "n/a", "none", "null", "<na>")


@dataclass(frozen=True)
class Table:
    """A file's columns as it names them, and its rows: the line that each ends on and a value a column. There are no
    blanks round names and values."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def find(self, *names: str) -> int | None:
        """The column with one of these names, however it is written; ValueError where several have one."""
        wanted = {plain(name) for name in names}
        found = [column for column, name in enumerate(self.header) if plain(name) in wanted]
        if len(found) > 1:
            both = " and ".join(repr(self.header[column]) for column in found)
            raise ValueError(f"{self.path}, line 1: the columns {both} mean the same; leave one")
        return found[0] if found else None


def read_table(path: Path, what: str) -> Table:
    """Reads a CSV with a header, whose separator (comma, semicolon or tab) is the one that parts its first line most.

    Lines without any value are left out, and so is a first column without a name that numbers the rows, as pandas
    writes it.

    Args:
        what: it is, for the error when it is missing.

    Raises:
        ValueError: no such file or no text, a column without a name or there twice, a row with more or fewer values
            than columns; the message names file and line.
    """
    text = read_text(path, what).replace("\r\n", "\n").replace("\r", "\n")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [value.strip() for value in fields]) for fields in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a table ({error})") from None
    rows = [(line, values) for line, values in rows if any(values)]
    for line, values in rows:
        if len(values) != len(header):
            raise ValueError(f"{path}, line {line}: {len(values)} values for {len(header)} columns")
    if header[:1] in ([""], ["Unnamed: 0"]) and [values[0] for _, values in rows] == [str(i) for i in range(len(rows))]:
        header, rows = header[1:], [(line, values[1:]) for line, values in rows]
    for name in header:
        if header.count(name) > 1 or not name:
            problem = "there twice" if name else "without a name"
            raise ValueError(f"{path}, line 1: column {name!r} is {problem}; the columns are {', '.join(header)}")
    return Table(path, header, rows)


def plain(name: str) -> str:
    """A name by its letters and digits alone, in small letters."""
    return re.sub(r"[^\w]|_", "", name).casefold()


def celeba_name(name: str) -> str:
    """CelebA's name of an attribute where they differ in case and punctuation alone, else the name without blanks."""
    return next((known for known in ATTRIBUTES if plain(known) == plain(name)), name.strip().replace(" ", "_"))


def truth(value: str) -> bool | None:
    """What a cell says: 1, true, yes, or 0, -1, false, no; None where it says that nobody knows.

    Numbers may be written as pandas does where some are missing: 1.0. Raises ValueError for anything else.
    """
    value = re.sub(r"^(-?\d+)\.0*$", r"\1", value.strip()).lower()
    if value in _UNKNOWN:
        return None
    if value not in _TRUE + _FALSE:
        raise ValueError("expected 1, 0, -1, true, false, yes, no, or nothing where it is not known")
    return value in _TRUE


def whole(value: str) -> str:
    """A cell that holds a number or a name, without pandas' .0; empty where it says that nobody knows."""
    value = re.sub(r"^(\d+)\.0*$", r"\1", value.strip())
    return "" if value.lower() in _UNKNOWN else value
