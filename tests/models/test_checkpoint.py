"""What is saved comes back bit for bit; what is not a good checkpoint is refused with the file's name and a way out."""

import json
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from faceattr.ages import LIMITS
from faceattr.models import checkpoint
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import NETS, load_checkpoint, save_checkpoint
from faceattr.models.frame import FrameCorrection
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM
from faceattr.train.loop import save_model

NAMES = ["Smiling", "Male", "Bald"]


def small_parts():
    torch.manual_seed(0)
    trunk = {"widths": [4, 4, 4, 4, 4], "batch_norm": False}
    svm = LinearSVM(3, 9)
    face = LinearSVM(1, 10)
    torch.nn.init.normal_(svm.weight)
    torch.nn.init.normal_(face.weight)
    return {
        "lnet_o": LNet(tags=NAMES, sizes=(40.0, 60.0), trunk=trunk),
        "lnet_s": LNet(tags=NAMES, sizes=(40.0, 60.0), trunk=trunk),
        "anet": ANet(
            attributes=3,
            input_size=(31, 23),
            stages=(((4, 4, 1),), ((5, 3, 1),)),
            c3=(6, 3, (2, 1)),
            c4=(7, 1, (2, 1)),
            features=9,
        ),
        "svm": svm,
        "face": face,
        "metadata": {
            "attributes": NAMES,
            "preprocessing": {"crop": {"face": (38, 48, 140, 188)}},
            "thresholds": {"accuracy": [0.5, 0.5, 0.4], "balanced": [0.1, 0.4, 0.3]},
            "training": {"data": "random"},
            "metrics": {},
        },
    }


@pytest.fixture
def parts():
    return small_parts()


@pytest.fixture
def path(tmp_path, parts):
    save_checkpoint(tmp_path / "weights.safetensors", **parts)
    return tmp_path / "weights.safetensors"


def content(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["faceattr"])


def test_round_trip_is_bit_exact(path, parts, tmp_path):
    loaded = load_checkpoint(path)
    for name in NETS:
        net, twin = parts[name], getattr(loaded, name)
        assert type(twin) is type(net) and not twin.training
        for key, tensor in net.state_dict().items():
            stored = tensor if name in ("svm", "face") or tensor.dim() < 2 else tensor.half()
            assert torch.equal(twin.state_dict()[key], stored.float()), key
    assert loaded.metadata["thresholds"] == parts["metadata"]["thresholds"]
    assert loaded.metadata["preprocessing"] == {"crop": {"face": [38, 48, 140, 188]}}
    # Saved again, the file is the same to the last byte.
    nets = loaded.nets()
    own = {key: value for key, value in loaded.metadata.items() if key not in ("format_version", "configs", "sha256")}
    save_checkpoint(tmp_path / "again.safetensors", **nets, metadata=own)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_ages_go_with_the_rest(parts, tmp_path):
    age = LinearSVM(len(LIMITS), parts["anet"].config["features"]).eval()
    torch.nn.init.normal_(age.weight)
    path = tmp_path / "ages.safetensors"
    save_checkpoint(path, **parts, age=age)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.age.weight, age.weight) and set(loaded.nets()) == {*NETS, "age"}
    save_checkpoint(tmp_path / "again.safetensors", **loaded.nets(), metadata=loaded.metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="age has 3 planes"):
        save_checkpoint(path, **parts, age=LinearSVM(3, 9))


def test_corrections_go_with_the_rest(parts, tmp_path):
    frame = FrameCorrection(parts["anet"].responses_size).eval()
    torch.nn.init.normal_(frame.weight)
    path = tmp_path / "corrected.safetensors"
    save_checkpoint(path, **parts, frame=frame)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.frame.weight, frame.weight) and set(loaded.nets()) == {*NETS, "frame"}
    save_checkpoint(tmp_path / "again.safetensors", **loaded.nets(), metadata=loaded.metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    save_checkpoint(path, **parts, frame=FrameCorrection(9))
    refused(path, f"frame takes 9 responses, anet has {parts['anet'].responses_size}")


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_a_version_before_is_read(path, version):
    tensors, metadata = content(path)
    metadata["format_version"] = version
    metadata["sha256"] = checkpoint._checksum(metadata, tensors)
    save_file(tensors, path, {"faceattr": json.dumps(metadata)})
    loaded = load_checkpoint(path)
    assert loaded.age is None and loaded.frame is None


def test_matrices_are_stored_as_float16_and_the_rest_as_float32(path):
    tensors, _ = content(path)
    assert tensors["anet.c3.weight"].dtype == torch.float16
    assert tensors["anet.fc.bias"].dtype == tensors["svm.weight"].dtype == torch.float32


def test_dtype_is_what_was_asked_for(path):
    loaded = load_checkpoint(path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.anet.parameters()} == {torch.bfloat16}


def refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)


