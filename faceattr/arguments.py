"""Values that options of the command line take."""

import argparse
import re

PRECISIONS = ("auto", "bfloat16", "float32")


def positive(text: str) -> int:
    """A whole number from 1 on; argparse turns the error into its message."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def span(text: str) -> float:
    """A span of time in seconds, from 1s, 500ms, 2m or a number of seconds."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|m|)\s*", text)
    value = float(match[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60}[match[2]] if match else 0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; give for instance 1s, 500ms or 2m")
    return value
