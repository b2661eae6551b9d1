"""The kernels under Address-, UndefinedBehavior- and ThreadSanitizer, and the proof that faults are found."""

import shutil

import pytest
import torch

from . import cases
from .operators import (
    InterweavedShape,
    SharedShape,
    density_check,
    interweave_checks,
    interweaved_checks,
    shared_checks,
    verify,
)


def checks_of_every_kernel(dtype, tf32):
    """Unaligned in every way, every tile, and more than one block and stage of each kernel."""
    shape = SharedShape(20, 9, 66, (7, 8), (3, 3), (2, 2), padding=(1, 0))
    straight = InterweavedShape(2, 5, 7, (7, 6), (2, 2), (2, 2), stride=(2, 1), shift=(1, 1))
    checks = []
    for device in ({}, {"multiprocessors": 1 << 30}, {"direct_products": 1 << 60}):
        checks += shared_checks(shape, dtype, "sliced", tf32, **device)
        checks += shared_checks(SharedShape(16, 5, 6, (6, 6), (3, 3), (1, 1)), dtype, "sliced", tf32, **device)
        checks += interweaved_checks(POOLED, dtype, "sliced", tf32, **device)
        checks += interweaved_checks(straight, dtype, "channels_last", tf32, **device)
    for shared_bytes in (0, 40_000, 64_000):
        tall = SharedShape(16, 9, 5, (10, 10), (3, 3), (2, 2))
        checks += shared_checks(tall, dtype, "sliced", tf32, shared_bytes=shared_bytes)[:2]
    checks += shared_checks(SharedShape(1, 65, 66, (6, 6), (3, 3), (4, 4)), dtype, "sliced", tf32)
    checks += shared_checks(SharedShape(2, 8, 8, (5, 6), (2, 2), (2, 2)), dtype, "channels_last", tf32)
    checks += interweave_checks((2, 2, 3, 3, 6, 5), (1, 1), dtype, "sliced")
    checks.append(density_check(torch.rand(2, 17, 9).to(dtype)))
    return checks


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_every_kernel_is_clean(tmp_path, sanitizer):
    # bfloat16 lies in memory and is shared out as float16 is; how it is rounded, the other tests see.
    dtypes = [dtype for dtype in cases.DTYPES if dtype != torch.bfloat16]
    executable = cases.build(tmp_path, sanitizer, dtypes)
    checks = [check for dtype in dtypes for check in checks_of_every_kernel(dtype, False)]
    checks += checks_of_every_kernel(torch.float32, True)
    verify(executable, checks)


