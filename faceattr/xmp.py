"""XMP sidecars: what was found in a photo, where photo managers read it.

A sidecar gets face regions after the Metadata Working Group's guidelines (2.0, section 5.9), the labels as flat
(dc:subject) and hierarchical keywords (lr:hierarchicalSubject), and, in a namespace of our own, the probabilities, the
age and what it takes to tell our entries from other people's. What others wrote stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.dom import Node, minidom
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

import torch
from PIL import Image
from torch import Tensor

from faceattr import __version__
from faceattr.images import PICTURE_SUFFIXES
from faceattr.localization import box_iou
from faceattr.pipeline import Face, Prediction

OURS = "urn:faceattr:xmp:1.0/"
"""The namespace of our own entries."""
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
AREA = "http://ns.adobe.com/xmp/sType/Area#"
DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
SUBJECT = ("http://purl.org/dc/elements/1.1/", "dc:subject")
HIERARCHICAL = ("http://ns.adobe.com/lightroom/1.0/", "lr:hierarchicalSubject")
OUR_LISTS = {SUBJECT: "faceattr:Keywords", HIERARCHICAL: "faceattr:HierarchicalKeywords"}
"""For each list of keywords our list of those that we added to it."""
_XMLNS = "http://www.w3.org/2000/xmlns/"
_EMPTY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="' + RDF + '">\n  <rdf:Description rdf:about=""/>\n'
    " </rdf:RDF>\n</x:xmpmeta>"
)
SAME_FACE = 0.25
"""Regions of at least this intersection over union are of the same face: programs frame faces rather differently."""

Box = tuple[float, float, float, float]
"""Of a region: the centre's x and y, width and height, in parts of the photo's sides."""


class Sidecars:
    """Writes the sidecars of photos: beside them, or below `folder` as the photos lie below theirs.

    weights: what the checkpoint is known by. prefix: above the labels in hierarchical keywords.
    frame: of photos that EXIF turns, "stored": regions are as the pixels lie in the file, as digiKam, Lightroom and
        Immich have it; "displayed": as the photo is seen.
    """

    def __init__(self, folder: Path | None, weights: str, prefix: str = "Face", frame: str = "stored"):
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"{folder}: cannot be made a folder ({error.strerror}); choose another") from error
        self._folder, self._options = folder, {"weights": weights, "prefix": prefix, "frame": frame}
        self._written: dict[str, str] = {}

    def write(self, prediction: Prediction, root: Path) -> Path:
        """Writes or merges the sidecar of a photo that was found below the folder `root`.

        Raises ValueError where a sidecar cannot be written, or where one is there that cannot be understood.
        """
        photo = Path(prediction.image)
        beside = sidecar_path(photo)
        if self._folder is None:
            path = beside
        else:
            path = self._folder / os.path.relpath(beside, root)
        first = self._written.setdefault(os.path.realpath(path), prediction.image)
        if first != prediction.image:
            raise ValueError(f"{photo}: its sidecar {path} is that of {first}; run them into folders of their own")
        base = path if os.path.lexists(path) or path == beside else beside
        for _ in range(3):
            before = _state(base)
            try:
                old = _read(base)
                new = merge(old or _embedded(photo), prediction, **self._options)
            except OSError as error:
                raise ValueError(f"{base}: cannot be read ({error.strerror}); check its permissions") from error
            except ValueError as error:
                raise ValueError(f"{base}: no XMP that can be merged ({error}); left as it is") from error
            if new == old and base == path:
                return path
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if _replace(path, new, lambda: _state(base) == before):  # noqa: B023 called at once
                    return path
            except OSError as error:
                raise ValueError(f"{path}: cannot be written ({error.strerror}); left as it is") from error
        raise ValueError(f"{path}: another program keeps writing it; left as it is")


def sidecar_path(photo: Path) -> Path:
    """photo.jpg.xmp; photo.xmp where that is there alone, and no other picture shares its name."""
    full, short = photo.with_name(photo.name + ".xmp"), photo.with_suffix(".xmp")
    if os.path.lexists(full) or not os.path.lexists(short):
        return full
    with contextlib.suppress(OSError):
        pictures = [
            name
            for name, suffix in map(os.path.splitext, os.listdir(photo.parent or "."))
            if name == photo.stem and suffix.lower() in PICTURE_SUFFIXES
        ]
        if len(pictures) > 1:
            return full
    return short


def merge(
    old: bytes | None, prediction: Prediction, *, weights: str, prefix: str = "Face", frame: str = "stored"
) -> bytes:
    """The sidecar with what a prediction says, as UTF-8: `old` with our earlier entries replaced.

    Regions of others, and those that were given a name, stay; where a face lies on one, its probabilities go there.
    Raises ValueError for `old` that is no XMP.
    """
    document = _parse(old) if old else minidom.parseString(_EMPTY)
    rdf = _rdf(document)
    # All of ours goes, then comes anew: the same prediction again makes the same file.
    others = {tag: _take_keywords(rdf, tag, ours) for tag, ours in OUR_LISTS.items()}
    regions, stay = _take_regions(rdf)
    for description in _children(rdf, RDF, ("Description",)):
        for child in list(description.childNodes):
            if child.namespaceURI == OURS:
                _remove(child)

    labels = sorted({label.replace("_", " ") for face in prediction.faces for label in face.labels})
    for tag, words in ((SUBJECT, labels), (HIERARCHICAL, [f"{prefix}|{label}" for label in labels])):
        _put_keywords(rdf, tag, [word for word in words if word not in others[tag]])
    if prediction.faces:
        _put_regions(rdf, regions, stay, prediction, frame)
    for name, text in (("Software", f"faceattr {__version__}"), ("Weights", weights), ("Faces", len(prediction.faces))):
        _add(_description(rdf), OURS, f"faceattr:{name}", str(text))
    return ("\n".join(_written(node) for node in document.childNodes) + "\n").encode()


def _take_keywords(rdf: minidom.Element, tag: tuple[str, str], ours: str) -> set[str]:
    """Takes the keywords that we added earlier out of a list; those that are left."""
    earlier = {_text(item) for bag in _bags(rdf, OURS, ours) for item in _items(bag)}
    left = set()
    for bag in list(_bags(rdf, *tag)):
        for item in _items(bag):
            if _text(item) in earlier:
                _remove(item)
            else:
                left.add(_text(item))
        if earlier and not any(True for _ in _items(bag)):
            _remove(bag.parentNode)
    return left


def _put_keywords(rdf: minidom.Element, tag: tuple[str, str], words: Sequence[str]) -> None:
    if not words:
        return
    bag = next(_bags(rdf, *tag), None)
    if bag is None:
        bag = _add(_add(_description(rdf), *tag), RDF, "rdf:Bag")
    ours = _add(_add(_description(rdf), OURS, OUR_LISTS[tag]), RDF, "rdf:Bag")
    for word in words:
        _add(bag, RDF, "rdf:li", word)
        _add(ours, RDF, "rdf:li", word)


def _take_regions(rdf: minidom.Element) -> tuple[minidom.Element | None, list[minidom.Element]]:
    """Takes our regions and entries out; the property mwg-rs:Regions and the items that stay in its list."""
    regions = next(_properties(rdf, REGIONS, "Regions"), None)
    bag = None if regions is None else _region_list(_struct(regions))
    if bag is None:
        return regions, []
    stay, taken = [], False
    for item in _items(bag):
        if _take_extension(item) and not _plain(_field(_struct(item), REGIONS, "Name")):
            _remove(item)
            taken = True
        else:
            stay.append(item)
    if taken and not stay:
        _remove(regions)
        regions = None
    return regions, stay


def _region_list(struct: minidom.Element) -> minidom.Element | None:
    found = _field(struct, REGIONS, "RegionList")
    return next(_children(found, RDF, ("Bag", "Seq")), None) if isinstance(found, minidom.Element) else None


def _put_regions(
    rdf: minidom.Element,
    regions: minidom.Element | None,
    stay: Sequence[minidom.Element],
    prediction: Prediction,
    frame: str,
) -> None:
    sides = prediction.width, prediction.height
    sideways = prediction.orientation >= 5
    if regions is None:
        regions = _add(_description(rdf), REGIONS, "mwg-rs:Regions", resource=True)
    struct = _struct(regions)
    if stay:
        frame = _frame_of(struct, sides, sideways, frame)
    if not stay or _field(struct, REGIONS, "AppliedToDimensions") is None:
        for element in _children(struct, REGIONS, ("AppliedToDimensions",)):
            _remove(element)
        applied = _add(struct, REGIONS, "mwg-rs:AppliedToDimensions", resource=True)
        sides = sides[::-1] if sideways and frame == "stored" else sides
        for name, value in zip(("w", "h", "unit"), (*map(str, sides), "pixel"), strict=True):
            _add(applied, DIMENSIONS, f"stDim:{name}", value)
    bag = _region_list(struct)
    if bag is None:
        for element in _children(struct, REGIONS, ("RegionList",)):
            _remove(element)
        bag = _add(_add(struct, REGIONS, "mwg-rs:RegionList"), RDF, "rdf:Bag")
    boxes = [_region(face, prediction, frame) for face in prediction.faces]
    taken = dict(_pairs(boxes, [_box_of(item, struct) for item in stay]))
    for number, face in enumerate(prediction.faces):
        if number in taken:
            item = stay[taken[number]]
        else:
            item = _add(bag, RDF, "rdf:li", resource=True)
            _add(item, REGIONS, "mwg-rs:Type", "Face")
            area = _add(item, REGIONS, "mwg-rs:Area", resource=True)
            for name, value in zip("xywh", boxes[number], strict=True):
                _add(area, AREA, f"stArea:{name}", f"{value:.6f}")
            _add(area, AREA, "stArea:unit", "normalized")
        _put_extension(_struct(item), face, own=number not in taken)


def _region(face: Face, prediction: Prediction, frame: str) -> Box:
    x0, y0, x1, y1 = face.box
    width, height = prediction.width, prediction.height
    box = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return as_stored(box, prediction.orientation) if frame == "stored" else box


def as_stored(box: Box, orientation: int) -> Box:
    """A region of the photo as it is displayed, as its pixels lie in the file."""
    x, y, w, h = box
    x, y = {
        2: (1 - x, y),
        3: (1 - x, 1 - y),
        4: (x, 1 - y),
        5: (y, x),
        6: (y, 1 - x),
        7: (1 - y, 1 - x),
        8: (1 - y, x),
    }.get(orientation, (x, y))
    return (x, y, h, w) if orientation >= 5 else (x, y, w, h)


def _frame_of(struct: minidom.Element, displayed: tuple[int, int], sideways: bool, default: str) -> str:
    """The frame of the regions that are there, by the size that they say to be of."""
    size = _size(struct)
    if not sideways or size is None or size[0] == size[1] or displayed[0] == displayed[1]:
        return default
    return "displayed" if (size[0] > size[1]) == (displayed[0] > displayed[1]) else "stored"


def _size(struct: minidom.Element) -> tuple[float, float] | None:
    applied = _field(struct, REGIONS, "AppliedToDimensions")
    if not isinstance(applied, minidom.Element):
        return None
    return _numbers(_struct(applied), DIMENSIONS, "wh")


def _box_of(item: minidom.Element, struct: minidom.Element) -> Box | None:
    """The box of a face's region; None for what is no face, or says no box."""
    region = _struct(item)
    area = _field(region, REGIONS, "Area")
    if _plain(_field(region, REGIONS, "Type")).lower() not in ("face", "") or not isinstance(area, minidom.Element):
        return None
    box = _numbers(_struct(area), AREA, "xywh")
    if box is not None and _plain(_field(_struct(area), AREA, "unit")) == "pixel":
        size = _size(struct)
        box = None if size is None or not all(size) else tuple(v / s for v, s in zip(box, size * 2, strict=True))
    return box


