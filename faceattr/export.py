"""`faceattr export`: a checkpoint's nets as ONNX files, and a JSON of what it takes to use them without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceattr.crops import CropSettings
from faceattr.models.checkpoint import Checkpoint


class _Sizes(nn.Module):
    """images [N, 3, H, W] in [0, 1] -> size maps (logits) [N, sizes, h, w]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.size_maps(images)


class _Attributes(nn.Module):
    """crops [N, 3, h, w] in [0, 1] -> ANet's pooled features [N, F] and the attributes' probabilities [N, A]."""

    def __init__(self, anet: nn.Module, svm: nn.Module):
        super().__init__()
        self.anet, self.svm = anet, svm

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features = self.anet.pooled_features(crops)
        return features, self.svm(features)


class _Face(nn.Module):
    """crops as above and the localiser's log-odds [N] -> the probability [N] that each is a face."""

    def __init__(self, anet: nn.Module, face: nn.Module):
        super().__init__()
        self.anet, self.face = anet, face

    def forward(self, crops: Tensor, log_odds: Tensor) -> Tensor:
        height, width = self.anet.config["input_size"]
        top, left = (crops.shape[2] - height) // 2, (crops.shape[3] - width) // 2
        features = self.anet.features(crops[:, :, top : top + height, left : left + width])
        return self.face(torch.cat([features, log_odds[:, None]], 1))[:, 0]


def export_onnx(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """Writes lnet_o.onnx, lnet_s.onnx, attributes.onnx, face.onnx and preprocessing.json; returns their paths.

    Batches of any size; for the LNets also pictures of any size. float32. Raises ValueError where onnx and onnxscript
    are not installed.
    """
    try:
        import onnxscript  # noqa: F401, torch.onnx needs it
    except ImportError:
        raise ValueError('export: onnx is not installed; pip install "faceattr[onnx]"') from None
    settings, anet = checkpoint.metadata["preprocessing"], checkpoint.anet
    crop = CropSettings(**settings["crop"])
    size = crop.size(tuple(anet.config["input_size"]), anet.step)
    pictures, crops = torch.rand(2, 3, 97, 113), torch.rand(2, 3, *size)
    batch, pixels = {0: "n"}, {0: "n", 2: "height", 3: "width"}
    nets: dict[str, tuple[nn.Module, dict[str, Tensor], tuple, list[str]]] = {
        "lnet_o": (_Sizes(checkpoint.lnet_o), {"images": pictures}, (pixels,), ["size_maps"]),
        "lnet_s": (_Sizes(checkpoint.lnet_s), {"images": pictures}, (pixels,), ["size_maps"]),
        "attributes": (
            _Attributes(anet, checkpoint.svm),
            {"crops": crops},
            (batch,),
            ["features", "probabilities"],
        ),
        "face": (
            _Face(anet, checkpoint.face),
            {"crops": crops, "log_odds": torch.rand(2)},
            (batch, batch),
            ["probability"],
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written, files = [], {}
    for name, (net, inputs, dynamic, outputs) in nets.items():
        with torch.no_grad():
            program = torch.onnx.export(
                net.float().eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
            )
        path = folder / f"{name}.onnx"
        assert program is not None
        program.save(path)
        written.append(path)
        files[name] = {"file": path.name, "inputs": list(inputs), "outputs": outputs}
    path = folder / "preprocessing.json"
    path.write_text(json.dumps(_description(checkpoint, crop, size, files), indent=2) + "\n")
    return [*written, path]


def _description(
    checkpoint: Checkpoint, crop: CropSettings, size: tuple[int, int], files: dict[str, Any]
) -> dict[str, Any]:
    metadata, anet = checkpoint.metadata, checkpoint.anet
    return {
        "pixels": "RGB / 255, float32, [N, 3, height, width]",
        "files": files,
        "attributes": metadata["attributes"],
        "thresholds": metadata["thresholds"],
        "score_threshold": metadata["preprocessing"]["score_threshold"],
        "crop": {**asdict(crop), "size": list(size), "pixels_a_height": anet.config["input_size"][0]},
        "localization": metadata["preprocessing"]["localization"],
        "lnet_sizes": {name: getattr(checkpoint, name).config["sizes"] for name in ("lnet_o", "lnet_s")},
    }
