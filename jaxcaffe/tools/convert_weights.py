"""Converts weights between formats: `convert_weights IN OUT [--net net.prototxt]`.

Follows ToProto, ToHDF5 and CopyTrainedLayersFrom of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy

from jaxcaffe import log
from jaxcaffe.caffe_files import hdf5, nvcaffe
from jaxcaffe.caffe_files.caffemodel import saved_layers, write_caffemodel
from jaxcaffe.caffe_files.snapshots import write_weights
from jaxcaffe.caffe_files.weights import Weights, read_weights
from jaxcaffe.errors import ConfigError, SnapshotError, describe, plural
from jaxcaffe.net.weights import export_weights, load_weights
from jaxcaffe.pretrained import load_pretrained
from jaxcaffe.profiling.from_net import open_net
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.proto.files import read_bytes
from jaxcaffe.spec import Net, Params, Stats
from jaxcaffe.tools import cli
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Converts weights between these, told by the end of the name:

  .caffemodel      Caffe's binary form, of any age when read; of NVIDIA's Caffe too
  .h5              Caffe's HDF5 form, .caffemodel.h5
  .npz             NumPy's, an array LAYER/NUMBER for each blob
  .safetensors     likewise
  a folder         a snapshot such as runs/NAME/snapshots/1000; needs --net. One that is
                   written holds weights alone: it can be tested or classified with, or
                   read again, but not resumed

With --net the weights must fit that net, and a .caffemodel describes its layers.

The five-blob BatchNorm of NVIDIA's Caffe becomes BatchNorm and Scale: that of --net
behind it, else a new one, NAME_scale. --batch_norm=nvcaffe does the reverse."""

BATCH_NORMS = ("bvlc", "nvcaffe")
_KINDS = (".caffemodel", ".h5", ".npz", ".safetensors")
_PHASES = ("TRAIN", "TEST")