def _numbers(struct: minidom.Element, namespace: str, names: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(_plain(_field(struct, namespace, name))) for name in names)
    except ValueError:
        return None


def _pairs(boxes: Sequence[Box], others: Sequence[Box | None]) -> Iterator[tuple[int, int]]:
    """Which box is on which of the others, the closest first, each once."""
    known = [j for j, other in enumerate(others) if other is not None]
    iou = box_iou(_corners(boxes), _corners([others[j] for j in known])).tolist()
    overlaps = [(overlap, i, j) for i, row in enumerate(iou) for overlap, j in zip(row, known, strict=True)]
    left, right = set(), set()
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap >= SAME_FACE and i not in left and j not in right:
            left.add(i)
            right.add(j)
            yield i, j


def _corners(boxes: Sequence[Box]) -> Tensor:
    centres, sides = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4).split(2, 1)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _put_extension(region: minidom.Element, face: Face, own: bool) -> None:
    """Our entries of a region; `own`: the region itself is ours."""
    extensions = _field(region, REGIONS, "Extensions")
    if not isinstance(extensions, minidom.Element):
        extensions = _add(region, REGIONS, "mwg-rs:Extensions", resource=True)
    struct = _struct(extensions)
    if own:
        _add(struct, OURS, "faceattr:Own", "True")
    if face.score is not None:
        _add(struct, OURS, "faceattr:Score", f"{face.score:.4f}")
    if face.age is not None:
        for name, years in (("Age", face.age.years), ("AgeLow", face.age.low), ("AgeHigh", face.age.high)):
            _add(struct, OURS, f"faceattr:{name}", f"{years:.1f}")
    if face.attributes:
        bag = _add(_add(struct, OURS, "faceattr:Probabilities"), RDF, "rdf:Bag")
        for name, value in face.attributes.items():
            _add(bag, RDF, "rdf:li", f"{name}={value:.4f}")


