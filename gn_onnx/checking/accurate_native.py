"""ONNX's GroupNormalization as ONNX Runtime should compute it where it has no kernel for it.

Without our library, ONNX Runtime expands the operator to E[x^2] - E[x]^2 in float32: off by 0.5 at a mean of
600, NaN at 3000. That says nothing about a model that `fuse` wrote; verification replaces the operator by the
body of our own, which subtracts the mean first.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from gn_onnx.checking.site_check import is_group_norm
from gn_onnx.files import graph_walk
from gn_onnx.group_norm import DOMAIN, DOMAIN_VERSION, OP_TYPE
from gn_onnx.rewriting.functions import function_body

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_PER_CHANNEL_SINCE = 21


def with_accurate_bodies(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of the model with our operator in the place of ONNX's, or None where its graphs have none."""
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    native = [node for node in graph_walk.all_nodes(proto.graph.node) if is_group_norm(node) and node.domain != DOMAIN]
    if not native or opset < _PER_CHANNEL_SINCE:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in graph_walk.all_nodes(copy.graph.node):
        if is_group_norm(node) and node.domain != DOMAIN:
            node.domain = DOMAIN
    types = {tensor.data_type for tensor in proto.graph.initializer}
    floats = frozenset(kind for kind in _FLOATS if kind.value in types) or frozenset(_FLOATS[:1])
    if all((function.domain, function.name) != (DOMAIN, OP_TYPE) for function in copy.functions):
        body = function_body("none", channels_last=False, dtypes=floats, opset=opset)
        copy.functions.append(ir.serde.serialize_function(body))
    if all(entry.domain != DOMAIN for entry in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    copy.ir_version = max(copy.ir_version, 8)
    return copy
