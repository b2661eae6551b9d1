"""Training pictures for LNet_s: the windows that LNet_o proposes in composites and in pieces of photos."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from faceattr.data.composites import Batch, Composer
from faceattr.data.layout import Layout, inside, size_tags
from faceattr.data.warping import degrade, sample
from faceattr.localization import read_peaks, size_maps
from faceattr.models.lnet import LNet

SCENE = 2.0
"""Side of the pictures in which LNet_o proposes, over that of a window."""
WINDOWS = 3
"""Cut from each picture."""
PEAKS = 6
"""Proposals of a picture that they are drawn from."""


class WindowComposer:
    """Makes batches of windows; the same generator gives the same batch. Each is `window` heights of a proposed face
    wide: a face that is there, or what LNet_o mistakes for one.

    Args:
        composer: of the scenes, for LNet_s's sizes.
        lnet_o: proposes in them, at the scale at which it knows its first size as LNet_s knows its own.
    """

    def __init__(self, composer: Composer, lnet_o: LNet, window: float = 2.0):
        self.composer, self.lnet_o, self.window = composer, lnet_o, window
        self.scale = lnet_o.config["sizes"][0] / composer.sizes[0]

    def batch(self, count: int, size: int, random: np.random.Generator) -> Batch:
        """`count` windows of `size` x `size` pixels."""
        scenes, tags, known, layout = self.composer.scenes(-(-count // WINDOWS), round(SCENE * size), random)
        scenes = degrade(scenes, random)
        proposed = self._propose(scenes, random).reshape(-1, 3)[:count]
        of = np.repeat(np.arange(len(scenes)), WINDOWS)[:count]
        scenes, tags, known, layout = scenes[of], tags[of], known[of], layout.of(of)
        scale = size / (self.window * proposed[:, 2])
        corner = proposed[:, :2] - size / scale[:, None] / 2
        matrices = np.zeros((count, 2, 3))
        matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / scale
        matrices[:, :, 2] = corner
        windows = sample(scenes, matrices, size, 1 / scale)
        nobody = ~(layout.heights > 0).any(1)
        centres = (layout.centres - corner[:, None]) * scale[:, None, None]
        heights = layout.heights * scale[:, None]
        # A face that the scene's border cuts stays cut.
        visible = np.minimum(inside(centres, heights, 0, size), layout.visible)
        layout = Layout(np.where(visible > 0.02, heights, 0), centres, layout.sure, visible, layout.complete)
        sizes, certain = size_tags(layout, self.composer.sizes)
        whole = ((layout.heights > 0) & layout.sure & (visible > 0.8)).any(1)
        known = known & (whole | nobody)[:, None]
        return Batch(
            windows.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.concatenate([tags & known, sizes], 1).astype(np.float32)),
            torch.from_numpy(np.concatenate([known, certain], 1).astype(np.float32)),
        )

    @torch.inference_mode()
    def _propose(self, scenes: Tensor, random: np.random.Generator) -> np.ndarray:
        """WINDOWS of LNet_o's strongest proposals in each scene, [N, WINDOWS, 3] (x, y, height); random ones where it
        has fewer."""
        small = F.interpolate(scenes, scale_factor=self.scale, mode="bilinear", antialias=True)
        ratio = scenes.shape[3] / small.shape[3]
        sizes = torch.tensor(self.lnet_o.config["sizes"])
        side = scenes.shape[3]
        low, high = np.log(self.composer.sizes[[0, -1]])
        shape = len(scenes), WINDOWS
        proposed = np.stack([*random.uniform(0, side, (2, *shape)), np.exp(random.uniform(low, high, shape))], -1)
        found, logits = read_peaks(size_maps(self.lnet_o, small), sizes, self.lnet_o.trunk.stride, 0.02, PEAKS)
        for row, (faces, there) in enumerate(zip(found, logits > -torch.inf, strict=True)):
            faces = faces[there]
            order = random.permutation(PEAKS)
            drawn = order[order < len(faces)][:WINDOWS]
            proposed[row, : len(drawn)] = faces[drawn].double().numpy() * ratio
        return proposed
