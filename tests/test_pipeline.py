"""Photo to faces, on a checkpoint whose answers are known (small_checkpoint.py)."""

import io
import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkpoint import (
    ATTRIBUTES,
    BORDER,
    DISCS,
    NEUTRAL,
    SMILING,
    draw_photo,
    save_aged_checkpoint,
    save_small_checkpoint,
)

import faceattr
from faceattr.images import ImageError, load_photo
from faceattr.models.checkpoint import load_checkpoint
from faceattr.models.svm import LinearSVM
from faceattr.pipeline import Face, Prediction


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def disc_box(disc):
    x, y, diameter, _ = disc
    return np.array([x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2])


def on_disc(face, disc):
    """The box lies on the disc: its middle within a quarter of the diameter, about its size."""
    box, disc = np.array(face.box), disc_box(disc)
    middle = np.abs((box[:2] + box[2:]) / 2 - (disc[:2] + disc[2:]) / 2)
    return (middle < (disc[2] - disc[0]) / 4).all() and 0.7 < (box[3] - box[1]) / (disc[3] - disc[1]) < 1.4


def same(faces, others):
    assert [(face.box, face.score, face.labels, face.notes) for face in faces] == [
        (face.box, face.score, face.labels, face.notes) for face in others
    ]
    for face, other in zip(faces, others, strict=True):
        assert face.attributes == pytest.approx(other.attributes, abs=1e-5)
        np.testing.assert_allclose(face.features, other.features, rtol=1e-4, atol=1e-5)


