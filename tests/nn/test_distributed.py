"""The layer in torch's data-parallel wrappers: a step on two processes is that of one on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1")


def test_a_step_of_ddp_and_fsdp_on_two_processes():
    program = Path(__file__).with_name("distributed_step.py")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, *TORCHRUN, str(program)]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
