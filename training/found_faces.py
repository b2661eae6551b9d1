"""The faces that a checkpoint reports in photos of which nothing is known, laid as CelebA's aligned pictures are.

    found_faces.py --weights faceattr.safetensors OUT --photos DIR ...

Writes OUT/NNNNNN.jpg, 178x218, and OUT/tags.csv, by which each has the tag Face=1: with `--people OUT/tags.csv OUT`
finetune_anet.py learns what faces look like in crowds and snapshots, and fit_frame.py --faces OUT where they lie.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceattr.crops import carried
from faceattr.data.faces import FACE
from faceattr.data.photos import list_pictures
from faceattr.data.tag_csv import numbered_faces, write_face_tags
from faceattr.evaluation.parts import place_by_box
from faceattr.models.checkpoint import load_checkpoint
from faceattr.pipeline import FaceAttributes
from faceattr.train.arguments import add_machine, prepare


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of fit_face.py")
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--pictures", type=int, default=1500, help="of each folder, at most (default: 1500)")
    parser.add_argument("--most", type=int, default=12, help="faces of each photo, the likeliest (default: 12)")
    add_machine(parser)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    device, dtype = prepare(arguments)
    localization_dtype = None if arguments.precision == "auto" else dtype
    checkpoint = load_checkpoint(arguments.weights, device)
    model = FaceAttributes(checkpoint, max_faces=arguments.most, localization_dtype=localization_dtype)
    aligned_box = model.metadata["preprocessing"]["aligned_box"]
    numbered_faces(arguments.out)
    names = []
    for folder in arguments.photos:
        paths = list_pictures(folder)[: arguments.pictures]
        found = model.iter_predict(paths, detect_only=True, keep_photos=True, workers=max(1, arguments.workers))
        for prediction in tqdm(found, desc=folder.name, total=len(paths), unit="photo"):
            if prediction.photo is None:
                tqdm.write(f"left out: {prediction.error}")
                continue
            for face in prediction.faces:
                frame = prediction.photo.from_original(np.array(face.frame))
                names.append(f"{len(names):06}.jpg")
                placed = place_by_box(prediction.photo.pixels, carried(frame, aligned_box, FACE))
                Image.fromarray(placed).save(arguments.out / names[-1], quality=95)
    if not names:
        sys.exit("found_faces.py: no face is reported in these photos; give others, or other weights")
    write_face_tags(arguments.out / "tags.csv", names, face=True)
    print(f"{len(names)} faces")


if __name__ == "__main__":
    main()
