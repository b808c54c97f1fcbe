"""Makes the weights that an FCN starts from, of those of the net that it grows out of.

  python prototxt/fcn_weights.py NET SOURCE OUT

NET: the FCN's train_val.prototxt or deploy.prototxt. SOURCE: the .caffemodel of VGG-16
for fcn32s, of FCN-32s for fcn16s, of FCN-16s for fcn8s. OUT: a .caffemodel to make.

Layers of NET take the blobs that SOURCE has under their name, if they hold as many
numbers: so the inner products fc6 and fc7 become convolutions. Deconvolutions become
bilinear interpolation of each channel. The others are left out, and stay as their
fillers make them: scores of 0.

Follows surgery.py and solve.py of https://github.com/shelhamer/fcn.berkeleyvision.org.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxcaffe.errors import ConfigError, SnapshotError, describe
from jaxcaffe.proto import binary, caffe_pb2, text, upgrade
from jaxcaffe.tools import cli

Arrays = list[NDArray[np.float32]]


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    if len(argv) != 3:
        raise ConfigError(
            describe("fcn_weights", f"{len(argv)} arguments", "3: NET SOURCE OUT")
        )
    net_path, source_path, out = argv
    if os.path.exists(out):
        raise ConfigError(describe(out, "is there already", "a new file"))
    net, source = text.read_net(net_path)
    net = upgrade.upgrade_net(net, source)
    weights = binary.net_weights(binary.read_caffemodel(source_path))
    started = start_weights(net, weights, source_path)
    model = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layer:
        if layer.name in started:
            blobs = map(binary.array_to_blob, started[layer.name])
            model.layer.add(name=layer.name, type=layer.type, blobs=blobs)
    binary.write_caffemodel(out, model)
    print(f"{out}: {', '.join(started)}")
    return 0


def start_weights(
    net: caffe_pb2.NetParameter, weights: Mapping[str, Arrays], source: str
) -> dict[str, Arrays]:
    """Returns the blobs of the layers that do not start from their fillers.

    Args:
      net: the FCN, in today's form.
      weights: layer name -> float32 blobs of the net that it grows out of.
      source: where these come from, for messages.

    Raises:
      SnapshotError: a layer has too few or too many numbers in `weights`, or none of
        the net's layers is there.
    """
    started: dict[str, Arrays] = {}
    for layer in net.layer:
        param = layer.convolution_param
        if layer.type == "Deconvolution":
            started[layer.name] = [
                interpolation(param.num_output, param.kernel_size[0])
            ]
        elif layer.type == "Convolution" and layer.name in weights:
            weight, bias = weights[layer.name]
            side = param.kernel_size[0]
            if weight.size % (param.num_output * side * side):
                raise SnapshotError(
                    describe(
                        source,
                        f'"{layer.name}" has {weight.size} weights',
                        f"a multiple of {param.num_output} x {side} x {side}",
                    )
                )
            shape = (param.num_output, -1, side, side)
            started[layer.name] = [weight.reshape(shape), bias.reshape(-1)]
    if not set(started) & set(weights):
        raise SnapshotError(
            describe(
                source, "has no layer of this net", "the weights of VGG-16 or an FCN"
            )
        )
    return started


def interpolation(channels: int, side: int) -> NDArray[np.float32]:
    """Returns the weights of a Deconvolution that enlarges each channel by itself.

    Args:
      channels: of its bottom and its top.
      side: of its kernel in pixels, twice its stride.

    Returns:
      (channels, channels, side, side), zero between different channels.

    Source: surgery.py, upsample_filt.
    """
    stride = (side + 1) // 2
    centre = stride - 1 if side % 2 else stride - 0.5
    line = 1 - np.abs(np.arange(side) - centre) / stride
    weight = np.zeros((channels, channels, side, side), np.float32)
    weight[range(channels), range(channels)] = np.outer(line, line)
    return weight


if __name__ == "__main__":
    cli.run(main)
