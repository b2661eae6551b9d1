"""Fits the SVMs, with calibration and thresholds by cross-validation that keeps a person's pictures together.

The last stage of the cascade, on the features that ANet gives for CelebA's validation partition:

    fit_svm.py --celeba DIR --cache DIR --anet anet.safetensors --output svm.safetensors

One's own attributes, on the frozen features of a checkpoint, as a checkpoint for `faceattr predict --weights`:

    fit_svm.py --csv tags.csv [--root DIR] [--crop detect|aligned] [--weights W] --output own.safetensors
    fit_svm.py --lfwa DIR --output lfwa.safetensors

The CSV has a column image and one an attribute (1, 0, -1, true, false; empty: not known), and may have identity and
partition; with partitions the SVMs learn from 0 and the figures of 2 are printed too.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from faceattr.ages import read_ages
from faceattr.attributes import ATTRIBUTES, BEYOND
from faceattr.data.ages import AGE_TAGS
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.data.lfwa import read_lfwa
from faceattr.data.tag_csv import read_tag_csv
from faceattr.data.tagged import TaggedPictures, joined
from faceattr.evaluation.ages import evaluate_ages
from faceattr.evaluation.attributes import evaluate, rounded, table
from faceattr.evaluation.predict import ALIGNED_FACES, predict_pictures
from faceattr.models.anet import CONFIGS, ANet
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.pipeline import FaceAttributes, find_weights
from faceattr.train import parallel
from faceattr.train.age import fit_age
from faceattr.train.anet import pooled_features
from faceattr.train.arguments import add_machine, add_people, prepare
from faceattr.train.loop import save_model
from faceattr.train.modern import load_net
from faceattr.train.own import fit_own
from faceattr.train.svm import Planes, fit_svm, to_base_rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--celeba", type=Path, help="folder with CelebA's label files and pictures")
    source.add_argument("--csv", type=Path, help="one's own pictures and attributes")
    source.add_argument("--lfwa", type=Path, help="folder of LFWA or LFWA+")
    parser.add_argument("--output", type=Path, required=True, help="the file to write; figures go beside it (.json)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: 5)")
    parser.add_argument("--skip-missing", action="store_true", help="leave out pictures that are listed but not there")
    add_machine(parser)
    celeba = parser.add_argument_group("with --celeba")
    celeba.add_argument("--cache", type=Path, help="folder for decoded pictures")
    celeba.add_argument("--anet", type=Path, help="anet.safetensors of finetune_anet.py")
    celeba.add_argument(
        "--images", default="img_align_celeba", help="aligned pictures: a folder below --celeba, or a full path"
    )
    add_people(
        celeba,
        "as finetune_anet.py had them: they tell sex, age and masks; ages go to OUTPUT-age.safetensors",
    )
    celeba.add_argument("--split", choices=("official", "paper"), default="official", help="paper: by its identities")
    celeba.add_argument("--partition", type=int, default=1, help="that they learn from, unseen by ANet (default: 1)")
    celeba.add_argument("--look", type=int, default=2, help="whose figures are printed (default: 2); nothing follows")
    celeba.add_argument(
        "--positions", type=int, nargs=2, default=(2, 2), help="rows, columns of pooled crops (default: 2 2)"
    )
    own = parser.add_argument_group("with --csv and --lfwa")
    own.add_argument("--root", type=Path, help="folder of the pictures (default: that of the CSV)")
    own.add_argument("--weights", help="checkpoint whose features are used (default: the bundled one)")
    own.add_argument(
        "--crop", choices=("detect", "aligned"), default="detect", help="aligned: laid as CelebA's, or LFW's, pictures"
    )
    args = parser.parse_args()
    if args.celeba and not (args.cache and args.anet):
        parser.error("--celeba needs --cache and --anet")
    device, dtype = prepare(args)
    if args.celeba:
        last_stage(args, device)
    else:
        own_attributes(args, device, dtype)


def last_stage(args: argparse.Namespace, device: torch.device) -> None:
    """SVMs on ANet's features of CelebA, and of more people."""
    anet, notes = load_net(args.anet)
    tags = notes.get("tags", ATTRIBUTES)
    # A cache of pictures serves all nets of one input size.
    size = anet.config["input_size"]
    name = next(name for name, config in CONFIGS.items() if ANet(**config).config["input_size"] == size)
    kinds = ["aligned" if args.images == "img_align_celeba" else Path(args.images).name]
    kinds += [folder.name for _, folder in args.people]
    with parallel.first_on_machine():
        celeba = read_celeba(args.celeba, args.images, args.skip_missing, args.split)
        more = [read_tag_csv(csv, folder, skip_missing=True) for csv, folder in args.people]
        ages = np.concatenate([np.full((len(celeba), 2), np.nan), *[_ages(part) for part in more]])
        data = joined([celeba, *[part.with_ages() for part in more]])
        faces = FaceCache(data.folder, data.names, size, args.cache / f"{'-'.join(kinds)}-{name}.npy", args.workers)
    # Of ANet for speed; a modern net stays as it is.
    anet = (anet.fold_batch_norm() if isinstance(anet, ANet) else anet).to(device)
    reported = [name for name in data.attributes if name in (*ATTRIBUTES, *BEYOND)]

    def features_of(partition: int) -> tuple[np.ndarray, TaggedPictures, np.ndarray]:
        rows = np.flatnonzero(data.partitions == partition)
        features = pooled_features(anet, faces, rows, tuple(args.positions)).double().numpy()
        return features, data.select(rows).columns(reported), ages[rows]

    features, learnt, ages_learnt = features_of(args.partition)
    looked_at, looked, ages_looked = features_of(args.look)
    if parallel.rank() > 0:
        return
    people = np.arange(len(learnt)) if learnt.identities is None else learnt.identities
    weights, biases = (tensor.detach().cpu().double().numpy() for tensor in (anet.head.weight, anet.head.bias))

    def head(names: Sequence[str]) -> Planes:
        """ANet's own planes; zeros for tags that it has not learnt."""
        known = np.array([name in tags for name in names])
        rows = [tags.index(name) if name in tags else 0 for name in names]
        return weights[rows] * known[:, None], biases[rows] * known

    svm, thresholds, probabilities, strength = fit_svm(
        features,
        learnt.tags,
        people,
        folds=args.folds,
        prior=head(reported),
        known=learnt.known,
        names=reported,
    )
    figures = {"cross-validated": {}, "held out": {}}
    of_celeba = learnt.known[:, : len(ATTRIBUTES)].all(1)
    for goal in thresholds:
        figures["cross-validated"][goal] = _forty(probabilities, learnt, thresholds[goal], of_celeba)["mean"]
    # How common an attribute is, all pictures that training may know tell better than the few the SVMs learn from.
    others = data.select(data.partitions != args.look).columns(reported)
    rates, own = (
        np.array([part.tags[known, i].mean() for i, known in enumerate(part.known.T)]) for part in (others, learnt)
    )
    if more:
        # What CelebA tells is reckoned at CelebA's rates.
        rates[: len(ATTRIBUTES)] = celeba.tags[celeba.partitions != args.look].mean(0)
        own[: len(ATTRIBUTES)] = learnt.tags[of_celeba, : len(ATTRIBUTES)].mean(0)
    thresholds = to_base_rates(svm, thresholds, own, rates)
    with torch.no_grad():
        predicted = svm(torch.from_numpy(looked_at).float()).numpy()
    of_celeba = looked.known[:, : len(ATTRIBUTES)].all(1)
    for goal in thresholds:
        result = _forty(predicted, looked, thresholds[goal], of_celeba)
        figures["held out"][goal] = result["mean"]
        print(f"partition {args.look}, thresholds for {goal}:\n{table(result)}\n")
    notes = {"positions": list(args.positions), "strength": strength, "thresholds": thresholds}
    if more:
        result = evaluate(
            predicted[~of_celeba],
            looked.tags[~of_celeba],
            thresholds["balanced"],
            tuple(reported),
            looked.known[~of_celeba],
        )
        figures["others"] = result["mean"]
        print(f"other people of partition {args.look}, thresholds for balanced:\n{table(result)}\n")
        told = np.isfinite(ages_learnt).all(1)
        age, tail, _ = fit_age(features[told], ages_learnt[told], np.flatnonzero(told), head(AGE_TAGS), args.folds)
        told = np.isfinite(ages_looked).all(1)
        with torch.no_grad():
            found = read_ages(age(torch.from_numpy(looked_at[told]).float()).double().numpy(), tail)
        figures["age"] = evaluate_ages(found, ages_looked[told])
        save_model(age, args.output.with_name(f"{args.output.stem}-age.safetensors"), tail=tail)
    figures = rounded(figures)
    print(json.dumps(figures, indent=1))
    notes |= {"pictures": len(learnt), "people": len(np.unique(people)), "held_out": len(looked)}
    save_model(svm, args.output, attributes=reported, metrics=figures, **notes)
    args.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")


