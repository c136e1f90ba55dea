"""The bodies of our operators as model-local functions, so that a fused model runs without our library.

A body is the decomposition that runtimes are fastest at (Reshape, InstanceNormalization, Reshape, Mul, Add), in the
model's own opset and for any rank. The numbers of groups and epsilon are attributes of the call. Where a runtime has no
InstanceNormalization for the type, the body computes in one that it has: bfloat16 in float32, float64 by means.

ONNX 12 made Constant take an attribute's value; before, the two attributes become tensors by operators that read them:
EyeLike puts a one at column num_groups, ArgMax finds it; LeakyRelu(-1) with slope epsilon is -epsilon.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import onnx
import onnx_ir as ir
from onnx import helper

from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, op_type

_ATTRIBUTE_CONSTANT = 12
_REDUCE_AXES_INPUT = 18
_HARD_SWISH = 14


class _Body:
    """Nodes of one function, appended one by one."""

    def __init__(self, opset: int, prefix: str) -> None:
        self.opset = opset
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []

    def add(
        self, op: str, *inputs: str, output: str | None = None, refs: dict[str, str] | None = None, **attributes: Any
    ) -> str:
        """Appends a node; `refs` maps its attributes to those of the call that they take their value from."""
        output = output or f"{self.prefix}{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [output], **attributes)
        for name, source in (refs or {}).items():
            kind = onnx.AttributeProto.INT if source == "num_groups" else onnx.AttributeProto.FLOAT
            node.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=source, type=kind))
        self.nodes.append(node)
        return output

    def ints(self, *values: int) -> str:
        return self.add("Constant", value=helper.make_tensor("value", onnx.TensorProto.INT64, [len(values)], values))

    def floats(self, *values: float) -> str:
        return self.add("Constant", value=helper.make_tensor("value", onnx.TensorProto.FLOAT, [len(values)], values))

    def filled(self, shape: str, value: float, dtype: int) -> str:
        return self.add("ConstantOfShape", shape, value=helper.make_tensor("value", dtype, [1], [value]))

    def num_groups(self) -> str:
        """The attribute as a tensor of shape [1]."""
        if self.opset >= _ATTRIBUTE_CONSTANT:
            scalar = self.add("Constant", refs={"value_int": "num_groups"})
            return self.add("Reshape", scalar, self.ints(1))
        width = self.add("Add", self.add("Shape", "scale"), self.ints(1))
        row = self.filled(self.add("Concat", self.ints(1), width, axis=0), 0.0, onnx.TensorProto.FLOAT)
        hot = self.add("EyeLike", row, refs={"k": "num_groups"}, dtype=onnx.TensorProto.FLOAT)
        return self.add("ArgMax", hot, axis=1, keepdims=0)

    def epsilon(self) -> str:
        """The attribute as a float32 tensor."""
        if self.opset >= _ATTRIBUTE_CONSTANT:
            return self.add("Constant", refs={"value_float": "epsilon"})
        return self.add("Neg", self.add("LeakyRelu", self.floats(-1.0), refs={"alpha": "epsilon"}))

    def mean(self, value: str) -> str:
        """Over the last of three dimensions."""
        if self.opset >= _REDUCE_AXES_INPUT:
            return self.add("ReduceMean", value, self.ints(2), keepdims=1)
        return self.add("ReduceMean", value, axes=[2], keepdims=1)


_CAST_LIKE = 15


def can_mix_dtypes(opset: int) -> bool:
    """Whether one body can serve calls of different element types."""
    return opset >= _CAST_LIKE


def unused_prefix(model: ir.Model) -> str:
    """For the names of values inside bodies.

    ONNX Runtime puts `_inlfunc_OPERATOR_` before each when it inlines a body, and does not see when the graph, which it
    may have saved before, has such a name already.
    """
    values = [*model.graph.initializers.values(), *(value for node in model.graph.all_nodes() for value in node.outputs)]
    taken = [value.name for value in values if value.name and value.name.startswith("_inlfunc_")]
    prefixes = ("v" if number == 0 else f"v{number}_" for number in itertools.count())
    return next(prefix for prefix in prefixes if not any(re.search(rf"_{prefix}\d+$", name) for name in taken))


def function_body(
    activation: str, *, channels_last: bool, dtypes: frozenset[ir.DataType], opset: int, prefix: str = "v"
) -> ir.Function:
    """One of our operators as a function.

    Args:
        activation: One of `group_norm.ACTIVATIONS`.
        channels_last: X is [N, *spatial, C] instead of [N, C, *spatial].
        dtypes: Element types of the calls (FLOAT, FLOAT16, BFLOAT16, DOUBLE); more than one needs `can_mix_dtypes`.
        opset: Version of the ONNX domain that the model imports, 9 or newer.
        prefix: What the names of values inside begin with.
    """
    body = _Body(opset, prefix)
    x, scale, bias = "X", "scale", "bias"
    double = ir.DataType.DOUBLE in dtypes
    widened = len(dtypes) > 1 or ir.DataType.BFLOAT16 in dtypes
    computed = next(iter(dtypes)).value
    if widened:
        computed = onnx.TensorProto.DOUBLE if double else onnx.TensorProto.FLOAT
        x, scale, bias = (body.add("Cast", name, to=computed) for name in (x, scale, bias))
    if channels_last:
        rows = body.add("Reshape", x, body.add("Concat", body.ints(0, -1), body.add("Shape", "scale"), axis=0))
        x = body.add("Transpose", rows, perm=[0, 2, 1])
    groups = body.num_groups()
    grouped = body.add("Reshape", x, body.add("Concat", body.ints(0), groups, body.ints(-1), axis=0))
    if double:
        normal = _by_means(body, grouped)
    else:
        kind = onnx.TensorProto.FLOAT16 if dtypes == {ir.DataType.FLOAT16} else onnx.TensorProto.FLOAT
        ones, zeros = body.filled(groups, 1.0, kind), body.filled(groups, 0.0, kind)
        if opset >= _CAST_LIKE and not widened:
            # Tools that change a model's types (ONNX Runtime's float16 converter) change calls, but not bodies.
            ones, zeros = body.add("CastLike", ones, "X"), body.add("CastLike", zeros, "X")
        normal = body.add("InstanceNormalization", grouped, ones, zeros, refs={"epsilon": "epsilon"})
    channels = body.add("Concat", body.ints(0), body.add("Shape", "scale"), body.ints(-1), axis=0)
    column = body.ints(-1, 1)
    y = body.add("Mul", body.add("Reshape", normal, channels), body.add("Reshape", scale, column))
    y = body.add("Add", y, body.add("Reshape", bias, column))
    if channels_last:
        y = body.add("Transpose", y, perm=[0, 2, 1])
    y = _activated(body, activation, y, computed)
    if widened:
        y = body.add("CastLike", y, "X") if len(dtypes) > 1 else body.add("Cast", y, to=onnx.TensorProto.BFLOAT16)
    # Last, since ONNX Runtime's CPU provider computes float16 in float32 and would not round the result of an Add.
    body.add("Reshape", y, body.add("Shape", "X"), output="Y")
    proto = onnx.FunctionProto(domain=DOMAIN, name=op_type(activation, channels_last=channels_last))
    proto.input.extend(["X", "scale", "bias"])
    proto.output.append("Y")
    proto.attribute.extend(["num_groups", "epsilon", "stash_type", *(["alpha"] if activation == "leaky_relu" else [])])
    proto.node.extend(body.nodes)
    proto.opset_import.append(helper.make_opsetid("", opset))
    return ir.serde.deserialize_function(proto)


def _by_means(body: _Body, grouped: str) -> str:
    """Two passes, in float64: ONNX Runtime has no float64 InstanceNormalization."""
    centred = body.add("Sub", grouped, body.mean(grouped))
    variance = body.mean(body.add("Mul", centred, centred))
    epsilon = body.add("Cast", body.epsilon(), to=onnx.TensorProto.DOUBLE)
    return body.add("Div", centred, body.add("Sqrt", body.add("Add", variance, epsilon)))


def _activated(body: _Body, activation: str, y: str, computed: int) -> str:
    """`computed`: element type of y."""
    if activation == "relu":
        return body.add("Relu", y)
    if activation == "silu":
        return body.add("Mul", y, body.add("Sigmoid", y))
    if activation == "hard_swish":
        if body.opset >= _HARD_SWISH:
            return body.add("HardSwish", y)
        return body.add("Mul", y, body.add("HardSigmoid", y, alpha=1.0 / 6.0, beta=0.5))
    if activation == "leaky_relu":
        if body.opset < _ATTRIBUTE_CONSTANT:
            return body.add("LeakyRelu", y, refs={"alpha": "alpha"})
        # PRelu: onnx.reference gives the call's attributes to any operator of a body except LeakyRelu and its like.
        slope = body.add("Constant", refs={"value_float": "alpha"})
        if body.opset >= _CAST_LIKE:
            slope = body.add("CastLike", slope, y)
        elif computed != onnx.TensorProto.FLOAT:
            slope = body.add("Cast", slope, to=computed)
        return body.add("PRelu", y, slope)
    assert activation in ACTIVATIONS
    return y
