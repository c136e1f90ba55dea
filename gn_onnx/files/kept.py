"""What of a model is lost or said twice on its way through ONNX IR, put right in the model that comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx_ir as ir

try:
    from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]
except ImportError:  # protobuf before 4.22
    UnknownFieldSet = None

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import external_data, graph_walk


def once(proto: onnx.ModelProto, graphs: Iterable[onnx.GraphProto]) -> None:
    """ONNX IR writes metadata of tensors, and annotations of inputs that are outputs too, a second time."""
    for tensor in external_data.tensors(proto):
        _without_repeats(tensor.metadata_props, "key")
    for graph in graphs:
        _without_repeats(graph.quantization_annotation, "tensor_name")


def _without_repeats(entries: Any, name: str) -> None:
    seen: set[str] = set()
    repeats = []
    for index, entry in enumerate(entries):
        if getattr(entry, name) in seen:
            repeats.append(index)
        seen.add(getattr(entry, name))
    for index in reversed(repeats):
        del entries[index]


def trailing_outputs(proto: onnx.ModelProto, model: ir.Model) -> None:
    """ONNX IR leaves out the last outputs of a node that have no name; a Split into three is then one into two."""
    _complete(proto.graph.node, model.graph)
    for function, source in zip(proto.functions, model.functions.values(), strict=True):
        _complete(function.node, source)


def _complete(nodes: Iterable[onnx.NodeProto], source: Iterable[ir.Node]) -> None:
    for proto, node in zip(nodes, source, strict=True):
        proto.output.extend([""] * (len(node.outputs) - len(proto.output)))
        for attribute in proto.attribute:
            if attribute.HasField("g"):
                _complete(attribute.g.node, node.attributes[attribute.name].as_graph())
            if attribute.graphs:
                for inner, graph in zip(attribute.graphs, node.attributes[attribute.name].as_graphs(), strict=True):
                    _complete(inner.node, graph)


def without_shapes_of_initializers(graphs: Iterable[onnx.GraphProto], like: onnx.ModelProto | None) -> None:
    """ONNX IR lists every initializer in `value_info` too; those that `like` does not list go away again.

    They say nothing new, and ONNX Runtime's float16 converter takes each for a second tensor.
    """
    listed = set() if like is None else {value.name for graph in graph_walk.all_graphs(like) for value in graph.value_info}
    for graph in graphs:
        constants = {tensor.name for tensor in graph.initializer} - listed
        kept = [value for value in graph.value_info if value.name not in constants]
        del graph.value_info[:]
        graph.value_info.extend(kept)


def take_over(proto: onnx.ModelProto, like: onnx.ModelProto) -> None:
    """Gives `proto` what `like`, which it was made from, has besides.

    Raises:
        GnOnnxError: `like` has a field that the installed onnx has no name for, or its training information needs a
            value that is not in `proto`.
    """
    unknown = next(_unknown_fields(like), None)
    if unknown is not None:
        raise GnOnnxError(f"the model has {unknown}, which onnx {onnx.__version__} does not know and would lose")
    if like.training_info:
        _check_training(proto, like)
        proto.training_info.extend(like.training_info)
    outside = list(filter(external_data.is_external, external_data.tensors(proto)))
    if not outside:
        return
    # ONNX IR keeps place and length, but no checksum.
    entries = {_place(tensor): tensor for tensor in filter(external_data.is_external, external_data.tensors(like))}
    for tensor in outside:
        if _place(tensor) in entries:
            original = list(entries[_place(tensor)].external_data)
            del tensor.external_data[:]
            tensor.external_data.extend(original)


def _place(tensor: onnx.TensorProto) -> tuple[str, str, int, int | None]:
    place = external_data.reference(tensor)
    return place.tensor, place.location, place.offset, place.length


def _unknown_fields(message: Any) -> Iterator[str]:
    if UnknownFieldSet is None:
        return
    for field in UnknownFieldSet(message):
        yield f"the field {field.field_number} of {message.DESCRIPTOR.name}"
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in value if field.is_repeated else (value,):
                yield from _unknown_fields(item)


def _check_training(proto: onnx.ModelProto, like: onnx.ModelProto) -> None:
    """A training step reads what the graph holds and computes, and adds names of its own."""
    before, after = _names(like.graph), _names(proto.graph)
    for training in like.training_info:
        graphs = (training.initialization, training.algorithm)
        own = set().union(*map(_names, graphs))
        used = set().union(*(graph_walk.uses(node) for graph in graphs for node in graph.node))
        used.update(entry.key for entry in (*training.initialization_binding, *training.update_binding))
        for name in sorted((used & before - after) | (own & after - before)):
            raise GnOnnxError(f"the model's training information needs {name!r}, which would be another value or none")


def _names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output} | set(_held(graph))


def _held(graph: onnx.GraphProto) -> Iterable[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
