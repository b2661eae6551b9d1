"""The nets to be explained: those of a whole checkpoint, or an ANet alone as the training scripts write it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from faceattr.attributes import ATTRIBUTES
from faceattr.crops import CropSettings
from faceattr.data.faces import CROP, FACE
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import load_checkpoint
from faceattr.models.svm import LinearSVM
from faceattr.pipeline import find_weights

BATCH = 32


@dataclass(frozen=True)
class Net:
    """An ANet and how its attributes are decided.

    path: the file it is from. anet: in evaluation mode, on its device.
    attributes: names of the A decisions. svm: makes them of the features. thresholds: [A], on the probability.
    These three are empty or None for a net that has only learnt identities.
    crop: what the net sees of a face whose box is known. aligned_box: where that box lies on an aligned picture.
    """

    path: Path
    anet: ANet
    attributes: tuple[str, ...]
    svm: LinearSVM | None
    thresholds: np.ndarray | None
    crop: CropSettings
    aligned_box: tuple[float, ...]

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a face's crop."""
        return self.crop.size(tuple(self.anet.config["input_size"]), self.anet.step)

    def images(self, crops: np.ndarray) -> Tensor:
        """Crops, uint8 [N, h, w, 3], as the net takes them: [N, 3, h, w] in [0, 1], on its device."""
        return torch.tensor(crops, device=self.anet.head.weight.device).permute(0, 3, 1, 2).float() / 255

    @torch.inference_mode()
    def features(self, crops: np.ndarray, quiet: bool = True) -> np.ndarray:
        """What the SVMs see of N faces, float64 [N, F]: crops, uint8 [N, *crop_size, 3], pooled over their views."""
        starts = tqdm(range(0, len(crops), BATCH), desc="features", unit="batch", disable=quiet, dynamic_ncols=True)
        parts = [self.anet.pooled_features(self.images(crops[start : start + BATCH])) for start in starts]
        return torch.cat(parts).double().cpu().numpy()

    @torch.inference_mode()
    def responses(self, crops: np.ndarray, quiet: bool = True) -> dict[str, np.ndarray]:
        """Responses of the layers "fc", "c4", "c3" to the plain crop in the middle of each crop: float64 [N, ...]."""
        height, width = self.anet.config["input_size"]
        top, left = (crops.shape[1] - height) // 2, (crops.shape[2] - width) // 2
        plain = crops[:, top : top + height, left : left + width]
        parts: dict[str, list[Tensor]] = {"fc": [], "c4": [], "c3": []}
        for start in tqdm(
            range(0, len(plain), BATCH), desc="responses", unit="batch", disable=quiet, dynamic_ncols=True
        ):
            result = self.anet.responses(self.images(plain[start : start + BATCH]))
            for layer, part in parts.items():
                part.append(getattr(result, layer).flatten(1).cpu())
        return {layer: torch.cat(part).double().numpy() for layer, part in parts.items()}

    def deciding(self) -> LinearSVM:
        """The SVMs; ValueError for a net without."""
        if self.svm is None:
            problem = "has learnt identities alone and decides no attribute"
            raise ValueError(f"{self.path}: {problem}; give a fine-tuned ANet or a whole checkpoint")
        return self.svm

    @torch.inference_mode()
    def decisions(self, features: np.ndarray) -> np.ndarray:
        """Signed distances to the SVMs' planes, [N, A], of features [N, F]."""
        svm = self.deciding()
        return svm.decision(torch.from_numpy(features).to(svm.weight)).double().cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [N, A] of features [N, F]."""
        svm = self.deciding()
        return svm(torch.from_numpy(features).to(svm.weight)).double().cpu().numpy()


def read_net(weights: str | os.PathLike | None, device: str | torch.device = "cpu") -> Net:
    """The net in a file or folder; None: of the bundled checkpoint.

    Takes what `faceattr.load` takes, and anet.safetensors of `training/pretrain_anet.py` or `finetune_anet.py`, or a
    folder with that name in it. Such a net sees the plain crop of an aligned face, and decides by its own last layer.

    Raises:
        ValueError: the file is missing or no such net; the message names it.
    """
    path = _file(weights)
    return _trained(path, device) if is_anet_alone(path) else _bundled(path, device)


def is_anet_alone(weights: str | os.PathLike | None) -> bool:
    """Whether the file, or the one in the folder, is a net as the training scripts write it, no whole checkpoint."""
    path = _file(weights)
    try:
        with safe_open(path, "pt") as file:
            return "config" in json.loads((file.metadata() or {}).get("faceattr", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError):
        return False  # load_checkpoint will say what is wrong


def _file(weights: str | os.PathLike | None) -> Path:
    if weights is not None and (Path(weights) / "anet.safetensors").is_file():
        return Path(weights) / "anet.safetensors"
    return find_weights(weights)


def _bundled(path: Path, device: str | torch.device) -> Net:
    checkpoint = load_checkpoint(path, device)
    metadata = checkpoint.metadata
    return Net(
        path,
        checkpoint.anet,
        tuple(metadata["attributes"]),
        checkpoint.svm,
        np.array(metadata["thresholds"]["accuracy"]),
        CropSettings(**metadata["preprocessing"]["crop"]),
        tuple(metadata["preprocessing"]["aligned_box"]),
    )


def _trained(path: Path, device: str | torch.device) -> Net:
    from faceattr.train.loop import load_model

    try:
        anet, metadata = load_model(ANet, path)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: holds another net than ANet ({str(error).splitlines()[0]})") from None
    anet = anet.fold_batch_norm().to(device).requires_grad_(False)
    x0, y0, x1, y1 = FACE
    height = y1 - y0
    centre = ((CROP[0] + CROP[2] - x0 - x1) / 2 / height, (CROP[1] + CROP[3] - y0 - y1) / 2 / height)
    crop = CropSettings(centre, (CROP[3] - CROP[1]) / height)
    if metadata.get("stage") == "identities":
        return Net(path, anet, (), None, None, crop, FACE)
    if anet.config["attributes"] != len(ATTRIBUTES):
        raise ValueError(f"{path}: {anet.config['attributes']} attributes without names; CelebA's {len(ATTRIBUTES)} do")
    svm = LinearSVM(len(ATTRIBUTES), anet.config["features"]).requires_grad_(False)
    svm.weight.copy_(anet.head.weight)
    svm.bias.copy_(anet.head.bias)
    return Net(path, anet, ATTRIBUTES, svm.to(device), np.full(len(ATTRIBUTES), 0.5), crop, FACE)
