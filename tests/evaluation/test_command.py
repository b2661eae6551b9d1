"""`faceattr evaluate` on pictures whose figures are known: discs that smile in so far as they are green."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import NEUTRAL, SMILING, draw_photo, save_aged_checkpoint

from faceattr.attributes import ATTRIBUTES, TABLE_1
from faceattr.cli import main
from faceattr.models.anet import ANet
from faceattr.train.loop import save_model

COLUMN = ATTRIBUTES.index("Smiling")


@pytest.fixture(scope="module")
def weights(weights):
    return str(weights)


@pytest.fixture
def celeba(tmp_path):
    """Six pictures of partition 2, two of each of three people, and one of partition 0. One smile is tagged wrongly."""
    smiling = [True, False, True, False, True, False, True]
    tagged = [True, False, True, False, True, True, True]
    names = [f"{i:06}.jpg" for i in range(1, 8)]
    rows = [" ".join("1" if column == COLUMN and tag else "-1" for column in range(40)) for tag in tagged]
    header = ["7", " ".join(ATTRIBUTES)]
    lines = [f"{name} {row}" for name, row in zip(names, rows, strict=True)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join([*header, *lines]))
    partitions = ["2"] * 6 + ["0"]
    for file, values in (("list_eval_partition", partitions), ("identity_CelebA", "1122334")):
        text = "\n".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        (tmp_path / f"{file}.txt").write_text(text)
    for folder in ("img_align_celeba", "img_celeba"):
        (tmp_path / folder).mkdir()
    for name, smiles in zip(names[:6], smiling, strict=False):
        colour = SMILING if smiles else NEUTRAL
        Image.new("RGB", (178, 218), colour).save(tmp_path / "img_align_celeba" / name, quality=95)
        discs = [(100, 100, 32, colour)] if name != "000003.jpg" else []
        draw_photo(discs).save(tmp_path / "img_celeba" / name, quality=95)
    return tmp_path


def run(capsys, weights, *arguments):
    status = main(["evaluate", *map(str, arguments), "--weights", str(weights), "--device", "cpu", "--quiet"])
    return status, capsys.readouterr()


def test_aligned_faces(celeba, weights, capsys, tmp_path):
    predictions = tmp_path / "p.csv"
    status, captured = run(
        capsys, weights, "celeba", "--root", celeba, "--partition", 2, "--crop", "aligned", "--format", "json",
        "--predictions", predictions,
    )  # fmt: skip
    result = json.loads(captured.out)
    assert status == 0 and captured.err == ""
    assert result["n"] == 6 and result["not_found"] == 0
    assert 0 < result["ece_of_calibrated"] < 1
    assert set(result["mean"]) == {"accuracy", "balanced_accuracy", "auc", "ece"}
    assert list(result["attributes"]) == ["Smiling"]
    smiling = result["attributes"]["Smiling"]
    assert smiling["accuracy"] == pytest.approx(5 / 6) and smiling["majority"] == pytest.approx(4 / 6)
    assert smiling["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2) and smiling["threshold"] == 0.5
    low, high = smiling["intervals"]["accuracy"]
    # People are right in 2 of 2 (two of them) or in 1 of 2.
    assert (low, high) == (0.5, 1)
    assert result["table_1"]["LNets+ANet"]["Smiling"] == TABLE_1["CelebA"]["LNets+ANet"][COLUMN] / 100
    rows = list(csv.DictReader(predictions.open()))
    assert [row["image"] for row in rows] == [f"{i:06}.jpg" for i in range(1, 7)] and set(rows[0]) == {
        "image",
        "Smiling",
    }
    assert [float(row["Smiling"]) > 0.5 for row in rows] == [True, False, True, False, True, False]


def test_whole_photos_and_one_without_a_found_face(celeba, weights, capsys, tmp_path):
    status, captured = run(
        capsys, weights, "celeba", "--root", celeba, "--crop", "detect", "--format", "json", "--predictions",
        tmp_path / "p.csv",
    )  # fmt: skip
    result = json.loads(captured.out)
    assert status == 0 and result["n"] == 6 and result["not_found"] == 1
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert float(rows[2]["Smiling"]) == pytest.approx(4 / 6, abs=1e-6)  # the share of smiles
    assert result["mean"]["accuracy"] == pytest.approx(5 / 6)
    _, captured = run(capsys, weights, "celeba", "--root", celeba, "--crop", "detect")
    assert "no face found in 1" in captured.out


def test_table(celeba, weights, capsys):
    status, captured = run(capsys, weights, "celeba", "--root", celeba, "--thresholds", "0.5")
    header, smiling, mean, *_ = captured.out.splitlines()
    assert header.split()[-5:] == ["majority", "FaceTracer*", "PANDA-w*", "PANDA-l*", "LNets+ANet*"]
    assert smiling.split()[:2] == ["Smiling", "0.833"] and mean.startswith("mean of 1")
    assert "* accuracy in Table 1" in captured.out


def test_own_csv_and_thresholds(weights, capsys, tmp_path):
    for name, colour in (("a.png", SMILING), ("b.png", NEUTRAL), ("c.png", NEUTRAL)):
        # The face fills the left upper quarter.
        picture = Image.new("RGB", (200, 200), (0, 255, 0))
        picture.paste(Image.new("RGB", (100, 100), colour))
        picture.save(tmp_path / name)
    (tmp_path / "tags.csv").write_text("image,Present,Smiling,Tall\na.png,1,1,0\nb.png,1,0,0\nc.png,0,,1\n")
    arguments = ("csv", "--root", tmp_path, "--crop", "aligned", "--face", "0,0,0.5,0.5", "--format", "json")
    _, captured = run(capsys, weights, *arguments)
    result = json.loads(captured.out)
    assert list(result["attributes"]) == ["Smiling", "Present"]  # in the weights' order; Tall is unknown to them
    assert result["attributes"]["Smiling"]["n"] == 2 and result["attributes"]["Smiling"]["accuracy"] == 1
    # All have probability 0.993: under the threshold for accuracy, 0.995, over that for balanced accuracy, 0.4.
    assert result["attributes"]["Present"]["accuracy"] == pytest.approx(1 / 3)
    _, captured = run(capsys, weights, *arguments, "--thresholds", "balanced")
    present = json.loads(captured.out)["attributes"]["Present"]
    assert present["accuracy"] == pytest.approx(2 / 3) and present["threshold"] == 0.4
    assert result["intervals"] is None and result["table_1"] == {}


@pytest.fixture
def people(tmp_path):
    """Who smiles is 45, who does not 35 to weights that tell ages; in d nobody is to be seen."""
    save_aged_checkpoint(tmp_path / "ages.safetensors")
    for name, discs in (("a.png", [(100, 100, 32, SMILING)]), ("b.png", [(100, 100, 32, NEUTRAL)]), ("d.png", [])):
        draw_photo(discs).save(tmp_path / name)
    return tmp_path


def test_ages(people, weights, capsys):
    (people / "tags.csv").write_text("image,Smiling,Age\na.png,1,46\nb.png,0,20-29\nd.png,0,more than 70\n")
    arguments = ("csv", "--root", people / "tags.csv")
    result = json.loads(run(capsys, people / "ages.safetensors", *arguments, "--format", "json")[1].out)
    age = result["age"]
    assert (age["n"], age["not_found"], result["not_found"]) == (2, 1, 1)
    assert age["years"] == {"n": 1, "mean_error": pytest.approx(1.5, abs=0.1), "in_interval": 1}
    assert age["groups"] == {"n": 1, "mean_distance": pytest.approx(5, abs=0.1), "in_group": 0, "in_or_next": 1}
    assert list(result["attributes"]) == ["Smiling"] and result["attributes"]["Smiling"]["n"] == 3
    beside = ("--beside", f"the same={people / 'ages.safetensors'}")
    text = run(capsys, people / "ages.safetensors", *arguments, *beside)[1].out
    assert "Smiling" in text and "\nage, years known of 1 pictures: mean error 1.5 years" in text
    assert "\nthe same: age, years known of 1 pictures: mean error 1.5 years" in text
    # Weights that do not tell leave the column out, and say so.
    status = main(["evaluate", *map(str, arguments), "--weights", weights, "--device", "cpu", "--format", "json"])
    captured = capsys.readouterr()
    assert status == 0 and json.loads(captured.out)["age"] is None and "tell no ages" in captured.err


def test_ages_alone(people, weights, capsys):
    (people / "tags.csv").write_text("image,age\na.png,46\nb.png,\n")
    arguments, aged = ("csv", "--root", people / "tags.csv"), people / "ages.safetensors"
    result = json.loads(run(capsys, aged, *arguments, "--format", "json")[1].out)
    assert result["age"]["n"] == 1 and result["attributes"] == {}
    text = run(capsys, aged, *arguments)[1].out
    assert text.startswith("age, years known of 1 pictures: mean error 1.5 years, 1.000 are in the interval of 80 %")
    for option in (["--learn", "--partition", 2], ["--plot", people / "p.png"]):
        status, captured = run(capsys, aged, *arguments, *option[:1], *option[1:])
        assert status == 2 and captured.out == ""
    assert f"--plot: {people / 'tags.csv'} has ages, but no attribute" in captured.err
    status, captured = run(capsys, weights, *arguments)
    assert status == 2 and "know none of the attributes" in captured.err


@pytest.mark.parametrize("age", ["old", "-3", "130", "20-", "1e9"])
def test_ages_that_nobody_writes(people, capsys, age):
    (people / "tags.csv").write_text(f"image,age\na.png,46\nb.png,{age}\n")
    status, captured = run(capsys, people / "ages.safetensors", "csv", "--root", people / "tags.csv")
    assert status == 2 and f"tags.csv, line 3: age '{age}', expected years" in captured.err


def test_groups(celeba, weights, capsys, tmp_path):
    for name, colour in (("a.png", SMILING), ("b.png", NEUTRAL), ("c.png", SMILING), ("d.png", SMILING)):
        Image.new("RGB", (100, 100), colour).save(tmp_path / name)
    # Of the tall, one of two is tagged wrongly; of the others none; of d nobody has said how tall.
    (tmp_path / "tags.csv").write_text("image,Smiling,Tall\na.png,1,1\nb.png,1,1\nc.png,1,0\nd.png,0,\n")
    arguments = ("csv", "--root", tmp_path / "tags.csv", "--crop", "aligned", "--face", "0,0,1,1", "--by", "Tall")
    groups = json.loads(run(capsys, weights, *arguments, "--format", "json")[1].out)["groups"]
    assert {title: (group["n"], group["mean"]["accuracy"]) for title, group in groups.items()} == {
        "Tall": (2, 0.5),
        "not Tall": (1, 1.0),
    }
    assert "Tall: 2 pictures: accuracy 0.500" in run(capsys, weights, *arguments)[1].out
    status, captured = run(capsys, weights, *arguments[:-1], "Small")
    assert status == 2 and "has no tag 'Small'; it has Smiling, Tall" in captured.err


def test_lfwa(weights, capsys, tmp_path):
    from scipy.io import savemat

    names = ["A/A_0001.png", "B/B_0001.png"]
    for name, colour in zip(names, (SMILING, NEUTRAL), strict=True):
        path = tmp_path / "lfw" / name
        path.parent.mkdir(parents=True)
        draw_photo([(100, 100, 32, colour)]).save(path)
    cells = [np.array([[text] for text in texts], dtype=object) for texts in (["Smiling"], names)]
    savemat(tmp_path / "lfw_att_40.mat", {"AttrName": cells[0], "name": cells[1], "label": [[1], [0]]})
    savemat(tmp_path / "indices_train_test.mat", {"indices_img_train": [[1]], "indices_img_test": [[2]]})
    _, captured = run(capsys, weights, "lfwa", "--root", tmp_path, "--format", "json")
    result = json.loads(captured.out)
    assert result["n"] == 1 and result["mean"]["accuracy"] == 1 and result["attributes"]["Smiling"]["base_rate"] == 0
    assert result["table_1"]["PANDA-l"]["Smiling"] == TABLE_1["LFWA"]["PANDA-l"][COLUMN] / 100


def test_what_cannot_be_evaluated(celeba, weights, capsys, tmp_path):
    def error(*arguments):
        status, captured = run(capsys, weights, *arguments)
        assert status == 2 and captured.out == ""
        return captured.err

    assert "no picture of partition 1" in error("celeba", "--root", celeba, "--partition", 1)
    (celeba / "img_align_celeba" / "000002.jpg").write_text("no picture")
    assert "000002.jpg" in error("celeba", "--root", celeba)
    for folder in ("img_align_celeba", "img_celeba"):
        (celeba / folder / "000002.jpg").unlink()
    assert "line 4, but missing" in error("celeba", "--root", celeba)
    assert run(capsys, weights, "celeba", "--root", celeba, "--skip-missing")[0] == 0
    (tmp_path / "a.csv").write_text("image,Tall\n000001.jpg,1\n")
    (tmp_path / "img_align_celeba" / "a.csv").write_text("image,Tall\n000001.jpg,1\n")
    assert "know none of the attributes" in error("csv", "--root", celeba / "img_align_celeba")
    (tmp_path / "b.csv").write_text("image,Tall\n")
    assert "which CSV? There are a.csv, b.csv" in error("csv", "--root", tmp_path)
    assert "b.csv: has no row" in error("csv", "--root", tmp_path, "--labels", "b.csv")


def test_integers_of_weights_that_were_not_measured(celeba, weights, capsys):
    given = "celeba", "--root", celeba, "--partition", 2
    status, captured = run(capsys, weights, *given, "--precision", "int8")
    assert status == 2 and "no 8-bit integers on cpu" in captured.err and "measure_integers.py" in captured.err
    assert run(capsys, weights, *given, "--precision", "float32")[0] == 0


class MeanGreen:
    """A method that needs no training: smiles are green."""

    def describe(self, placed):
        return placed[100:136, 70:108, 1].mean() / 255

    def fit(self, described, tags, identities, names):
        assert described.shape == identities.shape and np.array_equal(described > 0.2, tags[:, 0])
        self.thresholds = {"accuracy": [0.2], "balanced": [0.9]}

    def probabilities(self, described):
        return described[:, None]


@pytest.fixture
def many(tmp_path, monkeypatch):
    """40 aligned faces and 40 photos of the same people, 20 for training; every tenth photo shows nothing."""
    monkeypatch.setattr("faceattr.evaluation.baselines.METHODS", {"facetracer": MeanGreen, "panda-w": MeanGreen})
    (tmp_path / "aligned").mkdir()
    lines = ["image,Smiling,identity,partition"]
    for i in range(40):
        colour = SMILING if i % 4 < 2 else NEUTRAL
        Image.new("RGB", (178, 218), colour).save(tmp_path / "aligned" / f"{i}.png")
        draw_photo([(100 + 3 * i, 100, 32, colour)] if i % 10 != 9 else []).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{int(i % 4 < 2)},{i // 2},{0 if i < 20 else 2}")
    for folder in (tmp_path, tmp_path / "aligned"):
        (folder / "tags.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def frowning(many):
    """The same with a second tag, the contrary of the first."""
    path = many / "aligned" / "tags.csv"
    header, *rows = path.read_text().splitlines()
    rows = [f"{row},{1 - int(row.split(',')[1])}" for row in rows]
    path.write_text("\n".join([f"{header},Frowning", *rows]))
    return many


def test_svms_learn_attributes_that_the_weights_do_not_know(frowning, weights, capsys, tmp_path):
    arguments = ("csv", "--root", frowning / "aligned", "--crop", "aligned", "--partition", 2)
    plot = tmp_path / "attributes.svg"
    beside = ("--beside", f"the same={weights}", "--plot", plot)
    _, captured = run(capsys, weights, *arguments, "--learn", *beside, "--format", "json")
    result = json.loads(captured.out)
    assert result["learnt"] == result["baselines"]["the same"]["training"] == 20
    for each in (result, result["baselines"]["the same"]):
        assert {name: row["accuracy"] for name, row in each["attributes"].items()} == {"Smiling": 1, "Frowning": 1}
    assert plot.read_text().startswith("<?xml")
    _, captured = run(capsys, weights, *arguments, "--learn", *beside)
    assert "SVMs on frozen features learnt from 20 pictures of partition 0" in captured.out
    assert captured.out.splitlines()[0].split()[-3:] == ["majority", "the", "same"]
    status, captured = run(capsys, weights, *arguments[:-2], "--learn")
    assert status == 2 and "--learn: it learns from partition 0" in captured.err


def test_an_anet_alone_stands_beside(frowning, weights, capsys, tmp_path):
    save_model(ANet(features=8), tmp_path / "anet.safetensors", stage="identities", pictures=10)
    arguments = ("csv", "--root", frowning / "aligned", "--crop", "aligned", "--partition", 2, "--format", "json")
    beside = ("--beside", f"identities={tmp_path / 'anet.safetensors'}")
    result = json.loads(run(capsys, weights, *arguments, "--learn", *beside)[1].out)
    assert set(result["baselines"]["identities"]["attributes"]) == {"Smiling", "Frowning"}
    save_model(ANet(features=8), tmp_path / "anet.safetensors", stage="tags", pictures=10)
    status, captured = run(capsys, weights, *arguments, *beside)
    assert status == 2 and "--learn fits SVMs for all of them" in captured.err


def test_gaps_between_groups(frowning, weights, capsys, tmp_path):
    plot = tmp_path / "groups.png"
    arguments = ("csv", "--root", frowning / "aligned", "--crop", "aligned", "--partition", 2, "--by", "frowning")
    _, captured = run(capsys, weights, *arguments, "--plot-groups", plot)
    assert "gap by Frowning, accuracy: " in captured.out and "drawing people" in captured.out and plot.exists()
    status, captured = run(capsys, weights, *arguments[:-2], "--plot-groups", plot)
    assert status == 2 and "--plot-groups: name the tags" in captured.err


def test_lfwa_as_a_csv(many, weights, capsys):
    arguments = ("lfwa", "--root", many / "aligned", "--labels", "tags.csv", "--crop", "aligned", "--face", "0,0,1,1")
    result = json.loads(run(capsys, weights, *arguments, "--format", "json")[1].out)
    assert result["n"] == 20 and result["table_1"]["PANDA-l"]["Smiling"] > 0.8


def test_baselines_stand_beside(many, weights, capsys):
    arguments = ("csv", "--root", many / "aligned", "--crop", "aligned", "--baseline", "facetracer")
    _, captured = run(capsys, weights, *arguments, "--partition", 2, "--format", "json", "--baseline-pictures", 15)
    tracer = json.loads(captured.out)["baselines"]["facetracer"]
    assert (tracer["n"], tracer["training"], tracer["not_found"]) == (20, 15, 0)
    assert tracer["attributes"]["Smiling"]["accuracy"] == 1 and tracer["attributes"]["Smiling"]["threshold"] == 0.2
    _, captured = run(capsys, weights, *arguments, "--partition", 2, "--thresholds", "balanced")
    header, smiling, *_ = captured.out.splitlines()
    assert header.split()[-2:] == ["majority", "facetracer"] and smiling.split()[-2:] == ["0.500", "0.500"]
    status, captured = run(capsys, weights, *arguments)
    assert status == 2 and "measure on another with --partition" in captured.err


def test_panda_w_takes_what_the_localiser_finds(many, weights, capsys):
    arguments = ("csv", "--root", many, "--partition", 2, "--format", "json")
    _, captured = run(capsys, weights, *arguments, "--baseline", "panda-w")
    panda = json.loads(captured.out)["baselines"]["panda-w"]
    assert (panda["training"], panda["not_found"]) == (18, 2)
    # Found smiles score 0.35, other faces 0, a photo without a face, one of either kind, the share of smiles, 0.5.
    assert panda["mean"]["auc"] == pytest.approx((9 * 9 + 9 + 0.5) / 100)
    status, captured = run(capsys, weights, *arguments, "--baseline", "facetracer")
    assert status == 2 and "need --crop aligned or CelebA's file of landmarks" in captured.err
