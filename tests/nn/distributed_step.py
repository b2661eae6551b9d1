"""A step of training on two processes, each half of the batch, against one on the whole: see test_distributed.py."""

import torch
from torch import nn
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from faceattr.nn import LocallySharedConv2d


def make_net():
    torch.manual_seed(0)
    net = nn.Sequential(LocallySharedConv2d(3, 5, 3, (3, 2)), nn.Tanh(), LocallySharedConv2d(5, 4, 3, (2, 2)))
    return net.double()


def step(net, input):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(input).square().mean().backward()
    optimizer.step()
    return [
        parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter for parameter in net.parameters()
    ]


def main():
    init_process_group("gloo")
    input = torch.randn(4, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = step(make_net(), input)
    sharded = make_net()
    for layer in (sharded[0], sharded[2], sharded):
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    for net in (DistributedDataParallel(make_net()), sharded):
        for ours, other in zip(step(net, input.chunk(2)[get_rank()]), expected, strict=True):
            torch.testing.assert_close(ours, other)
    destroy_process_group()


if __name__ == "__main__":
    main()