class Model(NamedTuple):
    """Weights, and what is known of the net that they belong to."""

    weights: Weights
    described: caffe_pb2.NetParameter  # layers without blobs
    fitted: tuple[Net, Params, Stats] | None  # with --net


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, OUT exists, IN is broken or does not fit the net.
    """
    log.quieten_libraries()
    parser = cli.Parser("convert_weights", DESCRIPTION)
    parser.argument("IN", "the weights to read")
    parser.argument("OUT", "the weights to write")
    parser.flag("net", "", "prototxt of the net that the weights belong to")
    parser.flag("phase", "TEST", "of the net", choices=_PHASES)
    add_state_flags(parser)
    add_layers_flag(parser)
    parser.flag(
        "shape", "", "C,H,W of one record as stored, if the net's data are not here"
    )
    parser.flag("batch_norm", "bvlc", "form of BatchNorm", choices=BATCH_NORMS)
    parser.flag("overwrite", False, "replace OUT if it exists")
    flags = parser.parse(argv)
    load_flagged_layers(flags)
    kind = _find_kind(flags.OUT)
    if flags.batch_norm == "nvcaffe" and kind != ".caffemodel":
        raise ConfigError(
            describe(flags.OUT, "cannot hold NVIDIA's BatchNorm", "a .caffemodel")
        )
    if not flags.net and (not kind or os.path.isdir(flags.IN)):
        folder = flags.IN if os.path.isdir(flags.IN) else flags.OUT
        problem = "a snapshot's folder names blobs as the net's layers do"
        raise ConfigError(describe(folder, problem, "--net=net.prototxt beside it"))

    model = read_model(flags.IN, _open_net(flags) if flags.net else None)
    count = sum(blob is not None for blobs in model.weights.values() for blob in blobs)
    layers = sum(bool(blobs) for blobs in model.weights.values())
    cli.say(
        f"Read {plural(count, 'blob')} of {plural(layers, 'layer')} from {flags.IN}"
    )
    write_model(flags.OUT, model, flags.overwrite, flags.batch_norm == "nvcaffe")
    cli.say(f"Wrote {flags.OUT}")
    return 0


def read_model(path: str, net: Net | None = None) -> Model:
    """Reads weights of any kind, BatchNorm in BVLC's form.

    Args:
      path: a file, or with `net` also the folder of a snapshot.
      net: the weights must be its own, all of them; None to take what the file says.

    Raises:
      SnapshotError: missing, broken, no weights, or not those of the net.
    """
    if net is not None:
        params, stats = _fit(net, path)
        described = caffe_pb2.NetParameter(name=net.graph.name, layer=saved_layers(net))
        weights: Weights = {
            name: list(blobs)
            for name, blobs in export_weights(net, params, stats).items()
        }
        return Model(weights, described, (net, params, stats))
    if reader := _READERS.get(os.path.splitext(path)[1]):
        return _describe_by_name(reader(path))
    if os.path.isfile(path) and binary.is_hdf5(path):
        return _describe_by_name(read_weights(path))
    read_weights(path)  # Says what a file of another kind is.
    described = nvcaffe.to_bvlc(binary.read_caffemodel(path))
    weights = {
        name: list(blobs) for name, blobs in binary.net_weights(described).items()
    }
    for layer in described.layer:
        layer.ClearField("blobs")
    return Model(weights, described, None)


def write_model(
    path: str, model: Model, overwrite: bool = False, as_nvcaffe: bool = False
) -> None:
    """Writes weights in the form that the end of the name asks for.

    Args:
      path: of the file, or of the folder if the name has no end known here.
      model: from `read_model`.
      overwrite: whether what is there may be replaced.
      as_nvcaffe: whether BatchNorm gets NVIDIA's form; for a .caffemodel.

    Raises:
      ConfigError: `path` exists and may not be replaced.
      SnapshotError: it cannot be written, or the form cannot hold the weights.
    """
    kind = _find_kind(path)
    cli.refuse_existing(path, overwrite)
    if not kind:
        assert model.fitted is not None
        _, params, stats = model.fitted
        _write_folder(path, params, stats)
    elif kind == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **_flatten(model.weights))  # type: ignore[arg-type]
        cli.write_file(path, buffer.getvalue(), overwrite)
    elif kind == ".safetensors":
        data = safetensors.numpy.save(_flatten(model.weights))
        cli.write_file(path, data, overwrite)
    elif kind == ".h5" and model.fitted is not None:
        net, params, stats = model.fitted
        blobs = export_weights(net, params, stats)
        write_weights(path, net, list(model.described.layer), blobs)
    elif kind == ".h5":
        names = [layer.name for layer in model.described.layer]
        hdf5.write_weights(path, names, model.weights, {})
    else:
        net_parameter = _whole_net(path, model)
        if as_nvcaffe:
            net_parameter = nvcaffe.to_nvcaffe(net_parameter)
        weights = binary.net_weights(net_parameter)
        for layer in net_parameter.layer:
            layer.ClearField("blobs")
        write_caffemodel(path, net_parameter.name, list(net_parameter.layer), weights)


def _find_kind(path: str) -> str:
    """Returns one of _KINDS, or "" for a folder."""
    end = os.path.splitext(path.rstrip("/"))[1]
    if end in _KINDS:
        return end
    if end and not os.path.isdir(path):
        problem = f'no kind of weights ends in "{end}"'
        accepted = f"{', '.join(_KINDS)}, or a folder"
        raise ConfigError(describe(path, problem, accepted))
    return ""


def _open_net(flags: Namespace) -> Net:
    shape = flags.shape
    try:
        sizes = tuple(int(size) for size in shape.split(",")) if shape else None
    except ValueError:
        sizes = ()
    if sizes is not None and (len(sizes) != 3 or min(sizes) < 1):
        raise ConfigError(
            describe(f"--shape={shape}", "is no C,H,W", "--shape=3,227,227")
        )
    state = read_state(flags, caffe_pb2.Phase.Value(flags.phase))
    return open_net(flags.net, state, sizes, "parity").net


def _fit(net: Net, path: str) -> tuple[Params, Stats]:
    reader = _READERS.get(os.path.splitext(path)[1])
    if reader is None or os.path.isdir(path):
        return load_pretrained(net, path)
    params, stats = jax.jit(net.init)(jax.random.key(0))
    source = nvcaffe.fit_batch_norms(net.graph, reader(path), path)
    params, stats, report = load_weights(net, params, stats, source, path)
    if report.missing:
        names = ", ".join(f'"{name}"' for name in report.missing)
        problem = f"holds no weights for {names} of the net"
        raise SnapshotError(describe(path, problem, "weights of this net"))
    return params, stats


def _describe_by_name(weights: Weights) -> Model:
    named = [caffe_pb2.LayerParameter(name=name) for name in weights]
    return Model(weights, caffe_pb2.NetParameter(layer=named), None)


def _whole_net(path: str, model: Model) -> caffe_pb2.NetParameter:
    net = caffe_pb2.NetParameter()
    net.CopyFrom(model.described)
    for layer in net.layer:
        for number, blob in enumerate(model.weights.get(layer.name, ())):
            if blob is None:
                problem = (
                    f'layer "{layer.name}": blob {number} is shared, and the file does '
                    "not say with which layer"
                )
                raise SnapshotError(describe(path, problem, "--net=net.prototxt"))
            layer.blobs.append(binary.array_to_blob(blob))
    return net


def _flatten(weights: Weights) -> dict[str, np.ndarray]:
    return {
        f"{name}/{number}": np.ascontiguousarray(blob)
        for name, blobs in weights.items()
        for number, blob in enumerate(blobs)
        if blob is not None
    }


def _gather(arrays: Mapping[str, np.ndarray], path: str) -> Weights:
    weights: Weights = {}
    for key, array in arrays.items():
        name, slash, number = key.rpartition("/")
        is_named = slash and name and re.fullmatch("[0-9]{1,4}", number)
        if not is_named or array.dtype.kind not in "fiu":
            problem = f'holds "{key}" of {array.dtype}'
            raise SnapshotError(describe(path, problem, "numbers, named LAYER/NUMBER"))
        blobs = weights.setdefault(name, [])
        blobs += [None] * (int(number) + 1 - len(blobs))
        blobs[int(number)] = np.asarray(array, np.float32)
    if not weights:
        raise SnapshotError(describe(path, "holds no weights", "arrays LAYER/NUMBER"))
    return weights


def _read_npz(path: str) -> Weights:
    data = read_bytes(path, SnapshotError)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        problem = f"is no .npz: cut short or of another kind ({error})"
        raise SnapshotError(describe(path, problem)) from None
    return _gather(arrays, path)


def _read_safetensors(path: str) -> Weights:
    data = read_bytes(path, SnapshotError)
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        problem = f"is no .safetensors: cut short or of another kind ({error})"
        raise SnapshotError(describe(path, problem)) from None
    return _gather(arrays, path)


def _write_folder(path: str, params: Params, stats: Stats) -> None:
    """Writes the part of a snapshot that holds weights, whole or not at all."""
    target = os.path.abspath(path)
    if os.path.lexists(target) and not os.path.isdir(os.path.join(target, "state")):
        problem = "is there and no snapshot, so it is left as it is"
        raise SnapshotError(describe(path, problem, "a new name"))
    partial = f"{target}.partial-{secrets.token_hex(4)}"
    try:
        os.makedirs(partial)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = {"params": params, "stats": stats}
            checkpointer.save(f"{partial}/state", args=ocp.args.PyTreeSave(tree))
        if os.path.lexists(target):
            old = f"{partial}-old"
            os.rename(target, old)
            os.rename(partial, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(partial, target)
    except OSError as error:
        raise SnapshotError(
            describe(path, f"cannot be written ({error.strerror})")
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_READERS: dict[str, Callable[[str], Weights]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}


if __name__ == "__main__":
    cli.run(main)
