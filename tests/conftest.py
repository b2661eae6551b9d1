import os

import pytest
import torch

# torch.compile compiles anew. Its cache of compiled graphs knows neither an operator's fake kernel, which may have
# changed since, nor (torch 2.13) for which vectors it wrote a graph's code: where the cache was filled by AVX-512,
#   ATEN_CPU_CAPABILITY=avx2 python -c "import torch; print(torch.compile(lambda x: x.relu() * 2)(torch.ones(8, 8)))"
# prints what was in memory before. Set before torch's compiler is imported, which reads it once.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")


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
