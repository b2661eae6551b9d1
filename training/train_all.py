"""Trains the whole cascade, measures it and writes RESULTS.md, as a YAML of stages says.

    python training/train_all.py training/configs/cascade.yaml --data DIR --output RUN

DIR holds celeba/, objects/ and scenes/, or tar shards (*.tar) of them, which are unpacked once into RUN/data; --celeba,
--objects and --scenes name folders elsewhere. The same command again goes on where it was stopped: a stage whose file
is there is passed over, one that was stopped halfway continues. Nothing is fetched from a network.

With several GPUs, or --processes N, stages that train run under torchrun; batch sizes are for each process.
"""

import argparse
import fcntl
import json
import os
import resource
import shlex
import shutil
import string
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path
from typing import IO

import torch
import yaml
from take_part import take_part

from faceattr.data.celeba import read_celeba
from faceattr.pipeline import choose_device
from faceattr.precision import compute_dtype
from faceattr.train.arguments import plain_warnings

HERE = Path(__file__).resolve().parent
PARALLEL = {
    "pretrain_lnet.py",
    "finetune_lnet.py",
    "propose_faces.py",
    "pretrain_anet.py",
    "finetune_anet.py",
    "place_faces.py",
    "fit_svm.py",
}


def read_config(path: Path) -> dict:
    """A YAML of values and stages; its `base`, a file beside it, gives what it does not say itself."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML ({error})") from None
    if not isinstance(config, dict) or not config.keys() <= {"base", "values", "stages"}:
        raise ValueError(f"{path}: expected are the keys base, values and stages")
    if "base" in config:
        base = read_config(path.parent / config["base"])
        unknown = sorted(config.get("values", {}).keys() - base["values"].keys())
        if unknown and "stages" not in config:
            raise ValueError(f"{path}: {config['base']} has no value {unknown[0]!r} to replace")
        config = {"stages": base["stages"], **config, "values": base["values"] | config.get("values", {})}
    for stage in config.get("stages", ()):
        if not {"name", "run"} <= stage.keys() <= {"name", "run", "makes", "needs", "report"}:
            raise ValueError(f"{path}: a stage has name and run, and may have makes, needs and report; not {stage}")
    return config


def fill(text: str, values: dict[str, str], where: str) -> str:
    """The text with {names} replaced; ValueError, which says `where`, for one that is unknown."""
    unknown = [name for _, name, _, _ in string.Formatter().parse(text) if name and name not in values]
    if unknown:
        raise ValueError(f"{where}: no value {unknown[0]!r}; give it with --set {unknown[0]}=...")
    return text.format(**values)


def fill_values(config: dict, folders: dict[str, Path], settings: dict[str, str], where: str) -> dict[str, str]:
    """What stages are filled with: folders, each one word, whatever its name holds; settings; and the YAML's values,
    which may name folders and values before them."""
    values = {name: shlex.quote(str(folder)) for name, folder in folders.items()} | settings
    for name, value in config["values"].items():
        if name not in settings:
            values[name] = fill(str(value), values, where)
    return values


def unpack(shards: list[Path], folder: Path) -> None:
    """Unpacks the files of tar archives into the folder, each archive once; ValueError for one that would leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        done = folder / f".{shard.name}.unpacked"
        if not done.exists():
            print(f"unpacking {shard}", flush=True)
            with tarfile.open(shard) as archive:
                for member in archive:
                    target = folder / member.name
                    if not target.resolve().is_relative_to(folder.resolve()):
                        raise ValueError(f"{shard}: {member.name!r} lies outside the folder; the shard is not unpacked")
                    if member.isfile():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with archive.extractfile(member) as source, target.open("wb") as file:
                            shutil.copyfileobj(source, file)
            done.touch()


