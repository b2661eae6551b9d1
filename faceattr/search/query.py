"""The language of searches: Smiling and (Eyeglasses or Wearing_Hat>0.9) and not Young and faces>=2.

    query       or-terms of and-terms of: not TERM, ( QUERY ), NAME, NAME OPERATOR NUMBER
    NAME        an attribute, in any case, with _ or in quotes with blanks; or one of FIELDS
    OPERATOR    < <= > >=, of COUNTED fields also = and !=
    NUMBER      of probabilities 0 to 1, or 0% to 100%; of ages in years

An attribute without a number holds where its probability reaches the threshold of its label. All terms speak of the
same face: a photo is found when one of its faces fits. `faces`, `width` and `height` are the photo's. `age` is how old
the face looks, `age_low` and `age_high` are the ends of its interval; of a face without an age nothing holds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SCALE = 1_000_000
"""Probabilities are stored as whole numbers of such parts."""

COUNTED = {"faces": "p.faces", "width": "p.width", "height": "p.height"}
AGES = {"age": "f.age", "age_low": "f.age_low", "age_high": "f.age_high"}
FIELDS = {**COUNTED, "score": "f.score", **AGES}
"""What else can be compared: names and columns. The score is how sure it is that there is a face."""

_TOKEN = re.compile(r"""\s*(?:(?P<op><=|>=|!=|==|=|<|>)|(?P<bracket>[()])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
                    r"""|(?P<word>[^\s()<>=!"']+))""")  # fmt: skip
_DEEPEST = 100


@dataclass(frozen=True)
class Condition:
    """A query in SQL over photos p and faces f.

    where: the condition. rank: from 0 to SCALE, how well a face fits: the least probability of what is joined by `and`,
    the greatest of what is joined by `or`; None where no probability is asked for.
    """

    where: str
    rank: str | None


def compile_query(
    text: str, columns: Mapping[str, str], threshold: Callable[[str], str], tells_age: Callable[[], bool]
) -> Condition:
    """The condition of a query; an empty one holds for every photo.

    columns: of each attribute its column. threshold: of an attribute the SQL of its threshold in parts of SCALE.
    tells_age: whether faces have ages, else it is an error to ask for one; called where one is asked for.
    Raises ValueError that names the place in the text and what is possible there.
    """
    return _Parser(text, columns, threshold, tells_age).parse()


class _Parser:
    def __init__(self, text: str, columns: Mapping[str, str], threshold: Callable[[str], str], tells_age):
        self._text, self._columns, self._threshold, self._tells_age = text, columns, threshold, tells_age
        self._names = {_folded(name): name for name in [*columns, *FIELDS]}
        self._tokens, self._next, self._depth = self._split(), 0, 0

    def parse(self) -> Condition:
        if not self._tokens:
            return Condition("1", None)
        condition = self._either()
        if self._next < len(self._tokens):
            self._fail("and, or, or the end")
        return condition

    def _split(self) -> list[tuple[str, str, int]]:
        tokens, position, end = [], 0, len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None:
                start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise ValueError(
                    f"query: {self._text[start : start + 20]!r} at {start + 1} cannot be read; see the quotes"
                )
            kind, value = match.lastgroup, match[match.lastgroup]
            start = match.start(kind) + 1
            if kind == "word" and value.lower() in ("and", "or", "not"):
                kind, value = "keyword", value.lower()
            tokens.append(("name" if kind in ("double", "single") else kind, value, start))
            position = match.end()
        return tokens

    def _peek(self) -> tuple[str | None, str]:
        return self._tokens[self._next][:2] if self._next < len(self._tokens) else (None, "")

    def _take(self, *wanted: tuple[str, str]) -> bool:
        if self._peek() in wanted:
            self._next += 1
            return True
        return False

    def _fail(self, wanted: str) -> None:
        if self._next < len(self._tokens):
            _, value, position = self._tokens[self._next]
            raise ValueError(f"query: {value!r} at {position}: {wanted} is expected there")
        raise ValueError(f"query: {self._text!r} ends where {wanted} is expected")

    def _either(self) -> Condition:
        return self._joined(self._both, "or", "max")

    def _both(self) -> Condition:
        return self._joined(self._term, "and", "min")

    def _joined(self, part: Callable[[], Condition], word: str, best: str) -> Condition:
        parts = [part()]
        while self._take(("keyword", word)):
            parts.append(part())
        if len(parts) == 1:
            return parts[0]
        ranks = [each.rank for each in parts if each.rank is not None]
        where = f" {word.upper()} ".join(each.where for each in parts)
        rank = None if not ranks else ranks[0] if len(ranks) == 1 else f"{best}({', '.join(ranks)})"
        return Condition(f"({where})", rank)

    def _term(self) -> Condition:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"query: more than {_DEEPEST} brackets and nots inside each other")
        try:
            if self._take(("keyword", "not")):
                inner = self._term()
                return Condition(f"(NOT {inner.where})", inner.rank and f"({SCALE} - {inner.rank})")
            if self._take(("bracket", "(")):
                inner = self._either()
                if not self._take(("bracket", ")")):
                    self._fail("and, or, or a closing bracket")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Condition:
        kind, value = self._peek()
        if kind not in ("word", "name"):
            self._fail("an attribute, not, or a bracket")
        name = self._names.get(_folded(value))
        if name is None:
            position = self._tokens[self._next][2]
            close = difflib.get_close_matches(_folded(value), self._names, n=3, cutoff=0.5) or self._names
            known = ", ".join(self._names[each] for each in close)
            raise ValueError(f"query: {value!r} at {position} is no attribute of this index; choose from {known}")
        if name in AGES and not self._tells_age():
            raise ValueError("query: no face of this index has an age; index the photos with weights that tell ages")
        self._next += 1
        attribute = name in self._columns
        if self._peek()[0] != "op":
            if not attribute:
                self._fail("a comparison, as faces>=2 or age<30,")
            column = f"f.{self._columns[name]}"
            return Condition(f"({column} >= {self._threshold(name)})", column)
        operator = self._peek()[1]
        self._next += 1
        share = attribute or name == "score"
        if name not in COUNTED and operator not in ("<", "<=", ">", ">="):
            self._next -= 1
            self._fail("<, <=, > or >=")
        number = self._number(share)
        if attribute:
            column = f"f.{self._columns[name]}"
            rank = column if operator[0] == ">" else f"({SCALE} - {column})"
            return Condition(f"({column} {operator} {round(number * SCALE)})", rank)
        return Condition(f"({FIELDS[name]} {operator} {number!r})", None)

    def _number(self, share: bool) -> float:
        kind, value = self._peek()
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(%?)", value) if kind == "word" else None
        if match is None or (match[2] and not share):
            self._fail("a probability, 0 to 1 or 0% to 100%," if share else "a number")
        number = float(match[1]) / (100 if match[2] else 1)
        if share and number > 1:
            self._fail("a probability, 0 to 1 or 0% to 100%,")
        if len(match[1]) > 15:
            self._fail("a shorter number")
        self._next += 1
        return number


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())