def _forty(values: np.ndarray, data: TaggedPictures, thresholds: list[float], rows: np.ndarray) -> dict:
    """The figures of CelebA's 40 attributes on its pictures, which are the ``rows`` of ``data``."""
    forty = slice(len(ATTRIBUTES))
    return evaluate(values[rows, forty], data.tags[rows, forty], thresholds[forty], ATTRIBUTES)


def _ages(data: TaggedPictures) -> np.ndarray:
    """The ages of pictures, [N, 2]; NaN where nobody has said."""
    return np.full((len(data), 2), np.nan) if data.ages is None else data.ages


def own_attributes(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """SVMs for new attributes on the features of a checkpoint, as a checkpoint."""
    if parallel.rank() > 0:
        return
    checkpoint = load_checkpoint(find_weights(args.weights), device)
    model = FaceAttributes(checkpoint, localization_dtype=dtype)
    if args.lfwa:
        data = read_lfwa(args.lfwa, skip_missing=args.skip_missing)
    else:
        data = read_tag_csv(args.csv, args.root, args.skip_missing)
    learnt = data if data.partitions is None else data.partition(0)
    place = ALIGNED_FACES["lfwa" if args.lfwa else "celeba"] if args.crop == "aligned" else None

    def look_at(pictures: TaggedPictures):
        prior = np.full(len(model.attributes), 0.5)
        return predict_pictures(model, pictures.paths, prior, place, workers=args.workers, quiet=False)

    own, result = fit_own(checkpoint, learnt, look_at(learnt), args.folds)
    figures = {"cross-validated": result["mean"]}
    print(f"cross-validated, {result['n']} pictures:\n{table(result)}\n")
    if data.partitions is not None and (data.partitions == 2).any():
        unseen = data.partition(2)
        seen = look_at(unseen)
        held = unseen.select(seen.found)
        with torch.no_grad():
            probabilities = own.svm(torch.from_numpy(seen.features[seen.found])).numpy()
        thresholds = own.metadata["thresholds"]["accuracy"]
        result = evaluate(probabilities, held.tags, thresholds, held.attributes, held.known, held.identities)
        figures["held out"] = result["mean"]
        print(f"held out, {result['n']} pictures:\n{table(result)}\n")
    figures = rounded(figures)
    print(json.dumps(figures, indent=1))
    save_checkpoint(args.output, **own.nets(), metadata=own.metadata)
    args.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
