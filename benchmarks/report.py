"""Turns pytest-benchmark's JSON files into Markdown tables of ratios: python benchmarks/report.py OUT.md IN.json ..."""

import json
import math
import sys
from collections import defaultdict

BOUND = "plain conv2d"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def read(paths):
    """{kind: {shape: {contender: fastest round in milliseconds}}} and the machine."""
    times = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        with open(path) as file:
            run = json.load(file)
        for benchmark in run["benchmarks"]:
            kind, shape = benchmark["group"].split(" | ")
            contender, time = benchmark["extra_info"]["contender"], 1e3 * benchmark["stats"]["min"]
            times[kind][shape][contender] = min(time, times[kind][shape].get(contender, math.inf))
    return times, run["machine_info"]


def ratios(times):
    """Best rival over ours (larger is better); ours over the bound and in bfloat16 over float32 (smaller is better)."""
    ours, half = times["ours"], times.get("ours, bfloat16")
    rivals = [time for name, time in times.items() if not name.startswith(("ours", BOUND))]
    return (
        min(rivals) / ours if rivals else None,
        ours / times[BOUND] if BOUND in times else None,
        half / ours if half else None,
    )


def table(shapes):
    contenders = list(dict.fromkeys(name for times in shapes.values() for name in times))
    head = ["", *contenders, "best rival / ours", f"ours / {BOUND}", "bfloat16 / float32"]
    rows, means = [], []
    for shape, times in shapes.items():
        shape_ratios = ratios(times)
        means.append(shape_ratios)
        cells = [f"{times[name]:.{2 if times[name] > 100 else 3}f}" if name in times else "" for name in contenders]
        rows.append([shape, *cells, *("" if ratio is None else f"{ratio:.2f}" for ratio in shape_ratios)])
    columns = [[ratio for ratio in column if ratio is not None] for column in zip(*means, strict=True)]
    if len(shapes) > 1:
        summary = [f"{geometric_mean(column):.2f}" if column else "" for column in columns]
        rows.append(["geometric mean", *[""] * len(contenders), *summary])
    kept = [i for i in range(len(head)) if i <= len(contenders) or columns[i - len(contenders) - 1]]
    head, *rows = [[row[i] for i in kept] for row in (head, *rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def growth_table(shapes):
    rows = [["", "256x256", "512x512", "growth"], ["---"] * 4]
    for kind, times in shapes.items():
        small, large = times["256x256"], times["512x512"]
        rows.append([kind, f"{small:.3f}", f"{large:.3f}", f"{large / small:.2f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(target, *sources):
    kinds, machine = read(sources)
    parts = [
        "# Results",
        "Milliseconds of the fastest round of all runs; only ratios on this one machine mean anything.",
        f"Made by `make bench` on {machine['cpu_model']}, {machine['cores']} cores, {machine['threads']} thread(s), "
        f"clock {machine['clock']}; torch {machine['torch']}, Python {machine['python_version']}, "
        f"faceattr {machine['faceattr']}.",
        "The recipe that is fastest as it stands is also timed compiled, forward alone: the gradients that torch 2.13 "
        "compiles for the grouped convolution write past their memory (`free(): invalid next size`).",
    ]
    for kind, shapes in kinds.items():
        parts += [f"## {kind[0].upper() + kind[1:]}", growth_table(shapes) if "growth" in kind else table(shapes)]
    with open(target, "w") as file:
        file.write("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
