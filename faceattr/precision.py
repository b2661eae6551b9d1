"""The dtype that nets compute in: on CPUs 8-bit integers where the nets are ready for them; else bfloat16 where the
machine multiplies it faster than float32, and float32 elsewhere.
"""

from __future__ import annotations

import torch

from faceattr.arguments import PRECISIONS
from faceattr.models.quantized import computes_in_integers


def compute_dtype(device: torch.device, precision: str = "auto", integers: bool = False) -> tuple[torch.dtype, str]:
    """The dtype to compute in on ``device``, and why in words; ``precision`` is one of PRECISIONS or, for nets that can
    (``integers``), "int8", which is torch.qint8 here.

    bfloat16 pays on GPUs of compute capability 8.0 on, and on CPUs with units for it: AMX of Intel, matrix
    instructions of ARM, AVX-512's dot products on AMD. Those of Intel have the throughput of its float32, and CPUs
    without any of these emulate bfloat16, ten times slower. Where torch has convolutions of 8-bit integers, on AVX2 and
    what came after it, these are faster than either, with AMX too.

    Raises:
        ValueError: a precision of another name.
    """
    choices = (*PRECISIONS, "int8") if integers else PRECISIONS
    if precision not in choices:
        raise ValueError(f"precision {precision!r} is unknown; choose from {', '.join(choices)}")
    if precision != "auto":
        return torch.qint8 if precision == "int8" else getattr(torch, precision), "as asked for"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        has, unit = major >= 8, f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor},"
    elif device.type == "cpu":
        has, unit = _cpu_units()
    else:
        has, unit = False, str(device)
    if integers and device.type == "cpu" and computes_in_integers():
        return torch.qint8, f"{unit} multiplies integers of 8 bits fastest"
    if has:
        return torch.bfloat16, f"{unit} multiplies it natively"
    return torch.float32, f"{unit} multiplies bfloat16 no faster"


def _cpu_units() -> tuple[bool, str]:
    """Whether this CPU has units that pay, and its name with the one that was found."""
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    name = capable.get("cpu_name") or "this CPU"
    for unit in ("amx_bf16", "bf16", "avx512_bf16"):
        if capable.get(unit):
            return unit != "avx512_bf16" or "AMD" in name, f"{name} with {unit}"
    return False, f"{name} without bfloat16 units"
