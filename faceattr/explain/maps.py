"""Fig. 2, 4, 6 and 14: where LNet_o and LNet_s respond, the density peaks, ANet's score over offsets of the face."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from faceattr.crops import CropSettings, crop_window
from faceattr.drawing import draw_faces, draw_response_map
from faceattr.explain.inputs import choose_pictures, progress
from faceattr.explain.nets import is_anet_alone
from faceattr.explain.output import FreeNames, make_folder, new_figure, save_figure, write_csv, write_json
from faceattr.images import Photo, load_photo
from faceattr.localization import LocalizerSettings, resample, size_maps
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import Checkpoint, load_checkpoint
from faceattr.ops import density_peaks, find_peaks
from faceattr.pipeline import Face, FaceAttributes, choose_device, find_weights

OFFSETS = 9
"""Rows and columns of crops round the face over which ANet is asked."""
FACES_SHOWN = 3
MOST_PEAKS = 16


@dataclass(frozen=True)
class DecisionGraph:
    """The positions of a response map as density peaks see them (eq. 3), P of them in falling score.

    place: [P, 2], x and y in parts of the map's picture. rho: the response. delta: distance to the nearest stronger
    one, in positions. score: eq. 3 with both scaled to 1. peaks: how many of them, from the first on, are peaks.
    """

    place: np.ndarray
    rho: np.ndarray
    delta: np.ndarray
    score: np.ndarray
    peaks: int


@dataclass(frozen=True)
class FaceMaps:
    """One face on its way through the cascade.

    face: as the pipeline reports it. window: what LNet_s saw of the photo, x0, y0, x1, y1 in its pixels, and `view` as
    uint8 pixels.
    response_s: LNet_s's response over the window, [h, w], and its graph.
    crop: what ANet can see, uint8 [h, w, 3], with all offsets. strength: [OFFSETS, OFFSETS], the largest response of C4
    at each (Fig. 4b). best: row and column of the largest (eq. 5).
    """

    face: Face
    window: tuple[float, ...]
    view: np.ndarray
    response_s: np.ndarray
    graph_s: DecisionGraph
    crop: np.ndarray
    strength: np.ndarray
    best: tuple[int, int]


@dataclass(frozen=True)
class PhotoMaps:
    """A photo on its way through the cascade.

    response_o: LNet_o's response over it, the largest of all scales, [h, w]; graph_o: its density peaks.
    mean_o: C5's responses, averaged over its channels as the paper has it, at the finest scale, [h', w'].
    windows: [K, 4], what LNet_s looked at, x0, y0, x1, y1 in pixels of the photo. faces: best first.
    """

    response_o: np.ndarray
    graph_o: DecisionGraph
    mean_o: np.ndarray
    windows: np.ndarray
    faces: list[FaceMaps]


def trace(checkpoint: Checkpoint, photo: Photo, faces: int = FACES_SHOWN) -> PhotoMaps:
    """The photo's way through the cascade, for its best `faces` faces."""
    preprocessing = checkpoint.metadata["preprocessing"]
    settings, crop = LocalizerSettings(**preprocessing["localization"]), CropSettings(**preprocessing["crop"])
    [result] = FaceAttributes(checkpoint).iter_predict([photo.pixels], detect_only=True, keep_photos=True)
    response, windows = result.response_maps["lnet_o"], result.windows
    y, x = ((np.arange(count) + 0.5) / count for count in response.shape)
    return PhotoMaps(
        response,
        decision_graph(response, settings.proposal_threshold, x, y),
        _mean_response(checkpoint, settings, torch.from_numpy(photo.pixels).permute(2, 0, 1).float() / 255),
        windows,
        [
            _trace_face(checkpoint, settings, crop, photo, face, _window_of(face, windows))
            for face in result.faces[:faces]
        ],
    )