def _take_extension(item: minidom.Element) -> bool:
    """Takes our entries out of a region; whether the region was ours."""
    extensions = _field(_struct(item), REGIONS, "Extensions")
    if not isinstance(extensions, minidom.Element):
        return False
    struct = _struct(extensions)
    own = _plain(_field(struct, OURS, "Own")) == "True"
    for child in list(struct.childNodes):
        if child.namespaceURI == OURS:
            _remove(child)
    if not any(child.nodeType == Node.ELEMENT_NODE for child in struct.childNodes) and not _foreign_attributes(struct):
        _remove(extensions)
    return own


def _foreign_attributes(element: minidom.Element) -> list[str]:
    return [a.name for a in element.attributes.values() if a.namespaceURI not in (_XMLNS, RDF, None)]


# RDF as XMP uses it. A struct is an element with rdf:parseType="Resource", or one with an rdf:Description inside; its
# fields are elements or attributes.


def _parse(content: bytes) -> minidom.Document:
    try:
        document = minidom.parseString(content.strip(b"\0 \r\n\t"))
    except (ExpatError, ValueError) as error:
        raise ValueError(str(error)) from error
    if document.doctype is not None:
        raise ValueError("it has a document type")
    _rdf(document)
    return document


def _rdf(document: minidom.Document) -> minidom.Element:
    found = document.getElementsByTagNameNS(RDF, "RDF")
    if len(found) != 1:
        raise ValueError(f"{len(found)} elements rdf:RDF")
    return found[0]