class Stage:
    """One command, its record of what was run and for how long, and the file that says it is done."""

    def __init__(self, stage: dict, values: dict[str, str], folder: Path):
        self.name, self.report = stage["name"], stage.get("report")
        # Split after filling in: a value may be several words.
        self.words = shlex.split(fill(stage["run"], values, self.name))
        self.output, self.record = folder / f"{self.name}.txt", folder / f"{self.name}.json"
        self.makes = self.output
        if "makes" in stage:
            [makes] = shlex.split(fill(stage["makes"], values, self.name))
            self.makes = Path(makes)
        self.seconds = self.processor = 0.0
        if self.record.exists():
            record = json.loads(self.record.read_text())
            # A stage that measures and failed has left nothing that other options could be mixed with.
            if record["command"] != self.words and ("makes" in stage or self.makes.exists()):
                before, now = shlex.join(record["command"]), shlex.join(self.words)
                raise ValueError(
                    f"stage {self.name} was run as\n  {before}\nand is now\n  {now}\n"
                    f"choose another --output, or delete {self.record}, what the stage made and what follows from it"
                )
            self.seconds, self.processor = record["seconds"], record.get("processor", 0.0)

    def done(self) -> bool:
        return self.record.exists() and self.makes.exists()

    def run(self, processes: int, device: str, lock: IO) -> None:
        """Runs the command; what it prints is kept, and the lock while it lives. Raises RuntimeError if it fails."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self._keep_record()
        script, *options = self.words
        command = [sys.executable]
        if script == "faceattr":
            command += ["-m", "faceattr.cli"]
        elif processes > 1 and script in PARALLEL:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command += ["--max-restarts=3", str(HERE / script)]
        else:
            command += [str(HERE / script)]
        if script in PARALLEL or script == "faceattr":
            options += ["--device", device]
        start, before = time.monotonic(), processor_seconds()
        unfinished = self.output.with_suffix(".partial")
        with unfinished.open("w") as file:
            # Not from the folder of the sources, where Python would take the package that is not built.
            folder, locks = self.record.parent, (lock.fileno(),)
            code = subprocess.run([*command, *options], stdout=file, cwd=folder, pass_fds=locks).returncode
        self.seconds += time.monotonic() - start
        self.processor += processor_seconds() - before
        self._keep_record()
        print(unfinished.read_text(), end="", flush=True)
        if code:
            raise RuntimeError(f"stage {self.name} failed (exit status {code}); its command: {shlex.join(self.words)}")
        os.replace(unfinished, self.output)
        if not self.makes.exists():
            raise RuntimeError(f"stage {self.name} ended without making {self.makes}")

    def _keep_record(self) -> None:
        partial = self.record.with_suffix(".unfinished")
        partial.write_text(json.dumps({"command": self.words, "seconds": self.seconds, "processor": self.processor}))
        os.replace(partial, self.record)


def processor_seconds() -> float:
    """Of all processes that were started here and have ended, on all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_results(path: Path, config: Path, stages: list[Stage], machine: str, notes: list[str]) -> None:
    """RESULTS.md: seconds a stage, by the clock and of the processor, and what each printed; which are not done."""
    lines = ["# Results", "", f"`train_all.py {config.name}` on {machine}.", *(f"\n{note}" for note in notes)]
    done = sum(stage.done() for stage in stages)
    if done < len(stages):
        lines += ["", f"**{done} of {len(stages)} stages are done**; the same command goes on."]
    lines += ["", "| stage | seconds | processor seconds |", "|---|---|---|"]
    for stage in stages:
        lines.append(
            f"| {stage.name} | {stage.seconds:.0f}{'' if stage.done() else ', not done'} | {stage.processor:.0f} |"
        )
    together = (sum(stage.seconds for stage in stages), sum(stage.processor for stage in stages))
    lines.append(f"| together | {together[0]:.0f} | {together[1]:.0f} |")
    for stage in stages:
        printed = stage.output.read_text().strip("\n") if stage.done() and stage.output.exists() else ""
        if printed:
            lines += ["", f"## {stage.report or stage.name}", "", f"    {shlex.join(stage.words)}", "", "```"]
            lines += [*(line.rstrip() for line in printed.splitlines()), "```"]
    unfinished = path.with_suffix(".partial")
    unfinished.write_text("\n".join(lines) + "\n")
    os.replace(unfinished, path)


def names_in(config: dict) -> set[str]:
    """Every value that the YAML gives, fills in or needs."""
    texts = [text for stage in config["stages"] for text in (stage["run"], stage.get("makes", ""))]
    texts += [str(value) for value in config["values"].values()]
    filled = {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}
    return filled | config["values"].keys() | {stage["needs"] for stage in config["stages"] if "needs" in stage}


