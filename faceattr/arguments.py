"""Options that several commands have, and values that options take."""

import argparse
import re

PRECISIONS = ("auto", "bfloat16", "float32")


def positive(text: str) -> int:
    """A whole number from 1 on; argparse turns the error into its message."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """--weights."""
    parser.add_argument("--weights", metavar="W", help="checkpoint file or its folder (default: the bundled one)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: cuda where there is one)")


def add_stream(parser: argparse.ArgumentParser) -> None:
    """How many photos are looked at: --device, --batch-size, --workers, --quiet."""
    add_device(parser)
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="faces a batch (default: 32)")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="threads, a photo each (default: 2)")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes on stderr")


def span(text: str) -> float:
    """A span of time in seconds, from 1s, 500ms, 2m or a number of seconds."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|m|)\s*", text)
    value = float(match[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60}[match[2]] if match else 0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; give for instance 1s, 500ms or 2m")
    return value
