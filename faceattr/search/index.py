"""The index: a SQLite file with the faces of photo collections.

    photos      a row a file: path, size, mtime and hash by which it is known again; missing: it is not there any more
    faces       a row a face: box, frame (x0 ... and fx0 ...), score, age in years with its interval, and a column an
                attribute with its probability in parts of 1,000,000
    attributes  which column is whose
    models      the checkpoints that scored the faces, with the thresholds of their labels and how they frame faces
    thumbnails  small pictures
    roots       the folders that were indexed

It is written in transactions of a few photos (WAL): a kill loses those that were not yet in, two runs at once do each
other no harm, and who reads sees whole photos.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from faceattr.ages import LIMITS, Age
from faceattr.collection import Collection, collect
from faceattr.crops import carried
from faceattr.images import ImageError, check_file
from faceattr.pipeline import Face, FaceAttributes, Prediction
from faceattr.search.query import SCALE, compile_query
from faceattr.video import is_video

APPLICATION, VERSION = 0x66616365, 2
THUMBNAIL_SIDE = 256
BATCH_PHOTOS, BATCH_SECONDS = 64, 5.0
"""A transaction holds the photos of so many seconds, and so many at most."""
ORDERS = ("probability", "path", "time")

_EDGES = ("x0", "y0", "x1", "y1", "fx0", "fy0", "fx1", "fy1")
_FACE = ("photo", "number", *_EDGES, "score", "notes", "age", "age_low", "age_high")
"""A face's columns; those of the attributes follow."""

_SCHEMA = f"""
CREATE TABLE photos (
    id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, size INTEGER, mtime INTEGER, hash BLOB, width INTEGER,
    height INTEGER, orientation INTEGER, faces INTEGER NOT NULL, model INTEGER, error TEXT,
    missing INTEGER NOT NULL DEFAULT 0);
CREATE INDEX photos_by_hash ON photos (hash);
CREATE TABLE faces (
    photo INTEGER NOT NULL REFERENCES photos, number INTEGER NOT NULL, {" REAL, ".join(_EDGES)} REAL, score REAL,
    notes TEXT, age REAL, age_low REAL, age_high REAL, PRIMARY KEY (photo, number)) WITHOUT ROWID;
CREATE TABLE thumbnails (photo INTEGER PRIMARY KEY REFERENCES photos, jpeg BLOB NOT NULL);
CREATE TABLE models (
    id INTEGER PRIMARY KEY, sha256 TEXT UNIQUE NOT NULL, thresholds TEXT NOT NULL, aligned_box TEXT NOT NULL);
CREATE TABLE attributes (position INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE roots (path TEXT UNIQUE NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


@dataclass
class Done:
    """What an update did, in numbers of photos."""

    new: int = 0
    changed: int = 0
    rescored: int = 0
    moved: int = 0
    copies: int = 0
    unchanged: int = 0
    vanished: int = 0
    failed: int = 0

    def __str__(self) -> str:
        counts = ", ".join(f"{value} {name}" for name, value in vars(self).items() if value)
        return counts or "no photos"


@dataclass(frozen=True)
class Hit:
    """A photo that a search found: its row's id, its record with the faces that fit, their numbers, and how well."""

    id: int
    prediction: Prediction
    numbers: tuple[int, ...]
    probability: float | None


@dataclass(frozen=True)
class _Task:
    """A photo to be looked at. faces: those it has, where they are only to be scored anew."""

    path: str
    size: int | None = None
    mtime: int | None = None
    hash: bytes | None = None
    faces: Sequence[Face] | None = None
    kind: str = field(default="new")


