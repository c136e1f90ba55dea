"""A small model as a whole in float64, by ONNX's reference evaluator: who is nearer to the truth?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from gn_onnx.checking import concrete_shapes
from gn_onnx.checking.float64 import GROUP_NORM_OPS, model_to_float64
from gn_onnx.checking.subgraph import EVALUATION_ERRORS
from gn_onnx.files import external_data

_MAX_MULTIPLICATIONS = 1e8
_MAX_WEIGHT_BYTES = 1 << 27


def evaluate(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The outputs in float64, or None where that would take long or cannot be done."""
    if external_data.references(proto) or proto.ByteSize() > _MAX_WEIGHT_BYTES:
        return None
    if _multiplications(proto, {name: array.shape for name, array in feeds.items()}) > _MAX_MULTIPLICATIONS:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    model = model_to_float64(model)
    wide = {name: array if array.dtype.kind in "biu" else array.astype(np.float64) for name, array in feeds.items()}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            evaluator = ReferenceEvaluator(model, new_ops=list(GROUP_NORM_OPS))
            results = evaluator.run(None, wide)
    except EVALUATION_ERRORS:
        return None
    return dict(zip(evaluator.output_names, results, strict=True))


def _multiplications(proto: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Of the convolutions and matrix products; infinite where a shape is not known."""
    shapes = concrete_shapes.concrete_shapes(proto, input_shapes)
    total = 0.0
    for node in proto.graph.node:
        if node.op_type in ("Loop", "Scan", "LSTM", "GRU", "RNN"):
            return math.inf
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            if node.output[0] not in shapes or node.input[1] not in shapes:
                return math.inf
            weights = math.prod(shapes[node.input[1]]) / max(1, shapes[node.input[1]][-1 if "M" in node.op_type else 0])
            total += math.prod(shapes[node.output[0]]) * weights
    return total
