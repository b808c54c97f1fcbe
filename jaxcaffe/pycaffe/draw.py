"""Pictures of nets: layers as boxes, blobs as octagons, on request with what they cost.

Follows caffe/python/caffe/draw.py.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import Any

import pydot

from jaxcaffe.errors import CaffeError, ConfigError, describe, describe_layer
from jaxcaffe.proto import caffe_pb2, upgrade
from jaxcaffe.proto.files import write_bytes
from jaxcaffe.pycaffe.costs import LayerCost, read_costs
from jaxcaffe.spec import Shape

LAYER_STYLE_DEFAULT: dict[str, Any] = {
    "shape": "record",
    "fillcolor": "#6495ED",
    "style": "filled",
}
NEURON_LAYER_STYLE = {**LAYER_STYLE_DEFAULT, "fillcolor": "#90EE90"}
BLOB_STYLE: dict[str, Any] = {
    "shape": "octagon",
    "fillcolor": "#E0E0E0",
    "style": "filled",
}

_COLORS = {
    "Convolution": "#FF5050",
    "Deconvolution": "#FF5050",
    "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
}
_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_SOURCE_FORMATS = ("raw", "dot", "gv")
"""Written without Graphviz: the description of the picture."""

_UNITS = ("", " k", " M", " G", " T")

_RANKDIRS = ("TB", "BT", "LR", "RL")


class DrawError(CaffeError, ValueError):
    """A net cannot be drawn."""


def get_pooling_types_dict() -> dict[int, str]:
    """Returns number -> name of the kinds of pooling."""
    return {v: k for k, v in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: caffe_pb2.LayerParameter) -> str:
    """Returns what stands at the arrows to a layer's tops; '""' for nothing."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: caffe_pb2.LayerParameter) -> tuple[float, float]:
    """Returns lr_mult of a layer's weights and of its bias.

    Raises:
      DrawError: no Convolution, Deconvolution or InnerProduct; more than two `param`.
    """
    if layer.type not in _LEARNING:
        problem = f"{layer.type} layers do not have a learning rate multiplier"
        raise DrawError(describe("", problem, ", ".join(_LEARNING)))
    if len(layer.param) > 2:
        problem = "Could not parse the learning rate multiplier: it has "
        problem += f"{len(layer.param)} param"
        raise DrawError(describe_layer("", layer.name, layer.type, problem, "0 to 2"))
    weights, bias = ([p.lr_mult for p in layer.param] + [1.0, 1.0])[:2]
    return weights, bias


def get_layer_label(
    layer: caffe_pb2.LayerParameter, rankdir: str, display_lrm: bool = False
) -> str:
    """Returns what stands in a layer's box, quoted for Graphviz.

    Args:
      layer: in today's form.
      rankdir: in a picture that runs up or down, all stands on one line.
      display_lrm: with lr_mult of weights and bias, unless both are 0.

    Source: caffe/python/caffe/draw.py. Differs: kernel_h and its kin are shown, and a
    pooling over everything.
    """
    return _quote(_join(_describe(layer, display_lrm), rankdir))


