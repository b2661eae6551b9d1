"""Which dtype nets compute in, on machines of all kinds."""

import argparse

import pytest
import torch
from test_localization import spot_net

from faceattr import precision
from faceattr.localization import Localizer
from faceattr.precision import compute_dtype
from faceattr.train.arguments import add_machine, prepare

CPU = torch.device("cpu")
CPUS = [
    ({"cpu_name": "AMD EPYC-Rome", "avx2": True}, torch.float32),
    ({"cpu_name": "Intel Xeon", "avx2": True, "avx512_f": True}, torch.float32),
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
    ({"cpu_name": "AMD EPYC-Genoa", "avx512_bf16": True}, torch.bfloat16),
    ({"cpu_name": "Neoverse-V1", "bf16": True}, torch.bfloat16),
    ({"cpu_name": "Cortex-A72", "bf16": False}, torch.float32),
    ({}, torch.float32),
]


@pytest.mark.parametrize("capabilities, expected", CPUS)
def test_cpus(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    dtype, why = compute_dtype(CPU)
    assert dtype == expected
    assert capabilities.get("cpu_name", "this CPU") in why
    assert Localizer(spot_net(0), spot_net(0)).lnet_o.head.weight.dtype == expected


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert compute_dtype(CPU)[0] == torch.float32


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_gpus(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    dtype, why = compute_dtype(torch.device("cuda"))
    assert dtype == expected
    assert f"NVIDIA T4, compute capability {capability[0]}.{capability[1]}," in why


def test_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert compute_dtype(CPU, "float32") == (torch.float32, "as asked for")
    assert compute_dtype(CPU, "bfloat16") == (torch.bfloat16, "as asked for")
    with pytest.raises(ValueError, match="precision 'half' is unknown; choose from auto, bfloat16, float32"):
        compute_dtype(CPU, "half")


def test_integers_where_the_nets_can(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    for fast, expected in ((True, torch.qint8), (False, torch.float32)):
        monkeypatch.setattr(precision, "computes_in_integers", lambda fast=fast: fast)
        assert compute_dtype(CPU, integers=True)[0] == expected
        assert compute_dtype(CPU)[0] == torch.float32
    assert compute_dtype(CPU, "int8", integers=True) == (torch.qint8, "as asked for")
    assert compute_dtype(CPU, "float32", integers=True)[0] == torch.float32
    monkeypatch.setattr(precision, "computes_in_integers", lambda: True)
    assert compute_dtype(torch.device("meta"), integers=True)[0] == torch.float32
    # They are faster than bfloat16 where that is native.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert compute_dtype(CPU, integers=True)[0] == torch.qint8
    assert compute_dtype(CPU)[0] == torch.bfloat16
    monkeypatch.setattr(precision, "computes_in_integers", lambda: False)
    assert compute_dtype(CPU, integers=True)[0] == torch.bfloat16


@pytest.mark.parametrize("capabilities, expected", CPUS[1:4])
def test_a_stage_says_which_and_why(monkeypatch, capsys, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    parser = argparse.ArgumentParser()
    add_machine(parser)
    threads = str(torch.get_num_threads())
    options = parser.parse_args(["--device", "cpu", "--threads", threads])
    assert prepare(options) == (CPU, expected)
    said = capsys.readouterr().err
    assert said.startswith(f"computing in {str(expected).removeprefix('torch.')} on cpu: Intel Xeon with")
    prepare(parser.parse_args(["--device", "cpu", "--threads", threads, "--precision", "bfloat16"]))
    assert capsys.readouterr().err == "computing in bfloat16 on cpu: as asked for\n"
