"""Curves whose course is known."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from wired_nets import tagged

from faceattr.evaluation.baselines import Placement
from faceattr.evaluation.parts import PARTS
from faceattr.explain.faces import aligned_face
from faceattr.explain.probes import Halves, probe
from faceattr.explain.size import DRAWS, SHARES, Point, baseline, measure, read_points
from faceattr.models.anet import ANet
from faceattr.train.loop import save_model


def test_more_pictures_do_better():
    random = np.random.default_rng(0)
    tags = random.random((840, 1)) < 0.5
    people = np.arange(840) // 2
    # The tag hides in the sum of 40 features.
    features = random.normal(size=(840, 40))
    features += np.where(tags, 0.25, -0.25)
    pictures = tagged(tags, identities=people, attributes=["Male"])
    points = measure("a", partial(probe, features, pictures), pictures, Halves(np.arange(640), np.arange(640, 840)))
    assert [point.pictures for point in points] == [640 // 2**i for i in range(6)] and len(SHARES) == 6
    assert points[0].accuracy > points[-1].accuracy + 0.1 and points[0].accuracy > 0.85
    assert points[0].low == points[0].high == points[0].accuracy
    assert all(point.low < point.accuracy < point.high for point in points[-2:]) and DRAWS > 1


def test_too_few_pictures_are_left_out():
    tags = np.arange(80)[:, None] % 2 == 0
    pictures = tagged(tags, attributes=["Male"])
    learner = partial(probe, tags.astype(float), pictures)
    points = measure("a", learner, pictures, Halves(np.arange(40), np.arange(40, 80)))
    assert [point.pictures for point in points] == [40, 20, 10] and points[0].accuracy == 1


@pytest.mark.parametrize("name", ["facetracer", "panda"])
def test_baselines_learn_what_is_to_be_seen(name, tmp_path):
    """One tag is the colour of the mouth; the other is not in the picture."""
    random = np.random.default_rng(0)
    tags = random.random((96, 2)) < 0.5
    x0, y0, x1, y1 = PARTS["mouth"]
    pictures = replace(tagged(tags, attributes=["Male", "Young"]), folder=tmp_path)
    for picture, (red, _) in zip(pictures.names, tags, strict=True):
        pixels = np.full((218, 178, 3), 128, dtype=np.uint8)
        pixels[y0:y1, x0:x1] = (200, 40, 40) if red else (40, 40, 200)
        Image.fromarray(pixels).save(tmp_path / picture)
    learner = baseline(name, pictures, Placement(aligned_face(pictures)))
    seen, unseen = learner(Halves(np.arange(64), np.arange(64, 96)))
    assert seen["accuracy"] == 1 and unseen["accuracy"] < 0.8
    if name == "panda":
        unknown = replace(pictures, known=np.zeros_like(tags))
        with pytest.raises(ValueError, match="0.png: Male is not known; panda needs every tag"):
            baseline(name, unknown, Placement(aligned_face(pictures)))


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("method,accuracy,pictures,note\nPANDA-l,0.81,1000,x\nPANDA-l,0.85,8000,\n")
    assert read_points(path) == [Point("PANDA-l", 1000, 0.81, 0.81, 0.81), Point("PANDA-l", 8000, 0.85, 0.85, 0.85)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,pictures\na,1\n", "line 1: the columns method, pictures and accuracy are needed"),
        ("method,pictures,accuracy\na,1,0.5\nb,many,0.5\n", "line 3: pictures or accuracy is no number"),
        ("method,pictures,accuracy\na,1\n", "line 2: pictures or accuracy is no number"),
        ("method,pictures,accuracy\na,100,85\n", "line 2: needed are pictures from 1 on, an accuracy from 0 to 1"),
        ("method,pictures,accuracy\n", "has no row but the header"),
    ],
)
def test_wrong_csv(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read_points(path)


def test_json_of_evaluate(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"baselines": {"panda-l": {"training": 500, "mean": {"accuracy": 0.8}}}}))
    assert read_points(path) == [Point("panda-l", 500, 0.8, 0.8, 0.8)]
    for text, message in (("{}", "not what `faceattr evaluate"), ('{"baselines": {}}', "holds no baseline")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_points(path)
    with pytest.raises(ValueError, match="nothing.json: cannot be read"):
        read_points(tmp_path / "nothing.json")


def test_run(tmp_path):
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        read_points(tmp_path)
    save_model(ANet(features=4), tmp_path / "anet.safetensors", stage="tags", pictures=24005)
    (tmp_path / "log.csv").write_text(
        "step,figure,value\n10,validation_accuracy,0.7\n10,loss,3\n20,validation_accuracy,0.8\n20,loss,2\n"
    )
    assert read_points(tmp_path) == [Point("fine-tuned", 24005, 0.8, 0.8, 0.8)]