def choose_color_by_layertype(layertype: str) -> str:
    """Returns the fill of a layer's box, as #RRGGBB."""
    return _COLORS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def get_pydot_graph(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
    *,
    display_costs: bool = False,
    data_shape: Shape | None = None,
) -> pydot.Dot:
    """Makes the picture of a net.

    Args:
      caffe_net: a net.
      rankdir: where arrows point: "LR", "RL", "TB" or "BT".
      label_edges: with num_output or the batch size at the arrows.
      phase: only layers of caffe_pb2.TRAIN or caffe_pb2.TEST; None for all.
      display_lrm: with lr_mult of layers that have weights.
      display_costs: with each layer's tops' shapes, count of learned values, and FLOPs
        of a forward pass, and their sums as the picture's title.
      data_shape: (C, H, W) of one record of data layers, for display_costs; None to
        look at their data.

    Raises:
      DrawError: a layer has include and exclude; no such rankdir.
      CaffeError: with display_costs, the net or its data are wrong.

    Source: caffe/python/caffe/draw.py. Differs: nets in an older form are upgraded
    first; layers of one name and type, as for two phases, have a box each; a rule
    without a phase holds in both; blobs that no layer reads are octagons too.
    """
    if rankdir not in _RANKDIRS:
        problem = f'rankdir is "{rankdir}"'
        raise DrawError(describe("", problem, ", ".join(_RANKDIRS)))
    net = upgrade.upgrade_net(caffe_net)
    shown = [i for i, layer in enumerate(net.layer) if _is_shown(layer, phase)]
    costs = read_costs(net, phase, data_shape) if display_costs else {}
    picture = pydot.Dot(
        _quote(_escape(net.name or "Net")), graph_type="digraph", rankdir=rankdir
    )
    if costs:
        picture.set("label", _quote(_title(net, shown, costs)))
        picture.set("labelloc", "t")
    blobs = dict.fromkeys(
        blob for i in shown for blob in (*net.layer[i].bottom, *net.layer[i].top)
    )
    for blob in blobs:
        picture.add_node(
            pydot.Node(_blob_id(blob), label=_quote(_escape(blob)), **BLOB_STYLE)
        )
    taken: Counter[str] = Counter()
    for i in shown:
        layer = net.layer[i]
        name = f"{layer.name}_{layer.type}"
        taken[name] += 1
        node = _quote(_escape(name if taken[name] == 1 else f"{name}#{taken[name]}"))
        parts = _describe(layer, display_lrm), _describe_cost(costs.get(i))
        # Costs on a line of their own keep boxes narrow.
        label = _quote(r"\n".join(_join(part, rankdir) for part in parts if part))
        picture.add_node(pydot.Node(node, label=label, **_style(layer)))
        for bottom in layer.bottom:
            picture.add_edge(pydot.Edge(_blob_id(bottom), node))
        edge_label = get_edge_label(layer) if label_edges else '""'
        for top in layer.top:
            picture.add_edge(pydot.Edge(node, _blob_id(top), label=edge_label))
    return picture


def draw_net(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
    *,
    display_costs: bool = False,
    data_shape: Shape | None = None,
) -> bytes:
    """Returns the picture of a net as a file's content.

    Args:
      caffe_net: see get_pydot_graph.
      rankdir: see get_pydot_graph.
      ext: "raw", "dot" or "gv" for Graphviz's language, which needs no Graphviz; or a
        format of its dot command, such as "png", "svg", "pdf".
      phase: see get_pydot_graph.
      display_lrm: see get_pydot_graph.
      display_costs: see get_pydot_graph.
      data_shape: see get_pydot_graph.

    Raises:
      ConfigError: Graphviz is not installed, or does not know the format.
      CaffeError: as get_pydot_graph.
    """
    picture = get_pydot_graph(
        caffe_net,
        rankdir,
        phase=phase,
        display_lrm=display_lrm,
        display_costs=display_costs,
        data_shape=data_shape,
    )
    source = picture.to_string().encode()
    return source if ext in _SOURCE_FORMATS else _run_dot(source, ext)


def draw_net_to_file(
    caffe_net: caffe_pb2.NetParameter,
    filename: str,
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
    *,
    display_costs: bool = False,
    data_shape: Shape | None = None,
) -> None:
    """Writes the picture of a net; an older file gives way.

    Args:
      caffe_net: see get_pydot_graph.
      filename: its extension tells the format, see draw_net.
      rankdir: see get_pydot_graph.
      phase: see get_pydot_graph.
      display_lrm: see get_pydot_graph.
      display_costs: see get_pydot_graph.
      data_shape: see get_pydot_graph.

    Raises:
      ConfigError: as draw_net; no extension; the file cannot be written.
      CaffeError: as get_pydot_graph.
    """
    ext = os.path.splitext(filename)[1][1:]
    if not ext:
        problem = "has no extension to tell the format"
        raise ConfigError(describe(filename, problem, "png, svg, pdf, dot"))
    content = draw_net(
        caffe_net,
        rankdir,
        ext,
        phase,
        display_lrm,
        display_costs=display_costs,
        data_shape=data_shape,
    )
    write_bytes(filename, content, ConfigError)


