"""Prediction over more pictures than one machine holds, on Ray Data: pip install "faceattr[ray]".

Either as a stage of one's own Ray Data pipeline,

    photos = ray.data.read_parquet("photos.parquet")      # with a column image: paths, or the files' bytes
    records = photos.map_batches(PredictBatches, batch_size=64, compute=ray.data.ActorPoolStrategy(size=8))
    records.write_parquet("faces")

or whole, as `faceattr predict --engine ray --output DIR` does it, with :func:`predict_parts`.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from faceattr.pipeline import find_weights, load
from faceattr.video import is_video

FORMATS = ("jsonl", "parquet")


class PredictBatches:
    """For `ray.data.Dataset.map_batches`: a batch of pictures in, a record a picture out.

    A batch has a column `image`: paths, or bytes of encoded pictures. The result has the columns image (its name),
    width, height, faces (JSON text, as in the records of `faceattr predict`) and error (None, or why it could not be
    read).

    weights, options: as `faceattr.load`. detect_only: boxes and scores alone. faces_a_batch: that ANet sees at a time.
    """

    def __init__(
        self, weights: str | os.PathLike | None = None, detect_only: bool = False, faces_a_batch: int = 32, **options
    ):
        self.model = load(weights, **options)
        self.detect_only, self.faces_a_batch = detect_only, faces_a_batch

    def records(self, images: Sequence) -> Iterator[dict]:
        """The record of each picture, as it comes."""
        for prediction in self.model.iter_predict(images, detect_only=self.detect_only, batch_size=self.faces_a_batch):
            yield prediction.to_dict()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        records = list(self.records(list(batch["image"])))
        for record in records:
            record["faces"] = json.dumps(record["faces"])
        return {key: np.array([record[key] for record in records], dtype=object) for key in records[0]}


class PartWriter(PredictBatches):
    """For `map_batches`: rows with part, path and images (a list); writes each part's file and gives its counts.

    A part's file appears whole or not at all, under a name that follows from its number. Until then its records are in
    a file of the worker's own, each as soon as it is there; the worker that takes the part after one was killed takes
    them over and does what is missing.
    """

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        counts = [self.write(Path(path), images) for path, images in zip(batch["path"], batch["images"], strict=True)]
        return {
            "part": batch["part"],
            "photos": np.array([n for n, _ in counts]),
            "failed": np.array([f for _, f in counts]),
        }

    def write(self, path: Path, images: Sequence[str]) -> tuple[int, int]:
        """Writes the records of some pictures; how many there are, and how many of them could not be read."""
        images = [str(image) for image in images]
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        before = _records_of_others(path)
        with open(partial, "w", encoding="utf-8") as file:
            for image in [image for image in images if image in before]:
                file.write(json.dumps(before[image]) + "\n")
            for record in self.records([image for image in images if image not in before]):
                before[record["image"]] = record
                file.write(json.dumps(record) + "\n")
                file.flush()
        records = [before[image] for image in images]
        complete = partial.with_suffix(".complete")
        if path.suffix == ".parquet":
            self._write_parquet(complete, records)
        else:
            complete.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(complete, path)
        partial.unlink(missing_ok=True)
        return len(records), sum(record["error"] is not None for record in records)

    def _write_parquet(self, path: Path, records: list[dict]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        # Said outright: a part without a face would give its columns other types than the next one has.
        names = () if self.detect_only else self.model.attributes
        aged = self.model.tells_age and not self.detect_only
        face = pa.struct(
            {
                "box": pa.list_(pa.float32()),
                "score": pa.float32(),
                "attributes": pa.map_(pa.string(), pa.float32()),
                "labels": pa.list_(pa.string()),
                **({"age": pa.struct(dict.fromkeys(("years", "low", "high"), pa.float32()))} if aged else {}),
                "notes": pa.list_(pa.string()),
            }
        )
        schema = {
            "image": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "faces": pa.list_(face),
            "error": pa.string(),
        }
        for record in records:
            for each in record["faces"]:
                each["attributes"] = [(name, each["attributes"][name]) for name in names]
        parquet.write_table(pa.Table.from_pylist(records, pa.schema(schema)), path)


def _records_of_others(path: Path) -> dict[str, dict]:
    """By picture, the records of a part that killed workers left. A line without its end is half a record."""
    records = {}
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        try:
            text = partial.read_text(encoding="utf-8")
        except OSError:  # its worker has just finished
            continue
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                with suppress(ValueError):  # what a machine left that lost its power
                    record = json.loads(line)
                    records[record["image"]] = record
    return records


@dataclass(frozen=True)
class Done:
    """What :func:`predict_parts` did.

    photos: pictures of this run. failed: those of all parts that could not be read. kept_parts: that were there before.
    """

    photos: int
    failed: int
    kept_parts: int


def predict_parts(
    images: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    *,
    format: str = "jsonl",
    part_size: int = 256,
    workers: int = 2,
    device: str = "auto",
    faces_a_batch: int = 32,
    quiet: bool = True,
    **options,
) -> Done:
    """Predicts pictures on a Ray cluster (RAY_ADDRESS) or, without one, on this machine, into files part-*.FORMAT.

    The same call again goes on with the parts that are missing, whatever stopped it; each picture is in one part, once.
    Workers need to see the pictures, the weights and `output` under the same paths.

    Args:
        images: paths; the records have them absolute. output: a folder; plan.json in it says what its parts hold.
        format: "jsonl", a record a line, or "parquet", a record a row.
        part_size: pictures a part. A killed worker has to do again what it had in hand, a few pictures.
        workers: processes, each with the model; with CUDA, each with a GPU of its own.
        faces_a_batch, options: as :class:`PredictBatches`.

    Raises:
        ValueError: ray is not installed, no picture, or a folder with the parts of other pictures, weights or options.
    """
    if format not in FORMATS:
        raise ValueError(f"predict_parts: format is {format!r}, it must be one of {', '.join(FORMATS)}")
    if not images:
        raise ValueError("predict_parts: no picture")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("Ray is not installed; pip install 'faceattr[ray]'") from None
    images = [os.path.abspath(image) for image in images]
    videos = [image for image in images if is_video(image)]
    if videos:
        raise ValueError(f"{videos[0]}: a video; these are for the local engine")
    weights = find_weights(weights).resolve()
    output = Path(output).resolve()
    plan = {"pictures": len(images), "part_size": part_size, "format": format, "options": options}
    plan["sha256"] = hashlib.sha256(
        "\n".join(images).encode(errors="surrogateescape") + weights.read_bytes()
    ).hexdigest()
    _keep_plan(output / "plan.json", plan)

    count = -(-len(images) // part_size)
    paths = [output / f"part-{number:05}-of-{count:05}.{format}" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    rows = [{"part": i, "path": str(paths[i]), "images": images[i * part_size : (i + 1) * part_size]} for i in missing]
    counts = []
    if rows:
        if not ray.is_initialized():
            own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(workers, os.cpu_count() or 1)}
            ray.init(logging_level="warning", log_to_driver=not quiet, **own)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = not quiet
        context.print_on_execution_start = False
        results = ray.data.from_items(rows, override_num_blocks=min(len(rows), 1000)).map_batches(
            PartWriter,
            fn_constructor_kwargs={
                "weights": str(weights),
                "device": device,
                "faces_a_batch": faces_a_batch,
                **options,
            },
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=1 if _wants_gpu(device) else 0,
        )
        counts = results.take_all()
        for left in chain(output.glob(".part-*.partial"), output.glob(".part-*.complete")):  # of killed workers
            left.unlink(missing_ok=True)
    # Also those of a run that was killed: nobody else would hear of them.
    failed = sum(row["failed"] for row in counts) + sum(map(_failed, set(paths) - {paths[i] for i in missing}))
    return Done(sum(row["photos"] for row in counts), failed, count - len(missing))


def _failed(part: Path) -> int:
    """How many pictures of a complete part could not be read."""
    if part.suffix == ".parquet":
        from pyarrow import parquet

        errors = parquet.read_table(part, columns=["error"]).column("error")
        return len(errors) - errors.null_count
    with open(part, encoding="utf-8") as lines:
        return sum(json.loads(line)["error"] is not None for line in lines)


def _wants_gpu(device: str) -> bool:
    from faceattr.pipeline import choose_device

    return choose_device(device).type == "cuda"


def _keep_plan(path: Path, plan: dict) -> None:
    """Writes the plan, or checks that the folder's is the same."""
    plan = json.loads(json.dumps(plan))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(plan, indent=2))
            os.replace(partial, path)
            return
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be written or read ({error.strerror}); choose another folder") from error
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); give another folder") from error
    if found != plan:
        different = next(key for key in plan if found.get(key) != plan[key])
        what = "the pictures or the weights" if different == "sha256" else different
        raise ValueError(f"{path.parent}: holds the parts of another job ({what} differ); give another folder")