SHAPE = SharedShape(3, 41, 66, (6, 5), (3, 2), (2, 2))
SHORT = SharedShape(3, 33, 9, (6, 5), (3, 2), (2, 2))
SPLIT = SharedShape(30, 5, 7, (6, 6), (3, 3), (1, 1))
SHORT_RUNS = SharedShape(40, 5, 7, (6, 5), (3, 2), (2, 2))
POOLED = InterweavedShape(2, 5, 7, (7, 6), (2, 2), (2, 2), shift=(1, 1), pool=(2, 2))
WHERE = {  # a product: its checks
    "forward": lambda: shared_checks(SHAPE, torch.float32)[:1],
    "direct": lambda: shared_checks(SHAPE, torch.float32, direct_products=1 << 60)[:1],
    "TF32": lambda: shared_checks(SHAPE, torch.float32, tf32=True)[:1],
    "TF32, a stage not half full": lambda: shared_checks(SHORT, torch.float32, tf32=True)[:1],
    "input gradient": lambda: shared_checks(SHAPE, torch.float32, tf32=True)[1:2],
    "weight gradient": lambda: shared_checks(SHAPE, torch.float32, tf32=True)[2:3],
    "split": lambda: shared_checks(SPLIT, torch.float32)[2:3],
    "portions": lambda: shared_checks(SHORT_RUNS, torch.float32, most_blocks=1)[1:2],
    "pooling": lambda: interweaved_checks(POOLED, torch.float32)[:1],
}
# File, what is there, what is planted in its place, where it is found, and what the finder says; the product, if it is
# not the forward one.
FAULTS = {
    "no barrier between the copies and their use": (
        "cuda/pipeline.cuh",
        "    __syncthreads();  // everyone's",
        "    // everyone's",
        "thread",
        "data race",
    ),
    "no barrier after the rows are placed": (
        "cuda/contraction.cuh",
        "                        : -1};\n  }\n  __syncthreads();\n",
        "                        : -1};\n  }\n",
        "thread",
        "ThreadSanitizer",  # a race, or the wild address that it made
    ),
    "no barrier between those who share a look-up": (
        "cuda/loader.cuh",
        "    }\n    __syncwarp();\n",
        "    }\n",
        "plain",
        "an asynchronous copy is not aligned",  # to where the garbage of fresh memory points
    ),
    "a window filled while it is read": (
        "cuda/loader.cuh",
        "stages_until_next(taps == 1 ? 1 : 2)",
        "stages_until_next(1)",
        "thread",
        "data race",
    ),
    "too little memory for a window": (
        "cuda/windows.cuh",
        "span(y_, all_y) * line + span(x_, all_x) + 1;",
        "span(y_, all_y) * line + 1;",
        "plain",
        "a window is larger than its memory",
    ),
    "no barrier after the taps are listed": (
        "cuda/contraction.cuh",
        "lists.counts[threadIdx.x / 32] = count;\n  }\n  __syncthreads();\n",
        "lists.counts[threadIdx.x / 32] = count;\n  }\n",
        "thread",
        "data race",
    ),
    "no wait for the copies": (
        "cuda/pipeline.cuh",
        "    copy_async_wait<1>();\n",
        "    copy_async_wait<3>();\n",
        "plain",
        None,
    ),
    "a slot filled while it is read": (
        "cuda/pipeline.cuh",
        "after_next = loader.load(free_slot);",
        "after_next = loader.load(slot);",
        "thread",
        "data race",
    ),
    "a column too many": (
        "cuda/loader.cuh",
        "+ i * kLines < problem.columns)",
        "+ i * kLines <= problem.columns)",
        "bounds",
        "heap-buffer-overflow",
    ),
    "a row of the result too many": (
        "cuda/contraction.cuh",
        "if (offset >= 0) f(",
        "if (offset >= -1) f(",
        "bounds",
        "heap-buffer-overflow",
    ),
    "the first half read before its copies have arrived": (
        "cuda/pipeline.cuh",
        "    loader.arrived(stage, slot);\n    __syncthreads();",
        "    warp.begin(rows, columns);\n    loader.arrived(stage, slot);\n    __syncthreads();",
        "thread",
        "data race",
        "TF32",
    ),
    "the second half of a stage read when the next is there": (
        "cuda/tile.cuh",
        "    if (vectors > 2) multiply_all(second);",
        "    if (vectors > 2) multiply_all(first);",
        "plain",
        None,
        "TF32",
    ),
    "a stage's depth taken for that of the one before": (
        "cuda/pipeline.cuh",
        "    warp.second_half(vectors_before);\n    warp.first",
        "    warp.second_half(stage.vectors);\n    warp.first",
        "plain",
        None,
        "TF32, a stage not half full",
    ),
    "the last half left out": (
        "cuda/pipeline.cuh",
        "  }\n  warp.second_half(vectors_before);\n",
        "  }\n",
        "plain",
        None,
        "TF32",
    ),
    "an out channel too many": (
        "cuda/loader.cuh",
        "const int64_t left = problem.weight_lines - channel - line();",
        "const int64_t left = problem.weight_lines + 1 - channel - line();",
        "bounds",
        "heap-buffer-overflow",
        "input gradient",
    ),
    "in channels past the last": (
        "cuda/loader.cuh",
        "} else if (element < problem.weight_line) {",
        "} else {",
        "bounds",
        "heap-buffer-overflow",
        "input gradient",
    ),
    "padding written as a weight's gradient": (
        "cuda/weight_contraction.cuh",
        "      if (c >= problem.in_channels) return;\n      T* to",
        "      T* to",
        "bounds",
        "heap-buffer-overflow",
        "weight gradient",
    ),
    "sums of all splits taken for whole": (
        "cuda/weight_contraction.cuh",
        "const bool is_whole = problem.splits == 1;",
        "const bool is_whole = true;",
        "bounds",
        "heap-buffer-overflow",
        "split",
    ),
    "a window copied while what it is of is packed": (
        "cuda/contraction.cuh",
        "  await_turn();\n"
        "  Warp warp;\n"
        "  const Row* warp_rows = tile_rows + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;\n"
        "  if (has_products) {\n"
        "    Loader loader(problem, lists, tile_rows, first_column);\n",
        "  Warp warp;\n"
        "  const Row* warp_rows = tile_rows + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;\n"
        "  if (has_products) {\n"
        "    Loader loader(problem, lists, tile_rows, first_column);\n"
        "    await_turn();\n",
        "plain",
        "copies are asked for before the launch's turn",
    ),
    "a product that never awaits its turn": (
        "cuda/contraction.cuh",
        "\n  await_turn();\n",
        "\n",
        "plain",
        "a thread of the first block ends without having awaited its turn",
    ),
    "a portion that has nothing to do started early": (
        "cuda/launches.h",
        "any_ && first == 0;",
        "any_;",
        "plain",
        "a thread of the first block ends without having awaited its turn",
        "portions",
    ),
    "the next launch let in before its own turn": (
        "cuda/device.cuh",
        "  wait_for_launch_before();\n  let_next_launch_start();\n",
        "  let_next_launch_start();\n  wait_for_launch_before();\n",
        "plain",
        "the next launch may start before this one's turn",
    ),
    "parts read while they are written": (
        "cuda/weight_contraction.cuh",
        "  await_turn();\n  if (i < weights) {\n",
        "  const accumulate_t<T> early = i < weights ? weight_parts[i] : bias_parts[0];\n"
        "  await_turn();\n  if (early == 1) return;\n  if (i < weights) {\n",
        "thread",
        "data race",
        "split",
    ),
    "responses pooled before they are there": (
        "interweaved_conv2d/kernels.cuh",
        "  await_turn();\n"
        "  if (n >= g.batch) return;\n"
        "  const auto* map = response_map(g, responses, n, p, q, o);\n"
        "  const int64_t at = first_maximum(g, map, i, j);\n",
        "  if (n >= g.batch) return await_turn();\n"
        "  const auto* map = response_map(g, responses, n, p, q, o);\n"
        "  const int64_t at = first_maximum(g, map, i, j);\n"
        "  await_turn();\n",
        "plain",
        None,
        "pooling",
    ),
    "a shuffle whose mask leaves a lane out": (
        "cuda/direct.cuh",
        "__shfl_xor_sync(0xffffffffu,",
        "__shfl_xor_sync(0x7fffffffu,",
        "plain",
        "whose mask leaves it out",
        "direct",
    ),
    "a shuffle that half of the lanes never reach": (
        "cuda/direct.cuh",
        "#pragma unroll\n  for (int i = 0; i < kDirectPositions; ++i)\n    for (int distance",
        "  if (lane >= 16) return;\n  for (int i = 0; i < kDirectPositions; ++i)\n    for (int distance",
        "plain",
        "threads wait for others that never come",
        "direct",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(tmp_path, fault):
    file, there, planted, finder, message, *where = FAULTS[fault]
    csrc = shutil.copytree(cases.CSRC, tmp_path / "csrc")
    text = (csrc / file).read_text()
    assert text.count(there) == 1
    (csrc / file).write_text(text.replace(there, planted))
    checks = WHERE[where[0] if where else "forward"]()
    executable = cases.build(tmp_path, finder, [torch.float32], {check.case.operator for check in checks}, csrc)
    process = cases.run(executable, [check.case for check in checks], check=False)
    if message is None:  # only the numbers are wrong
        cases.run(executable, [check.case for check in checks])
        with pytest.raises(AssertionError):
            checks[0].verify()
    else:
        assert process.returncode != 0
        assert message in process.stderr.decode()
