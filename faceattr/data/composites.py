"""Training pictures for the localisation nets, each with image-level tags and nothing else.

Faces (pictures that frame one face, whose attributes are known in part) are pasted with soft edges at random size,
place and turn on scenes and objects, or fill the picture with their own surroundings. A picture's tags say which
attributes its face has and, for each size class, whether a face of that size is in it. Where it is, no one tells the
net: it has to find out what the pictures with a tag have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceattr.data.cuts import PhotoSet, cut
from faceattr.data.layout import FACE_ASPECT, FACE_CENTRE, FACE_HEIGHT, Layout, inside, size_tags
from faceattr.data.photos import Pictures
from faceattr.data.warping import degrade, sample, similarity, to_images

MOST_FACES = 3
"""Faces pasted into one picture."""


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


@dataclass(frozen=True)
class FaceSet:
    """Pictures that frame one face each, all alike, with what is known of their attributes."""

    pictures: Pictures
    tags: np.ndarray
    """bool [n, A]."""
    known: np.ndarray
    """bool [n, A]."""
    centre: tuple[float, float] = FACE_CENTRE
    """Of the face, as parts of a picture's width and height."""
    height: float = FACE_HEIGHT
    """Of the face, crown to chin, as a part of a picture's height."""
    share: float = 1.0
    """How often its pictures are drawn, over those of other sets."""