def _is_shown(layer: caffe_pb2.LayerParameter, phase: int | None) -> bool:
    if phase is None:
        return True
    if layer.include and layer.exclude:
        problem = "has both include and exclude specified"
        raise DrawError(describe_layer("", layer.name, layer.type, problem, "one"))

    def holds(rule: caffe_pb2.NetStateRule) -> bool:
        return not rule.HasField("phase") or rule.phase == phase

    if layer.include:
        return any(holds(rule) for rule in layer.include)
    return not any(holds(rule) for rule in layer.exclude)


def _describe(layer: caffe_pb2.LayerParameter, display_lrm: bool) -> list[str]:
    kind = layer.type
    if layer.type == "Pooling":
        kind += f" {get_pooling_types_dict()[layer.pooling_param.pool]}"
    lines = [layer.name, f"({kind})"]
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        lines += _describe_window(layer)
    if display_lrm and layer.type in _LEARNING:
        weights, bias = get_layer_lr_mult(layer)
        if weights or bias:
            lines.append(f"lr mult: {weights:.1f}, {bias:.1f}")
    return lines


def _describe_window(layer: caffe_pb2.LayerParameter) -> list[str]:
    if layer.type == "Pooling" and layer.pooling_param.global_pooling:
        return ["global"]
    words = {
        "kernel size": ("kernel_size", "kernel", 1),
        "stride": ("stride", "stride", 1),
        "pad": ("pad", "pad", 0),
    }
    return [
        f"{word}: {_read_window(layer, *word_fields)}"
        for word, word_fields in words.items()
    ]


def _read_window(
    layer: caffe_pb2.LayerParameter, field: str, stem: str, default: int
) -> str:
    """Returns a size as "3", or where it is not the same both ways as "3x5"."""
    is_pooling = layer.type == "Pooling"
    param = layer.pooling_param if is_pooling else layer.convolution_param
    if param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w"):
        sizes = [getattr(param, f"{stem}_h"), getattr(param, f"{stem}_w")]
    elif is_pooling:
        sizes = [getattr(param, field)]
    else:
        sizes = list(getattr(param, field)) or [default]
    return "x".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


def _describe_cost(cost: LayerCost | None) -> list[str]:
    if cost is None:
        return []
    shapes = ", ".join("x".join(map(str, shape)) or "1" for shape in cost.shapes)
    lines = [shapes] if shapes else []
    lines += [f"params: {_scale(cost.params)}"] if cost.params else []
    return lines + ([f"FLOPs: {_scale(cost.flops)}"] if cost.flops else [])


def _title(
    net: caffe_pb2.NetParameter, shown: list[int], costs: dict[int, LayerCost]
) -> str:
    params = sum(costs[i].params for i in shown if i in costs)
    flops = sum(costs[i].flops for i in shown if i in costs)
    name = _escape(net.name or "Net")
    return f"{name}: {_scale(params)} params, {_scale(flops)} FLOPs a batch"


def _scale(count: float) -> str:
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.4g}{_UNITS[power]}"


def _style(layer: caffe_pb2.LayerParameter) -> dict[str, Any]:
    if len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top):
        return NEURON_LAYER_STYLE
    return {
        **LAYER_STYLE_DEFAULT,
        "fillcolor": choose_color_by_layertype(layer.type),
    }


def _join(lines: list[str], rankdir: str) -> str:
    # Room across the arrows is free.
    separator = " " if rankdir in ("TB", "BT") else r"\n"
    return separator.join(_escape_record(line) for line in lines)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")


def _escape_record(text: str) -> str:
    # In a box of the shape "record" these draw compartments.
    return "".join(f"\\{c}" if c in "{}|<>" else c for c in _escape(text))


def _quote(text: str) -> str:
    return f'"{text}"'


def _blob_id(blob: str) -> str:
    return _quote(_escape(f"{blob}_blob"))


def _run_dot(source: bytes, ext: str) -> bytes:
    try:
        done = subprocess.run(
            ["dot", f"-T{ext}"], input=source, capture_output=True, check=False
        )
    except FileNotFoundError:
        problem = "Graphviz's command dot, which draws, is not on the PATH"
        accepted = f"Graphviz installed, or one of {', '.join(_SOURCE_FORMATS)}"
        raise ConfigError(describe(f"format {ext}", problem, accepted)) from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise ConfigError(describe(f"format {ext}", f"dot says: {said}"))
    return done.stdout
