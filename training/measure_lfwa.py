"""The second half of Table 1, and Fig. 12: attributes on LFWA and LFWA+, all methods, by one command.

    python training/measure_lfwa.py DATA OUT [--weights W] [--without-identities ANET]

DATA holds lfwa-labels.csv (a picture a row; identity, partition, LFWA's 40 attributes and LFWA+'s further ones) and the
pictures that it names, LFW deep-funnelled, whole or cut to their middle. They are brought to one size, the central
180x180, in OUT. SVMs learn from the pictures of partition 0, half of the people, and are measured on partition 2:

    ours: on the frozen features of the weights. without-identities: of an ANet that no identity pre-training preceded.
    facetracer, panda-l: faces where deep-funnelling puts them. panda-w: faces that the localiser finds.

Each method's figures are kept in OUT/METHOD.json, features in OUT/METHOD.npy, faces found in OUT/panda-w.jsonl, and not
measured again while they are there; delete them for other weights. Prints the table, markdown, writes it to
OUT/table.md, and draws OUT/lfwa.pdf and .png.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from faceattr.attributes import ATTRIBUTES, TABLE_1
from faceattr.data.tag_csv import read_tag_csv
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import evaluate, mean
from faceattr.evaluation.baselines import Placement, evaluate_baseline
from faceattr.evaluation.parts import place_by_box
from faceattr.evaluation.plots import plot_attributes
from faceattr.evaluation.predict import crown_to_chin, predict_pictures
from faceattr.images import load_image
from faceattr.models.checkpoint import Checkpoint, load_checkpoint
from faceattr.pipeline import FaceAttributes, choose_device, find_weights
from faceattr.train.own import STRENGTHS, with_anet
from faceattr.train.svm import fit_svm

SIDE = 180
FACE = (0.186, 0.024, 0.817, 0.894)
"""The face in the central SIDE pixels, crown to chin, in parts of it: ALIGNED_FACES["lfwa"] without the border."""
TITLES = {
    "facetracer": "FaceTracer",
    "panda-w": "PANDA-w",
    "panda-l": "PANDA-l",
    "without-identities": "ours without identities",
    "ours": "ours",
}

PUBLISHED = {"FaceTracer": "FaceTracer", "PANDA-w": "PANDA-w", "PANDA-l": "PANDA-l", "theirs": "LNets+ANet"}
"""Columns of the paper's Table 1."""


def middles(data: TaggedPictures, out: Path) -> None:
    """Writes the central part of each picture; those that are there stay."""
    for name in tqdm(data.names, desc="pictures", unit="picture"):
        path = out / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with Image.open(data.folder / name) as picture:
            left, top = ((side - SIDE) // 2 for side in picture.size)
            picture.convert("RGB").crop((left, top, left + SIDE, top + SIDE)).save(partial, "JPEG", quality=95)
        os.replace(partial, path)


class Found(Placement):
    """Lays faces where the model finds them; its findings stay in the file ``kept``, a line a picture."""

    def __init__(self, model: FaceAttributes, kept: Path):
        super().__init__(model=model)
        self.kept = kept
        lines = kept.read_text().splitlines(keepends=True) if kept.exists() else []
        # A kill may have cut the last line short.
        lines = [line for line in lines if line.endswith("]\n")]
        kept.write_text("".join(lines))
        self.boxes: dict[str, list[float] | None] = dict(map(json.loads, lines))

    def __call__(self, folder: Path, name: str) -> np.ndarray | None:
        pixels = load_image(folder / name)
        if name not in self.boxes:
            faces = self.model.detect(pixels)
            self.boxes[name] = [float(edge) for edge in crown_to_chin(self.model, faces[0].frame)] if faces else None
            with self.kept.open("a") as file:
                file.write(json.dumps([name, self.boxes[name]]) + "\n")
        box = self.boxes[name]
        return None if box is None else place_by_box(pixels, box)


def on_frozen_features(checkpoint: Checkpoint, data: TaggedPictures, kept: Path, workers: int) -> dict:
    """Figures of SVMs that learn from the features of aligned faces; the features [N, F] stay in ``kept``."""
    if not kept.exists():
        model = FaceAttributes(checkpoint)
        prior = np.full(len(model.attributes), 0.5)
        predicted = predict_pictures(model, data.paths, prior, FACE, workers=workers, quiet=False)
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, predicted.features)
        os.replace(partial, kept)
    features = np.load(kept)
    learnt, measured = (np.flatnonzero(data.partitions == number) for number in (0, 2))
    people = data.select(learnt)
    svm, thresholds, _, _ = fit_svm(
        features[learnt].astype(np.float64), people.tags, people.identities, STRENGTHS, known=people.known
    )
    values = svm(torch.from_numpy(features[measured])).detach().numpy()
    others = data.select(measured)
    result = evaluate(values, others.tags, thresholds["accuracy"], others.attributes, others.known, others.identities)
    return {**result, "training": len(learnt)}


