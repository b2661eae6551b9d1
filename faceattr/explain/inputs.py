"""What the commands work on: options to nets, pictures and faces."""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
from tqdm import tqdm

from faceattr.data.tagged import TaggedPictures
from faceattr.explain.faces import Faces, cut_faces, read_pictures, some
from faceattr.explain.nets import Net, is_anet_alone, read_net
from faceattr.pipeline import FaceAttributes, choose_device, load


def read_nets(options: argparse.Namespace) -> dict[str, Net]:
    """The nets by their titles: "before" and "after" where there are two."""
    device = choose_device(options.device)
    nets = {"net": read_net(options.weights, device)}
    if getattr(options, "before", None) is not None:
        nets = {"before": read_net(options.before, device), "after": nets["net"]}
    for title, net in nets.items():
        note(options, f"{title}: {net.path}, {device}")
    return nets


def read_localiser(options: argparse.Namespace) -> FaceAttributes:
    """What finds the faces: the weights where they are a whole checkpoint, else the bundled ones."""
    return load(None if is_anet_alone(options.weights) else options.weights, device=options.device)


def choose_pictures(options: argparse.Namespace, probed: bool = False) -> TaggedPictures:
    """The pictures of --root, at most --pictures: of partition 2 where there are partitions, or to learn from and to
    measure on, where linear classifiers are probed, of partitions 1 and 2 alike."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pictures, options.crop = read_pictures(options.root, options.crop, options.skip_missing)
    for warning in caught:
        note(options, str(warning.message))
    partitions = set() if pictures.partitions is None else set(pictures.partitions.tolist())
    if probed and {1, 2} <= partitions:
        pictures = pictures.select(np.isin(pictures.partitions, (1, 2)))
        return some(pictures, options.pictures)
    return some(pictures, options.pictures, 2)


def read_faces(options: argparse.Namespace, nets: dict[str, Net], pictures: TaggedPictures) -> Faces:
    """The faces in the pictures, cut for each of the nets."""
    faces = cut_faces(
        list(nets.values()),
        pictures,
        options.crop,
        read_localiser(options),
        workers=options.workers,
        quiet=options.quiet,
    )
    left_out = f", no face found in {len(pictures) - len(faces)}" if len(faces) < len(pictures) else ""
    note(options, f"{len(faces)} faces of {pictures.folder}{left_out}")
    return faces


def tags_or_labels(
    pictures: TaggedPictures, net: Net, crops: np.ndarray, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Tags, which are known, and their names; where there are none, what the net itself says."""
    if pictures.attributes:
        return pictures.tags, pictures.known, pictures.attributes
    return labels_of(net, crops, options)


def labels_of(
    net: Net, crops: np.ndarray, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The net's own labels in place of tags, all of them known, and their names."""
    note(options, "no tags: the net's own labels stand for them")
    labels = net.probabilities(net.features(crops, options.quiet)) >= net.thresholds
    return labels, np.ones_like(labels), net.attributes


def progress(items, unit: str, options: argparse.Namespace) -> tqdm:
    """The items, with progress on stderr."""
    return tqdm(items, unit=unit, disable=options.quiet, dynamic_ncols=True)


def note(options: argparse.Namespace, text: str) -> None:
    """A line on stderr, unless --quiet."""
    if not options.quiet:
        print(f"faceattr: {text}", file=sys.stderr)
