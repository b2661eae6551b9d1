"""Training pictures for the localisation nets, each with image-level tags and nothing else.

Faces (aligned pictures, whose attributes are known) are pasted with soft edges at random size, place and turn on scenes
and objects. A picture's tags say which attributes its face has and, for each size class, whether a face of that size is
in it. Where it is, no one tells the net: it has to find out what the pictures with a tag have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from faceattr.data.photos import Pictures

FACE_CENTRE = (0.5, 0.54)
"""Centre of the face in an aligned CelebA picture, as parts of its width and height."""
FACE_HEIGHT = 140 / 218
"""Height of the face, crown to chin, as a part of the height of an aligned CelebA picture."""
FACE_ASPECT = 1.38
"""Height of the face's frame over its width."""


@dataclass(frozen=True)
class Batch:
    """Pictures and their tags."""

    images: Tensor
    """float [N, 3, S, S] in [0, 1]."""
    tags: Tensor
    """float [N, A]: 1 where the tag holds."""
    known: Tensor
    """float [N, A]: 0 where it is not known whether the tag holds, which is left out of the loss."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.images.to(device), self.tags.to(device), self.known.to(device))


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(255)


def sample(sources: Tensor, matrices: np.ndarray, size: int, shrink: np.ndarray) -> Tensor:
    """Resample [N, C, h, w] to [N, C, size, size]; `matrices` [N, 2, 3] map output pixels to source pixels.

    `shrink` [N] is how many source pixels one output pixel spans; pictures are averaged down by powers of two first, so
    that none is aliased.
    """
    out = sources.new_zeros(len(sources), sources.shape[1], size, size)
    levels = np.clip(np.floor(np.log2(np.maximum(shrink, 1)) + 0.5), 0, 4).astype(int)
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        part = sources[rows]
        if level:
            part = F.avg_pool2d(part, 2**level, ceil_mode=True, count_include_pad=False)
        matrix = matrices[rows] / 2.0**level
        height, width = part.shape[-2:]
        # Pixel (x, y) of the output has its centre at x + 0.5; grid_sample wants source positions in [-1, 1].
        axis = torch.arange(size) + 0.5
        yy, xx = torch.meshgrid(axis, axis, indexing="ij")
        points = torch.stack([xx, yy, torch.ones_like(xx)], -1).view(-1, 3)
        grid = points @ torch.from_numpy(matrix.astype(np.float32)).transpose(1, 2)
        grid = grid / torch.tensor([width / 2, height / 2]) - 1
        out[rows] = F.grid_sample(part, grid.view(-1, size, size, 2), padding_mode="border", align_corners=False)
    return out


def similarity(
    scale: np.ndarray, angle: np.ndarray, aspect: np.ndarray, source: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """[N, 2, 3] matrices from output to source pixels.

    They enlarge the source by `scale`, turn it by `angle` (radians), stretch its columns by `aspect` and take the point
    `source` [N, 2] of the source to the point `target` [N, 2] of the output.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.stack([np.stack([cos / aspect, sin / aspect], 1), np.stack([-sin, cos], 1)], 1)
    return np.concatenate([linear, (source - np.einsum("nij,nj->ni", linear, target))[:, :, None]], 2)


