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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceattr.pipeline import Prediction, find_weights, load

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

    def predict(self, images: Sequence) -> list[Prediction]:
        """The records of some pictures."""
        return list(self.model.iter_predict(images, detect_only=self.detect_only, batch_size=self.faces_a_batch))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        records = [prediction.to_dict() for prediction in self.predict(list(batch["image"]))]
        for record in records:
            record["faces"] = json.dumps(record["faces"])
        return {key: np.array([record[key] for record in records], dtype=object) for key in records[0]}


class PartWriter(PredictBatches):
    """For `map_batches`: rows with part, path and images (a list); writes each part's file and gives its counts.

    A part's file appears whole or not at all, under a name that follows from its number: a worker that is killed leaves
    none, and the one that does its work again writes the same one.
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
        predictions = self.predict([str(image) for image in images])
        records = [prediction.to_dict() for prediction in predictions]
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        if path.suffix == ".parquet":
            self._write_parquet(partial, records)
        else:
            partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(partial, path)
        return len(records), sum(record["error"] is not None for record in records)

    def _write_parquet(self, path: Path, records: list[dict]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        # Said outright: a part without a face would give its columns other types than the next one has.
        names = () if self.detect_only else self.model.attributes
        face = pa.struct(
            {
                "box": pa.list_(pa.float32()),
                "score": pa.float32(),
                "attributes": pa.map_(pa.string(), pa.float32()),
                "labels": pa.list_(pa.string()),
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


@dataclass(frozen=True)
class Done:
    """What :func:`predict_parts` did: pictures and, of them, failed ones of this run; parts that were there before."""

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
        part_size: pictures a part: what a killed worker has to do again, at most.
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
        for partial in output.glob(".*.partial"):  # of workers that were killed
            partial.unlink()
    return Done(sum(row["photos"] for row in counts), sum(row["failed"] for row in counts), count - len(missing))


def _wants_gpu(device: str) -> bool:
    from faceattr.pipeline import choose_device

    return choose_device(device).type == "cuda"


def _keep_plan(path: Path, plan: dict) -> None:
    """Writes the plan, or checks that the folder's is the same."""
    plan = json.loads(json.dumps(plan))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(plan, indent=2))
        os.replace(partial, path)
        return
    found = json.loads(path.read_text())
    if found != plan:
        different = next(key for key in plan if found.get(key) != plan[key])
        what = "the pictures or the weights" if different == "sha256" else different
        raise ValueError(f"{path.parent}: holds the parts of another job ({what} differ); give another folder")
