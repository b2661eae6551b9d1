"""CPU time of whole photos, of checkpoints and dtypes of localisation side by side:

    python benchmarks/photos.py avx2|avx512|native WEIGHTS ... [--precision P ...] [--photos DIR ...] [--memory]

Starts itself anew with torch and its libraries held to that instruction set; native: to none. One thread,
scikit-image's astronaut at 300x300 and 1280x960 pixels, medians of interleaved rounds; then the photos of the folders,
30 of each at most, in a stream by two workers; with --memory also the largest resident size of a process that looks at
the astronaut at 300x300, 1280x960 and 4000x3000. Ratios are over the first checkpoint's;
CPU time is changed less by other programs than the clock's.
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from isa import LIMITS, measure

from faceattr.arguments import PRECISIONS

MEMORY = """
import resource
import sys

import torch
from PIL import Image
from skimage.data import astronaut

import faceattr

model = faceattr.load(sys.argv[1], localization_dtype=getattr(torch, sys.argv[2], None))
for size in ((300, 300), (1280, 960), (4000, 3000)):
    model.predict(Image.fromarray(astronaut()).resize(size))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("isa", choices=LIMITS)
    parser.add_argument("weights", nargs="+", help="checkpoints")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=(*PRECISIONS, "int8"))
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seconds", type=float, default=20, help="for each size (default: 20)")
    options = parser.parse_args()
    limits = {**LIMITS[options.isa], "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(key) != value for key, value in limits.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **limits})

    import torch
    from PIL import Image
    from skimage.data import astronaut

    import faceattr
    from faceattr.data.photos import list_pictures

    dtypes = {"auto": None, "int8": torch.qint8, "bfloat16": torch.bfloat16, "float32": torch.float32}
    ways = {f"{path}, {precision}": (path, precision) for path in options.weights for precision in options.precision}
    for name, (path, precision) in ways.items() if options.memory else ():
        command = [sys.executable, "-c", MEMORY, path, str(dtypes[precision]).removeprefix("torch.")]
        print(f"{int(subprocess.check_output(command)) / 1024:.0f} MB, {name}", flush=True)
    models = {
        name: faceattr.load(path, localization_dtype=dtypes[precision]) for name, (path, precision) in ways.items()
    }

    def show(title, times, faces):
        first = next(iter(times.values()))
        for name, value in times.items():
            print(f"{title}: {value:.0f} ms, ratio {value / first:.2f}, {faces[name]} faces, {name}", flush=True)

    for size in ((300, 300), (1280, 960)):
        photo = Image.fromarray(astronaut()).resize(size)
        found = {name: len(model.predict(photo)) for name, model in models.items()}
        functions = {name: partial(model.predict, photo) for name, model in models.items()}
        show(f"{size[0]}x{size[1]}", measure(functions, time.process_time, options.seconds), found)

    paths = [path for folder in options.photos for path in list_pictures(folder)[:30]]
    torch.set_num_threads(2)
    for part in (paths[:1], paths) if paths else ():  # the first warms up
        times, found = {}, {}
        for name, model in models.items():
            start = time.process_time()
            found[name] = sum(len(record.faces) for record in model.iter_predict(part, workers=2))
            times[name] = 1e3 * (time.process_time() - start) / len(part)
    if paths:
        show(f"{len(paths)} photos, each", times, found)


if __name__ == "__main__":
    main()