def inside(centres: np.ndarray, heights: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """The part of each face's frame that lies between the corners `low` and `high` [..., 2] of what is shown.

    centres [..., 2] (columns, rows) and heights [...] of the faces, in pixels.
    """
    half = np.stack([heights / FACE_ASPECT / 2, heights / 2], -1)
    visible = np.minimum(centres + half, high) - np.maximum(centres - half, low)
    return np.prod(np.clip(visible, 0, None) / np.maximum(2 * half, 1e-6), -1)


def size_tags(heights: np.ndarray, visible: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tags and knowledge [N, K] for faces of `heights` [N, F] (0: no face), of which the part `visible` can be seen.

    Size class k is meant for faces nearer to sizes[k] than to its neighbours. Between two classes, and for faces cut by
    the border, there is no telling; such a face makes a tag unknown unless another face makes it true.
    """
    step = np.log(sizes[1] / sizes[0])
    distance = np.abs(np.log(np.maximum(heights, 1e-6))[..., None] - np.log(sizes)) / step
    present = heights[..., None] > 0
    true = present & (distance <= 0.55) & (visible[..., None] >= 0.8)
    unsure = present & (distance <= 0.9) & (visible[..., None] >= 0.4)
    tags = true.any(1)
    return tags, tags | ~unsure.any(1)


class Composer:
    """Makes batches; the same generator gives the same batch.

    Args:
        faces: aligned pictures (any size; the frame of the face is FACE_CENTRE, FACE_HEIGHT).
        face_tags: [n, 40] bool.
        backgrounds: collections of pictures without a face.
        sizes: heights of faces in pixels, one a size class, in equal ratios.
        photos, photo_tags: whole photos, [m, 40] bool.
        proposals: [m, 3], the one face that a net proposed in each photo: column and row of its centre and its height,
            in pixels of the decoded photo; height 0 leaves the photo out.
        photo_share: the part of a batch that is cut from photos.
        windows: [m, W, 3], what LNet_o proposes in each photo, as `proposals`, with height 0 where there are fewer: the
            photos are cut to these, as LNet_s sees them. Without, they are cut at random round the face.
        window: side of a window, in heights of the face that is proposed.
    """

    def __init__(
        self,
        faces: Pictures,
        face_tags: np.ndarray,
        backgrounds: list[Pictures],
        sizes: list[float],
        photos: Pictures | None = None,
        photo_tags: np.ndarray | None = None,
        proposals: np.ndarray | None = None,
        photo_share: float = 0.0,
        windows: np.ndarray | None = None,
        window: float = 2.0,
    ):
        self.faces, self.face_tags, self.backgrounds = faces, face_tags, backgrounds
        self.sizes = np.asarray(sizes, dtype=np.float64)
        self.photos, self.photo_tags, self.proposals, self.photo_share = photos, photo_tags, proposals, photo_share
        self.windows, self.window = windows, window
        self.usable = np.flatnonzero(proposals[:, 2] > 0) if proposals is not None else np.zeros(0, int)
        if windows is not None:
            self.usable = self.usable[(windows[self.usable, :, 2] > 0).any(1)]

    def batch(self, count: int, size: int, random: np.random.Generator) -> Batch:
        """`count` pictures of `size` x `size` pixels."""
        from_photos = int(round(count * self.photo_share)) if len(self.usable) else 0
        parts = [self._composites(count - from_photos, size, random)]
        if from_photos:
            parts.append(self._photo_cuts(from_photos, size, random))
        images, attributes, known, heights, visible = (
            np.concatenate(x) if isinstance(x[0], np.ndarray) else torch.cat(x) for x in zip(*parts, strict=True)
        )
        images = degrade(images, random)
        tags, certain = size_tags(heights, visible, self.sizes)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.concatenate([attributes, tags], 1).astype(np.float32)),
            torch.from_numpy(
                np.concatenate([np.repeat(known[:, None], attributes.shape[1], 1), certain], 1).astype(np.float32)
            ),
        )

    def _heights(self, count: int, size: int, random: np.random.Generator) -> np.ndarray:
        """Two of three faces belong to a size class, the others are of any size."""
        ratio = self.sizes[1] / self.sizes[0]
        low, high = self.sizes[0] / math.sqrt(ratio), self.sizes[-1] * math.sqrt(ratio)
        fitting = np.exp(random.uniform(np.log(low), np.log(high), count))
        any_size = np.exp(random.uniform(np.log(low / 2.5), np.log(high * 2.5), count))
        return np.where(random.random(count) < 0.67, fitting, any_size)

    def _backgrounds(self, count: int, size: int, random: np.random.Generator) -> Tensor:
        out = torch.empty(count, 3, size, size)
        kinds = random.integers(len(self.backgrounds), size=count)
        for kind, pictures in enumerate(self.backgrounds):
            rows = np.flatnonzero(kinds == kind)
            if not len(rows):
                continue
            sheet = to_images(pictures.images[random.integers(len(pictures), size=len(rows))])
            if min(sheet.shape[2:]) < size and random.random() < 0.6:
                # Four small pictures side by side keep their sharpness at the size of a large one.
                others = [sheet.roll(shift, 0) for shift in (1, 2, 3)]
                sheet = torch.cat([torch.cat([sheet, others[0]], 3), torch.cat([others[1], others[2]], 3)], 2)
            whole = np.array(sheet.shape[:1:-1])  # columns, rows
            span = whole * random.uniform(0.45, 1, (len(rows), 1))
            corner = (whole - span) * random.random((len(rows), 2))
            mirror = random.random(len(rows)) < 0.5
            matrices = np.zeros((len(rows), 2, 3))
            matrices[:, 0, 0] = np.where(mirror, -1, 1) * span[:, 0] / size
            matrices[:, 0, 2] = corner[:, 0] + np.where(mirror, span[:, 0], 0)
            matrices[:, 1, 1], matrices[:, 1, 2] = span[:, 1] / size, corner[:, 1]
            out[rows] = sample(sheet, matrices, size, span.mean(1) / size)
        return out

    def _paste(
        self, canvas: Tensor, sources: Tensor, rows: np.ndarray, matrices: np.ndarray, random: np.random.Generator
    ) -> None:
        """Blend source pictures into some rows of `canvas`, each through a soft oval or rounded rectangle."""
        n, size = len(rows), canvas.shape[-1]
        height, width = sources.shape[-2:]
        layer = sample(sources, matrices, size, np.linalg.norm(matrices[:, :, 1], axis=1))
        axis = torch.arange(size) + 0.5
        yy, xx = torch.meshgrid(axis, axis, indexing="ij")
        points = torch.stack([xx, yy, torch.ones_like(xx)], -1).view(-1, 3)
        place = points @ torch.from_numpy(matrices.astype(np.float32)).transpose(1, 2)
        place = (place / torch.tensor([width / 2, height / 2]) - 1).view(n, size, size, 2)
        tight = random.random(n) < 0.5
        column = np.where(tight, random.uniform(0.6, 0.8, n), random.uniform(0.85, 0.97, n))
        row = np.where(tight, random.uniform(0.7, 0.85, n), random.uniform(0.85, 0.97, n))
        power = np.where(tight, 2.0, random.uniform(2, 8, n))
        shape = torch.from_numpy(np.stack([column, row, power, random.uniform(4, 16, n)]).astype(np.float32)).view(
            4, n, 1, 1
        )
        edge = (place[..., 0].abs() / shape[0]) ** shape[2] + (place[..., 1].abs() / shape[1]) ** shape[2]
        alpha = torch.sigmoid((1 - edge) * shape[3] / shape[2]) * (place.abs().amax(-1) < 1)
        alpha = alpha.unsqueeze(1)
        gain = torch.from_numpy(random.uniform(0.75, 1.25, (n, 3, 1, 1)).astype(np.float32).clip(0.85, 1.15))
        canvas[rows] = canvas[rows] * (1 - alpha) + (layer * gain).clamp(0, 1) * alpha

    def _composites(self, count: int, size: int, random: np.random.Generator):
        canvas = self._backgrounds(count, size, random)
        # Something that is no face goes in by the same scissors, so that an edge says nothing.
        rows = np.flatnonzero(random.random(count) < 0.4)
        if len(rows):
            scale = np.exp(random.uniform(np.log(0.25), np.log(1.0), len(rows)))
            target = random.uniform(0.1 * size, 0.9 * size, (len(rows), 2))
            angle = random.normal(0, 0.3, len(rows))
            middle = np.full((len(rows), 2), size / 2)
            patch = self._backgrounds(len(rows), size, random)
            self._paste(canvas, patch, rows, similarity(scale, angle, np.ones(len(rows)), middle, target), random)

        most = 3
        number = random.choice(most + 1, size=count, p=[0.2, 0.5, 0.2, 0.1])
        heights = np.zeros((count, most))
        centres = np.full((count, most, 2), -1e4)
        attributes = np.zeros((count, self.face_tags.shape[1]), dtype=bool)
        rows_of_face, columns_of_face = self.faces.images.shape[1:3]
        for layer in range(most):
            height = self._heights(count, size, random)
            # Most faces are whole, some are cut by the border.
            margin = np.minimum(height / 2, size / 2) * (random.random(count) < 0.8)
            centre = margin[:, None] + (size - 2 * margin[:, None]) * random.random((count, 2))
            # Faces that would cover one another are left out.
            gap = np.abs(centres - centre[:, None]).max(-1) - (heights + height[:, None]) * 0.6
            rows = np.flatnonzero((number > layer) & (gap[:, :layer] > 0).all(1))
            if not len(rows):
                continue
            chosen = random.integers(len(self.faces), size=len(rows))
            sources = to_images(self.faces.images[chosen])
            flip = random.random(len(rows)) < 0.5
            sources[flip] = sources[flip].flip(-1)
            source = np.tile(np.array(FACE_CENTRE) * (columns_of_face, rows_of_face), (len(rows), 1))
            scale = height[rows] / (FACE_HEIGHT * rows_of_face)
            angle = random.normal(0, np.where(random.random(len(rows)) < 0.2, 0.5, 0.15))
            aspect = np.exp(random.normal(0, 0.08, len(rows)))
            self._paste(canvas, sources, rows, similarity(scale, angle, aspect, source, centre[rows]), random)
            heights[rows, layer], centres[rows, layer] = height[rows], centre[rows]
            if layer == 0:
                attributes[rows] = self.face_tags[chosen]
        low, high = self._trim(canvas, centres[:, 0], heights[:, 0], random)
        visible = inside(centres, heights, low[:, None], high[:, None])
        clear = (visible[:, 0] > 0.8) & (heights[:, 0] > 0.7 * self.sizes[0])
        alone = (heights > 0).sum(1) == 1
        return canvas, attributes, (clear & alone) | (heights == 0).all(1), heights, visible

    def _trim(
        self, canvas: Tensor, centres: np.ndarray, heights: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keeps of one picture in three a rectangle, close about the first face if there is one, and repeats its border
        outwards: photos that a face fills come to the nets like that. Returns the corners [N, 2] of what is shown."""
        count, size = len(canvas), canvas.shape[-1]
        low, high = np.zeros((count, 2)), np.full((count, 2), float(size))
        span = size * random.uniform(0.4, 0.9, (count, 2))
        start = (size - span) * random.random((count, 2))
        half = np.stack([heights / FACE_ASPECT, heights], -1) / 2
        near = half * (2 * random.uniform(-0.1, 0.35, (2, count, 1)))
        face = (heights > 0)[:, None]
        stop = np.where(face, centres + half + near[1], start + span)
        start = np.where(face, centres - half - near[0], start)
        rows = np.flatnonzero(random.random(count) < 0.35)
        low[rows], high[rows] = np.clip(start[rows].round(), 0, size - 2), np.clip(stop[rows].round(), 2, size)
        axis = np.arange(size)
        for row in rows:
            columns, lines = (
                torch.from_numpy(np.clip(axis, low[row, i], high[row, i] - 1).astype(np.int64)) for i in range(2)
            )
            canvas[row] = canvas[row][:, lines[:, None], columns]
        return low, high

    def _photo_cuts(self, count: int, size: int, random: np.random.Generator):
        """Pieces of photos, some with the proposed face in one of the size classes, some beside it."""
        chosen = random.choice(self.usable, size=count)
        faces = self.proposals[chosen]
        extents = self.photos.extents[chosen][:, ::-1]  # columns, rows
        if self.windows is None:
            height, scale, corner = self._cuts_round(faces, extents, size, random)
        else:
            height, scale, corner = self._cuts_to_windows(chosen, size, random)
        span = size / scale
        mirror = random.random(count) < 0.5
        sources = to_images(self.photos.images[chosen])
        for source, (columns, rows) in zip(sources, extents, strict=True):
            # What lies beyond a photo repeats its border, as where the nets are used.
            source[:, rows:] = source[:, rows - 1 : rows]
            source[:, :, columns:] = source[:, :, columns - 1 : columns]
        matrices = np.zeros((count, 2, 3))
        matrices[:, 0, 0] = np.where(mirror, -1, 1) / scale
        matrices[:, 0, 2] = corner[:, 0] + np.where(mirror, span, 0)
        matrices[:, 1, 1], matrices[:, 1, 2] = 1 / scale, corner[:, 1]
        canvas = sample(sources, matrices, size, 1 / scale)
        centre = (faces[:, :2] - corner) * scale[:, None]
        visible = inside(centre, height, 0, size)
        heights, shown = np.zeros((count, 3)), np.zeros((count, 3))
        heights[:, 0], shown[:, 0] = np.where(visible > 0.02, height, 0), visible
        known = (visible > 0.8) & (height > 0.7 * self.sizes[0])
        return canvas, self.photo_tags[chosen], known, heights, shown

    def _cuts_round(self, faces: np.ndarray, extents: np.ndarray, size: int, random: np.random.Generator):
        """Cuts at random round the faces: heights of the faces in them, scales, corners."""
        height = self._heights(len(faces), size, random)
        scale = height / faces[:, 2]
        # Three of four pieces show the face, the others what is beside it.
        beside = random.random((len(faces), 1)) < 0.25
        centre = (
            np.where(beside, random.uniform(-1, 2, (len(faces), 2)), random.uniform(0.1, 0.9, (len(faces), 2))) * size
        )
        # The piece is moved into the photo as far as it goes, so that it shows little of what lies beyond the border.
        span = size / scale
        corner = faces[:, :2] - centre / scale[:, None]
        slack = extents - span[:, None]
        corner = np.where(slack > 0, np.clip(corner, 0, np.maximum(slack, 0)), np.minimum(0, np.maximum(corner, slack)))
        return height, scale, corner

    def _cuts_to_windows(self, chosen: np.ndarray, size: int, random: np.random.Generator):
        """Cuts to one of the windows proposed in each photo; as :meth:`_cuts_round`."""
        windows = self.windows[chosen]
        number = (random.random(len(chosen)) * (windows[:, :, 2] > 0).sum(1)).astype(int)
        windows = windows[np.arange(len(chosen)), number]
        span = windows[:, 2] * self.window
        scale = size / span
        return self.proposals[chosen, 2] * scale, scale, windows[:, :2] - span[:, None] / 2


def degrade(images: Tensor, random: np.random.Generator) -> Tensor:
    """Tone, colour, blur and noise as cameras and compression bring them, for faces and for what is none alike."""
    n, _, size, _ = images.shape
    for factor in (2, 3):
        rows = np.flatnonzero(random.random(n) < 0.1)
        if len(rows):
            small = F.avg_pool2d(images[rows], factor, ceil_mode=True, count_include_pad=False)
            images[rows] = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    gray = np.flatnonzero(random.random(n) < 0.12)
    images[gray] = images[gray].mean(1, keepdim=True).expand(-1, 3, -1, -1)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).view(n, -1, 1, 1)

    gamma = column(np.exp(random.normal(0, 0.25, n)))
    contrast = column(np.exp(random.normal(0, 0.2, n)))
    offset = column(random.normal(0, 0.08, n))
    colour = column(np.exp(random.normal(0, 0.07, (n, 3))))
    images = images.clamp(1e-3, 1) ** gamma
    images = (images - 0.5) * contrast * colour + 0.5 + offset
    noisy = np.flatnonzero(random.random(n) < 0.3)
    noise = torch.from_numpy(random.standard_normal((len(noisy), 3, size, size), dtype=np.float32))
    images[noisy] += noise * 0.03
    return images.clamp_(0, 1)
