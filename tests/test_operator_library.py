"""The operator library in ONNX Runtime on the CPU: every operator, type and layout against float64, and the promises.

Tolerances: y is rounded once to its type T (unit u), and x - mean is exact to u * |mean| in the worst case, so that
the error in units of the largest |y| is bounded by `ROUNDINGS` * u * max(1, |mean| / std): the half types are
computed in float32 and rounded once, float32 rounds the affine's product and sum too, exp in SiLU adds a few units.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import KINDS, group_norm, sample
from onnx import TensorProto, helper

import gn_onnx
from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, op_type

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort

TYPES = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "float64": (TensorProto.DOUBLE, np.float64),
}
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}
ROUNDINGS = 16
ALPHA = 0.125
EPSILON = 1e-5

SHAPES = [
    ((2, 8), 4, "rank 2"),
    ((3, 6, 1), 6, "one element in a group"),
    ((2, 12, 7), 3, "rows shorter than a vector"),
    ((2, 8, 5, 13), 2, "tails"),
    ((1, 64, 20, 20), 32, "a detection head's"),
    ((1, 16, 96, 96), 1, "one large group, several chunks"),
    ((1, 4, 150, 151), 4, "groups of two chunks"),
    ((2, 30, 3, 4, 5), 5, "rank 5"),
    ((2, 600, 3), 1, "more channels than a block of the channels-last kernel"),
]


def model(
    op: str,
    shape: Sequence[int],
    num_groups: int,
    kind: str,
    *,
    domain: str = DOMAIN,
    channels: int | None = None,
    **extra: float,
) -> bytes:
    """One node with x [*shape] and scale, bias [channels] as graph inputs."""
    element, _ = TYPES[kind]
    attributes = {"num_groups": num_groups, "epsilon": EPSILON, **extra}
    if op.endswith("LeakyRelu"):
        attributes["alpha"] = ALPHA
    node = helper.make_node(op, ["x", "scale", "bias"], ["y"], name="the_norm", domain=domain, **attributes)
    dims = [f"d{i}" for i in range(len(shape))]
    inputs = [helper.make_tensor_value_info("x", element, dims)]
    inputs += [helper.make_tensor_value_info(name, element, ["c"]) for name in ("scale", "bias")]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", element, dims)])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def session(data: bytes, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    gn_onnx.register(options)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(of: ort.InferenceSession, kind: str, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """y; arrays of any type go in and out through OrtValue, which knows bfloat16."""
    element, dtype = TYPES[kind]
    feeds = {}
    for name, array in (("x", x), ("scale", scale), ("bias", bias)):
        bits = np.ascontiguousarray(array.astype(dtype))
        if kind == "bfloat16":
            feeds[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits.view(np.uint16), element)
        else:
            feeds[name] = ort.OrtValue.ortvalue_from_numpy(bits)
    (y,) = of.run_with_ort_values(["y"], feeds)
    if kind != "bfloat16":
        return y.numpy()
    binding = y.data_ptr()
    count = int(np.prod(x.shape))

    raw = (
        np.frombuffer(ctypes.string_at(binding, count * 2), np.uint16).reshape(x.shape)
        if count
        else np.empty(x.shape, np.uint16)
    )
    return raw.copy().view(ml_dtypes.bfloat16)


def activated(v: np.ndarray, activation: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return {
            "none": lambda: v,
            "relu": lambda: np.maximum(v, 0),
            "silu": lambda: v / (1 + np.exp(-v)),
            "hard_swish": lambda: v * np.clip(v / 6 + 0.5, 0, 1),
            "leaky_relu": lambda: np.where(v >= 0, v, ALPHA * v),
        }[activation]()


def parameters(channels: int, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    dtype = TYPES[kind][1]
    return rng.uniform(0.5, 2, channels).astype(dtype), rng.uniform(-1, 1, channels).astype(dtype)


def check(y: np.ndarray, x: np.ndarray, want: np.ndarray, kind: str, num_groups: int, *, channels_last: bool) -> None:
    planar = np.moveaxis(x, -1, 1) if channels_last else x
    groups = planar.astype(np.float64).reshape(planar.shape[0] * num_groups, -1)
    spread = np.sqrt(groups.var(axis=1) + EPSILON)
    condition = max(1.0, float(np.max(np.abs(groups.mean(axis=1)) / spread)))
    bound = ROUNDINGS * UNIT[kind] * condition * float(np.max(np.abs(want)))
    if kind in ("float16", "bfloat16"):
        bound = 1.01 * UNIT[kind] * float(np.max(np.abs(want))) + ROUNDINGS * UNIT["float32"] * condition * float(
            np.max(np.abs(want))
        )
    assert np.max(np.abs(y.astype(np.float64) - want), initial=0.0) <= bound


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_against_float64(activation: str, channels_last: bool, kind: str) -> None:
    """Every operator and type, on all shapes and the three kinds of input."""
    op = op_type(activation, channels_last=channels_last)
    sessions: dict[tuple[int, int], ort.InferenceSession] = {}
    for shape, num_groups, _ in SHAPES:
        key = (len(shape), num_groups)
        sessions.setdefault(key, session(model(op, shape, num_groups, kind)))
        scale, bias = parameters(shape[1], kind)
        laid_out = (shape[0], *shape[2:], shape[1]) if channels_last else shape
        for values in KINDS:
            x = sample(values, laid_out, EPSILON).astype(TYPES[kind][1])
            y = run(sessions[key], kind, x, scale, bias)
            normal = group_norm(
                x.astype(np.float64), scale, bias, num_groups, np.float32(EPSILON), channels_last=channels_last
            )
            check(y, x, activated(normal, activation), kind, num_groups, channels_last=channels_last)


@pytest.mark.parametrize("kind", TYPES)
def test_a_standard_model_runs_on_the_kernel(kind: str) -> None:
    """ai.onnx GroupNormalization-21 of every type, at a mean where its function body gives NaN."""
    shape, num_groups = (2, 32, 16, 16), 8
    scale, bias = parameters(32, kind)
    x = (sample("ordinary", shape) + (3000 if kind in ("float32", "float64") else 30)).astype(TYPES[kind][1])
    y = run(session(model("GroupNormalization", shape, num_groups, kind, domain="")), kind, x, scale, bias)
    want = group_norm(x.astype(np.float64), scale, bias, num_groups, np.float32(EPSILON))
    check(y, x, want, kind, num_groups, channels_last=False)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["channels_first", "channels_last"])
def test_one_sample_has_the_same_bits_in_every_batch(kind: str, channels_last: bool) -> None:
    """Whatever the batch size, the position in it and the number of threads."""
    op = op_type("silu", channels_last=channels_last)
    for shape, num_groups in (((24, 70, 70), 2), ((64, 9, 9), 8), ((6, 5), 3), ((32, 160, 120), 1)):
        laid_out = (*shape[1:], shape[0]) if channels_last else shape
        scale, bias = parameters(shape[0], kind)
        batch = sample("large mean", (5, *laid_out)).astype(TYPES[kind][1])
        sessions = [session(model(op, batch.shape, num_groups, kind), threads) for threads in (1, 2, 4)]
        alone = run(sessions[0], kind, batch[3:4], scale, bias)
        for of, (first, last) in itertools.product(sessions, ((0, 5), (3, 4), (2, 4))):
            together = run(of, kind, batch[first:last], scale, bias)
            assert together[3 - first].tobytes() == alone[0].tobytes()
            assert run(of, kind, batch[first:last], scale, bias).tobytes() == together.tobytes()


def test_nan_and_infinity_stay_in_their_group() -> None:
    x = sample("ordinary", (2, 8, 6, 6)).astype(np.float32)
    scale, bias = parameters(8, "float32")
    of = session(model("GroupNormalizationRelu", x.shape, 4, "float32"))
    clean = run(of, "float32", x, scale, bias)
    for bad in (np.nan, np.inf, -np.inf):
        dirty = x.copy()
        dirty[1, 3, 2, 2] = bad
        y = run(of, "float32", dirty, scale, bias)
        assert np.isnan(y[1, 2:4]).all()
        y[1, 2:4] = clean[1, 2:4]
        assert np.array_equal(y, clean)


def test_extreme_values() -> None:
    """Constant groups, float16 near its maximum, subnormal numbers, and a group whose sample misleads."""
    scale, bias = np.ones(4), np.zeros(4)
    of = session(model("GroupNormalization", (1, 4, 8, 8), 2, "float32"))
    assert np.array_equal(run(of, "float32", np.full((1, 4, 8, 8), 12345.678), scale, bias), np.zeros((1, 4, 8, 8)))
    tiny = sample("ordinary", (1, 4, 8, 8)).astype(np.float32) * np.float32(1e-41)
    want = group_norm(tiny.astype(np.float64), scale, bias, 2, np.float32(EPSILON))
    assert np.max(np.abs(run(of, "float32", tiny, scale, bias) - want)) <= 2.0**-149 / np.sqrt(EPSILON)
    half = session(model("GroupNormalization", (1, 4, 8, 8), 2, "float16"))
    large = (np.sign(sample("ordinary", (1, 4, 8, 8))) * 60000).astype(np.float16)
    want = group_norm(large.astype(np.float64), scale, bias, 2, EPSILON)
    assert np.max(np.abs(run(half, "float16", large, scale, bias).astype(np.float64) - want)) <= 2.0**-10
    # Every element that a sample of 16 evenly spaced ones sees is an outlier.
    misleading = sample("ordinary", (1, 4, 128, 64)).astype(np.float32)
    flat = misleading.reshape(2, -1)
    flat[:, :: flat.shape[1] // 16] = 1e6
    want = group_norm(misleading.astype(np.float64), scale, bias, 2, EPSILON)
    y = run(of, "float32", misleading, scale, bias)
    assert np.max(np.abs(y - want)) <= 1e-6 * np.max(np.abs(want))


@pytest.mark.parametrize("channels_last", [False, True], ids=["channels_first", "channels_last"])
def test_works_in_place_only_where_nobody_else_reads(channels_last: bool) -> None:
    """r has a reader after the norm and one norm's output is the next one's input: ONNX Runtime may reuse only that."""
    element = TensorProto.FLOAT
    shape = (1, 9, 40, 16) if channels_last else (1, 16, 9, 40)
    op = op_type("relu", channels_last=channels_last)
    norm = {"domain": DOMAIN, "num_groups": 4, "epsilon": EPSILON}
    nodes = [
        helper.make_node("Neg", ["x"], ["r"]),
        helper.make_node(op, ["r", "scale", "bias"], ["first"], **norm),
        helper.make_node(op, ["first", "scale", "bias"], ["second"], **norm),
        helper.make_node("Add", ["r", "second"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, element, dims) for name, dims in
             (("x", shape), ("scale", (16,)), ("bias", (16,)), ("y", shape))]  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph(nodes, "g", infos[:3], infos[3:])
    of = session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    x = sample("ordinary", shape).astype(np.float32)
    scale, bias = parameters(16, "float32")
    want = -x.astype(np.float64)
    for _ in range(2):
        want = np.maximum(group_norm(want, scale, bias, 4, EPSILON, channels_last=channels_last), 0)
    assert np.max(np.abs(run(of, "float32", x, scale, bias) - (want - x))) <= 1e-5


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 4, 0), (2, 0, 2)])
@pytest.mark.parametrize("channels_last", [False, True], ids=["channels_first", "channels_last"])
def test_empty_tensors(shape: tuple[int, ...], channels_last: bool) -> None:
    op = op_type("none", channels_last=channels_last)
    channels = shape[-1] if channels_last else shape[1]
    y = run(session(model(op, shape, 2, "float32")), "float32", np.empty(shape), np.ones(channels), np.ones(channels))
    assert y.shape == shape


@pytest.mark.parametrize(
    ("shape", "scale", "num_groups", "words"),
    [
        ((2, 6, 4), 6, 4, ["GroupNormalization", "the_norm", "[2, 6, 4]", "6 channels", "num_groups 4"]),
        ((2, 6, 4), 5, 3, ["scale has shape [5]", "expected [6]", "the_norm"]),
        ((7,), 7, 1, ["[7]", "rank 2 or more"]),
    ],
)
def test_wrong_inputs_are_named(shape: tuple[int, ...], scale: int, num_groups: int, words: list[str]) -> None:
    of = session(model("GroupNormalization", shape, num_groups, "float32"))
    with pytest.raises(Exception, match="gn_onnx::GroupNormalization") as caught:
        run(of, "float32", np.zeros(shape), np.ones(scale), np.ones(scale))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"num_groups": 0}, "num_groups is 0; expected at least 1"),
        ({"num_groups": -3}, "num_groups is -3"),
        ({"epsilon": -1.0}, "epsilon is -1"),
        ({"epsilon": float("nan")}, "epsilon is"),
        ({"stash_type": 7}, "stash_type is 7"),
    ],
)
def test_wrong_attributes_are_named(attributes: dict[str, float], words: str) -> None:
    loaded = onnx.load_from_string(model("GroupNormalization", (1, 4, 4), 2, "float32"))
    (node,) = loaded.graph.node
    for name, value in attributes.items():
        for old in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))
    with pytest.raises(Exception, match="the_norm") as caught:
        session(loaded.SerializeToString())
    assert words in str(caught.value)


def test_registering_twice_and_two_sessions_at_once() -> None:
    options = ort.SessionOptions()
    gn_onnx.register(options)
    data = model("GroupNormalization", (2, 4, 9), 2, "float32")
    gn_onnx.register(options)
    first = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    second = session(data)
    x, scale, bias = sample("ordinary", (2, 4, 9)), np.ones(4), np.zeros(4)
    assert np.array_equal(run(first, "float32", x, scale, bias), run(second, "float32", x, scale, bias))
    del first
    assert np.isfinite(run(second, "float32", x, scale, bias)).all()


def test_what_the_library_exports_and_needs() -> None:
    """Only our C functions are visible; neither ONNX Runtime nor CUDA is linked."""
    path = str(gn_onnx.library_path())
    symbols = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert "RegisterCustomOps" in names
    assert all(name == "RegisterCustomOps" or name.startswith("gn_onnx_") for name in names), names
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    assert not any(name in needed for name in ("onnxruntime", "libcuda", "libcudart"))


def test_python_and_cpp_agree_on_names() -> None:
    info = gn_onnx.build_info()
    assert info["domain"] == DOMAIN
    assert info["version"] == gn_onnx.__version__