def _children(parent: Node, namespace: str, names: Iterable[str]) -> Iterator[minidom.Element]:
    for child in list(parent.childNodes):
        if child.nodeType == Node.ELEMENT_NODE and child.namespaceURI == namespace and child.localName in names:
            yield child


def _properties(rdf: minidom.Element, namespace: str, name: str) -> Iterator[minidom.Element]:
    for description in _children(rdf, RDF, ("Description",)):
        yield from _children(description, namespace, (name,))


def _description(rdf: minidom.Element) -> minidom.Element:
    found = next(_children(rdf, RDF, ("Description",)), None)
    if found is None:
        found = _add(rdf, RDF, "rdf:Description")
        found.setAttributeNS(RDF, "rdf:about", "")
    return found


def _bags(rdf: minidom.Element, namespace: str, tag: str) -> Iterator[minidom.Element]:
    for found in _properties(rdf, namespace, tag.split(":")[1]):
        bag = next(_children(found, RDF, ("Bag", "Seq", "Alt")), None)
        if bag is None:  # against the rules, but seen: one keyword as plain text
            word = _text(found)
            for child in list(found.childNodes):
                _remove(child)
            bag = _add(found, RDF, "rdf:Bag")
            if word:
                _add(bag, RDF, "rdf:li", word)
        yield bag


def _items(bag: minidom.Element) -> Iterator[minidom.Element]:
    return _children(bag, RDF, ("li",))


def _struct(element: minidom.Element) -> minidom.Element:
    """The element whose children the fields are, made if fields are so far attributes alone."""
    inner = next(_children(element, RDF, ("Description",)), None)
    if inner is not None or element.getAttributeNS(RDF, "parseType") == "Resource":
        return inner if inner is not None else element
    inner = element.ownerDocument.createElementNS(RDF, "rdf:Description")
    inner.setAttributeNS(_XMLNS, "xmlns:rdf", RDF)
    for attribute in list(element.attributes.values()):
        if attribute.namespaceURI not in (_XMLNS, RDF, None):
            inner.setAttributeNS(attribute.namespaceURI, attribute.name, attribute.value)
            element.removeAttributeNode(attribute)
    for child in list(element.childNodes):
        inner.appendChild(child)
    element.appendChild(inner)
    return inner


