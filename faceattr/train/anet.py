"""ANet's two stages: identities (softmax and similarity), then the 40 tags (sigmoid cross-entropy)."""

from __future__ import annotations

import math
from types import MethodType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceattr.data.faces import Augmentation, FaceCache, augment, crop
from faceattr.models.anet import ANet
from faceattr.train import parallel
from faceattr.train.loop import Ahead, generator

LOGIT_SCALE = 24.0
"""Of identity logits, which are cosines; sharp enough for thousands of identities."""


class IdentityNet(nn.Module):
    """ANet's features with one logit an identity, for pre-training.

    Features and the identities' weights are normalised. Plain ones do not learn from five pictures a person, and the
    similarity loss would shrink the features themselves.
    """

    def __init__(self, anet: ANet, identities: int):
        super().__init__()
        self.anet = anet
        # Not in use here, and processes that train together wait for the gradient of whatever is.
        self.anet.head.requires_grad_(False)
        self.identity = nn.Parameter(torch.randn(identities, anet.config["features"]) * 0.05)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of length 1 [N, F] and identity logits [N, I]."""
        features = F.normalize(self.anet.features(images).float())
        return features, LOGIT_SCALE * F.linear(features, F.normalize(self.identity))


def for_tags(net: IdentityNet) -> ANet:
    """The pre-trained ANet, whose last layer may learn again."""
    net.anet.head.requires_grad_(True)
    return net.anet


@torch.no_grad()
def grow(model: ANet, source: ANet, images: Tensor) -> None:
    """Lets ``model`` begin as what the narrower ``source`` computes.

    The channels and logits of ``source`` come first; others are as they were, random, and change nothing in those at
    first. Batch normalisation, where ``model`` has it, begins with the statistics of ``images`` (crops as both nets
    take them) and passes the channels of ``source`` on as they are.

    Raises:
        ValueError: the nets differ in more than their widths; the message names the layer.
    """
    if model.config["fc_inputs"] != ["c4"] or source.config["fc_inputs"] != ["c4"]:
        raise ValueError("grow: the fully connected layers of both nets must read c4 alone")
    source = source.eval().fold_batch_norm()
    pairs = model._normalised_layers()
    layers, old_layers = ([layer for layer, _ in net._normalised_layers()] + [net.head] for net in (model, source))
    if len(layers) != len(old_layers):
        raise ValueError(f"grow: a net of {len(old_layers)} layers does not go into one of {len(layers)}")
    channels = []
    for number, (layer, old) in enumerate(zip(layers, old_layers, strict=True), 1):
        # Weights are [O, I] or [..., O, I, kh, kw].
        outputs = old.weight.dim() - (2 if isinstance(old, nn.Linear) else 4)
        sizes = list(zip(old.weight.shape, layer.weight.shape, strict=True))
        if any(a > b or a < b and axis not in (outputs, outputs + 1) for axis, (a, b) in enumerate(sizes)):
            raise ValueError(
                f"grow: layer {number} has weights {list(old.weight.shape)}, which do not go into "
                f"{list(layer.weight.shape)}"
            )
        corner = tuple(slice(length) for length in old.weight.shape)
        layer.weight[corner[: outputs + 1]] = 0
        layer.weight[corner] = old.weight
        layer.bias[tuple(slice(length) for length in old.bias.shape)] = old.bias
        channels.append(old.bias.shape[-1])

    def begin(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(values.mean(1))
        norm.running_var.copy_(values.var(1))
        kept = slice(channels.pop(0))
        norm.weight[kept] = torch.sqrt(norm.running_var[kept] + norm.eps)
        norm.bias[kept] = norm.running_mean[kept]

    if model.config["batch_norm"]:
        hooks = [norm.register_forward_pre_hook(begin) for _, norm in pairs]
        model.eval()(images)
        for hook in hooks:
            hook.remove()
        model.train()


def similarity_loss(features: Tensor, identities: Tensor) -> Tensor:
    """Mean over the batch's same-identity pairs of the squared distance of their features; 0 without a pair."""
    same = torch.triu(identities[:, None] == identities[None], diagonal=1)
    first, second = same.nonzero(as_tuple=True)
    if not len(first):
        return features.sum() * 0
    return (features[first] - features[second]).square().sum(1).mean()