class TestPredict:
    def test_faces_and_attributes(self, model):
        faces = model.predict(draw_photo(DISCS))
        assert len(faces) == 2 and 1 >= faces[0].score >= faces[1].score > 0.5
        by_place = sorted(faces, key=lambda face: face.box[0])
        for face, disc, smiles in zip(by_place, DISCS, (False, True), strict=True):
            assert on_disc(face, disc)
            assert tuple(face.attributes) == ATTRIBUTES
            assert (face.attributes["Smiling"] > 0.95) is smiles
            assert face.labels == (("Smiling",) if smiles else ("Frowning",))
            assert face.attributes["Smiling"] + face.attributes["Frowning"] == pytest.approx(1, abs=1e-5)
            # All four features are the mean of green, which is the disc's.
            np.testing.assert_allclose(face.features, np.full(4, disc[3][1] / 255), atol=0.02)
            assert face.features.dtype == np.float32

    def test_no_face(self, model):
        assert model.predict(draw_photo([])) == []

    @pytest.mark.parametrize("size", [(1, 1), (20000, 20), (20, 20000), (3, 500)])
    def test_shapes_that_hold_no_face(self, model, size):
        assert model.predict(Image.new("RGB", size, (128, 128, 128))) == []

    def test_every_kind_of_source(self, model, tmp_path):
        image = draw_photo(DISCS)
        pixels = np.asarray(image)
        path = tmp_path / "photo.png"
        image.save(path)
        expected = model.predict(image)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        for source in (path, str(path), path.read_bytes(), pixels, tensor, tensor / 255):
            same(model.predict(source), expected)

    def test_boxes_are_in_the_upright_original(self, model):
        # Large enough to be reduced by 2 for the nets, and stored turned by a quarter.
        size, disc = (3203, 2401), (1200, 900, 320, SMILING)
        image = draw_photo([disc], size)
        exif = Image.Exif()
        exif[0x0112] = 6
        data = png(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
        assert load_photo(data).scale == 2
        (face,) = model.predict(data)
        assert on_disc(face, disc) and face.labels == ("Smiling",)

    def test_small_faces_say_so(self, model):
        (small,) = model.predict(draw_photo([DISCS[0]]))
        (large,) = model.predict(draw_photo([(400, 400, 128, NEUTRAL)], (1280, 960)))
        assert small.notes == ("small face, attributes uncertain",) and large.notes == ()

    def test_low_scores_say_so(self, tmp_path, model):
        photo = draw_photo([(400, 400, 128, NEUTRAL)], (1280, 960))
        odds = (lambda score: score / (1 - score))(model.predict(photo)[0].score)
        for factor, notes in ((0.45, ()), (0.55, ("low score, perhaps no face",))):
            threshold = factor * odds / (1 + factor * odds)
            save_small_checkpoint(tmp_path / "w.safetensors", score_threshold=threshold)
            (face,) = faceattr.load(tmp_path / "w.safetensors").predict(photo)
            assert face.notes == notes

    def test_anet_has_its_say(self, tmp_path):
        # A plane that believes in what is green: the neutral disc, which the LNets like better, is no face to it.
        face = LinearSVM(1, 5)
        with torch.no_grad():
            face.weight[0, 0], face.bias[0] = 40, -7
        save_small_checkpoint(tmp_path / "green.safetensors", face=face)
        model = faceattr.load(tmp_path / "green.safetensors")
        photo = draw_photo(DISCS)
        (found,) = model.predict(photo)
        assert on_disc(found, DISCS[1]) and found.score == pytest.approx(1 / (1 + np.exp(7 - 40 * 90 / 255)), abs=0.02)
        assert [(each.box, each.score) for each in model.detect(photo)] == [(found.box, found.score)]
        # Given boxes are not doubted.
        kept = model.predict(photo, [[0, 0, 50, 50], found.box])
        assert [each.score for each in kept] == [None, None] and kept[1].labels == found.labels

    def test_beside_a_face_less_is_enough(self, tmp_path, model):
        scores = [face.score for face in model.detect(draw_photo(DISCS))]
        assert scores == sorted(scores, reverse=True) and scores[0] > scores[1] + 1e-3
        between = sum(scores) / 2
        options = {"score_threshold": between, "company_threshold": scores[1] - 1e-3}
        for name, more, photo, count in (
            ("alone", {}, DISCS, 2),
            ("strict", {"company_threshold": between}, DISCS, 1),
            ("none", {"score_threshold": scores[0] + 1e-3}, DISCS, 0),
        ):
            save_small_checkpoint(tmp_path / f"{name}.safetensors", **(options | more))
            faces = faceattr.load(tmp_path / f"{name}.safetensors")
            assert len(faces.predict(draw_photo(photo))) == count, name
        # Whoever asks for a score gets no lower ones.
        faces = faceattr.load(tmp_path / "alone.safetensors", min_score=between)
        assert len(faces.predict(draw_photo(DISCS))) == 1

    def test_no_face_lies_in_another(self, model):
        face = model.detect(draw_photo(DISCS))[0]
        x0, y0, x1, y1 = 100.0, 100.0, 200.0, 240.0
        boxes = [
            (x0, y0, x1, y1),
            (x0 - 100, y0 - 140, x1 + 100, y1 + 140),  # its surroundings
            (x0 + 30, y0 + 80, x0 + 70, y0 + 120),  # its mouth
            (x1 - 25, y0, x1 + 75, y1),  # a neighbour's, a quarter of which it covers
        ]
        scores = [0.9, 0.8, 0.95, 0.7]
        faces = [replace(face, box=box, frame=box, score=score) for box, score in zip(boxes, scores, strict=True)]
        kept = [face.score for face in model._select(faces)]
        assert kept == [0.95, 0.7]

    def test_frames_are_put_right(self, tmp_path, model):
        photo, crops = draw_photo(DISCS), model._crops
        before = model.predict(photo)
        correction = (0.05, -0.1, math.log(1.2))
        save_small_checkpoint(tmp_path / "moved.safetensors", correction=correction)
        moved = faceattr.load(tmp_path / "moved.safetensors")
        faces = moved.predict(photo)
        for face, old in zip(faces, before, strict=True):
            assert face.frame == pytest.approx(crops.corrected(old.frame, correction), abs=1e-3)
            assert face.box == face.frame and face.score == old.score
        # What is said of a face is said of its new frame; a face that comes back stays where it is.
        same(model.predict(photo, [face.frame for face in faces]), [replace(face, score=None) for face in faces])
        (back,) = moved.iter_predict([photo], [faces])
        assert [face.frame for face in back.faces] == [face.frame for face in faces]
        np.testing.assert_array_equal(back.faces[0].features, faces[0].features)
        # Where that would lead out of the photo, the frame stays.
        wide = {"centre": [0.0, 0.0], "height": 2.0, "positions": [1, 1]}
        save_small_checkpoint(tmp_path / "out.safetensors", correction=(-1000.0, 0.0, 0.0), crop=wide)
        (face,) = faceattr.load(tmp_path / "out.safetensors").detect(draw_photo([(20, 120, 32, NEUTRAL)]))
        (old,) = model.detect(draw_photo([(20, 120, 32, NEUTRAL)]))
        assert (face.box, face.frame) == (old.box, old.frame)

    def test_two_boxes_of_one_face_are_one(self, model):
        face = model.detect(draw_photo(DISCS))[0]
        boxes = [(100.0, 100.0, 200.0, 240.0), (150.0, 100.0, 250.0, 240.0), (152.0, 180.0, 252.0, 320.0)]
        faces = [replace(face, box=box, frame=box, score=0.9 - i / 10) for i, box in enumerate(boxes)]
        assert [face.box for face in model._select(faces)] == [boxes[0], boxes[2]]

    def test_more_patch_positions(self, tmp_path, model):
        # The disc is wider than the crop: at every position of the field ANet sees the same.
        save_small_checkpoint(tmp_path / "dense.safetensors", positions=(2, 3))
        (face,) = faceattr.load(tmp_path / "dense.safetensors").predict(draw_photo([DISCS[1]]))
        np.testing.assert_allclose(face.features, np.full(4, SMILING[1] / 255), atol=0.02)

    def test_detect_gives_boxes_alone(self, model):
        faces, predicted = model.detect(draw_photo(DISCS)), model.predict(draw_photo(DISCS))
        assert [(face.box, face.score) for face in faces] == [(face.box, face.score) for face in predicted]
        assert all(face.attributes == {} and face.labels == () and face.features is None for face in faces)

    def test_unreadable_photo(self, model, tmp_path):
        with pytest.raises(ImageError, match="nothing.jpg: no such file"):
            model.predict(tmp_path / "nothing.jpg")


class TestBatch:
    def photos(self):
        random = np.random.default_rng(0)
        photos = []
        for number in range(9):
            width, height = random.integers(200, 700, 2).tolist()
            side = max(width, height)
            discs = [
                (
                    random.uniform(0.15, 0.35) * width + k * width / 2,
                    random.uniform(0.3, 0.7) * height,
                    side / 10,
                    colour,
                )
                for k, colour in enumerate((NEUTRAL, SMILING)[: number % 3])
            ]
            photos.append(draw_photo(discs, (width, height)))
        return photos

    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_equals_single_photos(self, model, batch_size):
        photos = self.photos()
        singles = [model.predict(photo) for photo in photos]
        assert sum(map(len, singles)) >= 6
        for prediction, single in zip(model.iter_predict(photos, batch_size=batch_size), singles, strict=True):
            same(prediction.faces, single)

    def test_list_gives_a_list_of_lists(self, model):
        photos = self.photos()
        batch = model.predict(photos)
        for faces, photo in zip(batch, photos, strict=True):
            same(faces, model.predict(photo))
        assert model.predict([]) == []
        assert [len(faces) for faces in model.detect(tuple(photos))] == [len(faces) for faces in batch]

    def test_a_bad_photo_does_not_stop_the_others(self, model):
        with pytest.warns(UserWarning, match="missing.jpg: no such file"):
            first, bad, last = model.predict([draw_photo(DISCS), "missing.jpg", draw_photo([DISCS[1]])])
        assert (len(first), bad, len(last)) == (2, [], 1)

    def test_stream_records(self, model, tmp_path):
        draw_photo(DISCS).save(tmp_path / "good.png")
        (tmp_path / "bad.jpg").write_text("text")
        paths = [tmp_path / "good.png", tmp_path / "bad.jpg", tmp_path / "good.png"]
        good, bad, again = model.iter_predict(paths, keep_photos=True)
        assert bad == Prediction(str(tmp_path / "bad.jpg"), error=bad.error)
        assert bad.error.startswith(f"{tmp_path / 'bad.jpg'}: not a picture")
        assert bad.to_dict()["faces"] == [] and bad.to_dict()["width"] is None
        assert (good.image, good.width, good.height, good.error) == (str(tmp_path / "good.png"), 320, 240, None)
        same(good.faces, again.faces)
        assert good.photo.pixels.shape == (240, 320, 3)
        for response in good.response_maps.values():
            assert response.shape == (15, 20)
            y, x = np.unravel_index(response.argmax(), response.shape)
            peak = np.array([x + 0.5, y + 0.5]) * 16
            assert min(np.abs(peak - disc[:2]).max() for disc in DISCS) < 16

    def test_stream_reads_only_a_little_ahead(self, model):
        pulled = itertools.count()
        photo = draw_photo([DISCS[0]])
        stream = model.iter_predict((photo for _ in pulled), batch_size=2, workers=2)
        assert len([next(stream) for _ in range(10)]) == 10
        stream.close()
        assert next(pulled) <= 20

    def test_memory_does_not_grow_with_the_number_of_photos(self, weights, tmp_path):
        path = tmp_path / "photo.jpg"
        draw_photo([(250, 190, 75, SMILING)], (1000, 750)).save(path)
        script = """
import itertools, resource, sys
import faceattr, torch
torch.set_num_threads(1)
model = faceattr.load(sys.argv[1], device="cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for number, prediction in enumerate(model.iter_predict(itertools.repeat(sys.argv[2], 200))):
    assert len(prediction.faces) == 1
    if number == 50:
        before = peak()
print(peak() - before)
"""
        command = [sys.executable, "-c", script, weights, path]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        # 150 more photos are 320 MiB of pixels; what is left is the allocator's.
        assert float(result.stdout) < 24

    def test_memory_does_not_grow_with_the_number_of_sizes(self, weights, tmp_path):
        script = """
import ctypes, itertools, sys
import faceattr, numpy as np, torch
torch.set_num_threads(1)
class Blocks(ctypes.Structure):  # glibc's mallinfo2
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]
library = ctypes.CDLL(None)
if not hasattr(library, "mallinfo2"):
    sys.exit(77)
library.mallinfo2.restype = Blocks
in_use = lambda: library.mallinfo2().field7 + library.mallinfo2().field4
model = faceattr.load(sys.argv[1], device="cpu")
random = np.random.default_rng(0)
photos = (np.zeros((*random.integers(20, 200, 2), 3), np.uint8) for _ in itertools.count())
for number, prediction in enumerate(model.iter_predict(photos, workers=1), 1):
    assert prediction.error is None
    if number == 150:
        before = in_use()
    if number == 350:
        break
print((in_use() - before) / 2**20)
"""
        environment = {key: value for key, value in os.environ.items() if not key.endswith("_CACHE_CAPACITY")}
        command = [sys.executable, "-c", script, weights]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        if result.returncode == 77:
            pytest.skip("another C library than glibc")
        assert result.returncode == 0, result.stderr
        # Were it kept, what is compiled for 200 more sizes would take 9 MiB.
        assert float(result.stdout) < 4


class TestBoxes:
    def test_skip_localisation(self, model):
        photo = draw_photo(DISCS)
        boxes = np.stack([disc_box(disc) for disc in DISCS])
        neutral, smiling = model.predict(photo, boxes=boxes)
        assert neutral.score is None and neutral.box == tuple(boxes[0])
        assert (neutral.labels, smiling.labels) == (("Frowning",), ("Smiling",))
        same(model.predict(photo, boxes=boxes.tolist()), [neutral, smiling])
        same(model.predict(photo, boxes=torch.from_numpy(boxes)), [neutral, smiling])

    def test_none_given(self, model):
        assert model.predict(draw_photo(DISCS), boxes=[]) == []

    def test_list(self, model):
        photo = draw_photo(DISCS)
        given, found = model.predict([photo, photo], boxes=[[disc_box(DISCS[1])], None])
        assert [face.score for face in given] == [None] and len(found) == 2

    def test_clipped_to_the_photo(self, model):
        (face,) = model.predict(draw_photo(DISCS), boxes=[[-50, -50, 1000, 1000]])
        assert face.box == (0, 0, 320, 240)

    @pytest.mark.parametrize(
        ("boxes", "match"),
        [
            ([1, 2, 3, 4], r"boxes have shape \[4\], needed is \[K, 4\]"),
            ([[1, 2, 3]], r"boxes have shape \[1, 3\]"),
            ([[20, 20, 10, 30]], "has no area"),
            ([[400, 20, 500, 30]], "has no area in the photo of 320 x 240"),
            ([[0, 0, float("nan"), 30]], "has no area"),
        ],
    )
    def test_wrong(self, model, boxes, match):
        with pytest.raises(ValueError, match=match):
            model.predict(draw_photo(DISCS), boxes=boxes)

    def test_wrong_number(self, model):
        with pytest.raises(ValueError, match="boxes: 1 entries for 2 photos"):
            model.predict([draw_photo([]), draw_photo([])], boxes=[None])


def test_faces_that_come_back_are_described_as_when_they_were_found(model):
    photo = draw_photo(BORDER)
    faces = model.predict(photo)
    assert faces[0].box[0] == 0 > faces[0].frame[0]
    [record] = model.iter_predict([photo], [faces])
    assert [face.attributes for face in record.faces] == [face.attributes for face in faces]
    assert [(face.box, face.frame) for face in record.faces] == [(face.box, face.frame) for face in faces]
    # A box of somebody's own is what it is, and so is what there is to see in it.
    [own] = model.predict(photo, [faces[0].box])
    assert own.frame == own.box and abs(own.attributes["Smiling"] - faces[0].attributes["Smiling"]) > 0.2


class TestStreamsGoOn:
    """One bad item is one record with an error."""

    def test_bad_boxes(self, model):
        photo = draw_photo(DISCS)
        good = [disc_box(DISCS[1])]
        bad = [[[1, 2, 3]], [[20, 20, 10, 30]], "box", [[1, 2], [3]], [[None] * 4], torch.empty(1, 4, device="meta")]
        records = list(model.iter_predict([photo] * 8, [good, *bad, good], batch_size=2))
        assert [record.error is None for record in records] == [True, *[False] * 6, True]
        assert [len(record.faces) for record in records] == [1, *[0] * 6, 1]
        assert all("PIL image: box" in record.error for record in records[1:7])
        with pytest.warns(UserWarning, match="has no area"):
            assert [len(faces) for faces in model.predict([photo, photo], boxes=[bad[1], good])] == [0, 1]

    def test_boxes_of_next_to_no_area(self, model):
        photo = draw_photo(DISCS)
        boxes = [[10, 10, 10 + 1e-9, 10 + 1e-9], [0, 0, 1e-300, 1e-300], [319.999, 239.999, 320, 240], [5, 5, 5.5, 200]]
        for box in boxes:
            (record,) = model.iter_predict([photo], [[box]])
            assert (record.error is None) == (len(record.faces) == 1)

    def test_bad_tensors(self, model):
        good = torch.from_numpy(np.asarray(draw_photo(DISCS)).copy()).permute(2, 0, 1)
        sources = [good, good.to_sparse(), torch.zeros(3, 8, 8, device="meta"), None, b"", good]
        errors = [record.error for record in model.iter_predict(sources)]
        assert [error is None for error in errors] == [True, False, False, False, False, True]

    def test_what_fails_in_a_batch_fails_alone(self, model, monkeypatch):
        photos = [draw_photo(DISCS), draw_photo([DISCS[1]]), draw_photo(DISCS)]
        describe = type(model)._describe

        def short_of_memory(self, crops):
            if len(crops) > 1:
                raise RuntimeError("out of memory")
            return describe(self, crops)

        monkeypatch.setattr(type(model), "_describe", short_of_memory)
        assert [len(record.faces) for record in model.iter_predict(photos)] == [2, 1, 2]
        monkeypatch.setattr(type(model), "_describe", lambda self, crops: 1 / 0)
        (record,) = model.iter_predict(photos[:1])
        assert "failed (ZeroDivisionError: division by zero)" in record.error and record.faces == []

    def test_what_is_proposed_is_judged_alone_where_memory_is_short(self, model, monkeypatch):
        photos, responses = [draw_photo(DISCS), draw_photo([DISCS[1]])], type(model._anet).responses
        expected = [model.predict(photo) for photo in photos]

        def short_of_memory(self, images):
            if len(images) > 1:
                raise RuntimeError("out of memory")
            return responses(self, images)

        monkeypatch.setattr(type(model._anet), "responses", short_of_memory)
        for record, faces in zip(model.iter_predict(photos, detect_only=True), expected, strict=True):
            assert [face.box for face in record.faces] == [face.box for face in faces] and record.error is None

    def test_one_photo_is_no_list(self, model, tmp_path):
        photo = draw_photo([])
        pixels = np.asarray(photo)
        for source in ("photo.jpg", tmp_path, b"bytes", photo, pixels, torch.zeros(3, 8, 8)):
            with pytest.raises(ValueError, match="takes photos, not one"):
                model.iter_predict(source)
        assert len(list(model.iter_predict(np.stack([pixels] * 2)))) == 2

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
    def test_counts(self, model, options):
        with pytest.raises(ValueError, match="=0: at least 1 is needed"):
            model.iter_predict([], **options)

    def test_more_workers_than_threads(self, model, monkeypatch):
        import threading

        start, started = threading.Thread.start, []

        def scarce(self):
            if len(started) == 3:
                raise RuntimeError("can't start new thread")
            started.append(self)
            start(self)

        monkeypatch.setattr(threading.Thread, "start", scarce)
        with pytest.raises(ValueError, match="workers=9: the system starts no so many threads"):
            list(model.iter_predict([draw_photo([])], workers=9))

    def test_records_hold_no_pixels(self, model):
        (record,) = model.iter_predict([draw_photo(DISCS)])
        assert len(record.faces) == 2
        assert record.photo is None and record.response_maps == {} and record.windows is None


class TestOptions:
    def faces(self, weights, **options):
        return faceattr.load(weights, device="cpu", **options).predict(draw_photo(DISCS))

    def test_attributes_and_exclude(self, weights):
        full = self.faces(weights)
        for options in ({"attributes": ["Present", "Smiling"]}, {"exclude": ["Frowning"]}):
            for face, reference in zip(self.faces(weights, **options), full, strict=True):
                assert list(face.attributes) == ["Smiling", "Present"]  # in the checkpoint's order
                assert face.attributes == {name: reference.attributes[name] for name in face.attributes}
                assert set(face.labels) == set(reference.labels) - {"Frowning"}

    def test_thresholds(self, weights):
        # "Present" has probability 0.9933 (the sigmoid of 5), below its threshold for accuracy, above the balanced one.
        assert all("Present" not in face.labels for face in self.faces(weights))
        assert all("Present" in face.labels for face in self.faces(weights, thresholds="balanced"))

    def test_min_score_and_max_faces(self, weights):
        best, second = self.faces(weights)
        between = (best.score + second.score) / 2
        assert self.faces(weights, min_score=between) == [best]
        assert self.faces(weights, max_faces=1) == [best]

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"attributes": ["smiling"]}, "attribute 'smiling' is unknown to these weights; choose from Smiling"),
            ({"exclude": ["zzz"]}, "attribute 'zzz' is unknown.*Smiling, Frowning, Present"),
            ({"attributes": ["Smiling"], "exclude": ["Present"]}, "give one of them, not both"),
            ({"thresholds": "best"}, "thresholds='best': these weights have accuracy, balanced"),
            ({"min_score": 2}, "min_score=2: a score is between 0 and 1"),
            ({"attributes": "Smiling"}, r"attributes='Smiling': a list of names is needed, \['Smiling'\]"),
            ({"exclude": "Smiling"}, "exclude='Smiling': a list of names"),
            ({"attributes": []}, "none is left; for boxes alone use detect"),
            ({"max_faces": 0}, "max_faces=0: ask for at least one face"),
            ({"device": "tpu9"}, "device 'tpu9' cannot be used.*use cpu, cuda"),
        ],
    )
    def test_wrong(self, weights, options, match):
        with pytest.raises(ValueError, match=match):
            faceattr.load(weights, **{"device": "cpu", **options})

    def test_bfloat16(self, weights):
        faces = self.faces(weights, dtype=torch.bfloat16)
        assert sorted(face.labels for face in faces) == [("Frowning",), ("Smiling",)]

    def test_auto_device(self, weights):
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert faceattr.load(weights).device.type == expected

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_missing_device(self, weights):
        with pytest.raises(ValueError, match="device 'cuda' cannot be used"):
            faceattr.load(weights, device="cuda")