class Index:
    """An index file, made where there is none.

    read_only: it has to be there, and is not changed. Raises ValueError for a file that is no index or cannot be used;
    so do all methods.
    """

    def __init__(self, path: str | os.PathLike, read_only: bool = False):
        self.path = Path(path)
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise ValueError(f"{self.path}: is no file; give an index that faceattr index made, or a new name")
        with self._named():
            if read_only:
                self._db = self._open_read_only()
            else:
                self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._db.text_factory = os.fsdecode  # paths need not be text
            self._prepare(read_only)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_) -> None:
        self._db.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = "is no index of faceattr" if "not a database" in str(error) else f"cannot be used ({error})"
            raise ValueError(f"{self.path}: {problem}; check the file, its permissions and the disk") from error

    def _open_read_only(self) -> sqlite3.Connection:
        if not os.path.isfile(self.path):
            raise ValueError(f"{self.path}: no such file; make it with faceattr index PHOTOS --db {self.path}")
        uri = self.path.absolute().as_uri()
        try:
            db = sqlite3.connect(f"{uri}?mode=ro", timeout=60, isolation_level=None, uri=True, check_same_thread=False)
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # In a folder that may not be written to, WAL has no place for its files. What is still in the WAL would be
            # overlooked without it.
            wal = self.path.with_name(self.path.name + "-wal")
            if wal.exists() and wal.stat().st_size:
                raise
            db = sqlite3.connect(f"{uri}?immutable=1", isolation_level=None, uri=True, check_same_thread=False)
        return db

    def _prepare(self, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
        kind = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
        if kind[0] != APPLICATION:
            raise ValueError(f"{self.path}: is no index of faceattr; choose another file")
        if kind[1] != VERSION:
            raise ValueError(
                f"{self.path}: is of version {kind[1]}, this faceattr reads {VERSION}; index the photos into a new file"
            )

    def _one(self, sql: str, *values):
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # What is in it

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, in the order of their columns."""
        return tuple(name for (name,) in self._db.execute("SELECT name FROM attributes ORDER BY position"))

    @property
    def roots(self) -> tuple[str, ...]:
        """The folders that were indexed, without links in their paths."""
        return tuple(path for (path,) in self._db.execute("SELECT path FROM roots ORDER BY path"))

    @property
    def tells_age(self) -> bool:
        """Whether any face has an age."""
        return self._one("SELECT 1 FROM faces WHERE age IS NOT NULL LIMIT 1") is not None

    def counts(self) -> dict[str, int]:
        """How many photos and faces there are, photos that cannot be read, and such that are not there any more."""
        row = self._db.execute(
            "SELECT coalesce(sum(missing = 0 AND error IS NULL), 0), coalesce(sum(faces * (missing = 0)), 0), "
            "coalesce(sum(missing = 0 AND error IS NOT NULL), 0), coalesce(sum(missing), 0) FROM photos"
        ).fetchone()
        return dict(zip(("photos", "faces", "unreadable", "missing"), row, strict=True))

    def histogram(self, query: str = "", name: str = "", thresholds: str = "accuracy") -> dict[str, int]:
        """For each attribute how many of the faces that fit a query have its label."""
        with self._named():
            condition, values = self._condition(query, name, thresholds)
            sums = ", ".join(
                f"coalesce(sum(f.a{i} >= {self._threshold(each, thresholds)}), 0)"
                for i, each in enumerate(self.attributes)
            )
            if not sums:
                return {}
            sql = f"SELECT {sums} FROM photos p JOIN faces f ON f.photo = p.id WHERE {condition.where}"
            return dict(zip(self.attributes, self._db.execute(sql, values).fetchone(), strict=True))

    def ages(self, query: str = "", name: str = "") -> dict[str, int]:
        """How many of the faces that fit a query look so old: by the years from which on, to the next; those with an
        age alone."""
        with self._named():
            condition, values = self._condition(query, name, "accuracy")
            if not self.tells_age:
                return {}
            ends = zip((0, *LIMITS), (*LIMITS, "1e9"), strict=True)
            sums = ", ".join(f"coalesce(sum(f.age >= {low} AND f.age < {high}), 0)" for low, high in ends)
            sql = f"SELECT {sums} FROM photos p JOIN faces f ON f.photo = p.id WHERE {condition.where}"
            counts = self._db.execute(sql, values).fetchone()
            return dict(zip(map(str, (0, *LIMITS)), counts, strict=True))

    def thumbnail(self, photo: int) -> bytes | None:
        """The small picture of a photo as JPEG."""
        with self._named():
            return self._one("SELECT jpeg FROM thumbnails WHERE photo = ?", photo)

    def photo_path(self, photo: int) -> str | None:
        """Where the photo of that id is, if it is there."""
        with self._named():
            return self._one("SELECT path FROM photos WHERE id = ? AND missing = 0", photo)

    def faces_of(self, photo: int, thresholds: str = "accuracy") -> list[Face]:
        """All faces of a photo."""
        with self._named():
            model = self._one("SELECT model FROM photos WHERE id = ?", photo)
            names, least = self.attributes, self._thresholds(thresholds).get(model, {})
            rows = self._db.execute(self._select_faces(names), (photo,)).fetchall()
            return [_face(row, names, least) for row in rows]

    def framing(self, photo: int) -> list[float]:
        """Where the frames of a photo's faces lie on an aligned picture: the `aligned_box` of their checkpoint."""
        with self._named():
            return self._aligned_box(self._one("SELECT model FROM photos WHERE id = ?", photo))

    def search(
        self,
        query: str = "",
        *,
        name: str = "",
        order: str = "probability",
        limit: int | None = None,
        offset: int = 0,
        thresholds: str = "accuracy",
    ) -> Iterator[Hit]:
        """The photos of which a face fits a query (`faceattr.search.query`), the best first or by `order`.

        name: also part of the photo's path. thresholds: which of the checkpoint's make the labels.
        """
        if order not in ORDERS:
            raise ValueError(f"order={order!r}: it must be one of {', '.join(ORDERS)}")
        with self._named():
            condition, values = self._condition(query, name, thresholds)
            rank = condition.rank or ("f.score" if order == "probability" else "NULL")
            by = {"probability": "rank DESC, p.path", "path": "p.path", "time": "p.mtime DESC, p.path"}[order]
            sql = (
                "SELECT p.id, p.path, p.width, p.height, p.orientation, p.model, "
                f"max({rank}) AS rank, group_concat(f.number) FROM photos p LEFT JOIN faces f ON f.photo = p.id "
                f"WHERE {condition.where} GROUP BY p.id ORDER BY {by} LIMIT ? OFFSET ?"
            )
            rows = self._db.execute(sql, [*values, -1 if limit is None else limit, offset]).fetchall()
            names, least = self.attributes, self._thresholds(thresholds)
            select = self._select_faces(names)
            for identity, path, width, height, orientation, model, best, numbers in rows:
                numbers = tuple(sorted(map(int, numbers.split(",")))) if numbers else ()
                of_photo = self._db.execute(select, (identity,)) if numbers else ()
                faces = [_face(row, names, least.get(model, {})) for row in of_photo if row[1] in numbers]
                probability = None if condition.rank is None or best is None else best / SCALE
                prediction = Prediction(path, width, height, faces, orientation=orientation or 1)
                yield Hit(identity, prediction, numbers, probability)

    def count(self, query: str = "", *, name: str = "", thresholds: str = "accuracy") -> int:
        """How many photos a search finds."""
        with self._named():
            condition, values = self._condition(query, name, thresholds)
            sql = (
                f"SELECT count(DISTINCT p.id) FROM photos p LEFT JOIN faces f ON f.photo = p.id WHERE {condition.where}"
            )
            return self._one(sql, *values)

    def _condition(self, query: str, name: str, thresholds: str):
        columns = {each: f"a{i}" for i, each in enumerate(self.attributes)}
        threshold = lambda each: self._threshold(each, thresholds)  # noqa: E731
        condition = compile_query(query, columns, threshold, lambda: self.tells_age)
        where, values = f"p.missing = 0 AND p.error IS NULL AND {condition.where}", []
        if name:
            where += " AND p.path LIKE ? ESCAPE '\\'"
            values.append("%" + name.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%")
        return replace(condition, where=where), values

    def _thresholds(self, kind: str) -> dict[int, dict[str, float]]:
        """Of each checkpoint, the thresholds of its attributes."""
        known = {}
        for identity, text in self._db.execute("SELECT id, thresholds FROM models"):
            of_model = json.loads(text)
            if kind not in of_model:
                raise ValueError(f"thresholds={kind!r}: the weights have {', '.join(of_model)}")
            known[identity] = of_model[kind]
        return known

    def _threshold(self, name: str, kind: str) -> str:
        # An attribute that a checkpoint does not have has no value in its faces either.
        known = {identity: round(of[name] * SCALE) for identity, of in self._thresholds(kind).items() if name in of}
        if len(set(known.values())) == 1:
            return str(next(iter(known.values())))
        return f"CASE p.model {' '.join(f'WHEN {i} THEN {value}' for i, value in known.items())} END"

    # Changing it

    def update(
        self,
        model: FaceAttributes,
        paths: Sequence[str | os.PathLike],
        *,
        follow_links: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[Done, str | None]]:
        """Brings the photos of some folders up to date; after each, what was done so far and what was wrong with it.

        Only new and changed photos are decoded; where the checkpoint is another one, faces keep their boxes and are
        scored anew.
        """
        found = collect(paths, follow_links=follow_links)
        yield from self.update_found(model, found, paths, batch_size=batch_size, workers=workers)

    def update_found(
        self,
        model: FaceAttributes,
        found: Collection,
        paths: Sequence[str | os.PathLike],
        *,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[Done, str | None]]:
        """As `update`, of pictures that were found below `paths` already."""
        done = Done()
        videos = [f"{path}: a video; an index holds photos" for path in found.pictures if is_video(path)]
        for error in [*(error for _, error in found.errors), *videos]:
            done.failed += 1
            yield done, error
        with self._named():
            current = self._add_model(model)
            folders = zip(found.pictures, found.folders, strict=True)
            roots = {os.path.realpath(folder) for picture, folder in folders if os.path.lexists(picture)}
            with self._transaction():
                for root in roots:
                    self._db.execute("INSERT OR IGNORE INTO roots VALUES (CAST(? AS TEXT))", (os.fsencode(root),))
            files = [_canonical(path) for path in found.pictures if not is_video(path)]
            tasks: deque[_Task] = deque()
            given: deque[Sequence[Face] | None] = deque()
            skipped: deque[str | None] = deque()

            def look_at() -> Iterator[str]:
                for path in files:
                    task = self._plan(path, current, done)
                    if task is None:
                        skipped.append(None)
                        continue
                    tasks.append(task)
                    given.append(task.faces)
                    yield path

            def faces() -> Iterator[Sequence[Face] | None]:
                while given:  # a photo's are there as soon as the photo is
                    yield given.popleft()

            stream = model.iter_predict(
                look_at(),
                faces(),
                batch_size=batch_size,
                workers=workers,
                keep_photos=True,
            )
            batch: list[tuple[_Task, Prediction, bytes | None]] = []
            written = time.monotonic()
            with closing(stream):
                try:
                    for prediction in stream:
                        while skipped:
                            yield done, skipped.popleft()
                        task = tasks.popleft()
                        batch.append(_row(task, prediction))
                        if prediction.error is None:
                            setattr(done, task.kind, getattr(done, task.kind) + 1)
                        else:
                            done.failed += 1
                        if len(batch) >= BATCH_PHOTOS or time.monotonic() - written > BATCH_SECONDS:
                            self._write(batch, current)
                            batch, written = [], time.monotonic()
                        yield done, prediction.error
                finally:
                    self._write(batch, current)  # also when it is interrupted
            while skipped:
                yield done, skipped.popleft()
            done.vanished = self._mark_vanished(files, paths)

    def _add_model(self, model: FaceAttributes) -> int:
        names, thresholds = model.metadata["attributes"], model.metadata["thresholds"]
        with self._transaction():
            for name in names:
                if self._one("SELECT 1 FROM attributes WHERE name = ?", name) is None:
                    position = self._one("SELECT count(*) FROM attributes")
                    self._db.execute("INSERT INTO attributes VALUES (?, ?)", (position, name))
                    self._db.execute(f"ALTER TABLE faces ADD COLUMN a{position} INTEGER")
            stored = {kind: dict(zip(names, values, strict=True)) for kind, values in thresholds.items()}
            self._db.execute(
                "INSERT OR IGNORE INTO models (sha256, thresholds, aligned_box) VALUES (?, ?, ?)",
                (
                    model.metadata["sha256"],
                    json.dumps(stored),
                    json.dumps(model.metadata["preprocessing"]["aligned_box"]),
                ),
            )
        return self._one("SELECT id FROM models WHERE sha256 = ?", model.metadata["sha256"])

    def _plan(self, path: str, model: int, done: Done) -> _Task | None:
        """What is to be done with a file; None where nothing is, or where it is done here: no pixel was needed."""
        try:
            check_file(path)
            status = os.stat(path)
        except (ImageError, OSError):
            return _Task(path)  # reading it says what is wrong
        size, mtime = status.st_size, status.st_mtime_ns
        columns = "id, size, mtime, hash, model, error, missing, faces"
        row = self._db.execute(
            f"SELECT {columns} FROM photos WHERE path = CAST(? AS TEXT)", (os.fsencode(path),)
        ).fetchone()
        content, kind = None, "unchanged"
        if row is None or row[1:3] != (size, mtime) or row[5] is not None:
            content = _hash(path)
            if content is None:
                return _Task(path)
            task = _Task(path, size, mtime, content, kind="new" if row is None else "changed")
            if row is None:
                row = self._known_content(path, content, columns, done)
                kind = None
            elif row[3] != content or row[5] is not None:
                return task
            if row is None:
                return task
            with self._transaction():
                self._db.execute("UPDATE photos SET size = ?, mtime = ? WHERE id = ?", (size, mtime, row[0]))
        identity, _, _, known, scored_by, _, missing, faces = row
        if missing:
            self._db.execute("UPDATE photos SET missing = 0 WHERE id = ?", (identity,))
        if scored_by == model or not faces:
            if scored_by != model:
                self._db.execute("UPDATE photos SET model = ? WHERE id = ?", (model, identity))
            done.unchanged += kind == "unchanged"
            return None
        framed, wanted = self._aligned_box(scored_by), self._aligned_box(model)
        rows = self._db.execute(self._select_faces(()), (identity,)).fetchall()
        old = [_face(row, (), {}) for row in rows]
        if framed != wanted:  # the crop is another checkpoint's, and follows from how that frames a face
            old = [replace(face, frame=tuple(carried(face.frame, framed, wanted))) for face in old]
        return _Task(path, size, mtime, known, old, "rescored")

    def _aligned_box(self, model: int) -> list[float]:
        return json.loads(self._one("SELECT aligned_box FROM models WHERE id = ?", model))

    def _known_content(self, path: str, content: bytes, columns: str, done: Done) -> tuple | None:
        """The row of a new file of known content: of one that moved here, or a copy of one that still is there."""
        sql = f"SELECT {columns}, path FROM photos WHERE hash = ? AND error IS NULL"
        for *row, old in self._db.execute(sql, (content,)).fetchall():
            encoded = os.fsencode(path)
            with self._transaction():
                if _is_gone(old):
                    done.moved += 1
                    self._db.execute(
                        "UPDATE photos SET path = CAST(? AS TEXT), missing = 0 WHERE id = ?", (encoded, row[0])
                    )
                    return tuple(row)
                done.copies += 1
                copied = "size, mtime, hash, width, height, orientation, faces, model"
                new = self._db.execute(
                    f"INSERT INTO photos (path, {copied}) SELECT CAST(? AS TEXT), {copied} FROM photos WHERE id = ?",
                    (encoded, row[0]),
                ).lastrowid
                values = ", ".join(self._face_columns(self.attributes)[1:])
                self._db.execute(
                    f"INSERT INTO faces (photo, {values}) SELECT ?, {values} FROM faces WHERE photo = ?", (new, row[0])
                )
                self._db.execute("INSERT INTO thumbnails SELECT ?, jpeg FROM thumbnails WHERE photo = ?", (new, row[0]))
                return (new, *row[1:])
        return None

    @staticmethod
    def _face_columns(attributes: Sequence[str]) -> list[str]:
        return [*_FACE, *(f"a{i}" for i in range(len(attributes)))]

    def _select_faces(self, attributes: Sequence[str]) -> str:
        return f"SELECT {', '.join(self._face_columns(attributes))} FROM faces WHERE photo = ? ORDER BY number"

    def _write(self, batch: Sequence[tuple[_Task, Prediction, bytes | None]], model: int) -> None:
        if not batch:
            return
        names = self.attributes
        columns = self._face_columns(names)
        insert = f"INSERT INTO faces ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        with self._transaction():
            for task, prediction, thumbnail in batch:
                if task.hash is None and not os.path.lexists(task.path):  # a name alone is no photo of the index
                    sql = "UPDATE photos SET missing = 1 WHERE path = CAST(? AS TEXT)"
                    self._db.execute(sql, (os.fsencode(task.path),))
                    continue
                self._db.execute(
                    "INSERT INTO photos (path, size, mtime, hash, width, height, orientation, faces, model, error) "
                    "VALUES (CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
                    "size = excluded.size, mtime = excluded.mtime, hash = excluded.hash, width = excluded.width, "
                    "height = excluded.height, orientation = excluded.orientation, faces = excluded.faces, "
                    "model = excluded.model, error = excluded.error, missing = 0",
                    (
                        os.fsencode(task.path),
                        task.size,
                        task.mtime,
                        task.hash,
                        prediction.width,
                        prediction.height,
                        prediction.orientation,
                        len(prediction.faces),
                        model,
                        None if prediction.error is None else prediction.error.encode(errors="replace").decode(),
                    ),
                )
                photo = self._one("SELECT id FROM photos WHERE path = CAST(? AS TEXT)", os.fsencode(task.path))
                self._db.execute("DELETE FROM faces WHERE photo = ?", (photo,))
                for number, face in enumerate(prediction.faces, 1):
                    values = [face.attributes.get(name) for name in names]
                    whole = [None if value is None else round(value * SCALE) for value in values]
                    edges = map(float, (*face.box, *face.frame))
                    years = (None,) * 3 if face.age is None else (face.age.years, face.age.low, face.age.high)
                    notes = json.dumps(face.notes)
                    self._db.execute(insert, [photo, number, *edges, face.score, notes, *years, *whole])
                if thumbnail is not None:
                    self._db.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", (photo, thumbnail))

    def _mark_vanished(self, files: Sequence[str], paths: Sequence[str | os.PathLike]) -> int:
        seen, gone = set(files), []
        for path in paths:
            root = os.path.realpath(path)
            if not os.path.isdir(root):  # a photo, or a folder that is not there: perhaps its disk is not
                continue
            low, high = os.fsencode(os.path.join(root, "")), os.fsencode(os.path.join(root, ""))[:-1] + b"0"
            sql = "SELECT id, path FROM photos WHERE missing = 0 AND path >= CAST(? AS TEXT) AND path < CAST(? AS TEXT)"
            rows = self._db.execute(sql, (low, high)).fetchall()
            gone += [identity for identity, each in rows if each not in seen and _is_gone(each)]
        with self._transaction():
            self._db.executemany("UPDATE photos SET missing = 1 WHERE id = ?", [(identity,) for identity in gone])
        return len(gone)


def _face(row: Sequence, names: Sequence[str], least: dict[str, float]) -> Face:
    """A face of its row; least: the thresholds of the checkpoint that scored it."""
    score, notes, years, low, high, *values = row[2 + len(_EDGES) :]
    known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    labels = tuple(name for name, value in known.items() if name in least and value >= round(least[name] * SCALE))
    attributes = {name: value / SCALE for name, value in known.items()}
    age = None if years is None else Age(years, low, high)
    return Face(tuple(row[2:6]), score, attributes, labels, notes=tuple(json.loads(notes)), age=age, frame=row[6:10])


def _row(task: _Task, prediction: Prediction) -> tuple[_Task, Prediction, bytes | None]:
    """What is to be written of a photo; its pixels are let go."""
    thumbnail = None
    if prediction.photo is not None:
        image = Image.fromarray(prediction.photo.pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=80)
        thumbnail = data.getvalue()
    faces = prediction.faces
    if task.faces is not None and prediction.error is None:  # given boxes have no score: theirs stays
        faces = [replace(new, score=old.score, notes=old.notes) for new, old in zip(faces, task.faces, strict=True)]
    return task, replace(prediction, faces=faces, photo=None, response_maps={}, windows=None), thumbnail


def _canonical(path: str | os.PathLike) -> str:
    """The path by which a photo is known: absolute, without linked folders; the photo itself may be a link."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(os.path.realpath(folder or "."), name)


def _is_gone(path: str) -> bool:
    """Whether it is certain that nothing is there; a folder that may not be entered hides what it has."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _hash(path: str) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
