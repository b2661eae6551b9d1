"""`faceattr explain` from end to end, on discs that smile in so far as they are green (small_checkpoint.py)."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import NEUTRAL, SMILING, draw_photo

from faceattr.attributes import ATTRIBUTES
from faceattr.cli import main
from faceattr.models.anet import ANet
from faceattr.train.loop import save_model

SMILES, MEN = ATTRIBUTES.index("Smiling"), ATTRIBUTES.index("Male")
COUNT = 40


@pytest.fixture(scope="module")
def weights(weights):
    return str(weights)


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """40 aligned faces, half of partition 1, half of 2. Every other one smiles; Male is the contrary."""
    root = tmp_path_factory.mktemp("celeba")
    (root / "img_align_celeba").mkdir()
    rows, people, partitions = [], [], []
    random = np.random.default_rng(0)
    for number in range(COUNT):
        name, smiles = f"{number:06}.png", number % 2 == 0
        colour = (255, int((SMILING if smiles else (255, 20, 0))[1] + random.integers(-9, 10)), 0)
        Image.new("RGB", (178, 218), colour).save(root / "img_align_celeba" / name)
        tags = ["1" if column == SMILES and smiles or column == MEN and not smiles else "-1" for column in range(40)]
        rows.append(f"{name} {' '.join(tags)}")
        people.append(f"{name} {number // 2 + 1}")
        partitions.append(f"{name} {1 + number // (COUNT // 2)}")
    (root / "list_attr_celeba.txt").write_text("\n".join([str(COUNT), " ".join(ATTRIBUTES), *rows]))
    (root / "identity_CelebA.txt").write_text("\n".join(people))
    (root / "list_eval_partition.txt").write_text("\n".join(partitions))
    return root


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """A folder as pre-training leaves it."""
    folder = tmp_path_factory.mktemp("identities")
    save_model(ANet(features=8), folder / "anet.safetensors", stage="identities", pictures=10)
    return str(folder)


@pytest.fixture
def explain(weights, tmp_path, capsys):
    """Runs a command; what it wrote is in `tmp_path / "out"`."""

    def run(what, *arguments, weights=weights):
        output = ["--output", str(tmp_path / "out"), "--weights", weights, "--device", "cpu", "--quiet"]
        status = main(["explain", what, *map(str, arguments), *output])
        return status, capsys.readouterr()

    return run


def read(path):
    return list(csv.DictReader(path.open()))


def check_picture(path, least=200):
    with Image.open(path) as picture:
        assert min(picture.size) >= least
        assert len(picture.convert("L").getcolors(256)) > 10


@pytest.mark.parametrize(
    "words, message",
    [
        ("regions", "regions: give photos, or a folder with --root"),
        ("maps", "maps: give photos, or a folder with --root"),
        ("regions --root . --attributes Smiling", "--attributes: choose them for photos"),
        ("size --baseline panda", "size: give a folder of faces with --root, or measured --results"),
        ("groups --root . --groups 1", "--groups 1: give two or more"),
        ("neurons --root nowhere", "nowhere: no such folder"),
        ("neurons --root . --before nothing", "--before nothing: no such file or folder"),
        ("layers --root . --weights nothing", "--weights nothing: no such file or folder"),
        ("maps nothing.jpg", "nothing.jpg: no such file"),
        ("size --root . --results nothing.csv", "nothing.csv: no such file"),
        ("layers --root . --device gpu", "--device gpu: use cpu, cuda, cuda:N or auto"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib, "import_module", None)
    assert main(["explain", *words.split(), "--output", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_neurons_before_and_after(explain, celeba, identities, tmp_path):
    status, captured = explain("neurons", "--root", celeba, "--before", identities)
    assert status == 0 and captured.err == ""
    rows = read(tmp_path / "out" / "neurons.csv")
    assert [row["weights"] for row in rows] == ["before"] * 8 + ["after"] * 4
    # Every feature of the small net is the mean green, which is Smiling and the contrary of Male.
    for row in rows[8:]:
        assert row["attribute"] in ("Smiling", "Male") and abs(float(row["correlation"])) > 0.9
        assert float(row["active"]) == 1
    notes = json.loads((tmp_path / "out" / "neurons.json").read_text())
    assert notes["after"]["faces"] == COUNT and notes["after"]["active_a_face"] == 1 and notes["after"]["strong"] == 4
    assert notes["after"]["accuracy"]["an_attribute"] == 1 > notes["after"]["accuracy"]["majority"]
    assert "neuron 0: Smiling +0.9" in captured.out or "neuron 0: Male -0.9" in captured.out
    check_picture(tmp_path / "out" / "neurons.png")


@pytest.mark.parametrize("format, start", [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_formats_for_papers(explain, celeba, tmp_path, format, start):
    for what in ("neurons", "groups"):
        options = ("--groups", 2, "--dendrogram") if what == "groups" else ("--top", 5)
        assert explain(what, "--root", celeba, "--format", format, *options)[0] == 0
        assert (tmp_path / "out" / f"{what}.{format}").read_bytes().startswith(start)
    draw_photo([(100, 100, 32, SMILING)]).save(tmp_path / "a.png")
    for what in ("regions", "maps"):
        assert explain(what, tmp_path / "a.png", "--format", format)[0] == 0
        assert (tmp_path / "out" / f"a.{what}.{format}").read_bytes().startswith(start)
    assert not list((tmp_path / "out").glob("*.png"))
    if format == "svg":
        assert "weights" in (tmp_path / "out" / "a.regions.svg").read_text()  # text is text
    notes = json.loads((tmp_path / "out" / "neurons.json").read_text())["net"]
    assert set(notes["faces_a_mean"]) == {5}
    assert explain("neurons", "--root", celeba, "--top", 14)[1].err.endswith("give more faces, or --top\n")


def test_equal_checkpoints_do_not_disagree(explain, celeba, weights, tmp_path):
    status, captured = explain("compare", "--root", celeba, "--before", weights)
    assert status == 0 and "they give every face the same labels" in captured.out
    assert "disagree" not in captured.out and "gained 0.0%, lost 0.0%" in captured.out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Two checkpoints that give all 20 faces the same labels" in page and "disagree" not in page


def test_chosen_neurons(explain, celeba, tmp_path):
    explain("neurons", "--root", celeba, "--neurons", "3,1")
    assert json.loads((tmp_path / "out" / "neurons.json").read_text())["net"]["chosen"] == [3, 1]
    status, captured = explain("neurons", "--root", celeba, "--neurons", "1,4")
    assert status == 2 and "small.safetensors has no neuron 4; give 0 to 3" in captured.err


def test_neurons_of_pictures_without_tags(explain, identities, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        draw_photo([(100, 100, 32, SMILING if number % 2 else NEUTRAL)]).save(folder / f"{number}.png")
    draw_photo([]).save(folder / "nothing.png")
    status, _ = explain("neurons", "--root", folder, "--before", identities)
    notes = json.loads((tmp_path / "out" / "neurons.json").read_text())["after"]
    assert status == 0 and notes["faces"] == 4 and notes["accuracy"] is None
    # The net's own labels stand for tags.
    assert {row["attribute"] for row in read(tmp_path / "out" / "neurons.csv")} <= {"Smiling", "Frowning"}


def test_layers(explain, celeba, identities, tmp_path):
    status, captured = explain("layers", "--root", celeba, "--before", identities)
    assert status == 0 and "after, FC: accuracy (AUC)" in captured.out
    rows = {(row["weights"], row["layer"], row["attribute"]): row for row in read(tmp_path / "out" / "layers.csv")}
    assert len(rows) == 2 * 3 * 40
    for layer in ("fc", "c4", "c3"):
        smiling = rows["after", layer, "Smiling"]
        assert float(smiling["auc"]) == 1 and smiling["identity"] == "0"
    assert rows["after", "fc", "Male"]["identity"] == "1" and rows["after", "fc", "Bald"]["auc"] == ""
    content = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert (content["learnt_from"], content["measured_on"]) == (20, 20)
    check_picture(tmp_path / "out" / "layers.png")


def test_groups(explain, celeba, tmp_path):
    status, captured = explain("groups", "--root", celeba, "--groups", 2, "--dendrogram")
    content = json.loads((tmp_path / "out" / "groups.json").read_text())
    # Frowning is Smiling with the sign turned. Of Frowning and Present there are no tags: labels stand for all.
    (of_smiling,) = (names for names in content["groups"].values() if "Smiling" in names)
    assert status == 0 and len(content["groups"]) == 2 and "Frowning" not in of_smiling
    assert content["cosine"][0][1] == pytest.approx(-1) and content["co_occurrence"][0][1] == pytest.approx(-1)
    assert "correlate with" in captured.out
    check_picture(tmp_path / "out" / "groups.png")
    check_picture(tmp_path / "out" / "dendrogram.png", 100)


def test_regions_of_a_folder(explain, celeba, tmp_path):
    status, captured = explain("regions", "--root", celeba, "--pictures", 6)
    rows = {row["attribute"]: row for row in read(tmp_path / "out" / "regions.csv")}
    content = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert status == 0 and content["faces"] == 6 and "most local" in captured.out
    # Smiling is read off the whole crop, Present off nothing.
    assert float(rows["Smiling"]["weights_extent"]) > 0.5 and float(rows["Present"]["weights_extent"]) == 0
    assert np.shape(content["attributes"]["Smiling"]["occlusion"]) == (len(content["y"]), len(content["x"])) == (12, 10)
    check_picture(tmp_path / "out" / "regions.png", 100)


def test_regions_of_photos(explain, tmp_path):
    (tmp_path / "sub").mkdir()
    draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]).save(tmp_path / "a.png")
    draw_photo([]).save(tmp_path / "sub" / "a.png")
    status, captured = explain("regions", tmp_path / "a.png", tmp_path / "sub" / "a.png", "--attributes", "Smiling")
    assert status == 0 and f"{tmp_path / 'sub' / 'a.png'}: no face found" in captured.out
    faces = json.loads((tmp_path / "out" / "regions.json").read_text())["faces"]
    assert [face["picture"] for face in faces] == ["a.regions.png", "a-2.regions.png"]
    by_smile = sorted(faces, key=lambda face: face["attributes"]["Smiling"]["probability"])
    assert by_smile[0]["box"][0] < 100 < by_smile[1]["box"][0]
    # Green speaks for a smile; where there is none, nothing does.
    weights = [np.array(face["attributes"]["Smiling"]["weights"]) for face in by_smile]
    assert weights[1].sum() == pytest.approx(by_smile[1]["attributes"]["Smiling"]["decision"] + 7, abs=0.1)
    assert abs(weights[0]).sum() < 0.5 < weights[1].sum()
    check_picture(tmp_path / "out" / "a.regions.png")


def test_maps(explain, tmp_path):
    draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]).save(tmp_path / "a.png")
    status, captured = explain("maps", tmp_path / "a.png")
    rows = read(tmp_path / "out" / "peaks.csv")
    assert status == 0 and {row["net"] for row in rows} == {"lnet_o", "lnet_s"} and "1 sheets" in captured.out
    (photo,) = json.loads((tmp_path / "out" / "maps.json").read_text())["photos"]
    assert len(photo["faces"]) == 2 and photo["picture"] == "a.maps.png"
    check_picture(tmp_path / "out" / "a.maps.png")


def test_size(explain, celeba, tmp_path):
    results = tmp_path / "results.csv"
    results.write_text("method,pictures,accuracy\nPANDA-l,100,0.7\n")
    status, _ = explain("size", "--root", celeba, "--results", results)
    rows = read(tmp_path / "out" / "size.csv")
    assert status == 0 and [(row["method"], row["pictures"]) for row in rows] == [
        ("SVMs on frozen features", "20"), ("SVMs on frozen features", "10"), ("PANDA-l", "100"),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == "1"
    assert json.loads((tmp_path / "out" / "size.json").read_text())["majority"] == pytest.approx((38 + 2 * 0.5) / 40)
    check_picture(tmp_path / "out" / "size.png")
    status, captured = explain("size", "--results", results)
    assert status == 0 and captured.out == "PANDA-l: 100 pictures, accuracy 0.700\n"


@pytest.mark.parametrize("crop", ["aligned", "detect"])
def test_size_of_baselines(explain, celeba, tmp_path, crop):
    root = celeba
    if crop == "detect":
        root = tmp_path / "photos"
        root.mkdir()
        rows = [f"{number}.png,{number % 2}" for number in range(COUNT)]
        for number in range(COUNT):
            draw_photo([(100, 100, 32, SMILING if number % 2 else NEUTRAL)]).save(root / f"{number}.png")
        (root / "tags.csv").write_text("\n".join(["image,Smiling", *rows]))
    status, _ = explain("size", "--root", root, "--baseline", "facetracer", "--baseline", "panda")
    rows = read(tmp_path / "out" / "size.csv")
    assert status == 0 and [(row["method"], row["pictures"]) for row in rows] == [
        (method, count) for method in ("SVMs on frozen features", "facetracer", "panda") for count in ("20", "10")
    ]


def test_compare(explain, celeba, weights, tmp_path):
    from faceattr.models.checkpoint import load_checkpoint, save_checkpoint

    # The same checkpoint but for one plane: it sees no smile.
    checkpoint = load_checkpoint(weights)
    checkpoint.svm.bias[0] -= 20
    keys = ("attributes", "preprocessing", "thresholds", "training", "metrics")
    nets = checkpoint.nets()
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, **nets, metadata={key: checkpoint.metadata[key] for key in keys})
    status, captured = explain("compare", "--root", celeba, "--before", other, "--shown", 4)
    rows = {row["attribute"]: row for row in read(tmp_path / "out" / "compare.csv")}
    assert status == 0 and float(rows["Smiling"]["gained"]) == 0.5 and float(rows["Frowning"]["gained"]) == 0
    assert float(rows["Smiling"]["accuracy_before"]) == 0.5 and float(rows["Smiling"]["accuracy_after"]) == 1
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    # Those that smile, every other one, are where the two disagree.
    assert len(content["most_different"]) == 4
    assert all(int(name[:6]) % 2 == 0 and value > 0.9 for name, value in content["most_different"].items())
    assert (tmp_path / "out" / "compare.html").read_text().count('class="photo"') == 4
    assert "labels gained 16.7%" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neurons", "--root", "nowhere"], "nowhere: no such folder"),
        (["regions"], "regions: give photos, or a folder with --root"),
        (["regions", "--root", "nowhere", "--attributes", "Smiling"], "--attributes: choose them for photos"),
        (["maps"], "maps: give photos, or a folder with --root"),
        (["size"], "size: give a folder of faces with --root, or measured --results, or both"),
        (["regions", __file__, "--attributes", "Smilling"], "does not know 'Smilling'; it knows Smiling"),
    ],
)
def test_what_cannot_start(explain, arguments, message):
    status, captured = explain(*arguments)
    assert status == 2 and message in captured.err and captured.err.count("\n") == 1


def test_data_that_do_not_do(explain, celeba, identities, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_photo([]).save(folder / "a.png")
    assert f"{folder}: no tags; give a folder with label files" in explain("layers", "--root", folder)[1].err
    assert f"{folder}: no face found in 1 pictures" in explain("regions", "--root", folder)[1].err
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("image,Smiling\na.png,1\n")
    assert f"{folder}: holds 2 CSV files" in explain("groups", "--root", folder, "--groups", 2)[1].err
    status, captured = explain("regions", "--root", celeba, weights=identities)
    assert status == 2 and "anet.safetensors: has learnt identities alone" in captured.err
    status, captured = explain("maps", "--root", folder, weights=identities)
    assert status == 2 and f"{identities}: ANet alone" in captured.err


def test_what_is_not_installed(explain, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, captured = explain("groups", "--root", ".")
    assert status == 2 and 'explain needs matplotlib, which is missing; pip install "faceattr[train]"' in captured.err


def test_progress_and_files_on_stderr(weights, celeba, tmp_path, capsys):
    main(["explain", "groups", "--root", str(celeba), "--weights", weights, "--output", str(tmp_path), "--groups", "2"])
    errors = capsys.readouterr().err
    assert f"net: {weights}" in errors and "faces" in errors and "20/20" in errors and "no tags" in errors
