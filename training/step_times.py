"""Seconds of processor time a training step, in float32 and in bfloat16, on this machine: which should be forced?

python training/step_times.py [--threads N]
"""

import argparse
import statistics
import time

import torch
from torch import nn

from faceattr.models.anet import CONFIGS, ANet
from faceattr.models.lnet import LNet, LNetPlus
from faceattr.precision import compute_dtype

REPEATS = 3


def seconds(net: nn.Module, images: torch.Tensor) -> dict[torch.dtype, float]:
    """Medians of forward and backward, the two dtypes by turns."""
    net, images = (each.to(memory_format=torch.channels_last) for each in (net, images))
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(REPEATS):
        for dtype, measured in times.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = net(images).float().square().mean()
            loss.backward()
            measured.append(time.process_time() - start)
    return {dtype: statistics.median(measured) for dtype, measured in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    dtype, why = compute_dtype(torch.device("cpu"))
    print(f"auto is {str(dtype).removeprefix('torch.')}: {why}\n\n| a step of | float32 | bfloat16 |\n|---|---|---|")
    steps = {
        "LNet+, 64 crops of 97 pixels": (LNetPlus(classes=100, hidden=[512]), 64, (97, 97)),
        "LNet_o, 32 pictures of 81 pixels": (LNet(sizes=[40.0, 50.4, 63.5]), 32, (81, 81)),
        "LNet_o, 32 pictures of 145 pixels": (LNet(sizes=[40.0, 50.4, 63.5]), 32, (145, 145)),
    }
    for name, config in CONFIGS.items():
        net = ANet(**config)
        steps[f"ANet `{name}`, 128 crops"] = (net, 128, tuple(net.config["input_size"]))
    for title, (net, count, size) in steps.items():
        took = seconds(net, torch.rand(count, 3, *size))
        print(f"| {title} | {took[torch.float32]:.2f} | {took[torch.bfloat16]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
