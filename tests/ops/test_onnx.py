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


@pytest.mark.parametrize("exported_before", [False, True])
def test_equal_in_onnxruntime_with_a_dynamic_batch(tmp_path, exported_before):
    net = Dense().eval()
    args, shapes = (torch.randn(2, 3, 14, 13),), ({0: torch.export.Dim("n")},)
    if exported_before:
        program = torch.onnx.export(torch.export.export(net, args, dynamic_shapes=shapes), dynamo=True, verbose=False)
    else:
        program = torch.onnx.export(net, args, dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(tmp_path / "net.onnx")
    assert {node.domain for node in program.model.graph} <= {"", "pkg.onnxscript.torch_lib.common"}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 5):
        input = torch.randn(batch, 3, 14, 13)
        results = session.run(None, {session.get_inputs()[0].name: input.numpy()})
        for ours, theirs in zip(results, net(input), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)
