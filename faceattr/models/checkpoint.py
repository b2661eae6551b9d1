"""The whole cascade in one safetensors file: five nets to seven, and in its header what it takes to use them.

The header's metadata has one key, ``faceattr``, whose value is JSON:

- ``format_version``: 4; files of version 2, which have no ``age``, and 3, which have no ``frame``, are read too
- ``configs``: for each of ``lnet_o``, ``lnet_s``, ``anet``, ``svm``, ``face``, ``age``, ``frame`` the arguments that
  rebuild it; ``face`` is one plane over ANet's features and, last, the log-odds of the localiser's score; ``age``,
  which may be left out, has a plane for each of :data:`faceattr.ages.LIMITS`: is somebody at least so old? ``frame``,
  which may be left out too, puts the localiser's boxes right
- ``attributes``: their names, in the order of the logits
- ``preprocessing``: how photos become input: the localiser's settings, whose own threshold is for what ``face`` is to
  look at, ``score_threshold`` for what it then takes for a face and, which may be left out, the lower
  ``company_threshold`` for further ones in a photo that has such a face; ANet's crop from its box, and ``aligned_box``,
  where that box lies on an aligned 178x218 picture; ``age_tail``, the share of ages beyond each end of the interval
- ``thresholds``: ``accuracy`` and ``balanced``, on the calibrated probability, one an attribute
- ``training``, ``metrics``: on what data the weights were trained and how they do
- ``sha256``: of the metadata without this key and of every tensor; safetensors itself notices no flipped bit

Weights are stored as float16, except vectors (biases), the SVMs and ``frame``.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from faceattr.ages import LIMITS
from faceattr.models.anet import ANet
from faceattr.models.frame import FrameCorrection
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM

FORMAT_VERSION = 4
OLDEST_VERSION = 2
MADE_ON_SAVING = ("format_version", "configs", "sha256")
"""Keys of the metadata that follow from the rest."""
NETS: dict[str, type[nn.Module]] = {"lnet_o": LNet, "lnet_s": LNet, "anet": ANet, "svm": LinearSVM, "face": LinearSVM}
OPTIONAL_NETS: dict[str, type[nn.Module]] = {"age": LinearSVM, "frame": FrameCorrection}


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`load_checkpoint` gives: the nets in evaluation mode, and the metadata."""

    lnet_o: LNet
    lnet_s: LNet
    anet: ANet
    svm: LinearSVM
    face: LinearSVM
    metadata: dict[str, Any]
    age: LinearSVM | None = None
    frame: FrameCorrection | None = None

    def nets(self) -> dict[str, nn.Module]:
        """The nets that it has, by name, as :func:`save_checkpoint` takes them."""
        every = {name: getattr(self, name) for name in (*NETS, *OPTIONAL_NETS)}
        return {name: net for name, net in every.items() if net is not None}


def save_checkpoint(
    path: str | os.PathLike,
    *,
    lnet_o: LNet,
    lnet_s: LNet,
    anet: ANet,
    svm: LinearSVM,
    face: LinearSVM,
    metadata: dict[str, Any],
    age: LinearSVM | None = None,
    frame: FrameCorrection | None = None,
) -> None:
    """Writes the nets and ``metadata`` to ``path``, all or nothing.

    ``metadata`` holds ``attributes``, ``preprocessing``, ``thresholds``, ``training`` and ``metrics``; version, configs
    and checksum are made here, also where those of a loaded checkpoint are given.

    Raises:
        ValueError: a key is missing or unknown, or a list has not one value an attribute.
    """
    nets: dict[str, nn.Module] = {"lnet_o": lnet_o, "lnet_s": lnet_s, "anet": anet, "svm": svm, "face": face}
    nets |= {name: net for name, net in (("age", age), ("frame", frame)) if net is not None}
    metadata = {
        "format_version": FORMAT_VERSION,
        "configs": {name: net.config for name, net in nets.items()},
        **{key: value for key, value in metadata.items() if key not in MADE_ON_SAVING},
    }
    problem = _metadata_problem(metadata)
    if problem:
        raise ValueError(f"save_checkpoint: {problem}")
    tensors = {
        f"{name}.{key}": _stored(name, tensor) for name, net in nets.items() for key, tensor in net.state_dict().items()
    }
    # Through JSON once, so that the checksum is of what a reader will see (tuples become lists, say).
    metadata = json.loads(json.dumps(metadata))
    metadata["sha256"] = _checksum(metadata, tensors)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"faceattr": json.dumps(metadata)})
    os.replace(partial, path)