class TestWeights:
    def test_folder(self, weights):
        assert faceattr.load(weights.parent, device="cpu").attributes == ATTRIBUTES

    def test_folder_without_and_with_several(self, weights, tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path}: no .safetensors file"):
            faceattr.load(tmp_path)
        for name in "ab":
            (tmp_path / f"{name}.safetensors").write_bytes(weights.read_bytes())
        with pytest.raises(ValueError, match="holds 2 .safetensors files; give one of them"):
            faceattr.load(tmp_path)

    @pytest.mark.parametrize("damage", ["missing", "text", "truncated", "pickle", "flipped bit"])
    def test_unusable(self, weights, tmp_path, damage):
        path, data = tmp_path / "w.safetensors", bytearray(weights.read_bytes())
        if damage == "text":
            path.write_text("no weights")
        elif damage == "truncated":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "pickle":
            torch.save({"a": torch.zeros(3)}, path)
        elif damage == "flipped bit":
            data[-3] ^= 1
            path.write_bytes(data)
        with pytest.raises(ValueError, match=str(path)):
            faceattr.load(path)

    def test_preprocessing_of_another_version(self, weights):
        checkpoint = load_checkpoint(weights)
        checkpoint.metadata["preprocessing"]["crop"]["angle"] = 5
        with pytest.raises(ValueError, match="preprocessing does not fit this version of faceattr.*angle"):
            faceattr.FaceAttributes(checkpoint)


