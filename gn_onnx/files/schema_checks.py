"""Do nodes keep to their operator's schema, as far as later code relies on it: numbers of inputs, attribute types.

Every runtime refuses what is refused here. Operators without a schema (custom ones, or newer than the installed
onnx) and additional attributes pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import onnx

from gn_onnx.errors import GnOnnxError

_STANDARD = ("", "ai.onnx")


def check_nodes(
    nodes: Iterable[onnx.NodeProto], opsets: Iterable[onnx.OperatorSetIdProto], local: set[tuple[str, str]]
) -> None:
    """Check nodes, not their subgraphs.

    Args:
        nodes: Of one graph or function.
        opsets: What the model or function imports.
        local: Domain and name of the model's own functions, which have no schema.

    Raises:
        GnOnnxError: A node names the attribute or the number that does not fit.
    """
    versions = {"" if entry.domain in _STANDARD else entry.domain: entry.version for entry in opsets}
    for node in nodes:
        domain = "" if node.domain in _STANDARD else node.domain
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.UNDEFINED:  # operators without a schema too: nobody could read it
                raise GnOnnxError(f"node {_label(node)}: attribute {attribute.name!r} has no type")
        if (node.domain, node.op_type) in local:
            continue
        if not domain and domain not in versions:
            raise GnOnnxError(f"node {_label(node)} is ONNX's, but the model does not import ONNX's operator set")
        schema = _schema(node.op_type, versions.get(domain, 0), domain)
        if schema is not None:
            _check(node, schema)


@functools.lru_cache(maxsize=4096)
def _schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    if not 0 < version < 1 << 31:
        return None
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _check(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            allowed = f"{least}" if least == most else f"{least} to {most}"
            raise GnOnnxError(f"node {_label(node)} has {count} {what}, {node.op_type} takes {allowed}")
    for index, formal in enumerate(schema.inputs[: len(node.input)]):
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Single and not node.input[index]:
            raise GnOnnxError(f"node {_label(node)} lacks its input {formal.name!r}")
    present = {attribute.name: attribute for attribute in node.attribute}
    for name, formal_attribute in schema.attributes.items():
        kind: Any = formal_attribute.type  # an IntEnum, which onnx's stubs do not say
        if name not in present:
            if formal_attribute.required:
                raise GnOnnxError(f"node {_label(node)} lacks the attribute {name!r}")
        elif present[name].type != int(kind):
            kinds = onnx.AttributeProto.AttributeType
            raise GnOnnxError(
                f"node {_label(node)}: attribute {name!r} is of type {kinds.Name(present[name].type)},"
                f" not {kinds.Name(int(kind))}"
            )


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {list(node.output)[:1]}"
