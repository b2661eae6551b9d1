"""Photo to faces: LNet_o and LNet_s localise, ANet and one linear SVM an attribute tell what they look like.

One more linear SVM on ANet's features says whether what was localised is a face at all, and where the weights have it a
linear map of ANet's layers puts its box right.
"""

import ctypes
import difflib
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from itertools import chain, repeat
from pathlib import Path
from threading import Barrier
from typing import Any, TypeGuard, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from faceattr.ages import Age, read_ages
from faceattr.attributes import AGE
from faceattr.crops import CropSettings, crop_window
from faceattr.images import ImageError, Photo, Picture, describe, load_photo
from faceattr.localization import Localization, Localizer, LocalizerSettings
from faceattr.models.anet import LayerResponses
from faceattr.models.checkpoint import Checkpoint, load_checkpoint
from faceattr.models.quantized import QuantizedShared
from faceattr.video import Frame, frames, is_video

# oneDNN keeps what it has compiled for each size of input, by default 1024 such, and torch what leads to it, 1024 more
# in each thread, which lie between photos' blocks and so break up what is free: with photos of many sizes 100 MB. Read
# when the first convolution runs.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")

# Of two boxes that share so much of the smaller one, one is no face.
_NESTED = 0.7

# A stream holds decoded photos until their faces fill a batch, but no more bytes of them than this.
_HELD_BYTES = 64 * 2**20
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

Boxes = ArrayLike | torch.Tensor
"""[K, 4]: x0, y0, x1, y1 in pixels of the upright photo."""
_Picture = TypeVar("_Picture", bound=Picture)


