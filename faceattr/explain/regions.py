"""Fig. 11: the regions of the face that each attribute's decision depends on, from the weights and by occlusion."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from faceattr.crops import carried, crop_window
from faceattr.drawing import RAMP, draw_response_map
from faceattr.explain.faces import cut_face
from faceattr.explain.inputs import choose_pictures, read_faces, read_localiser, read_nets
from faceattr.explain.nets import BATCH, Net
from faceattr.explain.output import FreeNames, make_folder, new_figure, save_figure, spoken, write_csv, write_json
from faceattr.images import Photo, load_photo

SHOWN_LABELS = 14
FOR, AGAINST = (225, 25, 25), (25, 70, 225)
"""Colours of what speaks for an answer, and against it."""


def weight_maps(net: Net, crops: np.ndarray, quiet: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """What each place contributes to the decisions on N faces, from the learned weights and the responses.

    A face's responses say which rectifiers are open and which positions the pooling takes; with these held, a decision
    is linear in the response maps of C2 (the last layer with shared filters), and each position's share in it is
    weights times responses, summed over the channels. Mirror images are mirrored back, views are averaged, as the
    decision does.

    Args:
        crops: uint8 [N, *net.crop_size, 3].

    Returns:
        contributions [N, A, rows, columns], over C2's positions, and decisions [N, A]; a decision is the sum of its
        contributions and of what the biases add.
    """
    svm, held = net.deciding(), {}

    def hold(module, inputs, output: Tensor) -> Tensor:
        held["maps"] = output.detach().requires_grad_()
        return held["maps"]

    hook = net.anet.shared.register_forward_hook(hold)
    contributions, decisions = [], []
    try:
        for part in _batches(crops, quiet, "weights"):
            # Decisions are linear in the features: one pass back to C2 for each attribute.
            decision = svm.decision(net.anet.pooled_features(net.images(part)))
            maps = held["maps"]
            of_attributes = []
            for column in range(decision.shape[1]):
                (gradient,) = torch.autograd.grad(decision[:, column].sum(), maps, retain_graph=True)
                plain, mirrored = (gradient * maps.detach()).sum(1).chunk(2)
                of_attributes.append(plain + mirrored.flip(2))
            contributions.append(torch.stack(of_attributes, 1).double().cpu().numpy())
            decisions.append(decision.detach().double().cpu().numpy())
    finally:
        hook.remove()
    return np.concatenate(contributions), np.concatenate(decisions)


@torch.inference_mode()
def occlusion_maps(net: Net, crops: np.ndarray, quiet: bool = True) -> np.ndarray:
    """How far the decisions on N faces fall when a place is covered: [N, A, rows, columns], at the same positions.

    What covers it is a square of two steps of C2, at the border out to it, in the mean colour of the crop.
    """
    svm = net.deciding()
    rows, columns = covers(net)
    falls = np.empty((len(crops), svm.config["attributes"], len(rows), len(columns)))
    start = 0
    for part in _batches(crops, quiet, "occlusion"):
        images = net.images(part)
        colour = images.mean((2, 3), keepdim=True)
        whole = svm.decision(net.anet.pooled_features(images))
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                covered = images.clone()
                covered[:, :, top:bottom, left:right] = colour
                fall = whole - svm.decision(net.anet.pooled_features(covered))
                falls[start : start + len(part), :, i, j] = fall.double().cpu().numpy()
        start += len(part)
    return falls


def centres(net: Net) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the rows and of the columns of C2's positions, in pixels of a crop."""
    shape = net.anet.shared(torch.zeros(1, 3, *net.crop_size, device=net.anet.head.weight.device)).shape[2:]
    # Without padding, the fields that the positions see lie evenly between the borders.
    return tuple(
        (length - net.anet.step * (count - 1)) / 2 + net.anet.step * np.arange(count)
        for length, count in zip(net.crop_size, shape, strict=True)
    )


def covers(net: Net) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """For each row and each column of C2's positions the pixels, from and to, that its square covers."""
    spans = []
    for middles, length in zip(centres(net), net.crop_size, strict=True):
        lows = [0, *(round(middle - net.anet.step) for middle in middles[1:])]
        highs = [*(round(middle + net.anet.step) for middle in middles[:-1]), length]
        spans.append(list(zip(lows, highs, strict=True)))
    return spans[0], spans[1]


