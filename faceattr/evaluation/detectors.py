"""Face detectors that learnt from boxes, to set beside what learnt from tags: pip install "faceattr[detectors]".

Each comes from PyPI with its weights inside. A detector is called with a photo, uint8 [H, W, 3], and gives boxes
[K, 5]: x0, y0, x1, y1 in its pixels and a score, the best first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from faceattr.evaluation.boxes import overlaps

NEAR = 0.2
"""Least overlap of a box with a face for it to tell how the two are framed."""

Detector = Callable[[np.ndarray], np.ndarray]


def haar() -> Detector:
    """OpenCV's cascade of boosted Haar features (Viola and Jones 2001; Lienhart and Maydt 2002)."""
    import cv2

    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def detect(pixels: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        found, _, scores = cascade.detectMultiScale3(grey, 1.1, 3, outputRejectLevels=True)
        return _sorted([(x, y, x + w, y + h, score) for (x, y, w, h), score in zip(found, scores, strict=True)])

    return detect


def hog() -> Detector:
    """dlib's histograms of gradients under five linear filters (Felzenszwalb 2010; King 2015)."""
    import dlib

    detector = dlib.get_frontal_face_detector()

    def detect(pixels: np.ndarray) -> np.ndarray:
        # Enlarged once: its smallest face is 80 pixels.
        found, scores, _ = detector.run(np.ascontiguousarray(pixels), 1, 0.0)
        return _sorted([(r.left(), r.top(), r.right(), r.bottom(), s) for r, s in zip(found, scores, strict=True)])

    return detect


def blazeface() -> Detector:
    """MediaPipe's BlazeFace, the net for faces at any distance (Bazarevsky et al. 2019)."""
    from mediapipe.python.solutions.face_detection import FaceDetection

    detector = FaceDetection(model_selection=1, min_detection_confidence=0.3)

    def detect(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        rows = []
        for face in detector.process(np.ascontiguousarray(pixels)).detections or ():
            box = face.location_data.relative_bounding_box
            edges = (
                box.xmin * width,
                box.ymin * height,
                (box.xmin + box.width) * width,
                (box.ymin + box.height) * height,
            )
            rows.append((*edges, face.score[0]))
        return _sorted(rows)

    return detect


DETECTORS = {"haar": haar, "hog": hog, "blazeface": blazeface}


def load_detector(name: str) -> Detector:
    """A detector of DETECTORS; ValueError where its package is missing."""
    try:
        return DETECTORS[name]()
    except ImportError as error:
        problem = f"needs {error.name}, which is missing; pip install 'faceattr[detectors]'"
        raise ValueError(f"--detector {name}: {problem}") from None


def _sorted(rows: Sequence[Sequence[float]]) -> np.ndarray:
    found = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return found[np.argsort(-found[:, 4], kind="stable")]


def framing(boxes: Sequence[np.ndarray], faces: Sequence[np.ndarray]) -> np.ndarray:
    """How a method's boxes have to be moved and stretched to frame faces as these are marked: [4], medians over photos
    of how far the face's middle lies from the box's, in the box's width and height, and of width over width and height
    over height. boxes, faces: [K, 4] and [M, 4] a photo; the pairs that overlap most count, those by NEAR at least."""
    pairs = []
    for found, marked in zip(boxes, faces, strict=True):
        if len(found) and len(marked):
            overlap = overlaps(marked, found)
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            if overlap[row, column] >= NEAR:
                (x, y, w, h), (u, v, s, t) = _middles(found[column]), _middles(marked[row])
                pairs.append(((u - x) / w, (v - y) / h, s / w, t / h))
    return np.median(pairs, axis=0) if pairs else np.array([0.0, 0.0, 1.0, 1.0])


def framed_alike(boxes: Sequence[np.ndarray], faces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every box as faces are marked here: each half of the photos by the :func:`framing` of the other half.

    Detectors frame eyes to chin, crown to chin or the whole head; without this a recall at an overlap compares how
    boxes were drawn in each one's training data.
    """
    framings = [framing(boxes[1 - half :: 2], faces[1 - half :: 2]) for half in (0, 1)]
    result = []
    for number, found in enumerate(boxes):
        right, down, wider, higher = framings[number % 2]
        x, y, w, h = _middles(found).T if len(found) else np.zeros((4, 0))
        x, y, w, h = x + right * w, y + down * h, w * wider, h * higher
        result.append(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1))
    return result


def _middles(boxes: np.ndarray) -> np.ndarray:
    """Middles and sides, x, y, w, h, of boxes [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return np.concatenate([(low + high) / 2, high - low], -1)
