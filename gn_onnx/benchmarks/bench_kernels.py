"""Benchmark of single GroupNorms: our kernel beside everything that a user could run instead, in one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from gn_onnx.benchmarks import bench
from gn_onnx.benchmarks.cases import Case
from gn_onnx.checking import ort_runner
from gn_onnx.checking.comparison import Comparison, compare
from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN, DOMAIN_VERSION, op_type
from gn_onnx.reference import group_norm

COPY, RELU, CHAIN, NATIVE, OURS, TORCH, OPENVINO = (
    "parallel copy", "one Relu", "exported chain", "GroupNormalization-21", "gn_onnx", "PyTorch eager", "OpenVINO",
)  # fmt: skip
"""RELU: ONNX Runtime's own, as the only node of a model: reads and writes what we do, and pays the call of a session too."""


@dataclasses.dataclass(frozen=True)
class Other:
    """The same GroupNorm on x of another type or layout."""

    dtype: np.dtype[Any]
    channels_last: bool = False

    def laid_out(self, x: np.ndarray) -> np.ndarray:
        """x, given channels first, as this kind takes it."""
        return np.moveaxis(x, 1, -1) if self.channels_last else x

    def shape(self, case: Case) -> tuple[int, ...]:
        return (case.batch, *case.spatial, case.channels) if self.channels_last else case.shape


PLAIN = Other(np.dtype(np.float32))

OTHERS = {
    "gn_onnx, float16": Other(np.dtype(np.float16)),
    "gn_onnx, bfloat16": Other(np.dtype(ml_dtypes.bfloat16)),
    "gn_onnx, channels last": Other(np.dtype(np.float32), channels_last=True),
}
"""Our kernel beside itself on float32, channels first."""

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class KernelResult:
    """One case.

    Attributes:
        case: What was run.
        timings: By baseline.
        relative: Largest error of each against float64, relative to the largest value.
        refused: Baselines that compute something else, with the reason: their times are not compared.
    """

    case: Case
    timings: dict[str, bench.Timing]
    relative: dict[str, float]
    refused: dict[str, str]

    def gb_per_s(self, label: str) -> float:
        width = OTHERS.get(label, PLAIN).dtype.itemsize
        return self.case.bytes_moved * width / 4 / self.timings[label].median / 1e3

    def speed_up(self, over: str) -> float | None:
        """How many times faster than `over` our kernel is; None where either is missing or wrong."""
        if not {over, OURS} <= self.timings.keys() or {over, OURS} & self.refused.keys():
            return None
        return self.timings[over].median / self.timings[OURS].median

    def to_json(self) -> dict[str, object]:
        return {
            "case": dataclasses.asdict(self.case),
            "bytes_moved": self.case.bytes_moved,
            "timings": {label: t.to_json() | {"gb_per_s": self.gb_per_s(label)} for label, t in self.timings.items()},
            "relative_error": self.relative,
            "refused": self.refused,
            "speed_up": {label: self.speed_up(label) for label in self.timings if label != OURS},
        }


def run_case(
    case: Case, *, providers: Sequence[str] = ort_runner.CPU, runs: int = bench.RUNS, seconds: float = 8.0
) -> KernelResult:
    """Time one case in every way that this machine has.

    Args:
        case: What to run.
        providers: Execution providers.
        runs: Timed runs of each way.
        seconds: About the longest that they may take together.

    Raises:
        GnOnnxError: ONNX Runtime is not installed.
    """
    rng = np.random.default_rng(0)
    x = bench.aligned(rng.standard_normal(case.shape, dtype=np.float32))
    scale = rng.uniform(0.5, 2, case.channels).astype(np.float32)
    bias = rng.standard_normal(case.channels).astype(np.float32)
    variants: dict[str, Callable[[], Any]] = {COPY: bench.ParallelCopy(case.elements)}
    outputs: dict[str, Callable[[], np.ndarray]] = {}
    refused: dict[str, str] = {}
    library = ort_runner.find_library()
    plans = {
        RELU: (relu_model(case), x),
        CHAIN: (chain_model(case, scale, bias), x),
        NATIVE: (native_model(case, scale, bias), x),
    }
    if library is None:
        refused[OURS] = "the operator library is not built"
    else:
        plans[OURS] = (our_model(case, scale, bias), x)
        for label, other in OTHERS.items():
            model = our_model(case, scale.astype(other.dtype), bias.astype(other.dtype), other)
            plans[label] = (model, bench.aligned(other.laid_out(x.astype(other.dtype))))
    for label, (model, values) in plans.items():
        try:
            options = ort_runner.Options(providers=providers, library=library if label in (OURS, *OTHERS) else None)
            bound = ort_runner.Session(model, options).bind({"x": values})
        except GnOnnxError as error:
            refused[label] = str(error)
            continue
        variants[label] = bound
        if label != RELU:
            outputs[label] = lambda bound=bound: bound.outputs()[0]  # type: ignore[misc]
    for label, make in ((TORCH, _torch), (OPENVINO, _openvino)):
        function = make(case, x, scale, bias)
        if function is not None:
            variants[label] = outputs[label] = function
    relative = {}
    for label, output in outputs.items():
        comparison = _compare(case, label, x, scale, bias, output)
        relative[label] = comparison.relative
        if not comparison.ok:
            refused[label] = comparison.reason or f"off by {comparison.relative:.1e}"
    # Two runs before each turn and a pause before those: every pool of threads is awake in its own turn only.
    timings = bench.interleave(variants, runs=runs, seconds=seconds, turn=8, warm_up=4, pause=0.05)
    return KernelResult(case, timings, relative, refused)


