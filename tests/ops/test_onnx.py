"""The operators in ONNX: torch.onnx.export by decompositions into standard operators, run by onnxruntime."""

import pytest
import torch
from torch import nn

from faceattr import ops
from faceattr.nn import LocallySharedConv2d

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript")


class Dense(nn.Module):
    """As a net's dense pass: both operators beyond the layer."""

    def __init__(self):
        super().__init__()
        self.layer = LocallySharedConv2d(3, 4, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2))
        self.weight = nn.Parameter(torch.randn(2, 3, 5, 4, 2, 2))

    def forward(self, input):
        hidden = self.layer(input).relu()
        maps = ops.interweaved_conv2d(hidden, self.weight, stride=(1, 2), shift=(1, 0), pool=(2, 1))
        return maps, ops.interweave(maps[:, None, None].expand(-1, 2, 3, -1, -1, -1), (1, 2))


def test_equal_in_onnxruntime_with_a_dynamic_batch(tmp_path):
    net = Dense().eval()
    program = torch.onnx.export(
        net, (torch.randn(2, 3, 14, 13),), dynamo=True, dynamic_shapes=({0: "n"},), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    assert {node.domain for node in program.model.graph} <= {"", "pkg.onnxscript.torch_lib.common"}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 5):
        input = torch.randn(batch, 3, 14, 13)
        results = session.run(None, {session.get_inputs()[0].name: input.numpy()})
        for ours, theirs in zip(results, net(input), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)