def test_missing_file_and_directory(tmp_path):
    refused(tmp_path / "none.safetensors", "cannot be read .No such file")
    refused(tmp_path, "cannot be read .Is a directory")


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_pickles_are_refused_unread(tmp_path, name):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    torch.save({"weight": Trap()}, tmp_path / name)
    refused(tmp_path / name, "a pickle, which can run any code")
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / name, "a pickle, which can run any code")


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path, parts):
    path = tmp_path / "long.safetensors"
    # The file begins with the length of its header: 0x80 in its lowest byte is how a pickle begins.
    for spaces in range(0, 256, 8):
        parts["metadata"]["training"]["data"] = "x" * spaces
        save_checkpoint(path, **parts)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert load_checkpoint(path).metadata["training"]["data"] == "x" * spaces


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_truncated_files_are_refused(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    refused(path, "damaged, cut short or no safetensors file")


def test_text_is_refused(tmp_path):
    (tmp_path / "weights.safetensors").write_text("404: not found, and some more words to fill a header")
    refused(tmp_path / "weights.safetensors", "damaged, cut short or no safetensors file")


def test_one_net_alone_is_told_from_a_cascade(tmp_path):
    save_model(small_parts()["anet"], tmp_path / "anet.safetensors", stage="tags")
    refused(tmp_path / "anet.safetensors", "holds one net, not a cascade")


def test_one_flipped_bit_in_the_weights_is_noticed(path):
    whole = bytearray(path.read_bytes())
    whole[-1000] ^= 1
    path.write_bytes(whole)
    refused(path, "damaged .its checksum")


def test_a_changed_threshold_is_noticed(path):
    whole = path.read_bytes()
    assert whole.count(b"0.4, 0.3") == 1
    path.write_bytes(whole.replace(b"0.4, 0.3", b"0.4, 0.9"))
    refused(path, "damaged .its checksum")


def rewrite(path, change):
    """Applies `change(tensors, metadata)` and writes the file as it then is."""
    tensors, metadata = content(path)
    change(tensors, metadata)
    save_file(tensors, path, {"faceattr": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors, metadata: metadata.update(format_version=5),
            r"newer faceattr \(format 5, this one reads 4\); upgrade",
        ),
        (
            lambda tensors, metadata: metadata.update(format_version=1),
            r"older faceattr \(format 1, this one reads 2 to 4\); make it again",
        ),
        (
            lambda tensors, metadata: metadata["configs"]["face"].update(features=9),
            "face has 1 planes over 9 features, not 1 over 10",
        ),
        (lambda tensors, metadata: metadata.update(format_version="x"), "damaged"),
        (lambda tensors, metadata: metadata.pop("thresholds"), "lacks the key 'thresholds'"),
        (lambda tensors, metadata: metadata.pop("sha256"), "no checksum"),
        (
            lambda tensors, metadata: metadata["thresholds"].update(balanced=[0.5]),
            "'balanced' are not 3, one an attribute",
        ),
        (lambda tensors, metadata: metadata["attributes"].append("Young"), "not 4, one an attribute"),
        (lambda tensors, metadata: metadata["configs"].pop("svm"), "configs are of"),
        (
            lambda tensors, metadata: metadata["configs"]["anet"].update(input_size=[32, 23]),
            "the configuration of anet does not do",
        ),
        (
            lambda tensors, metadata: metadata["configs"]["anet"].update(colour=1),
            "the configuration of anet does not do",
        ),
        (lambda tensors, metadata: tensors.pop("anet.fc.weight"), "lacks the tensor 'anet.fc.weight'"),
        (lambda tensors, metadata: tensors.update({"anet.extra": torch.zeros(1)}), "the unknown tensor 'anet.extra'"),
        (lambda tensors, metadata: tensors.update({"extra": torch.zeros(1)}), "'extra', which belongs to no net"),
        (
            lambda tensors, metadata: tensors.update({"svm.bias": torch.zeros(4)}),
            r"'svm.bias' has shape \(4,\), its configuration says \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(path, change, message):
    rewrite(path, change)
    refused(path, message)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    refused(tmp_path / "foreign.safetensors", "not one of faceattr's")


def test_a_header_of_absurd_length_is_refused(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    refused(tmp_path / "weights.safetensors", "damaged, cut short or no safetensors file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"attributes": ["Smiling"]}, "not 1, one an attribute"),
    ],
)
def test_incomplete_metadata_is_not_saved(tmp_path, parts, change, message):
    parts["metadata"].update(change)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "weights.safetensors", **parts)
    assert not list(tmp_path.iterdir())