def augmented(
    faces: FaceCache, rows: np.ndarray, batch: int, size: tuple[int, int], settings: Augmentation, *seed: int
) -> Tensor:
    """This process's random crops [batch, 3, *size] of the pictures ``rows`` [W * batch] of all processes."""
    images = [
        augment(faces.batch(rows[place]), size, settings, generator(*seed, number))
        for number, place in parallel.pieces(batch)
    ]
    return torch.cat(images).contiguous(memory_format=torch.channels_last)


def paired_rows(identities: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """Rows of the step's batch: a shuffle of all pictures an epoch, in which two of one identity stay together."""
    per_epoch = len(identities) // batch
    epoch, number = divmod(step, per_epoch)
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(identities))
    order = order[np.argsort(identities[order], kind="stable")]
    pairs = random.permutation((len(order) + 1) // 2)
    places = np.stack([2 * pairs, 2 * pairs + 1], 1).ravel()
    return order[places[places < len(order)]][number * batch : (number + 1) * batch]


def shuffled_rows(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Rows of the step's batch: a shuffle of all pictures an epoch."""
    epoch, number = divmod(step, count // batch)
    return np.random.default_rng((seed, epoch)).permutation(count)[number * batch : (number + 1) * batch]


MARGINS = {"none": 0.0, "arcface": 0.3, "cosface": 0.2}
"""By how much the right identity must win: ArcFace in radians (Deng et al. 2019), CosFace in cosine (Wang et al. 2018).
Their authors' 0.5 and 0.35 are for a hundred pictures a person."""


def with_margin(logits: Tensor, labels: Tensor, kind: str, size: float) -> Tensor:
    """Identity logits [N, I], cosines times LOGIT_SCALE, with those of the right identities [N] made worse."""
    if kind == "none":
        return logits
    right = logits.gather(1, labels[:, None])
    if kind == "cosface":
        worse = right - LOGIT_SCALE * size
    else:
        # Beyond a half turn the cosine would rise again.
        angle = (right / LOGIT_SCALE).clamp(-1 + 1e-6, 1 - 1e-6).acos() + size
        worse = LOGIT_SCALE * angle.clamp(max=math.pi).cos()
    return logits.scatter(1, labels[:, None], worse)


def few_a_person(identities: np.ndarray, count: int) -> np.ndarray:
    """[N] bool: the first ``count`` pictures of each of the identities [N]."""
    order = np.argsort(identities, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(identities[order])) + 1]
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept = np.empty(len(order), dtype=bool)
    kept[order] = place < count
    return kept


def freeze(*modules: nn.Module) -> None:
    """Keeps modules as they are for good: no gradient, no new statistics, whatever mode the net is put into."""

    def stay(self, mode: bool = True) -> nn.Module:
        return self

    for module in modules:
        module.eval().requires_grad_(False)
        for part in module.modules():
            part.train = MethodType(stay, part)


class IdentityLoss:
    """Softmax cross-entropy over identities plus ``weight`` times the similarity loss; ``batch`` pictures a process.

    ``identities`` are numbers from 0 on, one for each of ``rows``. ``margin``: of MARGINS, with its size by default.
    """

    def __init__(
        self,
        faces: FaceCache,
        rows: np.ndarray,
        identities: np.ndarray,
        batch: int,
        weight: float,
        seed: int,
        input_size: tuple[int, int],
        margin: str = "none",
        margin_size: float | None = None,
    ):
        self.faces, self.rows, self.batch, self.weight, self.seed = faces, rows, batch, weight, seed
        self.identities = identities
        self.margin, self.margin_size = margin, MARGINS[margin] if margin_size is None else margin_size
        self.augmentation, self.input_size = Augmentation(), input_size
        self.batches = Ahead(self._make)

    def _make(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's images, and the labels of all processes'."""
        rows = paired_rows(self.identities, self.batch * parallel.world(), self.seed, step)
        seed = (self.seed, 1, step)
        images = augmented(self.faces, self.rows[rows], self.batch, self.input_size, self.augmentation, *seed)
        return images, torch.from_numpy(self.identities[rows])

    def __call__(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(model.parameters()).device
        images, labels = (tensor.to(device) for tensor in self.batches(step))
        features, logits = model(images)
        # Of one identity are pictures of several processes, too.
        similarity = similarity_loss(parallel.gather(features.float()), labels)
        labels = labels[parallel.part(self.batch)]
        softmax = F.cross_entropy(with_margin(logits.float(), labels, self.margin, self.margin_size), labels)
        correct = (logits.argmax(1) == labels).float().mean().item()
        figures = {"softmax": softmax.item(), "similarity": similarity.item(), "correct": correct}
        return softmax + self.weight * similarity, figures


class TagLoss:
    """Mean sigmoid cross-entropy over the tags; ``batch`` crops a process, ``views`` of each picture.

    tags: [N, A] of the pictures ``rows``, True and False or, of teachers who are not sure, anything between 0 and 1.
    trust: [N, A], how much each counts, 0 where it is not known; None: all are known.
    """

    def __init__(
        self,
        faces: FaceCache,
        rows: np.ndarray,
        tags: np.ndarray,
        batch: int,
        seed: int,
        input_size: tuple[int, int],
        views: int = 1,
        strength: float = 1.0,
        trust: np.ndarray | None = None,
    ):
        self.faces, self.rows, self.batch, self.seed, self.views = faces, rows, batch, seed, views
        self.tags = torch.from_numpy(tags).float()
        self.trust = torch.ones_like(self.tags) if trust is None else torch.from_numpy(trust).float()
        self.augmentation, self.input_size = Augmentation().milder(strength), input_size
        self.batches = Ahead(self._make)

    def _make(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's images, tags and trust."""
        pictures = self.batch * parallel.world() // self.views
        rows = np.repeat(shuffled_rows(len(self.rows), pictures, self.seed, step), self.views)
        seed = (self.seed, 2, step)
        images = augmented(self.faces, self.rows[rows], self.batch, self.input_size, self.augmentation, *seed)
        own = rows[parallel.part(self.batch)]
        return images, self.tags[own], self.trust[own]

    def __call__(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(model.parameters()).device
        images, tags, trust = (tensor.to(device) for tensor in self.batches(step))
        logits = model(images).float()
        # A mean over what is known in the pictures of all processes.
        trust = trust * parallel.world() / parallel.total(trust.sum()).clamp_min(1)
        right = ((logits > 0) == (tags > 0.5)).float()
        loss = F.binary_cross_entropy_with_logits(logits, tags, trust, reduction="sum")
        return loss, {"accuracy": (right * trust).sum().item()}


def predict(model: ANet, faces: FaceCache, rows: np.ndarray, batch: int = 250, mirrored: bool = False) -> Tensor:
    """Logits [N, A], on the CPU, of the plain crops of aligned faces, or of their mirror images."""
    size, device = tuple(model.config["input_size"]), model.head.weight.device
    crops = (crop(faces.batch(part), size, size).to(device) for part in _parts(rows, batch))
    if mirrored:
        crops = (images.flip(3) for images in crops)
    return torch.cat([model(images).float().cpu() for images in crops])


@torch.no_grad()
def pooled_features(
    model: ANet, faces: FaceCache, rows: np.ndarray, positions: tuple[int, int], batch: int = 50
) -> Tensor:
    """:meth:`ANet.pooled_features` [N, F], on the CPU, of aligned faces, over a field of ``positions`` round the plain
    crop. Each of several processes computes a part, and all get the whole."""
    plain = tuple(model.config["input_size"])
    size = tuple(length + model.step * (count - 1) for length, count in zip(plain, positions, strict=True))
    device = model.head.weight.device
    features = torch.zeros(len(rows), model.head.in_features, device=device)
    places = _parts(np.arange(len(rows)), batch)[parallel.rank() :: parallel.world()]
    for place in tqdm(places, desc="features", unit="batch", disable=parallel.rank() > 0):
        images = crop(faces.batch(rows[place]), size, plain).to(device)
        features[place] = model.pooled_features(images)
    return parallel.total(features).cpu()


def _parts(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]
