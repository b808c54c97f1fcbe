"""Runs steps of a net in PyTorch, as versus_torch.py asks for them."""

from __future__ import annotations

import json
import sys

import torch
from torch_net import TorchNet
from turns import serve

from jaxcaffe.proto import caffe_pb2


def main(task: dict) -> None:
    """Builds the net that `task` names, warms it up, and serves."""
    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    is_train = task["kind"] == "train"
    shape = (task["batch"], *task["shape"])
    net = TorchNet(task["net"], caffe_pb2.TRAIN if is_train else caffe_pb2.TEST, shape)
    net.train(is_train)
    feeds = {"data": torch.randn(shape), "label": torch.zeros(shape[0]).long()}
    if task["channels_last"]:
        net.to(memory_format=torch.channels_last)
        feeds["data"] = feeds["data"].to(memory_format=torch.channels_last)
    solver = task["solver"]
    optimizer = net.make_optimizer(
        solver["rate"], solver["momentum"], solver["decay"], task["fused"]
    )

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss, _ = net(feeds)
            loss.backward()
            optimizer.step()

    def forward(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                net(feeds)

    run = train if is_train else forward
    run(2)
    serve(run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