class TestFace:
    def test_to_dict(self):
        face = Face((1.234, 2, 3, 4.567), 0.98765, {"Smiling": 0.123456}, ("Smiling",), np.zeros(4), ("small",))
        assert face.to_dict() == {
            "box": [1.23, 2, 3, 4.57],
            "score": 0.9877,
            "attributes": {"Smiling": 0.1235},
            "labels": ["Smiling"],
            "notes": ["small"],
        }

    def test_is_frozen(self):
        with pytest.raises(AttributeError):
            Face((0, 0, 1, 1), 1.0).score = 0.5


def test_importing_the_package_does_not_import_torch():
    script = "import sys, faceattr; print(faceattr.__version__, 'torch' in sys.modules, 'load' in dir(faceattr))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert result.stdout.split() == [faceattr.__version__, "False", "True"], result.stderr


def test_faces_are_found_without_what_torch_traces_with():
    # With sympy half of a start's time and a tenth of the memory would be torch's symbolic shapes.
    script = "import sys, faceattr, numpy; faceattr.load().predict(numpy.zeros((99, 99, 3), 'uint8'))"
    script += "; print('sympy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert result.stdout.split() == ["False"], result.stderr


def test_unknown_name_in_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = faceattr.nothing


@pytest.fixture(scope="module")
def of_ages(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ages.safetensors"
    save_aged_checkpoint(path)
    return path


def test_ages_are_told_by_weights_that_know_them(of_ages, weights, model):
    photo = draw_photo(DISCS)
    aged = faceattr.load(of_ages, device="cpu")
    assert aged.tells_age and not model.tells_age
    faces = {face.labels[0]: face for face in aged.predict(photo)}
    assert faces["Frowning"].age.years == pytest.approx(35, abs=0.1) and faces["Frowning"].age.low > 30
    assert faces["Smiling"].age.years == pytest.approx(45, abs=0.1) and faces["Smiling"].age.high < 50
    assert all(face.age is None for face in model.predict(photo))
    assert all(face.age is None for face in aged.detect(photo))
    assert faces["Smiling"].to_dict()["age"]["years"] == 45.0


def test_an_age_is_chosen_like_an_attribute(of_ages, weights):
    photo = draw_photo(DISCS)
    for options in ({"exclude": ["age"]}, {"attributes": ["Smiling"]}):
        model = faceattr.load(of_ages, device="cpu", **options)
        assert not model.tells_age and [face.age for face in model.predict(photo)] == [None, None]
    alone = faceattr.load(of_ages, device="cpu", attributes=["age"])
    face = alone.predict(photo)[0]
    assert face.attributes == {} and face.labels == () and face.age is not None
    with pytest.raises(ValueError, match="attribute 'age' is unknown to these weights"):
        faceattr.load(weights, device="cpu", exclude=["age"])
