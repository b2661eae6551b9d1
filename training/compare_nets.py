"""Nets beside each other: what they read, how large and how fast they are, over several seeds.

    python training/compare_nets.py "ANet deep=runs/deep-0,runs/deep-1,runs/deep-2" "ResNet-18=runs/resnet-0,..."

Each run is a folder with anet.safetensors of finetune_anet.py and, beside it, svm.json of fit_svm.py. Prints a row a
net: parameters; processor milliseconds a face, one at a time and of 32 at once, medians in float32 on one thread; and
accuracy, balanced accuracy and AUC of the SVMs on the partition that is looked at: mean and, of several runs, half the
range; blank where no run has its svm.json yet.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from faceattr.models.anet import ANet
from faceattr.train.modern import load_net

FIGURES = ("accuracy", "balanced_accuracy", "auc")


@torch.inference_mode()
def milliseconds(net: torch.nn.Module, faces: int, seconds: float = 3.0) -> float:
    """A face, of so many at once."""
    images = torch.rand(faces, 3, *net.config["input_size"]).contiguous(memory_format=torch.channels_last)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.process_time()
        net.features(images)
        times.append(time.process_time() - start)
    return statistics.median(times) / faces * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", metavar="TITLE=RUN,RUN")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | parameters | ms a face | ms of 32 | runs | accuracy | balanced accuracy | AUC |")
    print("|---|---|---|---|---|---|---|---|")
    for entry in arguments.nets:
        title, equals, runs = entry.partition("=")
        if not equals:
            parser.error(f"{entry}: expected is TITLE=RUN,RUN")
        folders = [Path(run) for run in runs.split(",")]
        net = load_net(folders[0] / "anet.safetensors")[0]
        net = (net.fold_batch_norm() if isinstance(net, ANet) else net).to(memory_format=torch.channels_last)
        count = sum(parameter.numel() for parameter in net.parameters())
        cells = [title, f"{count / 1e6:.2f} M", *(f"{milliseconds(net, faces):.2f}" for faces in (1, 32))]
        fitted = [folder / "svm.json" for folder in folders if (folder / "svm.json").exists()]
        held = [json.loads(path.read_text())["held out"] for path in fitted]
        cells.append(len(held))
        for figure in FIGURES:
            goal = "balanced" if figure == "balanced_accuracy" else "accuracy"
            values = [each[goal][figure] for each in held]
            spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "")
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
