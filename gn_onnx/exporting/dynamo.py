"""PyTorch's dynamo exporter: how group_norm is written as a node of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN, DOMAIN_VERSION, OP_TYPE

_TYPES = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(..., dynamo=True, custom_translation_table=gn_onnx.translation_table())`.

    Each group_norm and native_group_norm becomes one `gn_onnx::GroupNormalization`. The result runs with our library;
    `gn_onnx.fuse` adds the function bodies that let it run without, and takes in the activations.
    """
    import torch

    aten = torch.ops.aten
    return {aten.group_norm.default: _group_norm, aten.native_group_norm.default: _native_group_norm}


def _group_norm(
    x: ir.Value,
    num_groups: int,
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> ir.Value:
    """aten::group_norm; x is [N, C, *spatial], weight and bias are [C] or None."""
    channels = x.shape[1] if x.shape is not None else None
    if (weight is None or bias is None) and not isinstance(channels, int):
        raise GnOnnxError("group_norm without affine parameters of a tensor whose number of channels is not static")
    dtype = _wider(x, weight, bias)
    parameters = [
        _filled(channels, default, dtype) if given is None else _as(given, dtype)
        for given, default in ((weight, 1.0), (bias, 0.0))
    ]
    stash_type = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    y = _operator()(_as(x, dtype), *parameters, num_groups=num_groups, epsilon=eps, stash_type=stash_type.value)
    return y if dtype == x.dtype else _as(y, x.dtype or dtype)


def _native_group_norm(
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    n: Any,
    c: Any,
    spatial: Any,
    group: int,
    eps: float,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """aten::native_group_norm: y, and mean and rstd, both [N, num_groups]; the exporter drops what nothing uses."""
    op = _opset()
    y = _group_norm(x, group, weight, bias, eps)
    groups = op.Reshape(x, _ints([0, group, -1]))
    mean = op.GlobalAveragePool(groups)
    centred = op.Sub(groups, mean)
    variance = op.GlobalAveragePool(op.Mul(centred, centred))
    epsilon = op.CastLike(op.Constant(value_float=eps), x)
    rstd = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return y, op.Flatten(mean, axis=1), op.Flatten(rstd, axis=1)


def _wider(*values: ir.Value | None) -> ir.DataType:
    """The type to compute in: under autocast, x and the parameters may differ."""
    types = {value.dtype for value in values if value is not None and value.dtype is not None}
    if len(types) == 1:
        return types.pop()
    return ir.DataType.DOUBLE if ir.DataType.DOUBLE in types else ir.DataType.FLOAT


def _as(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    op = _opset()
    cast: ir.Value = value if value.dtype == dtype else op.Cast(value, to=dtype)
    return cast


def _filled(channels: Any, number: float, dtype: ir.DataType) -> ir.Value:
    return _constant(np.full(channels, number).astype(dtype.numpy()), dtype)


def _ints(values: list[int]) -> ir.Value:
    return _constant(np.array(values, np.int64), ir.DataType.INT64)


def _constant(array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    op = _opset()
    value: ir.Value = op.Constant(value=ir.serde.serialize_tensor(ir.Tensor(array, dtype=dtype)))
    return value


def _opset() -> Any:
    from onnxscript import opset18

    return opset18


@functools.cache
def _operator() -> Any:
    """GroupNormalization of our domain as onnxscript's evaluators know operators."""
    from onnxscript import values

    schema = onnx.defs.OpSchema
    number, whole = schema.AttrType.FLOAT, schema.AttrType.INT
    definition = schema(
        OP_TYPE,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[schema.FormalParameter(name, "T") for name in ("X", "scale", "bias")],
        outputs=[schema.FormalParameter("Y", "T")],
        type_constraints=[("T", _TYPES, "element type")],
        attributes=[
            schema.Attribute("num_groups", whole, required=True),
            schema.Attribute("epsilon", number),
            schema.Attribute("stash_type", whole),
        ],
    )
    return values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), OP_TYPE, definition)