def _field(struct: minidom.Element, namespace: str, name: str) -> minidom.Element | str | None:
    if struct.hasAttributeNS(namespace, name):
        return struct.getAttributeNS(namespace, name)
    return next(_children(struct, namespace, (name,)), None)


def _plain(field: minidom.Element | str | None) -> str:
    if isinstance(field, minidom.Element):
        return _text(field)
    return (field or "").strip()


def _text(element: minidom.Element) -> str:
    texts = (Node.TEXT_NODE, Node.CDATA_SECTION_NODE)
    return "".join(child.data for child in element.childNodes if child.nodeType in texts).strip()


def _add(
    parent: minidom.Element, namespace: str, tag: str, text: str | None = None, resource: bool = False
) -> minidom.Element:
    """A new last child, on a line of its own; it says itself what its prefix is where that is not said above it."""
    document = parent.ownerDocument
    element = document.createElementNS(namespace, tag)
    prefix = tag.split(":")[0]
    if _bound(parent, prefix) != namespace:
        element.setAttributeNS(_XMLNS, f"xmlns:{prefix}", namespace)
    if resource:
        if _bound(parent, "rdf") != RDF:
            element.setAttributeNS(_XMLNS, "xmlns:rdf", RDF)
        element.setAttributeNS(RDF, "rdf:parseType", "Resource")
    if text is not None:
        element.appendChild(document.createTextNode(text))
    depth, above = 0, parent
    while above.parentNode is not None:
        depth, above = depth + 1, above.parentNode
    last = parent.lastChild
    if last is not None and last.nodeType == Node.TEXT_NODE and not last.data.strip():
        parent.removeChild(last)
    parent.appendChild(document.createTextNode("\n" + " " * depth))
    parent.appendChild(element)
    parent.appendChild(document.createTextNode("\n" + " " * (depth - 1)))
    return element


def _bound(element: Node, prefix: str) -> str | None:
    while element is not None and element.nodeType == Node.ELEMENT_NODE:
        if element.hasAttributeNS(_XMLNS, prefix):
            return element.getAttributeNS(_XMLNS, prefix)
        element = element.parentNode
    return None


def _remove(node: Node) -> None:
    before = node.previousSibling
    if before is not None and before.nodeType == Node.TEXT_NODE and not before.data.strip():
        node.parentNode.removeChild(before)
    node.parentNode.removeChild(node)


def _written(node: Node) -> str:
    """As minidom's toxml, which before Python 3.13 loses line ends in attributes."""
    if node.nodeType == Node.TEXT_NODE:
        return escape(node.data, {"\r": "&#13;"})
    if node.nodeType != Node.ELEMENT_NODE:
        return node.toxml()
    breaks = {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
    start = node.tagName + "".join(f' {a.name}="{escape(a.value, breaks)}"' for a in node.attributes.values())
    inside = "".join(map(_written, node.childNodes))
    return f"<{start}>{inside}</{node.tagName}>" if inside else f"<{start}/>"


def _state(path: Path) -> tuple | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe may never answer
            raise ValueError("it is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _embedded(photo: Path) -> bytes | None:
    """The regions and keywords inside the photo: a reader of its sidecar may not look there any more."""
    try:
        with Image.open(photo) as image:
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        document = _parse(packet.encode() if isinstance(packet, str) else packet) if packet else None
    except Exception:  # the photo's own business
        return None
    if document is None:
        return None
    keep = {(REGIONS, "Regions"), *((namespace, tag.split(":")[1]) for namespace, tag in (SUBJECT, HIERARCHICAL))}
    for description in _children(_rdf(document), RDF, ("Description",)):
        for child in list(description.childNodes):
            if child.nodeType == Node.ELEMENT_NODE and (child.namespaceURI, child.localName) not in keep:
                _remove(child)
        for attribute in list(description.attributes.values()):
            if attribute.namespaceURI not in (_XMLNS, RDF, None):
                description.removeAttributeNode(attribute)
    return "\n".join(map(_written, document.childNodes)).encode()


def _replace(path: Path, content: bytes, unchanged) -> bool:
    """Writes the file whole or not at all, unless `unchanged` says that it has changed meanwhile; whether it did."""
    target = Path(os.path.realpath(path))  # of a link, the file
    handle, partial = tempfile.mkstemp(".partial", ".faceattr-", target.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            mode = _mode(target)
            os.fchmod(handle, mode)
            if target.exists():  # what others wrote has to outlive the machine's power
                os.fsync(handle)
        if not unchanged():
            return False
        os.replace(partial, target)
        return True
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