class Composer:
    """Makes batches; the same generator gives the same batch.

    Args:
        faces: sets of pictures of one face.
        backgrounds: collections of pictures without a face.
        sizes: heights of faces in pixels, one a size class, in equal ratios.
        photos: sets of whole photos.
        photo_share: the part of a batch that is cut from photos.
    """

    def __init__(
        self,
        faces: Sequence[FaceSet],
        backgrounds: Sequence[Pictures],
        sizes: Sequence[float],
        photos: Sequence[PhotoSet] = (),
        photo_share: float = 0.0,
    ):
        self.faces, self.backgrounds = list(faces), list(backgrounds)
        self.photos = [each for each in photos if len(each.usable())]
        self.usable = [each.usable() for each in self.photos]
        self.photo_share = photo_share if self.photos else 0.0
        self.attributes = self.faces[0].tags.shape[1]
        self.sizes = np.asarray(sizes, dtype=np.float64)

    def batch(self, count: int, size: int, random: np.random.Generator) -> Batch:
        """`count` pictures of `size` x `size` pixels."""
        images, tags, known, layout = self.scenes(count, size, random)
        sizes, certain = size_tags(layout, self.sizes)
        return Batch(
            degrade(images, random).contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.concatenate([tags, sizes], 1).astype(np.float32)),
            torch.from_numpy(np.concatenate([known, certain], 1).astype(np.float32)),
        )

    def scenes(
        self, count: int, size: int, random: np.random.Generator
    ) -> tuple[Tensor, np.ndarray, np.ndarray, Layout]:
        """Pictures [N, 3, S, S] as they are before cameras and compression degrade them, tags and knowledge [N, A] of
        their attributes, and where their faces lie."""
        from_photos = int(round(count * self.photo_share))
        parts = [self._composites(count - from_photos, size, random)]
        which = random.choice(len(self.photos), size=from_photos, p=_shares(self.photos)) if from_photos else []
        for number, (photos, usable) in enumerate(zip(self.photos, self.usable, strict=True)):
            pieces = np.count_nonzero(np.equal(which, number))
            if pieces:
                parts.append(self._pieces(photos, random.choice(usable, size=pieces), size, random))
        images, tags, known, layouts = zip(*parts, strict=True)
        return torch.cat(images), np.concatenate(tags), np.concatenate(known), Layout.joined(layouts)

    def _heights(self, count: int, size: int, random: np.random.Generator) -> np.ndarray:
        """Two of three faces belong to a size class, the others are of any size."""
        ratio = self.sizes[1] / self.sizes[0]
        low, high = self.sizes[0] / math.sqrt(ratio), self.sizes[-1] * math.sqrt(ratio)
        fitting = np.exp(random.uniform(np.log(low), np.log(high), count))
        any_size = np.exp(random.uniform(np.log(low / 2.5), np.log(high * 2.5), count))
        return np.where(random.random(count) < 0.67, fitting, any_size)

    def _pieces(self, photos: PhotoSet, chosen: np.ndarray, size: int, random: np.random.Generator):
        """Pieces of whole photos."""
        pieces, alone, layout = cut(photos, chosen, self._heights(len(chosen), size, random), size, random)
        tags, known = (np.zeros((len(chosen), self.attributes), dtype=bool) for _ in range(2))
        if photos.tags is not None:
            clear = alone & (layout.heights.max(1) > 0.7 * self.sizes[0])
            tags[clear], known[clear] = photos.tags[chosen[clear]], True
        return pieces, tags, known, layout

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
            # Some come whole and small, their border repeated outwards: so the nets see a photo at its coarsest scale.
            shape = len(rows), 1
            reduced = np.exp(random.uniform(0, 1.1, shape))
            span = whole * np.where(random.random(shape) < 0.3, reduced, random.uniform(0.45, 1, shape))
            corner = (whole - span) * random.random((len(rows), 2))
            mirror = random.random(len(rows)) < 0.5
            matrices = np.zeros((len(rows), 2, 3))
            matrices[:, 0, 0] = np.where(mirror, -1, 1) * span[:, 0] / size
            matrices[:, 0, 2] = corner[:, 0] + np.where(mirror, span[:, 0], 0)
            matrices[:, 1, 1], matrices[:, 1, 2] = span[:, 1] / size, corner[:, 1]
            out[rows] = sample(sheet, matrices, size, span.mean(1) / size)
        return out

    def _paste(
        self,
        canvas: Tensor,
        sources: Tensor,
        rows: np.ndarray,
        matrices: np.ndarray,
        random: np.random.Generator,
        whole: np.ndarray | None = None,
    ) -> None:
        """Blend source pictures into some rows of `canvas`, each through a soft oval or rounded rectangle; those that
        are `whole` cover all of it, their border repeated outwards."""
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
        if whole is not None:
            alpha[torch.from_numpy(whole)] = 1
        gain = torch.from_numpy(random.uniform(0.75, 1.25, (n, 3, 1, 1)).astype(np.float32).clip(0.85, 1.15))
        canvas[rows] = canvas[rows] * (1 - alpha) + (layer * gain).clamp(0, 1) * alpha

    def _composites(self, count: int, size: int, random: np.random.Generator):
        """Faces on backgrounds, as :meth:`scenes`."""
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

        number = random.choice(MOST_FACES + 1, size=count, p=[0.25, 0.45, 0.2, 0.1])
        heights = np.zeros((count, MOST_FACES))
        centres = np.full((count, MOST_FACES, 2), -1e4)
        tags, known = (np.zeros((count, self.attributes), dtype=bool) for _ in range(2))
        for layer in range(MOST_FACES):
            height = self._heights(count, size, random)
            # Most faces are whole, some are cut by the border.
            margin = np.minimum(height / 2, size / 2) * (random.random(count) < 0.8)
            centre = margin[:, None] + (size - 2 * margin[:, None]) * random.random((count, 2))
            # Faces that would cover one another are left out.
            gap = np.abs(centres - centre[:, None]).max(-1) - (heights + height[:, None]) * 0.6
            there = (number > layer) & (gap[:, :layer] > 0).all(1)
            # Of the first faces some fill the picture with their own surroundings.
            whole = (random.random(count) < 0.3) & (layer == 0)
            which = random.choice(len(self.faces), size=count, p=_shares(self.faces))
            for kind, faces in enumerate(self.faces):
                rows = np.flatnonzero(there & (which == kind))
                if not len(rows):
                    continue
                chosen = random.integers(len(faces.pictures), size=len(rows))
                self._place(canvas, faces, chosen, rows, centre[rows], height[rows], whole[rows], random)
                if layer == 0:
                    tags[rows], known[rows] = faces.tags[chosen], faces.known[chosen]
            heights[there, layer], centres[there, layer] = height[there], centre[there]
        self._cover(canvas, centres[:, 0], heights[:, 0], random)
        low, high = self._trim(canvas, centres[:, 0], heights[:, 0], random)
        visible = inside(centres, heights, low[:, None], high[:, None])
        faces_there = (heights > 0).sum(1)
        clear = (visible[:, 0] > 0.8) & (heights[:, 0] > 0.7 * self.sizes[0]) & (faces_there == 1)
        known = np.where((faces_there == 0)[:, None], True, known & clear[:, None])
        return canvas, tags & known, known, Layout(heights, centres, heights > 0, visible, np.ones(count, dtype=bool))

    def _place(
        self,
        canvas: Tensor,
        faces: FaceSet,
        chosen: np.ndarray,
        rows: np.ndarray,
        centre: np.ndarray,
        height: np.ndarray,
        whole: np.ndarray,
        random: np.random.Generator,
    ) -> None:
        """Puts chosen faces into some rows of ``canvas``, at these centres and heights."""
        sources = to_images(faces.pictures.images[chosen])
        flip = random.random(len(rows)) < 0.5
        sources[flip] = sources[flip].flip(-1)
        lines, columns = faces.pictures.images.shape[1:3]
        across = np.where(flip, 1 - faces.centre[0], faces.centre[0])
        source = np.stack([across * columns, np.full(len(rows), faces.centre[1] * lines)], 1)
        scale = height / (faces.height * lines)
        angle = random.normal(0, np.where(random.random(len(rows)) < 0.2, 0.5, 0.15))
        aspect = np.exp(random.normal(0, 0.08, len(rows)))
        self._paste(canvas, sources, rows, similarity(scale, angle, aspect, source, centre), random, whole)

    def _cover(self, canvas: Tensor, centres: np.ndarray, heights: np.ndarray, random: np.random.Generator) -> None:
        """Puts something before one picture in five, over one side of the first face if there is one: at most 40 % of
        its frame, as hats, hands, microphones and other people's heads do."""
        size = canvas.shape[-1]
        rows = np.flatnonzero(random.random(len(canvas)) < 0.2)
        if not len(rows):
            return
        face = heights[rows] > 0
        height = np.where(face, heights[rows], np.exp(random.uniform(np.log(0.2), np.log(0.8), len(rows))) * size)
        centre = np.where(face[:, None], centres[rows], random.uniform(0, size, (len(rows), 2)))
        half = np.stack([height / FACE_ASPECT, height], -1) / 2
        # From a side of the frame inwards, and as far outwards.
        depth = 2 * half * random.uniform(0.1, 0.4, (len(rows), 1))
        axis, end = random.integers(2, size=(2, len(rows)))
        others = self._backgrounds(len(rows), size, random)
        for i, row in enumerate(rows):
            low, high = centre[i] - 1.3 * half[i], centre[i] + 1.3 * half[i]
            edge = (centre[i] + (half[i] if end[i] else -half[i]))[axis[i]]
            low[axis[i]], high[axis[i]] = edge - depth[i, axis[i]], edge + depth[i, axis[i]]
            (left, top), (right, bottom) = (np.clip(corner.round(), 0, size).astype(int) for corner in (low, high))
            canvas[row, :, top:bottom, left:right] = others[i, :, top:bottom, left:right]

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


def _shares(sets: Sequence[FaceSet | PhotoSet]) -> np.ndarray:
    """How often each set is drawn, 1 in all."""
    shares = np.array([each.share for each in sets], dtype=np.float64)
    return shares / shares.sum()
