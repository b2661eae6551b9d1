"""Puts LNet_o, LNet_s, ANet and the SVMs into one checkpoint that faceattr.load reads."""

import argparse
import json
from pathlib import Path

from faceattr.attributes import ATTRIBUTES
from faceattr.data.faces import CROP, FACE
from faceattr.localization import LocalizerSettings
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM
from faceattr.train.loop import load_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--lnet-o", type=Path, required=True, help="safetensors of finetune_lnet.py")
parser.add_argument("--lnet-s", type=Path, required=True, help="safetensors of finetune_lnet.py")
parser.add_argument("--localization", type=Path, required=True, help="JSON with the localiser's settings")
parser.add_argument("--anet", type=Path, required=True, help="safetensors of finetune_anet.py")
parser.add_argument("--svm", type=Path, required=True, help="safetensors of fit_svm.py")
parser.add_argument("--output", type=Path, required=True)
args = parser.parse_args()

lnet_o, notes_o = load_model(LNet, args.lnet_o)
lnet_s, notes_s = load_model(LNet, args.lnet_s)
anet, notes_anet = load_model(ANet, args.anet)
svm, notes_svm = load_model(LinearSVM, args.svm)
notes = {"lnet_o": notes_o, "lnet_s": notes_s, "anet": notes_anet, "svm": notes_svm}
for note in notes.values():
    note.pop("config")
localization = LocalizerSettings(**json.loads(args.localization.read_text()))
# Where the localiser would put its box on an aligned picture, and from there the crop that ANet was trained on.
face_height = FACE[3] - FACE[1]
box_height = face_height * localization.box_height
box_centre = [(FACE[i] + FACE[i + 2]) / 2 for i in (0, 1)]
crop_centre = [((CROP[i] + CROP[i + 2]) / 2 - box_centre[i]) / box_height for i in (0, 1)]
save_checkpoint(
    args.output,
    lnet_o=lnet_o.fold_batch_norm(),
    lnet_s=lnet_s.fold_batch_norm(),
    anet=anet.fold_batch_norm(),
    svm=svm,
    metadata={
        "attributes": ATTRIBUTES,
        "preprocessing": {
            "localization": localization.to_dict(),
            "crop": {
                "centre": crop_centre,
                "height": (CROP[3] - CROP[1]) / box_height,
                "positions": notes_svm.pop("positions"),
            },
        },
        "thresholds": notes_svm.pop("thresholds"),
        "metrics": notes_svm.pop("metrics"),
        "training": notes,
    },
)
load_checkpoint(args.output)
print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
