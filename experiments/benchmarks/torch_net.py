"""A Caffe net as a PyTorch module, layer by layer, for comparison.

Covers the layers of the nets in versus_torch.py. A Scale that works in place on a
BatchNorm's top becomes the affine part of torch's BatchNorm2d, as anyone would write
it there. Needs no JAX, so that a process that runs it holds PyTorch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from jaxcaffe.net.filter import filter_net
from jaxcaffe.proto import caffe_pb2, text, upgrade

Blobs = dict[str, torch.Tensor]
_POOL = caffe_pb2.PoolingParameter


class TorchNet(nn.Module):
    """Runs the layers in file order on blobs by name.

    Args:
      path: a train_val.prototxt.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      shape: (N, C, H, W) of the data.
    """

    def __init__(self, path: str, phase: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.steps: list[tuple[str, list[str], list[str], float]] = []
        self.layers = nn.ModuleDict()
        self.rates: dict[str, tuple[list[float], list[float]]] = {}
        net = read_layers(path, phase)
        structs: Blobs = {}
        skip = _affine_scales(net)
        for number, layer in enumerate(net):
            bottoms, tops = list(layer.bottom), list(layer.top)
            if not bottoms:
                structs[tops[0]] = torch.empty(*shape, device="meta")
                if len(tops) > 1:
                    structs[tops[1]] = torch.zeros(
                        shape[0], dtype=torch.long, device="meta"
                    )
                continue
            if number in skip:
                continue
            key = layer.name.replace(".", "_")
            affine = number + 1 in skip
            module = make_layer(layer, [structs[b] for b in bottoms], affine)
            self.layers[key] = module
            weight = 0.0
            if layer.type.endswith("Loss"):
                weight = layer.loss_weight[0] if layer.loss_weight else 1.0
            self.steps.append((key, bottoms, tops, weight))
            params = net[number + 1].param if affine else layer.param
            self.rates[key] = (
                [p.lr_mult for p in params],
                [p.decay_mult for p in params],
            )
            out = module.to("meta")(*[structs[b] for b in bottoms])
            structs.update(zip(tops, out if len(tops) > 1 else [out], strict=True))
        self.to_empty(device="cpu")
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        consumed = {b for _, bottoms, _, _ in self.steps for b in bottoms}
        self.outputs = [
            t for _, _, tops, _ in self.steps for t in tops if t not in consumed
        ]

    def forward(
        self, feeds: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the weighted sum of the losses, and the blobs nobody consumes."""
        blobs = dict(feeds)
        loss = torch.zeros(())
        for key, bottoms, tops, weight in self.steps:
            out = self.layers[key](*[blobs[b] for b in bottoms])
            blobs.update(zip(tops, out if len(tops) > 1 else [out], strict=True))
            if weight:
                loss = loss + weight * out
        return loss, [blobs[name] for name in self.outputs]

    def make_optimizer(
        self, rate: float, momentum: float, decay: float, fused: bool
    ) -> torch.optim.Optimizer:
        """Returns SGD with the prototxt's multipliers of rate and decay."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for key, module in self.layers.items():
            lr_mults, decay_mults = self.rates[key]
            for index, parameter in enumerate(module.parameters()):
                lr = lr_mults[index] if index < len(lr_mults) else 1.0
                wd = decay_mults[index] if index < len(decay_mults) else 1.0
                groups.setdefault((lr, wd), []).append(parameter)
        return torch.optim.SGD(
            [
                {"params": params, "lr": rate * lr, "weight_decay": decay * wd}
                for (lr, wd), params in groups.items()
            ],
            lr=rate,
            momentum=momentum,
            fused=fused,
        )


def read_layers(path: str, phase: int) -> list[caffe_pb2.LayerParameter]:
    """Returns the layers of a net that belong to a phase, in the present format."""
    net, source = text.read_net(path)
    net = upgrade.upgrade_net(net, source)
    kept, _ = filter_net(net, caffe_pb2.NetState(phase=phase), source)
    return list(kept.layer)


def make_layer(
    layer: caffe_pb2.LayerParameter, bottoms: Sequence[torch.Tensor], affine: bool
) -> nn.Module:
    """Returns the module that does what one layer does.

    Args:
      layer: its parameters.
      bottoms: tensors of the bottoms' shapes, on the meta device.
      affine: the Scale that follows is part of it.
    """
    inplace = list(layer.bottom) == list(layer.top)
    channels = bottoms[0].shape[1] if bottoms[0].dim() > 1 else 1
    match layer.type:
        case "Convolution":
            return _convolution(layer.convolution_param, channels)
        case "InnerProduct":
            param = layer.inner_product_param
            size = bottoms[0][0].numel()
            return nn.Sequential(
                nn.Flatten(), nn.Linear(size, param.num_output, param.bias_term)
            )
        case "ReLU":
            slope = layer.relu_param.negative_slope
            return nn.LeakyReLU(slope, inplace) if slope else nn.ReLU(inplace)
        case "Dropout":
            # Not in place: it would overwrite what the gradient of ReLU needs.
            return nn.Dropout(layer.dropout_param.dropout_ratio)
        case "LRN":
            lrn = layer.lrn_param
            assert lrn.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS
            return nn.LocalResponseNorm(lrn.local_size, lrn.alpha, lrn.beta, lrn.k)
        case "Pooling":
            return _Pooling(layer.pooling_param)
        case "BatchNorm":
            norm = layer.batch_norm_param
            rate = 1 - norm.moving_average_fraction
            return nn.BatchNorm2d(channels, norm.eps, rate, affine)
        case "Concat":
            return _Concat(layer.concat_param.axis)
        case "Eltwise":
            assert layer.eltwise_param.operation == caffe_pb2.EltwiseParameter.SUM
            return _Sum()
        case "Softmax":
            return nn.Softmax(layer.softmax_param.axis)
        case "SoftmaxWithLoss":
            return nn.Sequential() if len(bottoms) == 1 else _Loss()
        case "Accuracy":
            return _Accuracy(layer.accuracy_param.top_k)
    raise SystemExit(f"no PyTorch module for layer {layer.name} ({layer.type})")


def _affine_scales(layers: Sequence[caffe_pb2.LayerParameter]) -> set[int]:
    """Returns the indices of Scales that follow a BatchNorm in place."""
    found = set()
    for number, layer in enumerate(layers[1:], 1):
        before = layers[number - 1]
        if layer.type == "Scale" and before.type == "BatchNorm":
            assert layer.scale_param.bias_term
            assert list(layer.bottom) == list(layer.top) == list(before.top)
            found.add(number)
    return found


def _pair(param: object, name: str, repeated: Sequence[int], default: int) -> list[int]:
    """Returns rows and columns of a field that has a _h and a _w."""
    if param.HasField(f"{name}_h"):  # type: ignore[attr-defined]
        return [getattr(param, f"{name}_h"), getattr(param, f"{name}_w")]
    values = list(repeated) or [default]
    return values * 2 if len(values) == 1 else values


def _convolution(param: caffe_pb2.ConvolutionParameter, channels: int) -> nn.Module:
    dilation = list(param.dilation) or [1]
    return nn.Conv2d(
        channels,
        param.num_output,
        _pair(param, "kernel", param.kernel_size, 1),
        _pair(param, "stride", param.stride, 1),
        _pair(param, "pad", param.pad, 0),
        dilation * 2 if len(dilation) == 1 else dilation,
        param.group,
        param.bias_term,
    )


class _Pooling(nn.Module):
    """Sizes rounded up and means over windows clipped to the padded image."""

    def __init__(self, param: caffe_pb2.PoolingParameter) -> None:
        super().__init__()
        self.is_max = param.pool == _POOL.MAX
        self.is_global = param.global_pooling
        self.kernel = _pair(param, "kernel", [param.kernel_size], 1)
        self.stride = _pair(param, "stride", [param.stride], 1)
        self.pad = _pair(param, "pad", [param.pad], 0)
        self.ceil = param.round_mode == _POOL.CEIL

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        kernel = list(bottom.shape[2:]) if self.is_global else self.kernel
        arguments = (bottom, kernel, self.stride, self.pad)
        if self.is_max:
            return functional.max_pool2d(*arguments, ceil_mode=self.ceil)
        return functional.avg_pool2d(*arguments, ceil_mode=self.ceil)


class _Concat(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        return torch.cat(bottoms, self.axis)


class _Sum(nn.Module):
    def forward(self, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = first + other
        return first


class _Loss(nn.Module):
    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(scores.flatten(1), labels)


class _Accuracy(nn.Module):
    def __init__(self, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best = scores.detach().flatten(1).topk(self.top_k, 1).indices
        return (best == labels[:, None]).any(1).float().mean()