def table(results: dict[str, dict]) -> str:
    """Accuracy of every method in percent, beside the paper's where it has the attribute; the means last."""
    paper = {title: TABLE_1["LFWA"][column] for title, column in PUBLISHED.items()}
    names = list(next(iter(results.values()))["attributes"])
    parts = {
        "LFWA": [name for name in ATTRIBUTES if name in names],
        "LFWA+": [name for name in names if name not in ATTRIBUTES],
    }
    titles = [TITLES[method] for method in results]
    lines = ["| | majority | " + " | ".join([*titles, *(f"paper: {title}" for title in paper)]) + " |"]
    lines.append("|" + "---|" * (2 + len(titles) + len(paper)))
    for part, members in parts.items():
        if not members:
            continue
        rows = []
        for name in members:
            majority = next(iter(results.values()))["attributes"][name]["majority"]
            measured = [result["attributes"][name]["accuracy"] for result in results.values()]
            published = [column[ATTRIBUTES.index(name)] for column in paper.values()] if part == "LFWA" else []
            rows.append([majority, *measured, *published])
            cells = [f"{100 * value:.1f}" for value in rows[-1][: 1 + len(results)]] + [
                str(value) for value in published
            ]
            lines.append(
                f"| {name} | " + " | ".join(cells + [""] * (1 + len(results) + len(paper) - len(cells))) + " |"
            )
        means = [mean(column) for column in zip(*rows, strict=True)]
        cells = [f"{100 * value:.1f}" for value in means[: 1 + len(results)]]
        cells += [f"{value:.1f}" for value in means[1 + len(results) :]]
        cells += [""] * (1 + len(results) + len(paper) - len(cells))
        lines.append(f"| **mean of {part}'s {len(members)}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", help="checkpoint (default: the bundled one)")
    parser.add_argument("--without-identities", type=Path, metavar="ANET", help="anet.safetensors of finetune_anet.py")
    parser.add_argument("--methods", nargs="+", choices=TITLES, default=list(TITLES), metavar="NAME")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    labels = arguments.data / "lfwa-labels.csv"
    middles(read_tag_csv(labels), arguments.out)
    data = read_tag_csv(labels, arguments.out)
    learnt, measured = data.partition(0), data.partition(2)
    checkpoint = load_checkpoint(find_weights(arguments.weights), choose_device(arguments.device))
    results = {}
    for method in (method for method in TITLES if method in arguments.methods):
        path = arguments.out / f"{method}.json"
        if not path.exists():
            if method == "ours":
                result = on_frozen_features(checkpoint, data, arguments.out / f"{method}.npy", arguments.workers)
            elif method == "without-identities":
                if arguments.without_identities is None:
                    continue
                other = with_anet(checkpoint, arguments.without_identities)
                result = on_frozen_features(other, data, arguments.out / f"{method}.npy", arguments.workers)
            else:
                if method == "panda-w":
                    placement = Found(FaceAttributes(checkpoint), arguments.out / f"{method}.jsonl")
                else:
                    placement = Placement(FACE)
                result = evaluate_baseline(method, learnt, measured, placement, "accuracy", quiet=False)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(result, indent=1) + "\n")
            os.replace(partial, path)
        results[method] = json.loads(path.read_text())
    text = table(results)
    (arguments.out / "table.md").write_text(text + "\n")
    last = list(results)[-1]
    others = {TITLES[name]: result for name, result in results.items() if name != last}
    for suffix in ("pdf", "png"):
        plot_attributes(results[last], others, arguments.out / f"lfwa.{suffix}", TITLES[last])
    print(f"{len(learnt)} pictures to learn from, {len(measured)} to measure\n\n{text}")


if __name__ == "__main__":
    main()
