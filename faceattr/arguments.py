"""Values that options of the command line take."""

import argparse

PRECISIONS = ("auto", "bfloat16", "float32")


def positive(text: str) -> int:
    """A whole number from 1 on; argparse turns the error into its message."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