def check_celeba(celeba: Path, split: str, photo_partition: int) -> list[str]:
    """What CelebA's folder holds, and which of the measurements it does not allow, in words.

    Raises:
        ValueError: a stage that others follow from would lack its pictures, hours from now.
    """
    held = {}
    for images in ("img_align_celeba", "img_celeba"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how many are missing
            data = read_celeba(celeba, images, skip_missing=True, split=split)
        held[images] = [int((data.partitions == number).sum()) for number in range(3)]
    if data.identities is None:
        raise ValueError(f"{celeba}: has no identity_CelebA.txt, from which ANet's first stage knows who is who")
    for images, partitions, why in (
        ("img_align_celeba", (0, 1, 2), "0 trains the nets, 1 the SVMs, 2 measures"),
        ("img_celeba", (0,), "it trains the localisation nets"),
    ):
        for number in partitions:
            if not held[images][number]:
                raise ValueError(f"{celeba / images}: has no picture of partition {number} of the {split} split; {why}")
    counts = (f"{' + '.join(map(str, counts))} of {images}" for images, counts in held.items())
    notes = [f"Pictures of partitions 0, 1 and 2: {', '.join(counts)}."]
    if not held["img_celeba"][photo_partition]:
        notes.append(
            f"Whole photos are not measured: {celeba / 'img_celeba'} has none of partition {photo_partition}. "
            "`--set photo_partition=0 --set photo_baseline=` measures on those that the nets have learnt from."
        )
    return notes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for all that the stages make")
    parser.add_argument("--data", type=Path, help="folder with celeba/, objects/ and scenes/, or tar shards of them")
    for name in ("celeba", "objects", "scenes"):
        parser.add_argument(f"--{name}", type=Path, help=f"in place of {name}/ in --data")
    parser.add_argument("--pictures", type=int, metavar="N", help="train on N pictures of each kind alone: a trial")
    parser.add_argument("--processes", type=int, help="that train together (default: as many as there are GPUs, or 1)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: cuda where there is one")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="in place of the YAML's value"
    )
    args = parser.parse_args()
    plain_warnings()
    try:
        run(args)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"train_all.py: {error}")


def run(args: argparse.Namespace) -> None:
    """Runs every stage that is not done."""
    output = args.output.resolve()
    config = read_config(args.config)
    output.mkdir(parents=True, exist_ok=True)
    lock = (output / ".lock").open("w")
    try:
        # A stage keeps it when the one that started it is killed.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{output}: a run, or a stage of one, is still at work there; wait for it or end it") from None
    data = args.data
    if data and sorted(data.glob("*.tar")):
        unpack(sorted(data.glob("*.tar")), output / "data")
        data = output / "data"
    folders = {}
    for name in ("celeba", "objects", "scenes"):
        folder = getattr(args, name) or (data / name if data else None)
        if folder is None:
            raise ValueError(f"no folder of {name}; give --data or --{name}")
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of {name}")
        folders[name] = folder.resolve()
    if args.pictures:
        folders = take_part(**folders, pictures=args.pictures, out=output / "part")
    given = {**folders, "output": output, "here": args.config.resolve().parent}
    if data:
        given["data"] = data.resolve()
    settings = {}
    for setting in args.set:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: expected is NAME=VALUE; quote one with blanks: --set 'NAME=SOME WORDS'")
        if name not in names_in(config):
            raise ValueError(f"--set {setting}: {args.config} has no {name!r}; {', '.join(sorted(names_in(config)))}")
        # The name of a net or a split is no path, even if a folder here is called so.
        is_path = os.sep in value or Path(value).suffix or name not in config["values"]
        is_path = is_path and value and Path(value).exists()
        settings[name] = shlex.quote(str(Path(value).resolve())) if is_path else value
    values = fill_values(config, given, settings, args.config.name)
    notes = []
    if "photo_partition" in values:
        notes = check_celeba(folders["celeba"], values["split"], int(values["photo_partition"]))
        if len(notes) == 1:
            values["photos"] = values["photo_partition"]
    for note in notes:
        print(note, flush=True)
    chosen = [stage for stage in config["stages"] if stage.get("needs", "output") in values]
    stages = [Stage(stage, values, output / "stages") for stage in chosen]
    gpus = torch.cuda.device_count() if args.device != "cpu" else 0
    processes = args.processes or max(1, gpus)
    machine = f"{gpus} x {torch.cuda.get_device_name()}" if gpus else f"{os.cpu_count()} CPU cores"
    dtype, why = compute_dtype(choose_device(args.device), values.get("precision", "auto"))
    machine += f", in {str(dtype).removeprefix('torch.')} ({why})"
    results = output / "RESULTS.md"
    for number, stage in enumerate(stages, 1):
        state = "done" if stage.done() else "running"
        print(f"[{number}/{len(stages)}] {stage.name}: {state}", flush=True)
        if not stage.done():
            try:
                stage.run(processes, args.device, lock)
            finally:
                write_results(results, args.config, stages, machine, notes)
    write_results(results, args.config, stages, machine, notes)
    print(f"{results} has the figures, {output / 'faceattr.safetensors'} the weights")


if __name__ == "__main__":
    main()
