"""Puts LNet_o, LNet_s, ANet and the SVMs into one checkpoint that faceattr.load reads.

What the LNets take for a face is one; fit_face.py then lets ANet have its say.
"""

import argparse
import json
from pathlib import Path

from faceattr.attributes import ATTRIBUTES
from faceattr.data.faces import CROP
from faceattr.localization import LocalizerSettings
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM
from faceattr.train.face import lnets_alone
from faceattr.train.loop import load_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--lnet-o", type=Path, required=True, help="safetensors of finetune_lnet.py")
parser.add_argument("--lnet-s", type=Path, required=True, help="safetensors of finetune_lnet.py")
parser.add_argument("--localization", type=Path, required=True, help="JSON with the localiser's settings")
parser.add_argument("--anet", type=Path, required=True, help="safetensors of finetune_anet.py")
parser.add_argument("--svm", type=Path, required=True, help="safetensors of fit_svm.py")
parser.add_argument("--age", type=Path, help="safetensors of fit_svm.py --people")
box = parser.add_mutually_exclusive_group(required=True)
box.add_argument("--box", type=Path, help="JSON of measure_geometry.py")
box.add_argument(
    "--aligned-box",
    type=float,
    nargs=4,
    metavar=("X0", "Y0", "X1", "Y1"),
    help="where the localiser puts its box on an aligned 178x218 picture (measure_geometry.py); ANet's crop follows",
)
parser.add_argument("--output", type=Path, required=True)
args = parser.parse_args()

lnet_o, notes_o = load_model(LNet, args.lnet_o)
lnet_s, notes_s = load_model(LNet, args.lnet_s)
anet, notes_anet = load_model(ANet, args.anet)
svm, notes_svm = load_model(LinearSVM, args.svm)
# Of the logits those of the SVMs' attributes; ANet may have learnt more tags than are reported.
attributes, tags = notes_svm.pop("attributes", ATTRIBUTES), notes_anet.pop("tags", ATTRIBUTES)
anet = anet.with_logits([list(tags).index(name) for name in attributes])
age, preprocessing = None, {}
if args.age:
    age, notes_age = load_model(LinearSVM, args.age)
    preprocessing["age_tail"] = notes_age["tail"]
notes = {"lnet_o": notes_o, "lnet_s": notes_s, "anet": notes_anet, "svm": notes_svm}
for note in notes.values():
    note.pop("config")
localization = LocalizerSettings(**json.loads(args.localization.read_text()))
aligned_box = args.aligned_box or json.loads(args.box.read_text())["aligned_box"]
x0, y0, x1, y1 = aligned_box
crop_centre = [
    ((CROP[i] + CROP[i + 2]) / 2 - middle) / (y1 - y0) for i, middle in enumerate(((x0 + x1) / 2, (y0 + y1) / 2))
]
save_checkpoint(
    args.output,
    lnet_o=lnet_o.fold_batch_norm(),
    lnet_s=lnet_s.fold_batch_norm(),
    anet=anet.fold_batch_norm(),
    svm=svm,
    face=lnets_alone(anet.config["features"]),
    age=age,
    metadata={
        "attributes": attributes,
        "preprocessing": {
            "localization": localization.to_dict(),
            "score_threshold": localization.score_threshold,
            "aligned_box": aligned_box,
            "crop": {
                "centre": crop_centre,
                "height": (CROP[3] - CROP[1]) / (y1 - y0),
                "positions": notes_svm.pop("positions"),
            },
            **preprocessing,
        },
        "thresholds": notes_svm.pop("thresholds"),
        "metrics": notes_svm.pop("metrics"),
        "training": notes,
    },
)
load_checkpoint(args.output)
print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