def depends_on(contributions: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """The share of a decision's variance over N faces that comes from each place: [A, rows, columns].

    contributions [N, A, rows, columns], decisions [N, A]. What is the same for all faces tells none apart and counts
    nothing; shares below 0, of places that counteract the rest, are put to 0.
    """
    varied = decisions - decisions.mean(0)
    covariance = np.einsum("na,naij->aij", varied, contributions)
    variance = (varied**2).sum(0)[:, None, None]
    return np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 1e-12).clip(min=0)


def moves(falls: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Mean distance over N faces by which covering a place moves a decision, in its standard deviations.

    falls [N, A, rows, columns], decisions [N, A]; the result is [A, rows, columns].
    """
    spread = decisions.std(0)[:, None, None]
    return np.divide(np.abs(falls).mean(0), spread, out=np.zeros(falls.shape[1:]), where=spread > 1e-6)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation over the places of two maps [rows, columns]; 0 where one is even."""
    if np.ptp(first) < 1e-12 or np.ptp(second) < 1e-12:
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def extent(region: np.ndarray) -> float:
    """How much of the face a map [rows, columns] of weights, at least 0, spreads over: near 0 a point, 1 all evenly.

    The exponential of its entropy, in shares of the places.
    """
    total = region.sum()
    if total <= 0:
        return 0.0
    shares = region[region > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()) / region.size)


def over_crop(net: Net, region: np.ndarray) -> np.ndarray:
    """A map [rows, columns] over C2's positions read at every pixel of a crop, [h, w]; level beyond the outermost."""
    for axis, (middles, length) in enumerate(zip(centres(net), net.crop_size, strict=True)):
        pixels = np.arange(length) + 0.5
        region = np.apply_along_axis(lambda line, at=pixels, known=middles: np.interp(at, known, line), axis, region)
    return region