@dataclass(frozen=True)
class Face:
    """One face of a photo.

    box: x0, y0, x1, y1 in pixels of the upright original photo; where LNets saw it, put right by ANet.
    score: how sure LNets and ANet together are that it is a face, 0 to 1; None where the box was given.
    attributes: calibrated probability of each attribute. labels: those that reach their threshold.
    features: float32 [F], what the SVMs see; None where only boxes were asked for.
    notes: what speaks against trusting the rest, in words; mostly empty.
    age: how old the person looks; None where the weights do not tell, or where it was not asked for.
    frame: the box as it would be if the photo did not end there, which crops of the face follow; mostly the box.
    """

    box: tuple[float, float, float, float]
    score: float | None
    attributes: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    notes: tuple[str, ...] = ()
    age: Age | None = None
    frame: tuple[float, float, float, float] = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def __post_init__(self):
        if self.frame is None:
            object.__setattr__(self, "frame", self.box)

    def to_dict(self) -> dict:
        """As JSON takes it, without features and frame; `age` only where there is one."""
        age = {} if self.age is None else {"age": self.age.to_dict()}
        return {
            "box": [round(edge, 2) for edge in self.box],
            "score": None if self.score is None else round(self.score, 4),
            "attributes": {name: round(value, 4) for name, value in self.attributes.items()},
            "labels": list(self.labels),
            **age,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Prediction:
    """The record of one photo of a stream.

    image: its name. width, height: of the upright original; None when it could not be read.
    error: None, or why it could not be read. time: of a video's frame, in seconds from the start.
    orientation: EXIF's, 1 to 8: how the photo lies in its file.
    Only where a stream is asked to keep them, for they are large: photo, the decoded picture, at most 2048 pixels a
    side; response_maps, name to [h, w] over the whole photo; windows, [K, 4], what LNet_s looked at, in pixels of
    `photo`.
    """

    image: str
    width: int | None = None
    height: int | None = None
    faces: list[Face] = field(default_factory=list)
    error: str | None = None
    time: float | None = None
    orientation: int = 1
    photo: Photo | None = field(default=None, repr=False, compare=False)
    response_maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    windows: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict:
        """The JSON record."""
        faces = [face.to_dict() for face in self.faces]
        time = {} if self.time is None else {"time": self.time}
        return {
            "image": self.image,
            **time,
            "width": self.width,
            "height": self.height,
            "faces": faces,
            "error": self.error,
        }


@dataclass(frozen=True)
class _Located:
    """A photo between localisation and attributes.

    crops: what ANet is to see of each face, uint8 [h, w, 3]; none where only boxes are asked for.
    """

    prediction: Prediction
    crops: list[np.ndarray] = field(default_factory=list)


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    """The part of the smaller of two boxes that lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / max(smaller, 1e-12)


def _differ(a: Sequence[float], b: Sequence[float], overlap: float) -> bool:
    """Whether two boxes can be of two faces: neither lies in the other, and their intersection over union is at most
    ``overlap``."""
    shared = _shared(a, b)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    common = shared * min(areas)
    return shared <= _NESTED and common <= overlap * (sum(areas) - common)


class FaceAttributes:
    """Faces and their attributes from photos.

    A photo is what `faceattr.images.load_image` takes: path, bytes, PIL image, array [H, W, 3] or tensor [3, H, W].

    checkpoint: the nets, on the device and of the dtype they are to run with.
    attributes, exclude: report only these, or all but these; AGE is one of them where the weights tell ages.
    thresholds: "accuracy" or "balanced", what the labels' thresholds were chosen for.
    min_score: leave out faces of a lower score. max_faces: at most so many of a photo, the best.
    localization_dtype: in which LNet_o and LNet_s run; None: what suits the device, `faceattr.precision`. With
        torch.qint8, 8-bit integers, ANet's globally shared layers compute in them too, if they were measured and ANet
        is of float32; explanations, exports and training take the nets as they are.

    `localizer` is the :class:`Localizer` that finds the faces.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        attributes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        thresholds: str = "accuracy",
        min_score: float = 0.0,
        max_faces: int | None = None,
        localization_dtype: torch.dtype | None = None,
    ):
        metadata = checkpoint.metadata
        names, preprocessing = metadata["attributes"], metadata["preprocessing"]
        if thresholds not in metadata["thresholds"]:
            raise ValueError(f"thresholds={thresholds!r}: these weights have {', '.join(metadata['thresholds'])}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score={min_score}: a score is between 0 and 1")
        if max_faces is not None and max_faces < 1:
            raise ValueError(f"max_faces={max_faces}: ask for at least one face")
        self.metadata = metadata
        tells_age = checkpoint.age is not None
        chosen = _choose([*names, AGE] if tells_age else names, attributes, exclude)
        self.attributes = tuple(name for name in chosen if name != AGE)
        self._age = checkpoint.age if AGE in chosen else None
        self._thresholds = dict(zip(names, metadata["thresholds"][thresholds], strict=True))
        self._min_score, self._max_faces = min_score, max_faces
        self._anet, self._svm, self._face = checkpoint.anet, checkpoint.svm, checkpoint.face
        self._frame = checkpoint.frame
        try:
            localization = LocalizerSettings(**preprocessing["localization"])
            self._crops = CropSettings(**preprocessing["crop"])
            self._least_score = float(preprocessing["score_threshold"])
            self._company_score = float(preprocessing.get("company_threshold", self._least_score))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the weights' preprocessing does not fit this version of faceattr: {error}") from error
        self.localizer = Localizer(checkpoint.lnet_o, checkpoint.lnet_s, localization, localization_dtype)
        largest = preprocessing.get("largest_anet")
        if largest and self.localizer.dtype == torch.qint8 and checkpoint.anet.head.weight.dtype == torch.float32:
            self._anet = checkpoint.anet.with_shared(QuantizedShared(checkpoint.anet.shared, largest))
        self._input_size = tuple(checkpoint.anet.config["input_size"])

    @property
    def device(self) -> torch.device:
        """Where the nets run."""
        return next(self._anet.parameters()).device

    @property
    def tells_age(self) -> bool:
        """Whether faces get an age."""
        return self._age is not None

    @property
    def features(self) -> int:
        """How many features a face has."""
        return self._anet.config["features"]

    @overload
    def predict(self, image: Picture, boxes: Boxes | None = None) -> list[Face]: ...

    @overload
    def predict(
        self, image: list[_Picture] | tuple[_Picture, ...], boxes: Sequence[Boxes | None] | None = None
    ) -> list[list[Face]]: ...

    def predict(self, image: Any, boxes: Any = None) -> Any:
        """The faces of a photo, best first: a list of `Face`. A list of photos gives a list of such lists.

        boxes: [K, 4], x0, y0, x1, y1 in pixels of the upright photo, in place of localisation; for a list of photos a
            list of them, with None where a photo's faces are to be found.

        Raises ImageError for a photo that cannot be read; in a list it warns, gives no faces, and the others go on.
        """
        return self._faces(image, boxes, detect_only=False)

    @overload
    def detect(self, image: Picture) -> list[Face]: ...

    @overload
    def detect(self, image: list[_Picture] | tuple[_Picture, ...]) -> list[list[Face]]: ...

    def detect(self, image: Any) -> Any:
        """Like `predict`: boxes and scores alone."""
        return self._faces(image, None, detect_only=True)

    def iter_predict(
        self,
        images: Iterable[Picture],
        boxes: Iterable[Boxes | None] | None = None,
        *,
        detect_only: bool = False,
        batch_size: int = 32,
        workers: int = 2,
        every: float = 1.0,
        keep_photos: bool = False,
    ) -> Iterator[Prediction]:
        """One record a photo, in order, as they come, in memory that does not grow with their number.

        `workers` threads decode and localise ahead, a photo each, and ANet judges what is proposed in it; it describes
        `batch_size` faces at a time, of several photos where need be. A photo that cannot be read, or whose boxes are
        of no use, gives a record with its error.
        boxes: for each photo [K, 4] or None, as in `predict`, or a list of `Face` that were found there before, which
        are described anew. The path of a video gives a record for a frame `every` so many seconds. keep_photos: the
        records also hold the decoded photo, response maps and windows.
        """
        single = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
        if isinstance(images, single) or (isinstance(images, np.ndarray | torch.Tensor) and images.ndim != 4):
            raise ValueError(f"iter_predict: takes photos, not one ({describe(images)}); pass [photo], or use predict")
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        if isinstance(images, Sized) and isinstance(boxes, Sized) and len(images) != len(boxes):
            raise ValueError(
                f"boxes: {len(boxes)} entries for {len(images)} photos; give one a photo, None to find them"
            )
        tasks = _sources(zip(images, repeat(None) if boxes is None else boxes, strict=boxes is not None), every)
        return self._stream(tasks, detect_only, batch_size, workers, keep_photos)

    def _stream(
        self, tasks: Iterable[tuple], detect_only: bool, batch_size: int, workers: int, keep_photos: bool
    ) -> Iterator[Prediction]:
        def locate(source: Any, boxes_of_photo: Boxes | None) -> _Located:
            is_frame = isinstance(source, Frame)
            name, time = (source.video, source.time) if is_frame else (describe(source), None)
            try:
                pixels = source.pixels if is_frame else source
                if isinstance(pixels, ImageError):
                    raise pixels
                located = self._locate(name, load_photo(pixels), boxes_of_photo, detect_only)
            except Exception as error:
                return _Located(Prediction(name, error=_in_words(name, error), time=time))
            prediction = replace(located.prediction, time=time)
            return replace(located, prediction=prediction if keep_photos else _without_pixels(prediction))

        _allocator()
        # Threads of torch that wait for one another would take processors from those that locate.
        share = max(1, torch.get_num_threads() // workers)
        waiting: list[_Located] = []
        with closing(_ahead(locate, tasks, workers)) as all_located:
            for located in all_located:
                waiting.append(located)
                faces = sum(len(each.crops) for each in waiting)
                held = sum(each.prediction.photo.pixels.nbytes for each in waiting if each.prediction.photo)
                if faces >= batch_size or held >= _HELD_BYTES or len(waiting) >= batch_size:
                    with _torch_threads(share):
                        finished = list(self._finish(waiting, batch_size))
                    yield from finished
                    waiting = []
                    _give_back_memory()
            yield from self._finish(waiting, batch_size)

    def _finish(self, waiting: list[_Located], batch_size: int) -> Iterator[Prediction]:
        """As `_complete`; where it fails, a photo at a time, so that only those that fail alone have an error."""
        try:
            yield from list(self._complete(waiting, batch_size))
            return
        except Exception as error:  # the device's memory, say
            if len(waiting) == 1:
                prediction = waiting[0].prediction
                yield replace(prediction, faces=[], error=_in_words(prediction.image, error))
                return
        for located in waiting:
            yield from self._finish([located], 1)

    def _faces(self, image: Any, boxes: Any, detect_only: bool) -> list:
        if not isinstance(image, list | tuple):
            located = self._locate(describe(image), load_photo(image), boxes, detect_only)
            return next(self._complete([located])).faces
        faces = []
        for prediction in self.iter_predict(image, boxes, detect_only=detect_only):
            if prediction.error is not None:
                warnings.warn(prediction.error, stacklevel=3)
            faces.append(prediction.faces)
        return faces

    def _locate(self, name: str, photo: Photo, boxes: Boxes | None, detect_only: bool = False) -> _Located:
        maps: dict[str, np.ndarray] = {}
        seen: np.ndarray | None = None
        if boxes is None:
            # Photo by photo: what else is in a batch then cannot move a box, nor what ANet makes of it.
            result = self.localizer(torch.from_numpy(photo.pixels).permute(2, 0, 1))
            maps = {key: response.cpu().numpy() for key, response in result.response_maps.items()}
            seen = result.windows.numpy()
            faces = self._select(self._judged(photo, self._proposed(photo, result)))
        elif _are_faces(boxes):
            faces = [Face(face.box, None, frame=face.frame) for face in boxes]
        else:
            faces = [Face(tuple(box.tolist()), None) for box in _check_boxes(boxes, photo, name)]
        prediction = Prediction(
            name,
            photo.width,
            photo.height,
            [replace(face, notes=self._notes(photo, face)) for face in faces],
            orientation=photo.orientation,
            photo=photo,
            response_maps=maps,
            windows=seen,
        )
        return _Located(prediction, [] if detect_only else [self._cut(photo, face, self._crops) for face in faces])

    def _proposed(self, photo: Photo, result: Localization) -> list[Face]:
        """What the LNets propose, with their scores."""
        faces = []
        for each in result.proposals:
            box, frame = photo.to_original(each.box), photo.to_original(each.frame, clip=False)
            faces.append(Face(tuple(box.tolist()), each.score, frame=tuple(frame.tolist())))
        return faces

    def _window(self, photo: Photo, face: Face, crops: CropSettings) -> tuple[float, float, float, float]:
        """What ANet is to see of a face, in the photo's pixels."""
        # By way of the original's: a face that comes back is cut as when it was found.
        return crops.window(photo.from_original(np.array(face.frame)), self._input_size, self._anet.step)

    def _cut(self, photo: Photo, face: Face, crops: CropSettings) -> np.ndarray:
        """The face's crop, uint8 [h, w, 3]."""
        size = crops.size(self._input_size, self._anet.step)
        return crop_window(photo.pixels, self._window(photo, face, crops), size)

    def _notes(self, photo: Photo, face: Face) -> tuple[str, ...]:
        """What speaks against trusting what is said of a face."""
        notes = []
        # Odds of less than twice those that make a face at all.
        least = self._least_score
        if face.score is not None and face.score * (1 - least) < 2 * least * (1 - face.score):
            notes.append("low score, perhaps no face")
        # Enlarged to more than twice its size for ANet, a face shows little of what its attributes are read from.
        _, top, _, bottom = self._window(photo, face, self._crops)
        if (bottom - top) * photo.scale < self._crops.size(self._input_size, self._anet.step)[0] / 2:
            notes.append("small face, attributes uncertain")
        return tuple(notes)

    def candidates(self, image: Picture) -> tuple[list[Face], np.ndarray]:
        """What the LNets propose in a photo, before ANet has its say: K faces with the LNets' score, best first.

        Beside them float32 [K, F + 1], what decides whether each is a face: ANet's features and the score's log-odds.
        """
        photo = load_photo(image)
        faces = self._proposed(photo, self.localizer(torch.from_numpy(photo.pixels).permute(2, 0, 1)))
        if not faces:
            return faces, np.zeros((0, self.features + 1), dtype=np.float32)
        return faces, self._evidence(faces, self._responses(photo, faces).fc).float().cpu().numpy()

    @torch.inference_mode()
    def _responses(self, photo: Photo, faces: list[Face]) -> LayerResponses:
        """ANet's layers on the faces that the LNets propose: on the middle of the crop alone, and not on its mirror
        image, which is far cheaper than the attributes. Most of what the LNets propose is no face."""
        middle = replace(self._crops, positions=(1, 1))
        crops = [self._cut(photo, face, middle) for face in faces]
        try:
            return self._anet.responses(self._images(crops))
        except RuntimeError:  # the device's memory, say, of which one at a time takes less
            alone = [self._anet.responses(self._images([crop])) for crop in crops]
            return LayerResponses(*(torch.cat(layer) for layer in zip(*alone, strict=True)))

    @torch.inference_mode()
    def _evidence(self, faces: list[Face], features: torch.Tensor) -> torch.Tensor:
        """What the plane sees of each face that the LNets propose, [K, F + 1]."""
        scores = torch.tensor([face.score for face in faces], dtype=torch.float32, device=features.device)
        log_odds = torch.logit(scores, eps=1e-6)
        return torch.cat([features, log_odds.to(features)[:, None]], 1)

    @torch.inference_mode()
    def _judged(self, photo: Photo, faces: list[Face]) -> list[Face]:
        """The faces with what ANet makes of their score and frame."""
        if not faces:
            return []
        responses = self._responses(photo, faces)
        scores = self._face(self._evidence(faces, responses.fc))[:, 0].float().cpu().tolist()
        faces = [replace(face, score=score) for face, score in zip(faces, scores, strict=True)]
        if self._frame is None:
            return faces
        corrections = self._frame(responses).float().cpu().tolist()
        return [self._corrected(photo, face, each) for face, each in zip(faces, corrections, strict=True)]

    def _corrected(self, photo: Photo, face: Face, correction: Sequence[float]) -> Face:
        """The face with its frame put right; as it is where that would lead out of the photo."""
        frame = self._crops.corrected(face.frame, correction)
        x, y = (frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2
        if not (0 < x < photo.width and 0 < y < photo.height):
            return face
        box = np.clip(frame, 0, [photo.width, photo.height] * 2)
        return replace(face, box=tuple(box.tolist()), frame=frame)

    def _select(self, faces: list[Face]) -> list[Face]:
        """Of what is proposed in a photo the faces to report, best first."""
        faces = sorted(faces, key=lambda face: -face.score)  # type: ignore[operator]
        # Where one face is, others are likelier: people come in company.
        alone = not faces or faces[0].score < self._least_score  # type: ignore[operator]
        least = max(self._least_score if alone else self._company_score, self._min_score)
        overlap = self.localizer.settings.overlap
        best: list[Face] = []
        for face in faces:
            # No face lies in another: the weaker of two is the other's surroundings, or a part of it. Two boxes of one
            # face lie on each other once they are put right.
            if face.score >= least and all(_differ(face.box, other.box, overlap) for other in best):  # type: ignore
                best.append(face)
        return best[: self._max_faces]

    def _complete(self, waiting: Sequence[_Located], batch_size: int = 32) -> Iterator[Prediction]:
        """The predictions with what ANet says of the faces whose crops are there; those of several photos share a
        batch."""
        crops = [crop for located in waiting for crop in located.crops]
        starts = range(0, len(crops), batch_size)
        fields = chain.from_iterable(self._describe(crops[i : i + batch_size]) for i in starts)
        for located in waiting:
            faces = located.prediction.faces
            if located.crops:
                faces = [replace(face, **next(fields)) for face in faces]
            yield replace(located.prediction, faces=faces)

    def _images(self, crops: list[np.ndarray]) -> torch.Tensor:
        weight = self._anet.head.weight
        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).to(weight.dtype) / 255

    @torch.inference_mode()
    def _describe(self, crops: list[np.ndarray]) -> list[dict]:
        """What ANet and the SVMs say of each crop: the fields of its `Face`."""
        features = self._anet.pooled_features(self._images(crops))
        probabilities = self._svm(features).float().cpu()
        described = []
        ages: Sequence[Age | None] = [None] * len(crops)
        if self._age is not None:
            tail = self.metadata["preprocessing"]["age_tail"]
            ages = read_ages(self._age(features).double().cpu().numpy(), tail)
        for row, row_features, age in zip(probabilities.tolist(), features.float().cpu().numpy(), ages, strict=True):
            values = dict(zip(self.metadata["attributes"], row, strict=True))
            attributes = {name: values[name] for name in self.attributes}
            labels = tuple(name for name, value in attributes.items() if value >= self._thresholds[name])
            described.append({"attributes": attributes, "labels": labels, "features": row_features, "age": age})
        return described


def load(
    weights: str | os.PathLike | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> FaceAttributes:
    """The pipeline with the bundled weights, or those of a checkpoint file or of a folder that holds one.

    device: "cpu", "cuda", "cuda:1", ..., or "auto": cuda where there is one.
    dtype: floating-point type of ANet and the SVMs; localisation has its own, `localization_dtype`.
    options: as `FaceAttributes`. Raises ValueError for weights, a device or options that do not do.
    """
    checkpoint = load_checkpoint(find_weights(weights), choose_device(device))
    checkpoint.anet.to(dtype)
    checkpoint.svm.to(dtype)
    checkpoint.face.to(dtype)
    for net in (checkpoint.age, checkpoint.frame):
        if net is not None:
            net.to(dtype)
    return FaceAttributes(checkpoint, **options)


def find_weights(weights: str | os.PathLike | None = None) -> Path:
    """The checkpoint file that `load` reads for `weights`. Raises ValueError where there is none."""
    if weights is None:
        path = Path(str(resources.files("faceattr"))) / "weights"
        missing = "this installation has no bundled weights; install faceattr with them or pass weights="
    else:
        path = Path(weights)
        missing = f"{path}: no .safetensors file in this folder; give the checkpoint itself"
    if weights is not None and not os.path.isdir(path):  # also a name that no path can have: reading it says so
        return path
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ValueError(missing)
    if len(files) > 1:
        raise ValueError(f"{path}: holds {len(files)} .safetensors files; give one of them")
    return files[0]


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is cuda where there is one. Raises ValueError where it is not to be had."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); use cpu, cuda, cuda:N or auto") from error
    return chosen


def _choose(names: Sequence[str], attributes: Sequence[str] | None, exclude: Sequence[str] | None) -> tuple[str, ...]:
    if attributes is not None and exclude is not None:
        raise ValueError("attributes and exclude: give one of them, not both")
    for given, value in (("attributes", attributes), ("exclude", exclude)):
        if isinstance(value, str):
            raise ValueError(f"{given}={value!r}: a list of names is needed, [{value!r}]")
    for name in [*(attributes or ()), *(exclude or ())]:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
            raise ValueError(f"attribute {name!r} is unknown to these weights; choose from {', '.join(close)}")
    chosen = tuple(name for name in names if (attributes is None or name in attributes) and name not in (exclude or ()))
    if not chosen:
        raise ValueError("attributes, exclude: none is left; for boxes alone use detect")
    return chosen


def _sources(tasks: Iterable[tuple], every: float) -> Iterator[tuple]:
    """The tasks, with each video replaced by its frames; an error that ends them stands in place of pixels."""
    for image, boxes in tasks:
        if not is_video(image):
            yield image, boxes
            continue
        try:
            for frame in frames(image, every):
                yield frame, boxes
        except ImageError as error:
            yield Frame(describe(image), 0.0, error), None  # type: ignore[arg-type]


def _in_words(name: str, error: Exception) -> str:
    """What went wrong with one photo of many."""
    if isinstance(error, ValueError) and str(error).startswith(name):  # ours: it names the photo and what to do
        return str(error)
    return f"{name}: failed ({type(error).__name__}: {error})"


@cache
def _allocator() -> ctypes.CDLL | None:
    """glibc, told to map large blocks, which go back to the system when they are free; None: another C library."""
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        return None
    library.mallopt(_M_MMAP_THRESHOLD, 2**20)
    return library


def _give_back_memory() -> None:
    """What is free goes back to the system: of photos of many sizes glibc would keep ever more pieces."""
    allocator = _allocator()
    if allocator is not None:
        allocator.malloc_trim(0)


def _without_pixels(prediction: Prediction) -> Prediction:
    return replace(prediction, photo=None, response_maps={}, windows=None)


def _are_faces(boxes: Any) -> TypeGuard[Sequence[Face]]:
    return isinstance(boxes, list | tuple) and bool(boxes) and all(isinstance(each, Face) for each in boxes)


def _check_boxes(boxes: Any, photo: Photo, name: str) -> np.ndarray:
    """Given boxes as float64 [K, 4], clipped to the photo."""
    try:
        boxes = np.asarray(boxes.cpu() if isinstance(boxes, torch.Tensor) else boxes, dtype=np.float64)
    except Exception as error:  # ragged, text, a tensor without values
        raise ValueError(f"{name}: boxes are no numbers of shape [K, 4] ({error})") from error
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: boxes have shape {list(boxes.shape)}, needed is [K, 4] (x0, y0, x1, y1)")
    clipped = np.clip(boxes, 0, [photo.width, photo.height] * 2)
    for box, inside in zip(boxes.tolist(), clipped, strict=True):
        if not (inside[0] < inside[2] and inside[1] < inside[3]):  # also NaN
            raise ValueError(
                f"{name}: box {box} has no area in the photo of {photo.width} x {photo.height} pixels; "
                "needed is x0 < x1, y0 < y1 in pixels of the upright photo"
            )
    return clipped


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Within, this thread has `number` of torch's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ahead(run: Callable, tasks: Iterable[tuple], workers: int) -> Generator:
    """run(*task) for each task, in order, computed a few ahead by threads that share torch's between them."""
    threads = torch.get_num_threads()
    started = Barrier(workers + 1)

    def start() -> None:
        torch.set_num_threads(max(1, threads // workers))
        started.wait()

    pool = ThreadPoolExecutor(workers, initializer=start)
    try:
        try:
            for _ in range(workers):
                pool.submit(int)  # starts a thread
        except RuntimeError as error:
            started.abort()
            raise ValueError(f"workers={workers}: the system starts no so many threads; ask for fewer") from error
        started.wait()
        # What a thread sets counts for itself and for threads that are yet to come: those are not ours.
        torch.set_num_threads(threads)
        ahead: deque[Future] = deque()
        for task in tasks:
            ahead.append(pool.submit(run, *task))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
