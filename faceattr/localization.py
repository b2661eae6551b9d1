"""From a photo to face boxes: LNet_o's response at several scales, its density peaks, LNet_s on the window of each."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from faceattr.models.lnet import LNet
from faceattr.models.quantized import QuantizedTrunk, computes_in_integers
from faceattr.ops import find_peaks
from faceattr.precision import compute_dtype

BORDER = 2
"""Positions of the map by which the border of a small level is repeated outwards."""
SMALL_RESPONSE = 0.2
"""Least response to a small face for a closer look."""


@dataclass(frozen=True)
class LocalizerSettings:
    """What the localiser needs beside its nets; part of a checkpoint's metadata.

    Lengths are in heights of the face as the net's size classes mean it. No one tells the nets which point of a face
    their maps should peak at; the two offsets lead from the peak to the middle of the face.
    """

    finest_side: int = 400
    """Longest side of the photo, in pixels, at the finest scale; larger photos are reduced to it."""
    largest_enlargement: float = 1.5
    """A smaller photo is enlarged at most so much for the finest scale."""
    closer: float = 1.0
    """Where the likeliest face is below the second size at the finest scale, one more is looked at, so many times
    finer: where small faces are, there are smaller ones. 1: never."""
    least_side: int = 28
    """Scales go down by halves while the photo's longest side has as many pixels: at the coarsest of them a face that
    fills the photo is one of the sizes that the nets know."""
    bordered_side: int = 100
    """Scales at which the photo's longest side has at most so many pixels are seen with its border repeated outwards:
    that is where a face fills the photo, and parts of it may lie beyond."""
    proposal_threshold: float = 0.1
    """Least response of LNet_o at a peak."""
    score_threshold: float = 0.5
    """Least score of a reported face."""
    max_windows: int = 8
    """Windows that LNet_s looks at, the strongest first."""
    window: float = 2.0
    """Side of LNet_s's window, in heights of the face."""
    window_pixels: int = 129
    """Side of the window as LNet_s sees it."""
    mirrored: bool = False
    """Whether LNet_s also looks at the mirror image of each window that may have a face, its response then being the
    mean of both. The pixels of a window must be a multiple of LNet_s's stride and one more, so that the positions of
    both are the same."""
    overlap: float = 0.3
    """Of two boxes with a larger intersection over union the weaker is dropped."""
    offset_o: tuple[float, float] = (0.0, 0.0)
    """From the peak of LNet_o's map to the middle of the face (columns, rows)."""
    offset_s: tuple[float, float] = (0.0, 0.0)
    """The same for LNet_s."""
    box_height: float = 1.0
    """Height of the reported box."""
    box_aspect: float = 1.38
    """Its height over its width."""
    box_below: float = 0.0
    """From the middle of the face down to that of the box."""
    largest_o: tuple[float, ...] = ()
    """Of the values inside LNet_o's trunk, for 8-bit integers (`faceattr.models.quantized`); none: not measured."""
    largest_s: tuple[float, ...] = ()
    """The same for LNet_s."""

    def __post_init__(self):
        for name in ("offset_o", "offset_s", "largest_o", "largest_s"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_dict(self) -> dict:
        """As JSON takes it; `LocalizerSettings(**settings.to_dict())` is the same again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def integers(self) -> bool:
        """Whether the nets can compute in 8-bit integers."""
        return bool(self.largest_o and self.largest_s)


@dataclass(frozen=True)
class Proposal:
    """A face: `box` x0, y0, x1, y1 in pixels of the photo, inside it; `score` in [0, 1]; `frame`: the box as it would
    be if the photo did not end there, from which crops of the face are taken."""

    box: tuple[float, float, float, float]
    score: float
    frame: tuple[float, float, float, float]


@dataclass(frozen=True)
class Localization:
    """Faces of a photo in falling score, the nets' responses over the whole photo, name -> [h, w] in [0, 1], and the
    windows that LNet_s looked at, strongest first: [K, 4], x0, y0, x1, y1 in pixels of the photo, which they may leave.
    """

    proposals: list[Proposal]
    response_maps: dict[str, Tensor] = field(repr=False)
    windows: Tensor = field(repr=False)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and [M, 4] (x0, y0, x1, y1): [N, M]; 0 where both are empty."""
    corner = torch.maximum(a[:, None, :2], b[None, :, :2])
    overlap = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - corner).clamp_min(0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    return overlap / (area_a[:, None] + area_b - overlap).clamp_min(1e-12)


def suppress(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Indices of boxes that no stronger kept box overlaps by more than `overlap`, in falling score (ties by index)."""
    order = torch.sort(scores, descending=True, stable=True).indices
    iou = box_iou(boxes, boxes)
    kept: list[int] = []
    for index in order.tolist():
        if not kept or iou[index, kept].max() <= overlap:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64, device=scores.device)


def read_peaks(maps: Tensor, sizes: Tensor, stride: int, threshold: float, max_peaks: int) -> tuple[Tensor, Tensor]:
    """Faces at the density peaks of size maps [N, K, h, w] (logits), whose positions are ``stride`` pixels apart: faces
    [N, P, 3] (x, y of the peak and height, in pixels of the net's input) and logits [N, P], of the probability that
    there is a face of any size; -inf where there is no further peak.

    The peak is placed below the stride by the responses round it, the height by those of the neighbouring sizes.
    """
    evidence = maps.logsumexp(1)
    density = evidence.sigmoid()
    index = find_peaks(density, threshold, max_peaks, min_score=0.0, min_distance=1.5).index
    index = index[:, : max(1, int((index >= 0).sum(1).max()))] if len(index) else index
    there, index = index >= 0, index.clamp_min(0)
    width = density.shape[2]
    rows, columns = index // width, index % width
    image = torch.arange(len(maps), device=maps.device)[:, None]
    offsets = torch.arange(-1, 2, device=maps.device)
    near_rows, near_columns = (rows[..., None] + offsets)[..., None], (columns[..., None] + offsets)[..., None, :]
    padded = F.pad(evidence, (1, 1, 1, 1), value=-torch.inf)
    near = padded[image[..., None, None], near_rows + 1, near_columns + 1].flatten(2).softmax(2).unflatten(2, (3, 3))
    y = (near.sum(3) * near_rows[..., 0]).sum(2) * stride + 0.5
    x = (near.sum(2) * near_columns[..., 0, :]).sum(2) * stride + 0.5
    weights = maps[image, :, rows, columns].softmax(2)
    height = (weights * sizes.log()).sum(2).exp()
    return torch.stack([x, y, height], 2), evidence[image, rows, columns].masked_fill(~there, -torch.inf)


def resample(density: Tensor, rows: Tensor, columns: Tensor, padding: str) -> Tensor:
    """Maps [N, h, w] read between their positions: each at its `rows` [N, H] and `columns` [N, W] (fractional indices),
    [N, H, W]."""
    height, width = density.shape[1:]
    y = rows / max(1, height - 1) * 2 - 1
    x = columns / max(1, width - 1) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return F.grid_sample(density[:, None], grid, padding_mode=padding, align_corners=True)[:, 0]


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [N, 3, H, W], float or uint8, at another size, averaged where they get smaller."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _copy(net: LNet, dtype: torch.dtype, largest: Sequence[float], many_sizes: bool) -> LNet:
    """The net for inference in a dtype; torch.qint8: its trunk in 8-bit integers, the rest in float32."""
    net = deepcopy(net).eval()
    if dtype == torch.qint8:
        net.trunk = QuantizedTrunk(net.fold_batch_norm().trunk, largest, many_sizes)  # type: ignore[assignment]
        dtype = torch.float32
    # Channels last is the convolutions' faster layout, on CPUs as on GPUs.
    return net.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def size_maps(net: LNet, images: Tensor) -> Tensor:
    """The net's size maps [N, K, h, w] of images [N, 3, H, W], brought to the CPU, where peaks are few and small."""
    weight = net.head.weight
    return net.size_maps(images.to(weight.device, weight.dtype, memory_format=torch.channels_last)).cpu()


class Localizer:
    """Finds the faces of a photo.

    `localizer(photo)`, photo [3, H, W], RGB, float in [0, 1] or uint8, any size -> :class:`Localization`. Each photo is
    handled alone, so its result does not depend on what else is asked for; memory is bounded by `settings.finest_side`.

    dtype: in which copies of the nets run, torch.qint8 for 8-bit integers; None: :func:`compute_dtype` of their device.
    bfloat16 moves boxes by less than a hundredth of a face, integers by a few.

    Raises ValueError for integers where the settings or the device do not allow them, for mirrored windows of the wrong
    size, and for a photo of another shape or dtype or with values that are not finite.
    """

    def __init__(
        self, lnet_o: LNet, lnet_s: LNet, settings: LocalizerSettings | None = None, dtype: torch.dtype | None = None
    ):
        self.settings = settings or LocalizerSettings()
        device = lnet_o.head.weight.device
        dtype = dtype or compute_dtype(device, integers=self.settings.integers)[0]
        if dtype == torch.qint8 and not (self.settings.integers and device.type == "cpu" and computes_in_integers()):
            raise ValueError(
                f"Localizer: no 8-bit integers on {device} with these settings: it takes a CPU with AVX2 and "
                "torch's oneDNN, and largest_o and largest_s, as training/measure_integers.py measures them; without a "
                "dtype the nets run in what suits them"
            )
        if self.settings.mirrored and self.settings.window_pixels % lnet_s.trunk.stride != 1:
            raise ValueError(
                f"Localizer: windows of {self.settings.window_pixels} pixels cannot be mirrored, they must have a "
                f"multiple of {lnet_s.trunk.stride} and one more"
            )
        self.dtype = dtype
        self.lnet_o = _copy(lnet_o, dtype, self.settings.largest_o, many_sizes=True)
        self.lnet_s = _copy(lnet_s, dtype, self.settings.largest_s, many_sizes=False)

    @torch.inference_mode()
    def __call__(self, photo: Tensor) -> Localization:
        known = photo.is_floating_point() or photo.dtype == torch.uint8
        if photo.ndim != 3 or photo.shape[0] != 3 or not known or 0 in photo.shape:
            raise ValueError(
                f"Localizer: a photo must be a float or uint8 tensor [3, H, W], got {photo.dtype} {list(photo.shape)}"
            )
        if photo.is_floating_point() and not photo.isfinite().all():
            raise ValueError("Localizer: the photo has values that are not finite (NaN or infinity)")
        settings = self.settings
        levels = self._levels(photo)
        faces, first_logits, maps = self._propose(photo, levels)
        half = faces[:, 2:] * settings.window / 2
        windows = torch.cat([faces[:, :2] - half, faces[:, :2] + half], 1)
        faces, second_logits, refined = self._refine(photo, levels, faces, first_logits, maps.shape)
        # Both nets must agree: the mean of their log-odds.
        scores = ((first_logits + second_logits) / 2).sigmoid()
        frames = self._boxes(faces)
        height, width = photo.shape[1:]
        boxes = torch.minimum(frames.clamp_min(0), frames.new_tensor([width, height, width, height]))
        # Of a face at least the middle is in the photo.
        inside = ((faces[:, :2] > 0) & (faces[:, :2] < faces.new_tensor([width, height]))).all(1)
        good = (scores >= settings.score_threshold) & inside
        boxes, scores, frames = boxes[good], scores[good], frames[good]
        kept = suppress(boxes, scores, settings.overlap).tolist()
        proposals = [Proposal(tuple(boxes[i].tolist()), scores[i].item(), tuple(frames[i].tolist())) for i in kept]
        return Localization(proposals, {"lnet_o": maps, "lnet_s": refined}, windows)

    def _levels(self, photo: Tensor) -> list[Tensor]:
        """The photo at falling scales, each half the one before."""
        settings = self.settings
        height, width = photo.shape[1:]
        scale = min(settings.largest_enlargement, settings.finest_side / max(height, width))
        levels: list[Tensor] = []
        while not levels or max(height, width) * scale >= settings.least_side:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            levels.append(_resize(levels[-1], size) if levels else self._resized(photo, size))
            scale /= 2
        return levels

    def _resized(self, photo: Tensor, size: tuple[int, int]) -> Tensor:
        """The photo at another size, float [1, 3, *size], on the nets' device. Bytes stay bytes until they are few:
        that is several times faster, and rounds by half a grey level."""
        device = self.lnet_o.head.weight.device
        if photo.dtype == torch.uint8:
            return _resize(photo.cpu()[None], size).to(device).float().div_(255)
        return _resize(photo.to(device).float()[None], size)

    def _propose(self, photo: Tensor, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """LNet_o's faces in photo pixels, the strongest first, their logits, and its response: the largest of all
        scales at the finest one's positions. A closer look adds its scale to ``levels``."""
        looks = [self._look(photo, level) for level in levels]
        shape = looks[0][2].shape
        if self._is_closer_look_due(photo, levels[0], looks):
            height, width = (round(length * self.settings.closer) for length in levels[0].shape[2:])
            levels.insert(0, self._resized(photo, (height, width)))
            looks.insert(0, self._look(photo, levels[0]))
        x, y = self._cells(photo, shape)
        response = torch.zeros(shape, dtype=torch.float32, device="cpu")
        for level, (_, _, density) in zip(levels, looks, strict=True):
            rows = ((y * level.shape[2] / photo.shape[1]) + self._border(level) - 0.5) / self.lnet_o.trunk.stride
            columns = ((x * level.shape[3] / photo.shape[2]) + self._border(level) - 0.5) / self.lnet_o.trunk.stride
            response = torch.maximum(response, resample(density[None], rows[None], columns[None], "border")[0])
        faces, logits = (torch.cat([look[i] for look in looks]) for i in (0, 1))
        kept = suppress(self._boxes(faces), logits, self.settings.overlap)[: self.settings.max_windows]
        return faces[kept], logits[kept], response

    def _border(self, level: Tensor) -> int:
        return BORDER * self.lnet_o.trunk.stride if max(level.shape[2:]) <= self.settings.bordered_side else 0

    def _look(self, photo: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """LNet_o at one scale: faces in photo pixels, their logits, and the response at the level's own positions."""
        border = self._border(level)
        maps = size_maps(self.lnet_o, F.pad(level, [border] * 4, mode="replicate"))
        sizes = maps.new_tensor(self.lnet_o.config["sizes"])
        [faces], [logits] = read_peaks(
            maps, sizes, self.lnet_o.trunk.stride, self.settings.proposal_threshold, 2 * self.settings.max_windows
        )
        faces, logits = faces[logits > -torch.inf], logits[logits > -torch.inf]
        faces[:, :2] -= border
        scale = faces.new_tensor([photo.shape[2] / level.shape[3], photo.shape[1] / level.shape[2]])
        faces = faces * torch.stack([scale[0], scale[1], scale.prod().sqrt()])
        faces[:, :2] += faces[:, 2:] * faces.new_tensor(self.settings.offset_o)
        return faces, logits, maps[0].logsumexp(0).sigmoid()

    def _is_closer_look_due(self, photo: Tensor, finest: Tensor, looks: list[tuple[Tensor, Tensor, Tensor]]) -> bool:
        """Whether the likeliest face is smaller, at the finest level, than the second size."""
        faces, logits = (torch.cat([look[i] for look in looks]) for i in (0, 1))
        if self.settings.closer == 1 or not len(faces) or logits.max().sigmoid() < SMALL_RESPONSE:
            return False
        scale = (finest.shape[2:].numel() / photo.shape[1:].numel()) ** 0.5
        return (faces[logits.argmax(), 2] * scale < self.lnet_o.config["sizes"][1]).item()

    @staticmethod
    def _cells(photo: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Photo pixels of the middles of a response map's columns and rows; its cells divide the photo evenly."""
        x = (torch.arange(shape[1], dtype=torch.float32, device="cpu") + 0.5) * (photo.shape[2] / shape[1])
        y = (torch.arange(shape[0], dtype=torch.float32, device="cpu") + 0.5) * (photo.shape[1] / shape[0])
        return x, y

    def _refine(
        self, photo: Tensor, levels: list[Tensor], faces: Tensor, first_logits: Tensor, shape: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """LNet_s's view of each face of LNet_o: the faces refined, their logits, and its response [*shape] over the
        photo."""
        settings, pixels = self.settings, self.settings.window_pixels
        if not len(faces):
            return faces, faces.new_empty(0), faces.new_zeros(shape)
        windows = self._cut(photo, levels, faces)
        maps = size_maps(self.lnet_s, windows)
        if settings.mirrored:
            highest = (first_logits + maps.logsumexp(1).amax((1, 2))) / 2
            likely = (highest.sigmoid() >= settings.score_threshold).nonzero()[:, 0]
            if len(likely):
                maps[likely] = (maps[likely] + size_maps(self.lnet_s, windows[likely].flip(3)).flip(3)) / 2
        sizes = maps.new_tensor(self.lnet_s.config["sizes"])
        found, strength = read_peaks(maps, sizes, self.lnet_s.trunk.stride, 0.0, 4)
        found[..., :2] += found[..., 2:] * found.new_tensor(settings.offset_s)
        # The window is about its face: the farther from its middle, the less a peak counts.
        distance = (found[..., :2] - pixels / 2).norm(dim=2) / pixels
        best = (strength - 8 * (distance - 0.15).clamp_min(0)).argmax(1)
        found, logits = (each[torch.arange(len(faces), device=best.device), best] for each in (found, strength))
        scale = faces[:, 2:] * settings.window / pixels
        refined = torch.cat([faces[:, :2] + (found[:, :2] - pixels / 2) * scale, found[:, 2:] * scale], 1)
        x, y = self._cells(photo, shape)
        rows = ((y - faces[:, 1:2]) / scale + pixels / 2 - 0.5) / self.lnet_s.trunk.stride
        columns = ((x - faces[:, :1]) / scale + pixels / 2 - 0.5) / self.lnet_s.trunk.stride
        return refined, logits, resample(maps.logsumexp(1).sigmoid(), rows, columns, "zeros").amax(0)

    def _cut(self, photo: Tensor, levels: list[Tensor], faces: Tensor) -> Tensor:
        """The windows round faces, [N, 3, window_pixels, window_pixels]; beyond the photo its border is repeated."""
        pixels = self.settings.window_pixels
        height, width = photo.shape[1:]
        side = faces[:, 2] * self.settings.window
        # Of each the coarsest level that is still as fine as the window.
        fine_enough = torch.stack([side * level.shape[3] / width >= pixels * 0.9 for level in levels])
        of = (fine_enough.int().cumprod(0).sum(0) - 1).clamp_min(0)
        axis = (torch.arange(pixels, dtype=faces.dtype, device=faces.device) + 0.5) / pixels - 0.5
        x, y = ((faces[:, i, None] + axis * side[:, None]) / (width, height)[i] * 2 - 1 for i in (0, 1))
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1).to(levels[0].device)
        windows = levels[0].new_empty(len(faces), 3, pixels, pixels)
        for i, level in enumerate(levels):
            rows = (of == i).nonzero()[:, 0]
            if len(rows):
                source = level.expand(len(rows), -1, -1, -1)
                windows[rows] = F.grid_sample(source, grid[rows], padding_mode="border", align_corners=False)
        return windows

    def _boxes(self, faces: Tensor) -> Tensor:
        settings = self.settings
        height = faces[:, 2:] * settings.box_height
        half = torch.cat([height / settings.box_aspect, height], 1) / 2
        middle = faces[:, :2] + faces[:, 2:] * faces.new_tensor([0.0, settings.box_below])
        return torch.cat([middle - half, middle + half], 1)