def draw(net: Net, face: np.ndarray, regions: dict[str, np.ndarray], agreements: Sequence[float]) -> Figure:
    """The figure: for every attribute the mean face under the heat of its region, by each method side by side.

    face: uint8 [*crop_size, 3]. regions: by method, [A, rows, columns]. agreements: [A]. The most local come first.
    """
    first = next(iter(regions.values()))
    order = np.argsort([extent(region) for region in first], kind="stable")
    across = min(8, len(order))
    rows = -(-len(order) // across)
    figure = new_figure(2.1 * across, 1.5 * rows + 1.1)
    methods = ", right by ".join(regions)
    figure.suptitle(f"what each decision depends on: left by {methods}; the number is how far the two agree")
    grid = figure.subplots(rows, across, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, column in zip(grid.flat, order, strict=False):
        heats = [draw_response_map(face, over_crop(net, region[column]), 0.5) for region in regions.values()]
        axes.imshow(_side_by_side(heats))
        axes.set_title(f"{spoken(net.attributes[column])}  {agreements[column]:.2f}", fontsize=9, pad=3)
    for axes in grid[0][: len(order)]:
        _name_halves(axes, regions)
    colours = ScalarMappable(Normalize(0, 1), LinearSegmentedColormap.from_list("heat", RAMP / 255))
    _add_scale(figure, grid, colours, [0, 1], ["nothing", "most of this decision"])
    return figure


def _name_halves(axes, methods: Iterable[str]) -> None:
    """The methods' names under their halves of a tile."""
    for place, method in zip((0.25, 0.75), methods, strict=True):
        axes.text(place, -0.03, method, ha="center", va="top", fontsize=7, transform=axes.transAxes)


def _add_scale(figure: Figure, grid: np.ndarray, colours: ScalarMappable, ticks, names: Sequence[str]) -> None:
    """A bar under the tiles that says what the colours mean."""
    bar = figure.colorbar(colours, ax=grid, location="bottom", fraction=0.03, aspect=60, pad=0.02, shrink=0.5)
    bar.set_ticks(ticks, labels=names)


def draw_photo(
    net: Net, pixels: np.ndarray, maps: dict[str, np.ndarray], captions: Sequence[tuple[int, str]]
) -> Figure:
    """The figure of one face: the face, then for each answer what speaks for it (red) and against it (blue).

    pixels: uint8 [h, w, 3], the face at any resolution. maps: by method, [A, rows, columns].
    captions: the attributes to show, by column, with their titles.
    """
    across = 3 if len(captions) < 6 else 5
    rows = -(-(1 + len(captions)) // across)
    figure = new_figure(3.6 * across, 2.2 * rows + 1.0)
    figure.suptitle(f"what speaks for and against each answer: left by {', right by '.join(maps)}")
    grid = figure.subplots(rows, across, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    grid.flat[0].imshow(pixels)
    for axes, (column, caption) in zip(grid.flat[1:], captions, strict=False):
        axes.imshow(_side_by_side([draw_signed(pixels, over_crop(net, of[column])) for of in maps.values()]))
        axes.set_title(caption, fontsize=10, pad=3)
    for axes in grid.flat[1 : min(across, 1 + len(captions))]:
        _name_halves(axes, maps)
    ramp = [np.array(colour) / 255 for colour in (AGAINST, (225, 225, 225), FOR)]
    colours = ScalarMappable(Normalize(-1, 1), LinearSegmentedColormap.from_list("signed", ramp))
    _add_scale(figure, grid, colours, [-1, 0, 1], ["against", "nothing", "for, as strongly as any place"])
    return figure


@dataclass(frozen=True)
class Explained:
    """Why a face got its labels.

    probabilities, decisions: [A]. maps: by method, [A, rows, columns]. agreements: by column, of the attributes shown;
    captions: theirs, in the same order. figure: see :func:`draw_photo`.
    """

    probabilities: np.ndarray
    decisions: np.ndarray
    maps: dict[str, np.ndarray]
    agreements: dict[int, float]
    captions: list[str]
    figure: Figure


def explain_face(net: Net, photo: Photo, box: Sequence[float], columns: Sequence[int] | None = None) -> Explained:
    """What speaks for and against the labels of the face in a box, in pixels of the original of `photo`.

    columns: of the attributes to show in place of the labels.
    """
    crop = cut_face(net, photo, box)[None]
    probabilities = net.probabilities(net.features(crop))[0]
    if columns is None:
        labels = [i for i, value in enumerate(probabilities) if value >= net.thresholds[i]]
        columns = sorted(labels, key=lambda i: -probabilities[i])[:SHOWN_LABELS]
    contributions, decisions = weight_maps(net, crop)
    maps = {"weights": contributions[0], "occlusion": occlusion_maps(net, crop)[0]}
    window = net.crop.window(box, net.anet.config["input_size"], net.anet.step)
    pixels = crop_window(photo.pixels, photo.from_original(window), tuple(3 * side for side in net.crop_size))
    agreements = {i: agreement(maps["weights"][i], maps["occlusion"][i]) for i in columns}
    captions = [f"{spoken(net.attributes[i])} {probabilities[i]:.0%}, agreement {agreements[i]:.2f}" for i in columns]
    figure = draw_photo(net, pixels, maps, list(zip(columns, captions, strict=True)))
    return Explained(probabilities, decisions[0], maps, agreements, captions, figure)


def draw_signed(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """A picture, greyed, with what speaks for an answer in red and what speaks against it in blue.

    pixels: uint8 [h, w, 3]. heat: [h', w'], brought to its size; the strongest place is the least transparent.
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"), dtype=np.float64)
    level = heat / (np.abs(heat).max() or 1)
    level = np.asarray(Image.fromarray(level.astype(np.float32)).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))
    strength = np.abs(level.clip(-1, 1))[..., None] * 0.75
    colour = np.where(level[..., None] > 0, FOR, AGAINST)
    return Image.fromarray((grey * (1 - strength) + colour * strength).round().astype(np.uint8))


def _side_by_side(pictures: Sequence[Image.Image]) -> np.ndarray:
    gap = np.full((pictures[0].height, max(2, pictures[0].width // 40), 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, np.asarray(picture))][1:], 1)


def _batches(crops: np.ndarray, quiet: bool, title: str):
    starts = tqdm(range(0, len(crops), BATCH), desc=title, unit="batch", disable=quiet, dynamic_ncols=True)
    return (crops[start : start + BATCH] for start in starts)


def run(options: argparse.Namespace) -> None:
    """Where attributes are decided, over a folder or on single photos; see `faceattr.explain.regions`."""
    output = make_folder(options.output)
    if options.photos:
        _explain_photos(options, output)
        return
    nets = read_nets(options)
    (net,) = nets.values()
    net.deciding()
    faces = read_faces(options, nets, choose_pictures(options))
    crops = faces.crops[0]
    contributions, decisions = weight_maps(net, crops, options.quiet)
    found = {
        "weights": depends_on(contributions, decisions),
        "occlusion": moves(occlusion_maps(net, crops, options.quiet), decisions),
    }
    agreements = [agreement(*pair) for pair in zip(*found.values(), strict=True)]
    rows = []
    for column, name in enumerate(net.attributes):
        row = {"attribute": name, "agreement": agreements[column]}
        for method, maps in found.items():
            place = np.unravel_index(maps[column].argmax(), maps[column].shape)
            y, x = (middles[i] / side for middles, i, side in zip(centres(net), place, net.crop_size, strict=True))
            row |= {f"{method}_extent": extent(maps[column]), f"{method}_x": float(x), f"{method}_y": float(y)}
        rows.append(row)
    write_csv(output / "regions.csv", rows)
    y, x = centres(net)
    write_json(
        output / "regions.json",
        {
            "file": str(net.path),
            "faces": len(faces),
            "crop": net.crop_size,
            "x": x,
            "y": y,
            "agreement": float(np.mean(agreements)),
            "attributes": {
                name: {method: maps[i] for method, maps in found.items()} for i, name in enumerate(net.attributes)
            },
        },
    )
    by_extent = sorted(rows, key=lambda row: row["weights_extent"])
    print("most local: " + ", ".join(f"{row['attribute']} {row['weights_extent']:.2f}" for row in by_extent[:6]))
    print("most global: " + ", ".join(f"{row['attribute']} {row['weights_extent']:.2f}" for row in by_extent[-6:]))
    print(f"weights and occlusion agree with a correlation of {np.mean(agreements):.2f}, mean over attributes")
    mean_face = crops.mean(0).round().astype(np.uint8)
    save_figure(draw(net, mean_face, found, agreements), output, "regions", options.format)


def _explain_photos(options: argparse.Namespace, output: Path) -> None:
    """Why the faces of photos got their labels: NAME.regions.png for the best face, NAME-2.regions.png for the next."""
    (net,) = read_nets(options).values()
    net.deciding()
    unknown = [name for name in options.attributes or () if name not in net.attributes]
    if unknown:
        raise ValueError(f"--attributes: {net.path} does not know {unknown[0]!r}; it knows {', '.join(net.attributes)}")
    localiser = read_localiser(options)
    frame = localiser.metadata["preprocessing"]["aligned_box"]
    notes, free = [], FreeNames(output)
    for path in options.photos:
        photo = load_photo(path)
        faces = localiser.detect(path)
        if not faces:
            print(f"{path}: no face found")
        for number, face in enumerate(faces, 1):
            box = carried(face.frame, frame, net.aligned_box)
            columns = [net.attributes.index(name) for name in options.attributes] if options.attributes else None
            found = explain_face(net, photo, box, columns)
            file = free.path(Path(path).stem + (f"-{number}" if number > 1 else ""), f"regions.{options.format}")
            save_figure(found.figure, output, file.stem, options.format)
            notes.append(
                {
                    "image": path,
                    "box": face.box,
                    "picture": file.name,
                    "attributes": {
                        net.attributes[i]: {
                            "probability": found.probabilities[i],
                            "decision": found.decisions[i],
                            "agreement": found.agreements[i],
                            **{method: of[i] for method, of in found.maps.items()},
                        }
                        for i in found.agreements
                    },
                }
            )
            print(f"{path}, face {number}: {', '.join(found.captions)} -> {file}")
    write_json(output / "regions.json", {"file": str(net.path), "faces": notes})
