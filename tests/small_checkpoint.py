"""A checkpoint whose answers are known: its faces are red discs on grey, and they smile in so far as they are green.

The nets are the real classes at a few channels, wired by hand. LNet_o responds where a red disc of about a tenth of the
photo's longer side has something else round it; LNet_s to any red; ANet's features are the mean of the green channel.
"""

import torch
from PIL import Image, ImageDraw

from faceattr.ages import LIMITS
from faceattr.localization import LocalizerSettings
from faceattr.models.anet import ANet
from faceattr.models.checkpoint import save_checkpoint
from faceattr.models.frame import FrameCorrection
from faceattr.models.lnet import LNet
from faceattr.models.svm import LinearSVM
from faceattr.train.face import lnets_alone

ATTRIBUTES = ("Smiling", "Frowning", "Present")
GREY = (128, 128, 128)
NEUTRAL, SMILING = (255, 0, 0), (255, 90, 0)  # both red enough for the LNets
DISCS = [(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]
"""Both faces, in a photo of 320 x 240 pixels."""
BORDER = [(4, 120, 32, NEUTRAL), (4, 120, 8, SMILING)]
"""A face at the photo's border that smiles in its middle alone, which is not that of its box in the photo."""


def make_lnet(kernel: torch.Tensor) -> LNet:
    """Redness, averaged over 11 x 11 pixels, filtered with `kernel` [5, 5] at every 8 pixels."""
    trunk = {"widths": [1] * 5, "batch_norm": False, "mean": [0.0] * 3, "std": [1.0] * 3}
    net = LNet(tags=["a"], sizes=[40.0, 50.4, 63.5], trunk=trunk)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        trunk = net.trunk
        trunk.c1[0].weight[0] = torch.tensor([1.0, -0.5, -0.5])[:, None, None] / 121
        trunk.c2[0].weight[0, 0] = kernel
        for layer in (trunk.c3, trunk.c4, trunk.c5):
            layer[0].weight[0, 0, 1, 1] = 1
        net.head.weight[1:] = 24
        net.head.bias[1:] = -10
    return net.eval()


def make_anet() -> ANet:
    """Every feature is the mean of the green channel, where it is not negative."""
    net = ANet(attributes=len(ATTRIBUTES), features=4, mean=[0.0] * 3, std=[1.0] * 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        first, second = net.shared[0], net.shared[4]
        first.weight[0, 1] = 1 / first.weight[0, 1].numel()
        second.weight[0, 0] = 1 / second.weight[0, 0].numel()
        net.c3.weight[:, :, 0, 0] = 1 / net.c3.weight[0, 0, 0, 0].numel()
        net.c4.weight[:, :, 0, 0] = 1 / net.c4.weight[0, 0, 0, 0].numel()
        rows, columns = net.config["c4"][2]
        inputs = net.fc.in_features - net.config["c4"][0] * rows * columns
        net.fc.weight[:, inputs : inputs + rows * columns] = 1 / (rows * columns)
    return net.eval()


def save_small_checkpoint(
    path, positions=(1, 1), score_threshold=0.5, face=None, age=None, correction=None, **preprocessing
) -> None:
    """correction: by which every frame is put right."""
    centre = torch.zeros(5, 5)
    centre[1:4, 1:4] = 1 / 9
    svm = LinearSVM(len(ATTRIBUTES), 4)
    with torch.no_grad():
        svm.weight[0, 0], svm.bias[0] = 40, -7  # a neutral disc's green is 0, a smiling one's 0.35
        svm.weight[1, 0], svm.bias[1] = -40, 7
        svm.bias[2] = 5
    anet, frame = make_anet(), None
    if correction is not None:
        frame = FrameCorrection(anet.responses_size).requires_grad_(False)
        frame.bias[:] = torch.tensor(correction)
    save_checkpoint(
        path,
        lnet_o=make_lnet(centre - (centre == 0) / 16),
        lnet_s=make_lnet(centre),
        anet=anet,
        svm=svm,
        face=face or lnets_alone(4),
        age=age,
        frame=frame,
        metadata={
            "attributes": list(ATTRIBUTES),
            "preprocessing": {
                # One scale, at which a photo is 320 pixels wide; a crop that lies inside the disc.
                "localization": LocalizerSettings(finest_side=320, least_side=10**9, score_threshold=0.1).to_dict(),
                "score_threshold": score_threshold,
                "aligned_box": [38.3, 47.7, 139.7, 187.7],
                "crop": {"centre": [0.0, 0.0], "height": 0.35, "positions": list(positions)},
                "age_tail": 0.1,
                **preprocessing,
            },
            "thresholds": {"accuracy": [0.5, 0.5, 0.995], "balanced": [0.5, 0.5, 0.4]},
            "training": {},
            "metrics": {},
        },
    )


def save_aged_checkpoint(path, **options) -> None:
    """A checkpoint that also tells ages: everybody is surely 30, and 40 or older if they smile."""
    age = LinearSVM(len(LIMITS), 4).eval()
    with torch.no_grad():
        age.bias[:] = torch.tensor([20.0 if limit <= 30 else -20.0 for limit in LIMITS])
        forty = LIMITS.index(40)
        age.weight[forty, 0], age.bias[forty] = 400, -70  # a smiling disc's green is 0.35, a neutral one's 0
    save_small_checkpoint(path, age=age, **options)


def draw_photo(discs, size=(320, 240)) -> Image.Image:
    """A grey photo with discs (x, y, diameter, colour)."""
    # Drawn four times as large: smooth edges.
    image = Image.new("RGB", (size[0] * 4, size[1] * 4), GREY)
    draw = ImageDraw.Draw(image)
    for x, y, diameter, colour in discs:
        draw.circle((4 * x, 4 * y), 2 * diameter, colour)
    return image.reduce(4)
