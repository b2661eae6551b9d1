"""The faces that a checkpoint reports in photos of which nothing is known, laid as CelebA's aligned pictures are.

    found_faces.py --weights faceattr.safetensors OUT --photos DIR ...

Writes OUT/NNNNNN.jpg, 178x218, and OUT/tags.csv, by which each has the tag Face=1: with `--people OUT/tags.csv OUT`
finetune_anet.py learns what faces look like in crowds and snapshots, and fit_frame.py --faces OUT where they lie.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faceattr.crops import carried
from faceattr.data.faces import FACE
from faceattr.data.photos import list_pictures
from faceattr.data.tag_csv import write_faces
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

    def found() -> Iterator[np.ndarray]:
        for folder in arguments.photos:
            paths = list_pictures(folder)[: arguments.pictures]
            records = model.iter_predict(paths, detect_only=True, keep_photos=True, workers=max(1, arguments.workers))
            for record in tqdm(records, desc=folder.name, total=len(paths), unit="photo"):
                if record.photo is None:
                    tqdm.write(f"left out: {record.error}")
                    continue
                for face in record.faces:
                    frame = record.photo.from_original(np.array(face.frame))
                    yield place_by_box(record.photo.pixels, carried(frame, aligned_box, FACE))

    count = write_faces(arguments.out, found(), face=True)
    if not count:
        sys.exit("found_faces.py: no face is reported in these photos; give others, or other weights")
    print(f"{count} faces")


if __name__ == "__main__":
    main()
