"""One's own attributes: SVMs over the frozen features of a checkpoint, as a checkpoint that predicts them."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from faceattr.data.faces import CROP
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import evaluate, rounded
from faceattr.evaluation.predict import Probabilities
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import Checkpoint
from faceattr.models.svm import LinearSVM
from faceattr.train.face import by_lnets
from faceattr.train.svm import fit_svm

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Candidates for the SVMs' C: no prior is there to keep to, so they may trust the pictures more."""


def fit_own(
    checkpoint: Checkpoint, data: TaggedPictures, predicted: Probabilities, folds: int = 5
) -> tuple[Checkpoint, dict]:
    """SVMs for the attributes of ``data`` on the features that ``checkpoint``'s model gave for its pictures.

    Pictures in which no face was found are left out, for each attribute also those of which nobody has said whether it
    holds; without identities each picture counts as a person.

    Returns:
        a checkpoint that differs from the given one in the attributes alone; the cross-validated result, as of
        :func:`faceattr.evaluation.attributes.evaluate`, with thresholds for accuracy.

    Raises:
        ValueError: an attribute that nobody has, or everybody, or too few people for the folds.
    """
    people = np.arange(len(data)) if data.identities is None else data.identities
    found = predicted.found
    if not found.any():
        raise ValueError(f"{data.folder}: no face found in {len(data)} pictures; are they cropped? Then say so")
    learnt = data.select(found)
    svm, thresholds, probabilities, strength = fit_svm(
        predicted.features[found].astype(np.float64),
        learnt.tags,
        people[found],
        STRENGTHS,
        folds,
        known=learnt.known,
        names=learnt.attributes,
    )
    result = evaluate(
        probabilities, learnt.tags, thresholds["accuracy"], learnt.attributes, learnt.known, learnt.identities
    )
    metadata = {
        **checkpoint.metadata,
        "attributes": list(data.attributes),
        "thresholds": thresholds,
        "metrics": {"cross-validated": {"accuracy": rounded(result["mean"])}},
        "training": {"frozen": checkpoint.metadata["training"], "svm": {"strength": strength, "pictures": len(learnt)}},
    }
    anet = _with_head(checkpoint.anet, svm)
    return replace(checkpoint, anet=anet, svm=svm, metadata=metadata), result


def with_anet(checkpoint: Checkpoint, path: str | os.PathLike) -> Checkpoint:
    """The checkpoint's localisation with another ANet, as finetune_anet.py or pretrain_anet.py writes it, deciding by
    its own last layer; what the LNets take for a face is one."""
    from faceattr.explain.nets import read_net

    device = checkpoint.anet.head.weight.device
    net = read_net(path, device)
    names = net.attributes or tuple(f"Logit_{i}" for i in range(net.anet.config["attributes"]))
    svm = net.svm or LinearSVM(len(names), net.anet.config["features"]).to(device)
    preprocessing = checkpoint.metadata["preprocessing"]
    x0, y0, x1, y1 = preprocessing["aligned_box"]
    middles = ((x0 + x1) / 2, (y0 + y1) / 2)
    centre = [((CROP[i] + CROP[i + 2]) / 2 - middle) / (y1 - y0) for i, middle in enumerate(middles)]
    crop = {"centre": centre, "height": (CROP[3] - CROP[1]) / (y1 - y0), "positions": [2, 2]}
    metadata = {
        **checkpoint.metadata,
        "attributes": list(names),
        "preprocessing": {**preprocessing, "crop": crop, "largest_anet": []},
        "thresholds": dict.fromkeys(("accuracy", "balanced"), [0.5] * len(names)),
    }
    nets = checkpoint.lnet_o, checkpoint.lnet_s, net.anet, svm.requires_grad_(False), checkpoint.face
    return by_lnets(Checkpoint(*nets, metadata))


def _with_head(anet: ANet, svm: LinearSVM) -> ANet:
    """The same net with one logit for each of the SVMs' attributes: that of its calibrated probability."""
    net = ANet(**{**anet.config, "attributes": svm.config["attributes"]})
    state = anet.state_dict()
    state["head.weight"] = -svm.slope[:, None] * svm.weight
    state["head.bias"] = -(svm.slope * svm.bias + svm.offset)
    net.load_state_dict(state)
    return net.eval()