def _compare(
    case: Case, label: str, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, output: Callable[[], np.ndarray]
) -> Comparison:
    """With float64, on parameters and x as they are in the type that is computed in."""
    other = OTHERS.get(label, PLAIN)
    wide = [array.astype(other.dtype).astype(np.float64) for array in (x, scale, bias)]
    truth = group_norm(*wide, num_groups=case.num_groups, epsilon=_EPSILON, activation=case.activation)
    return compare(other.laid_out(truth), np.asarray(output()), name=label, against="float64", dtype=other.dtype)


def _torch(case: Case, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    functional = torch.nn.functional
    activation: Callable[[Any], Any] = {
        "none": lambda y: y, "relu": functional.relu, "silu": functional.silu,
        "hard_swish": functional.hardswish, "leaky_relu": functional.leaky_relu,
    }[case.activation]  # fmt: skip
    tensors = [torch.from_numpy(array) for array in (x, scale, bias)]

    def run() -> Any:
        with torch.no_grad():
            return activation(functional.group_norm(tensors[0], case.num_groups, tensors[1], tensors[2], _EPSILON))

    return run


def _openvino(case: Case, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Callable[[], Any] | None:
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    model = core.read_model(native_model(case, scale, bias).SerializeToString(), b"")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()

    def run() -> Any:
        request.infer({"x": x}, share_inputs=True)
        return request.get_output_tensor(0).data

    return run


def relu_model(case: Case) -> onnx.ModelProto:
    """The cheapest node there is, on the same x."""
    return _model(case, [helper.make_node("Relu", ["x"], ["y"])], {}, 18)


def chain_model(case: Case, scale: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """What PyTorch's default exporter writes."""
    per_channel = (case.channels,) + (1,) * len(case.spatial)
    constants: dict[str, np.ndarray] = {
        "split": np.array([0, case.num_groups, -1], np.int64),
        "whole": np.array(case.shape, np.int64),
        "ones": np.ones(case.num_groups, np.float32),
        "zeros": np.zeros(case.num_groups, np.float32),
        "scale": scale.reshape(per_channel),
        "bias": bias.reshape(per_channel),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["groups"]),
        helper.make_node("InstanceNormalization", ["groups", "ones", "zeros"], ["normal"], epsilon=_EPSILON),
        helper.make_node("Reshape", ["normal", "whole"], ["joined"]),
        helper.make_node("Mul", ["joined", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["n"]),
    ]
    return _model(case, nodes + _activation(case, "n"), constants, 18)


def native_model(case: Case, scale: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """ONNX's own operator."""
    node = helper.make_node(
        "GroupNormalization", ["x", "scale", "bias"], ["n"], num_groups=case.num_groups, epsilon=_EPSILON
    )
    return _model(case, [node, *_activation(case, "n")], {"scale": scale, "bias": bias}, 21)


def our_model(case: Case, scale: np.ndarray, bias: np.ndarray, other: Other = PLAIN) -> onnx.ModelProto:
    """Our operator, without a function body: nothing else can run."""
    node = helper.make_node(
        op_type(case.activation, channels_last=other.channels_last), ["x", "scale", "bias"], ["y"],
        domain=DOMAIN, num_groups=case.num_groups, epsilon=_EPSILON,
    )  # fmt: skip
    model = _model(case, [node], {"scale": scale, "bias": bias}, 18, other)
    model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    return model


def _activation(case: Case, n: str) -> list[onnx.NodeProto]:
    if case.activation == "silu":
        return [helper.make_node("Sigmoid", [n], ["sigmoid"]), helper.make_node("Mul", [n, "sigmoid"], ["y"])]
    names = {"none": "Identity", "relu": "Relu", "hard_swish": "HardSwish", "leaky_relu": "LeakyRelu"}
    return [helper.make_node(names[case.activation], [n], ["y"])]


def _model(
    case: Case,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    opset: int,
    other: Other = PLAIN,
) -> onnx.ModelProto:
    element, shape = helper.np_dtype_to_tensor_dtype(other.dtype), other.shape(case)
    graph = helper.make_graph(
        list(nodes),
        "group_norm",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model
