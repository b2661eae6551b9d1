"""The plane that tells faces from what else is proposed, on candidates of which it is known which are faces."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import NEUTRAL, SMILING, draw_photo, save_small_checkpoint

import faceattr
from faceattr.models.checkpoint import load_checkpoint
from faceattr.train.face import Proposed, fit_face, least_score, lnets_alone, piece, propose, scores, tight

ROOT = Path(__file__).resolve().parents[2]


def candidates(pictures, each, faces, seed):
    """Candidates of which the first of a picture, the one with the highest log-odds, shows a face by its feature 0."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(pictures, each, 4))
    inputs[:, 0, -1] = 5
    inputs[:, 0, 0] += 6 * faces
    shuffled = random.permuted(np.arange(pictures * each))
    return Proposed(inputs.reshape(-1, 4)[shuffled], np.repeat(np.arange(pictures), each)[shuffled], pictures)


def test_of_a_picture_with_a_face_the_lnets_best_counts():
    plane, notes = fit_face(candidates(60, 3, True, 0), candidates(40, 3, False, 1))
    assert notes["faces"] == 60 and notes["others"] == 120
    unseen = candidates(50, 3, True, 2)
    first = unseen.inputs[:, -1] == 5
    assert (scores(plane, unseen)[first] > 0.5).all()
    # The log-odds say nothing here: the best of pictures without a face are as sure.
    assert (scores(plane, candidates(50, 3, False, 3)) < 0.5).mean() > 0.97


def test_best_and_first_of_each_picture():
    inputs = np.array([[1.0, 2.0], [3.0, 9.0], [5.0, 4.0]])
    proposed = Proposed(inputs, np.array([2, 0, 2]), 4)
    assert proposed.first().tolist() == [[3.0, 9.0], [5.0, 4.0]]
    assert proposed.best(np.array([0.1, 0.2, 0.3])).tolist() == [0.2, -np.inf, 0.3, -np.inf]


@pytest.mark.parametrize(("share", "passing"), [(0, 0), (0.1, 0), (0.2, 1), (0.45, 2), (0.79, 2), (1, 5)])
def test_at_most_the_share_reaches_the_least_score(share, passing):
    # Two are equal: where only one of them may pass, neither does. The last got no proposal.
    best = np.array([0.5, 0.9, 0.4, 0.4, -np.inf])
    reached = best >= least_score(best, share)
    assert reached.sum() == passing if share < 1 else reached[:4].all()


def test_nothing_proposed_is_an_error():
    nothing = Proposed(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), 7)
    with pytest.raises(ValueError, match="0 faces in 7 pictures with one and 9 in 3 without"):
        fit_face(nothing, candidates(3, 3, False, 0))


def test_proposals_of_a_checkpoint(tmp_path):
    save_small_checkpoint(tmp_path / "small.safetensors", score_threshold=0.9999)
    checkpoint = load_checkpoint(tmp_path / "small.safetensors")
    photos = [draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]), draw_photo([])]
    proposed = propose(checkpoint, photos, 0.1)
    assert proposed.pictures == 2 and proposed.picture.tolist() == [0, 0] and proposed.inputs.shape == (2, 5)
    faces = faceattr.load(tmp_path / "small.safetensors", device="cpu")
    assert faces.predict(photos[0]) == []  # its own threshold is not ours
    assert np.allclose(sorted(proposed.inputs[:, 0]), [0, 90 / 255], atol=0.02)
    plane = lnets_alone(4)
    assert np.allclose(scores(plane, proposed), 1 / (1 + np.exp(-proposed.inputs[:, -1])))


def test_pieces_keep_the_aspect_and_the_range_of_sizes():
    random = np.random.default_rng(0)
    picture = Image.new("RGB", (400, 100))
    sizes = np.array([piece(picture, random, cut=False).size for _ in range(50)])
    assert (sizes.max(1) >= 30).all() and (sizes.max(1) <= 480).all() and np.ptp(sizes.max(1)) > 250
    assert np.abs(sizes[:, 0] / sizes[:, 1] - 4).max() < 0.3
    cut = np.array([piece(picture, random, cut=True).size for _ in range(50)])
    assert 10 < (np.abs(cut[:, 0] / cut[:, 1] - 4) > 0.3).sum() < 40


def test_tight_pieces_show_the_face():
    # Grey where CelebA has no face, white where it has.
    picture = Image.new("RGB", (178, 218), (0, 0, 0))
    picture.paste((255, 255, 255), (38, 48, 140, 188))
    random = np.random.default_rng(0)
    for _ in range(20):
        assert np.asarray(tight(picture, random)).mean() > 255 / (1.7 * 1.7)


def test_the_script_makes_a_checkpoint_that_tells_them_apart(tmp_path):
    """Discs of both colours are proposed; "faces" are the green ones, which whole photos have and scenes have not."""
    save_small_checkpoint(tmp_path / "cascade.safetensors", score_threshold=0.2)
    random = np.random.default_rng(0)

    def draw(folder, count, colour):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            x, y = random.uniform(60, 260), random.uniform(60, 180)
            draw_photo([(x, y, 32, colour)]).save(tmp_path / folder / f"{number:06}.png")

    draw("scenes", 60, NEUTRAL)
    draw("objects", 20, NEUTRAL)
    draw("people", 30, SMILING)
    celeba = write_celeba(tmp_path / "celeba", 12)
    command = [sys.executable, ROOT / "training/fit_face.py", "--weights", tmp_path / "cascade.safetensors"]
    command += ["--celeba", celeba, "--people", tmp_path / "people", "--without", tmp_path / "objects", "0.03"]
    command += ["--without", tmp_path / "scenes", "0.03", "--pieces", "60", "--pictures", "30", "--device", "cpu"]
    subprocess.run([*map(str, command), "--output", str(tmp_path / "out.safetensors")], check=True)
    model = faceattr.load(tmp_path / "out.safetensors", device="cpu")
    assert len(model.predict(draw_photo([(100, 100, 32, SMILING)]))) == 1
    assert model.predict(draw_photo([(220, 140, 32, NEUTRAL)])) == []
    notes = load_checkpoint(tmp_path / "out.safetensors").metadata["training"]["face"]["scenes"]
    assert notes["share that the LNets propose in"] == 1 and notes["share that gets a face"] <= 0.5


def write_celeba(root, count):
    """CelebA's layout with whole photos of green discs and aligned pictures of nothing."""
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    for folder in ("img_celeba", "img_align_celeba"):
        (root / folder).mkdir(parents=True)
    for name in names:
        draw_photo([(100, 100, 32, SMILING)]).save(root / "img_celeba" / name)
        Image.new("RGB", (178, 218), (128, 128, 128)).save(root / "img_align_celeba" / name)
    attributes = faceattr.attributes.ATTRIBUTES
    rows = [" ".join([name] + ["1"] * len(attributes)) for name in names]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(count), " ".join(attributes), *rows]) + "\n")
    (root / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in names))
    (root / "list_eval_partition.txt").write_text("".join(f"{name} 0\n" for name in names))
    return root
