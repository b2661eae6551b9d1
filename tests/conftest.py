import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads():
    """Scripts that run in this process set them; the tests after them have as many as ever."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A checkpoint whose answers are known."""
    # Here, since the operators' tests do without the face part.
    from small_checkpoint import save_small_checkpoint

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_small_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def aged_weights(tmp_path_factory):
    """One that also tells ages: 35, and 45 of who smiles."""
    from small_checkpoint import save_aged_checkpoint

    path = tmp_path_factory.mktemp("weights") / "ages.safetensors"
    save_aged_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def model(weights):
    import faceattr

    return faceattr.load(weights, device="cpu")
