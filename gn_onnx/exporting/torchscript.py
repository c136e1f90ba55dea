"""PyTorch's TorchScript exporter: how group_norm is written as a node of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN, OP_TYPE

_WIDER = {"Double": 11, "Float": 1}
"""ONNX element types that operands of different types are computed in."""

_HALF = {"Half": 10, "BFloat16": 16}


@contextlib.contextmanager
def symbolics(opset_version: int = 17) -> Iterator[dict[str, int]]:
    """While it is open, `torch.onnx.export(..., dynamo=False)` writes each group_norm as `gn_onnx::GroupNormalization`.

        with gn_onnx.symbolics(opset_version=17) as custom_opsets:
            torch.onnx.export(model, args, path, dynamo=False, opset_version=17, custom_opsets=custom_opsets)

    The result runs with our library; `gn_onnx.fuse` adds the function bodies that let it run without, and takes in the
    activations.

    Args:
        opset_version: Of the export.

    Yields:
        What the exporter wants as `custom_opsets`.
    """
    from torch import onnx
    from torch.onnx import symbolic_helper

    exporter: Any = onnx  # its registration functions are public and not typed

    parse = symbolic_helper.parse_args
    # The types of the decorator's words: value, int, value, value, float, int.
    group_norm = parse("v", "i", "v", "v", "f", "i")(_group_norm)
    native = parse("v", "v", "v", "v", "v", "v", "i", "f")(_native_group_norm)
    names = {"aten::group_norm": group_norm, "aten::native_group_norm": native}
    for name, symbolic in names.items():
        exporter.register_custom_op_symbolic(name, symbolic, opset_version)
    try:
        yield {DOMAIN: 1}
    finally:
        for name in names:
            exporter.unregister_custom_op_symbolic(name, opset_version)


def _group_norm(
    g: Any, x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: int = 1
) -> Any:
    """aten::group_norm; x is [N, C, *spatial], weight and bias are [C] or None."""
    del cudnn_enabled
    from torch.onnx import symbolic_helper

    absent = [value is None or symbolic_helper._is_none(value) for value in (weight, bias)]
    channels = symbolic_helper._get_tensor_dim_size(x, 1)
    if channels is None and any(absent):
        raise GnOnnxError("group_norm without affine parameters of a tensor whose number of channels is not static")
    own = _type(x)
    types = {own, *(_type(value) for value, missing in zip((weight, bias), absent, strict=True) if not missing)}
    wide = None if len(types) == 1 else ("Double" if "Double" in types else "Float")
    parameters = [
        _filled(g, channels, number, wide or own) if missing else _as(g, value, wide)
        for value, missing, number in zip((weight, bias), absent, (1.0, 0.0), strict=True)
    ]
    y = g.op(
        f"{DOMAIN}::{OP_TYPE}",
        _as(g, x, wide),
        *parameters,
        num_groups_i=num_groups,
        epsilon_f=eps,
        stash_type_i=_WIDER["Double"] if (wide or own) == "Double" else _WIDER["Float"],
    )
    y.setType(x.type() if wide is None else x.type().with_dtype(_torch_type(wide)))
    return _as(g, y, own) if wide is not None else y


def _native_group_norm(g: Any, x: Any, weight: Any, bias: Any, n: Any, c: Any, spatial: Any, group: int, eps: float) -> Any:
    """aten::native_group_norm: y, and mean and rstd, both [N, num_groups]; the exporter drops what nothing uses."""
    del n, c, spatial
    import torch

    y = _group_norm(g, x, group, weight, bias, eps)
    groups = g.op("Reshape", x, g.op("Constant", value_t=torch.tensor([0, group, -1])))
    mean = g.op("GlobalAveragePool", groups)
    centred = g.op("Sub", groups, mean)
    variance = g.op("GlobalAveragePool", g.op("Mul", centred, centred))
    epsilon = g.op("Constant", value_t=torch.tensor(eps, dtype=_torch_type(_type(x))))
    rstd = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, epsilon)))
    return y, g.op("Flatten", mean, axis_i=1), g.op("Flatten", rstd, axis_i=1)


def _type(value: Any) -> str:
    """Element type in TorchScript's words, e.g. "Float"."""
    name = value.type().scalarType()
    if name is None:
        raise GnOnnxError(f"group_norm of a tensor whose element type the exporter does not know ({value.debugName()})")
    return str(name)


def _as(g: Any, value: Any, name: str | None) -> Any:
    if name is None or _type(value) == name:
        return value
    cast = g.op("Cast", value, to_i={**_WIDER, **_HALF}[name])
    cast.setType(value.type().with_dtype(_torch_type(name)))
    return cast


def _filled(g: Any, channels: int | None, number: float, name: str) -> Any:
    import torch

    return g.op("Constant", value_t=torch.full((channels or 0,), number, dtype=_torch_type(name)))


def _torch_type(name: str) -> Any:
    import torch

    return {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16}[name]
