"""`faceattr export`: a checkpoint's nets as ONNX files, or compiled by AOTInductor, and a JSON of what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faceattr.crops import CropSettings
from faceattr.localization import LocalizerSettings
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import Checkpoint
from faceattr.models.frame import FrameCorrection
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM


class _Sizes(nn.Module):
    """images [N, 3, H, W] in [0, 1] -> size maps (logits) [N, sizes, h, w]."""

    def __init__(self, net: LNet):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.size_maps(images)


class _Attributes(nn.Module):
    """crops [N, 3, h, w] in [0, 1] -> ANet's pooled features [N, F] and the attributes' probabilities [N, A]."""

    def __init__(self, anet: ANet, svm: LinearSVM):
        super().__init__()
        self.anet, self.svm = anet, svm

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features = self.anet.pooled_features(crops)
        return features, self.svm(features)


class _Face(nn.Module):
    """crops as above and the localiser's log-odds [N] -> the probability [N] that each is a face and, where the
    checkpoint has that, how to put its frame right [N, 3]."""

    def __init__(self, anet: ANet, face: LinearSVM, frame: FrameCorrection | None):
        super().__init__()
        self.anet, self.face, self.frame = anet, face, frame

    def forward(self, crops: Tensor, log_odds: Tensor) -> tuple[Tensor, ...]:
        height, width = self.anet.config["input_size"]
        top, left = (crops.shape[2] - height) // 2, (crops.shape[3] - width) // 2
        responses = self.anet.responses(crops[:, :, top : top + height, left : left + width])
        probability = self.face(torch.cat([responses.fc, log_odds[:, None]], 1))[:, 0]
        return (probability,) if self.frame is None else (probability, self.frame(responses))


class _Program(NamedTuple):
    net: nn.Module
    inputs: dict[str, Tensor]
    dynamic: tuple[dict[int, str], ...]
    """Of each input the dimensions that may have any size, by name."""
    outputs: list[str]


def export_onnx(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """Writes lnet_o.onnx, lnet_s.onnx, attributes.onnx, face.onnx and preprocessing.json; returns their paths.

    Batches of any size; for the LNets also pictures of any size. float32. Raises ValueError where onnx and onnxscript
    are not installed.
    """
    try:
        import onnxscript  # noqa: F401, torch.onnx needs it
    except ImportError:
        raise ValueError('export: onnx is not installed; pip install "faceattr[onnx]"') from None

    def write(program: _Program, path: Path) -> None:
        exported = torch.onnx.export(
            program.net,
            tuple(program.inputs.values()),
            dynamo=True,
            dynamic_shapes=program.dynamic,
            input_names=list(program.inputs),
            output_names=program.outputs,
            verbose=False,
        )
        assert exported is not None
        exported.save(path)

    return _export(checkpoint, folder, ".onnx", write)


def export_aotinductor(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """As :func:`export_onnx`, machine code for this kind of machine in .pt2 packages; needs a C++ compiler.

    torch._inductor.aoti_load_package, after `import faceattr.ops`, and torch's C++ library run them.
    """

    def write(program: _Program, path: Path) -> None:
        dynamic = tuple(dict.fromkeys(sizes, torch.export.Dim.DYNAMIC) for sizes in program.dynamic)
        exported = torch.export.export(program.net, tuple(program.inputs.values()), dynamic_shapes=dynamic)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path.resolve()))

    return _export(checkpoint, folder, ".pt2", write)


def _export(checkpoint: Checkpoint, folder: Path, suffix: str, write: Callable[[_Program, Path], None]) -> list[Path]:
    anet = checkpoint.anet
    crop = CropSettings(**checkpoint.metadata["preprocessing"]["crop"])
    size = crop.size(tuple(anet.config["input_size"]), anet.step)
    folder.mkdir(parents=True, exist_ok=True)
    written, files = [], {}
    for name, program in _programs(checkpoint, size).items():
        program.net.float().eval()
        path = folder / (name + suffix)
        with torch.no_grad():
            write(program, path)
        written.append(path)
        files[name] = {"file": path.name, "inputs": list(program.inputs), "outputs": program.outputs}
    path = folder / "preprocessing.json"
    path.write_text(json.dumps(_description(checkpoint, crop, size, files), indent=2) + "\n")
    return [*written, path]


def _programs(checkpoint: Checkpoint, size: tuple[int, int]) -> dict[str, _Program]:
    anet = checkpoint.anet
    pictures, crops = torch.rand(2, 3, 97, 113), torch.rand(2, 3, *size)
    batch, pixels = {0: "n"}, {0: "n", 2: "height", 3: "width"}
    attributes, face = _Attributes(anet, checkpoint.svm), _Face(anet, checkpoint.face, checkpoint.frame)
    outputs = ["probability"] if checkpoint.frame is None else ["probability", "correction"]
    return {
        "lnet_o": _Program(_Sizes(checkpoint.lnet_o), {"images": pictures}, (pixels,), ["size_maps"]),
        "lnet_s": _Program(_Sizes(checkpoint.lnet_s), {"images": pictures}, (pixels,), ["size_maps"]),
        "attributes": _Program(attributes, {"crops": crops}, (batch,), ["features", "probabilities"]),
        "face": _Program(face, {"crops": crops, "log_odds": torch.rand(2)}, (batch, batch), outputs),
    }


def _description(
    checkpoint: Checkpoint, crop: CropSettings, size: tuple[int, int], files: dict[str, Any]
) -> dict[str, Any]:
    metadata, anet = checkpoint.metadata, checkpoint.anet
    score_threshold = metadata["preprocessing"]["score_threshold"]
    return {
        "pixels": "RGB / 255, float32, [N, 3, height, width]",
        "files": files,
        "attributes": metadata["attributes"],
        "thresholds": metadata["thresholds"],
        "score_threshold": score_threshold,
        "company_threshold": metadata["preprocessing"].get("company_threshold", score_threshold),
        "crop": {**asdict(crop), "size": list(size), "pixels_a_height": anet.config["input_size"][0]},
        "localization": LocalizerSettings(**metadata["preprocessing"]["localization"]).to_dict(),
        "lnet_sizes": {name: getattr(checkpoint, name).config["sizes"] for name in ("lnet_o", "lnet_s")},
        "lnet_strides": {name: getattr(checkpoint, name).trunk.stride for name in ("lnet_o", "lnet_s")},
    }