def load_checkpoint(
    path: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Reads a checkpoint; the nets come in evaluation mode, without gradients, on ``device`` as ``dtype``.

    Raises:
        ValueError: the file is missing, a pickle, damaged, foreign or of a newer format, or its tensors do not fit its
            configuration; the message names the file and says what to do.
    """
    metadata, tensors = _read(Path(path))
    nets: dict[str, Any] = {}
    every = {name: cls for name, cls in (NETS | OPTIONAL_NETS).items() if name in metadata["configs"]}
    for name, cls in every.items():
        net = _build(path, name, cls, metadata["configs"][name])
        prefix = name + "."
        _fill(
            path, name, net, {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        )
        nets[name] = net.to(device=device, dtype=dtype).eval().requires_grad_(False)
    foreign = sorted(key for key in tensors if key.split(".")[0] not in every)
    if foreign:
        raise ValueError(f"{path}: holds the tensor {foreign[0]!r}, which belongs to no net of faceattr")
    if "frame" in nets and nets["frame"].config["inputs"] != nets["anet"].responses_size:
        raise ValueError(
            f"{path}: frame takes {nets['frame'].config['inputs']} responses, anet has {nets['anet'].responses_size}; "
            "make it again with training/fit_frame.py"
        )
    if metadata["sha256"] != _checksum(metadata, tensors):
        raise ValueError(f"{path}: damaged (its checksum does not fit its contents); copy or download it again")
    return Checkpoint(**nets, metadata=metadata)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file, checked as far as that goes without building the nets."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give the path of a faceattr checkpoint") from None
    # PK: torch.save's zip; 0x80: a bare pickle. A safetensors file begins with eight bytes of any value, then its JSON.
    pickled = start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80")
    if pickled or path.suffix.lower() in (".pt", ".pth", ".pkl", ".ckpt"):
        raise ValueError(
            f"{path}: a pickle, which can run any code when it is read; faceattr loads .safetensors files only"
        )
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("faceattr")
            if header is None:
                raise ValueError(
                    f"{path}: a safetensors file, but not one of faceattr's; see faceattr's training/bundle.py"
                )
            metadata = json.loads(header)
            if isinstance(metadata, dict) and "config" in metadata:
                raise ValueError(f"{path}: holds one net, not a cascade; see faceattr's training/bundle.py")
            version = metadata["format_version"]
            if version > FORMAT_VERSION:
                raise ValueError(
                    f"{path}: made by a newer faceattr (format {version}, this one reads {FORMAT_VERSION}); "
                    "upgrade faceattr"
                )
            if version < OLDEST_VERSION:
                raise ValueError(
                    f"{path}: made by an older faceattr (format {version}, this one reads {OLDEST_VERSION} to "
                    f"{FORMAT_VERSION}); make it again with training/bundle.py"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged, cut short or no safetensors file ({error}); copy or download it again"
        ) from None
    problem = _metadata_problem({key: value for key, value in metadata.items() if key != "sha256"})
    if problem or "sha256" not in metadata:
        raise ValueError(f"{path}: damaged metadata ({problem or 'no checksum'}); copy or download it again")
    return metadata, tensors


def _metadata_problem(metadata: dict[str, Any]) -> str | None:
    """What is wrong with the metadata, or None."""
    expected = {"format_version", "configs", "attributes", "preprocessing", "thresholds", "training", "metrics"}
    if metadata.keys() != expected:
        key = min(metadata.keys() ^ expected)
        return f"metadata {'has the unknown' if key in metadata else 'lacks the'} key {key!r}"
    if not set(NETS) <= set(metadata["configs"]) <= {*NETS, *OPTIONAL_NETS}:
        return f"configs are of {sorted(metadata['configs'])}, not of {sorted(NETS)}"
    count = len(metadata["attributes"])
    for name in ("accuracy", "balanced"):
        if len(metadata["thresholds"].get(name, ())) != count:
            return f"thresholds {name!r} are not {count}, one an attribute"
    for name in ("anet", "svm"):
        if metadata["configs"][name]["attributes"] != count:
            return f"{name} has {metadata['configs'][name]['attributes']} attributes, {count} are named"
    age = metadata["configs"].get("age")
    if age is not None and age["attributes"] != len(LIMITS):
        return f"age has {age['attributes']} planes, not {len(LIMITS)}"
    face, features = metadata["configs"]["face"], metadata["configs"]["anet"]["features"]
    if (face["attributes"], face["features"]) != (1, features + 1):
        return f"face has {face['attributes']} planes over {face['features']} features, not 1 over {features + 1}"
    return None


def _stored(net: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.is_floating_point():
        tensor = tensor.to(
            torch.float32 if net in ("svm", "face", "age", "frame") or tensor.dim() < 2 else torch.float16
        )
    return tensor.clone()


def _checksum(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    content = {key: value for key, value in metadata.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _build(path: str | os.PathLike, name: str, cls: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    try:
        return cls(**config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: the configuration of {name} does not do ({error}); copy or download it again"
        ) from None


def _fill(path: str | os.PathLike, name: str, net: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = net.state_dict()
    missing, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or foreign:
        what = (
            f"lacks the tensor '{name}.{missing[0]}'" if missing else f"holds the unknown tensor '{name}.{foreign[0]}'"
        )
        raise ValueError(f"{path}: {what}; it does not fit its configuration: make or download it again")
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise ValueError(
                f"{path}: the tensor '{name}.{key}' has shape {tuple(tensor.shape)}, its configuration says "
                f"{tuple(own[key].shape)}: make or download it again"
            )
    net.load_state_dict(tensors)