def decision_graph(response: np.ndarray, threshold: float, x: np.ndarray, y: np.ndarray) -> DecisionGraph:
    """The graph of a response map [h, w]; positions at most `threshold` high are background.

    x [w], y [h]: where its columns and rows lie, in parts of the picture.
    """
    density = torch.from_numpy(np.ascontiguousarray(response, dtype=np.float32))
    every = find_peaks(density, threshold, density.numel(), min_score=0.0)
    peaks = find_peaks(density, threshold, MOST_PEAKS, min_score=0.0, min_distance=1.5).index
    foreground = every.index >= 0
    index, score = every.index[foreground].numpy(), every.score[foreground].numpy()
    # Peaks first: the neighbours of a high peak score higher than a lower peak does.
    first = peaks[peaks >= 0].numpy()
    order = np.argsort(~np.isin(index, first), kind="stable")
    index, score = index[order], score[order]
    row, column = np.divmod(index, response.shape[1])
    distance = density_peaks(density, threshold)[0].numpy()
    place = np.stack([x[column], y[row]], 1)
    return DecisionGraph(place, response[row, column], distance[row, column], score, len(first))


def _trace_face(
    checkpoint: Checkpoint, settings: LocalizerSettings, crop: CropSettings, photo: Photo, face: Face, window
) -> FaceMaps:
    side, stride = settings.window_pixels, checkpoint.lnet_s.trunk.stride
    view = crop_window(photo.pixels, window, (side, side))
    image = torch.tensor(view).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        [maps] = size_maps(checkpoint.lnet_s, image)
    response = maps.logsumexp(0).sigmoid()
    at = (stride * np.arange(response.shape[0]) + 0.5) / side
    graph = decision_graph(response.numpy(), settings.proposal_threshold, at, at)
    # LNet_s's positions start on the window's border; drawn are cells that divide it evenly.
    cells = ((torch.arange(side // 4, dtype=torch.float32) + 0.5) * side / (side // 4) - 0.5) / stride
    anet = checkpoint.anet
    wide, size = replace(crop, positions=(OFFSETS, OFFSETS)), tuple(anet.config["input_size"])
    pixels = crop_window(photo.pixels, wide.window(face.frame, size, anet.step), wide.size(size, anet.step))
    dense, best = dense_score(anet, pixels)
    [response] = resample(response[None], cells[None], cells[None], "border")
    return FaceMaps(face, tuple(window), view, response.numpy(), graph, pixels, dense, best)


@torch.inference_mode()
def dense_score(anet: ANet, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The largest response of C4 at every offset [Dy, Dx] over a crop, uint8 [h, w, 3], and where that is (eq. 5)."""
    image = torch.tensor(pixels, device=anet.head.weight.device).permute(2, 0, 1)[None].float() / 255
    dense = anet.forward_dense(image)
    return dense.strength[0].cpu().numpy(), tuple(dense.best[0].tolist())


@torch.inference_mode()
def _mean_response(checkpoint: Checkpoint, settings: LocalizerSettings, pixels: torch.Tensor) -> np.ndarray:
    scale = min(settings.largest_enlargement, settings.finest_side / max(pixels.shape[1:]))
    size = [max(1, round(length * scale)) for length in pixels.shape[1:]]
    device = checkpoint.lnet_o.head.weight.device
    image = F.interpolate(pixels[None].to(device), size, mode="bilinear", antialias=True)
    return checkpoint.lnet_o.response_map(image, "mean")[0].cpu().numpy()


def _window_of(face: Face, windows: np.ndarray) -> np.ndarray:
    """The window that led to a face: the one whose middle is nearest to the face's, in its own size."""
    x, y = (face.frame[0] + face.frame[2]) / 2, (face.frame[1] + face.frame[3]) / 2
    middles, sides = (windows[:, :2] + windows[:, 2:]) / 2, windows[:, 2] - windows[:, 0]
    distances = np.hypot(middles[:, 0] - x, middles[:, 1] - y) / sides
    # Faces of several heights at one place: the frame is half a window high.
    unlike = np.abs(np.log((face.frame[3] - face.frame[1]) * 2 / sides))
    return windows[np.argmin(distances + unlike)]


def to_dict(photo: Photo, maps: PhotoMaps) -> dict:
    """As JSON takes it; boxes and windows in pixels of the original photo, x0, y0, x1, y1."""
    return {
        "lnet_o": maps.response_o,
        "mean_c5": maps.mean_o,
        "windows": photo.to_original(maps.windows, clip=False),
        "faces": [
            {
                "box": photo.to_original(np.array(traced.face.box)),
                "score": traced.face.score,
                "lnet_s": traced.response_s,
                "dense_score": traced.strength,
                "best_offset": [
                    i - (count - 1) // 2 for i, count in zip(traced.best, traced.strength.shape, strict=True)
                ],
            }
            for traced in maps.faces
        ],
    }


def peak_rows(name: str, photo: Photo, maps: PhotoMaps) -> list[dict]:
    """A row for each density peak; x and y in pixels of the original photo, `face` empty for LNet_o."""
    height, width = photo.pixels.shape[:2]
    graphs = [("lnet_o", None, maps.graph_o, (0, 0, width, height))]
    graphs += [("lnet_s", number, face.graph_s, face.window) for number, face in enumerate(maps.faces, 1)]
    rows = []
    for net, face, graph, (x0, y0, x1, y1) in graphs:
        for peak in range(graph.peaks):
            x, y = graph.place[peak]
            x, y = x0 + x * (x1 - x0), y0 + y * (y1 - y0)
            row = {"image": name, "net": net, "face": face}
            row |= {"x": x * photo.scale + photo.origin[0], "y": y * photo.scale + photo.origin[1]}
            rows.append(row | {"rho": graph.rho[peak], "delta": graph.delta[peak], "score": graph.score[peak]})
    return rows


def draw(photo: Photo, maps: PhotoMaps, step: int) -> Figure:
    """The sheet of a photo: localisation above, then a row for each face.

    step: pixels of ANet's crop between offsets.
    """
    figure = new_figure(15, 3.9 * (1 + len(maps.faces)))
    grid = figure.subplots(1 + len(maps.faces), 4, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    boxes = np.array([traced.face.box for traced in maps.faces]).reshape(-1, 4)
    scores = [[f"{traced.face.score:.2f}"] for traced in maps.faces]
    first = grid[0]
    first[0].imshow(draw_faces(photo.pixels, boxes, scores))
    height, width = photo.pixels.shape[:2]
    for x0, y0, x1, y1 in maps.windows:
        first[0].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", lw=0.8, ls=":")
    first[0].set(title="faces, and the windows of LNet_s", xlim=(0, width), ylim=(height, 0))
    first[1].imshow(draw_response_map(photo.pixels, maps.response_o))
    _mark_peaks(first[1], maps.graph_o, width, height)
    first[1].set_title("LNet_o: response and density peaks")
    _draw_graph(first[2], maps.graph_o, "LNet_o: decision graph (eq. 3)")
    first[3].imshow(draw_response_map(photo.pixels, maps.mean_o))
    first[3].set_title("LNet_o: mean of C5, finest scale")
    for (view, graph, crop, score), face in zip(grid[1:], maps.faces, strict=True):
        view.imshow(draw_response_map(face.view, face.response_s))
        _mark_peaks(view, face.graph_s, *face.view.shape[1::-1])
        view.set_title("LNet_s: response in its window")
        _draw_graph(graph, face.graph_s, "LNet_s: decision graph")
        crop.imshow(face.crop)
        rows, columns = face.strength.shape
        size = face.crop.shape[0] - step * (rows - 1), face.crop.shape[1] - step * (columns - 1)
        middle = (rows - 1) / 2, (columns - 1) / 2
        for (row, column), style in ((middle, ("white", ":")), (face.best, ("#50dc78", "-"))):
            top, left = row * step, column * step
            x, y = [left, left + size[1], left + size[1], left, left], [top, top, top + size[0], top + size[0], top]
            crop.plot(
                np.clip(x, 0, face.crop.shape[1] - 1),
                np.clip(y, 0, face.crop.shape[0] - 1),
                color=style[0],
                ls=style[1],
            )
        crop.set_title("ANet: the crop (dots), the strongest (line)")
        image = score.imshow(face.strength, cmap="inferno", extent=_offsets(face.strength.shape, step))
        score.plot(
            (face.best[1] - middle[1]) * step,
            (face.best[0] - middle[0]) * step,
            "o",
            mfc="none",
            color="#50dc78",
            ms=14,
        )
        score.set(
            title="ANet: strongest C4 response by offset (eq. 5)", xlabel="pixels to the right", ylabel="pixels down"
        )
        score.set_xticks([-4 * step, 0, 4 * step])
        score.set_yticks([-4 * step, 0, 4 * step])
        figure.colorbar(image, ax=score, shrink=0.8)
    return figure


def _offsets(shape: tuple[int, int], step: int) -> tuple[float, float, float, float]:
    half_rows, half_columns = shape[0] * step / 2, shape[1] * step / 2
    return -half_columns, half_columns, half_rows, -half_rows


def _mark_peaks(axes, graph: DecisionGraph, width: int, height: int) -> None:
    for number, (x, y) in enumerate(graph.place[: graph.peaks], 1):
        axes.plot(x * width, y * height, "o", mfc="none", mec="white", ms=9)
        _label(axes, number, (x * width, y * height), to_left=x > 0.9, below=y < 0.1, color="white")
    axes.set(xlim=(0, width), ylim=(height, 0))


def _label(axes, number: int, place: tuple[float, float], to_left: bool, below: bool, **style) -> None:
    """A number beside its mark, on the side where it stays inside the frame."""
    offset = (-5 if to_left else 5, -4 if below else 4)
    align = {"ha": "right" if to_left else "left", "va": "top" if below else "bottom"}
    axes.annotate(str(number), place, xytext=offset, textcoords="offset points", fontsize=8, **align, **style)


def _draw_graph(axes, graph: DecisionGraph, title: str) -> None:
    axes.plot(graph.rho[graph.peaks :], graph.delta[graph.peaks :], ".", color="tab:grey")
    axes.plot(graph.rho[: graph.peaks], graph.delta[: graph.peaks], "o", color="tab:red")
    for number, place in enumerate(zip(graph.rho[: graph.peaks], graph.delta[: graph.peaks], strict=True), 1):
        highest = max(1.0, float(graph.delta.max(initial=1)))
        _label(axes, number, place, to_left=place[0] > 0.95, below=place[1] > 0.95 * highest)
    axes.set(title=title, xlabel="response (rho)", ylabel="distance to a stronger one (delta)", xlim=(0, 1.05))
    axes.set_box_aspect(1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, round(max(1.0, float(graph.delta.max(initial=1))))])


def run(options: argparse.Namespace) -> None:
    """A sheet a photo of its way through the cascade; see `faceattr.explain.maps`."""
    output = make_folder(options.output)
    if is_anet_alone(options.weights):
        raise ValueError(f"{options.weights}: ANet alone, whose photos nothing localises; give a whole checkpoint")
    weights = find_weights(options.weights)
    checkpoint = load_checkpoint(weights, choose_device(options.device))
    photos = options.photos or choose_pictures(options).paths
    rows, notes, free = [], [], FreeNames(output)
    for path in progress(photos, "photo", options):
        photo = load_photo(path)
        traced = trace(checkpoint, photo)
        file = free.path(Path(path).stem, f"maps.{options.format}")
        save_figure(draw(photo, traced, checkpoint.anet.step), output, file.stem, options.format)
        rows += peak_rows(str(path), photo, traced)
        notes.append({"image": str(path), "picture": file.name, **to_dict(photo, traced)})
    write_csv(output / "peaks.csv", rows)
    write_json(output / "maps.json", {"file": str(weights), "photos": notes})
    offsets = [face["best_offset"] for note in notes for face in note["faces"]]
    near = sum(max(map(abs, offset)) <= 1 for offset in offsets)
    print(f"{len(photos)} sheets are in {output}")
    print(f"C4 responds most within one step of ANet's crop for {near} of {len(offsets)} faces")
