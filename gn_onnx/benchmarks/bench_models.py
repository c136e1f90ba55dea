"""Benchmark of whole models: the original beside the fused model, with and without the operator library."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx

import gn_onnx
from gn_onnx.benchmarks import bench
from gn_onnx.checking import concrete_shapes, inputs, ort_runner, tolerances
from gn_onnx.checking.comparison import compare_outputs
from gn_onnx.checking.site_check import is_group_norm
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io
from gn_onnx.reporting.report import value_name

ORIGINAL = "original"
FUSED = "fused, without library"
FUSED_LIBRARY = "fused, with library"
NATIVE = "native, without library"
NATIVE_LIBRARY = "native, with library"

_PROFILED_RUNS = 9


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One model.

    Attributes:
        model: The file.
        sites: GroupNorms that were fused.
        timings: By variant.
        shares: Share of the time in GroupNorm nodes, from ONNX Runtime's profile, where it could be told.
        group_norm_ms: The time in them per run, in milliseconds.
        gb_per_s: x read once and y written once, by the time in GroupNorm nodes.
        copy_gb_per_s: The same for a parallel copy of the largest x.
        refused: Variants that are missing, or whose outputs differ from the original's, with the reason.
    """

    model: str
    sites: int
    timings: dict[str, bench.Timing]
    shares: dict[str, float]
    group_norm_ms: dict[str, float]
    gb_per_s: dict[str, float]
    copy_gb_per_s: float
    refused: dict[str, str]

    def speed_up(self, label: str) -> float | None:
        """How many times faster than the original, in the median of the rounds; None where outputs differ."""
        if label not in self.timings or label in self.refused:
            return None
        return self.timings[label].ratio(self.timings[ORIGINAL])

    def faster_runs(self, label: str) -> int:
        """Runs that took less time than the original's in the same round."""
        return self.timings[label].wins(self.timings[ORIGINAL])

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "sites": self.sites,
            "timings": {label: timing.to_json() for label, timing in self.timings.items()},
            "group_norm_share": self.shares,
            "group_norm_ms": self.group_norm_ms,
            "group_norm_gb_per_s": self.gb_per_s,
            "copy_gb_per_s": self.copy_gb_per_s,
            "refused": self.refused,
            "speed_up": {label: self.speed_up(label) for label in self.timings},
            "faster_runs": {label: self.faster_runs(label) for label in self.timings if label != ORIGINAL},
        }


def run_model(
    path: pathlib.Path,
    *,
    providers: Sequence[str] = ort_runner.CPU,
    shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = bench.RUNS,
    seconds: float = 30.0,
    progress: Callable[[], None] | None = None,
) -> ModelResult:
    """Fuse a model in memory and time all variants of it.

    Raises:
        GnOnnxError: The model cannot be read, or ONNX Runtime cannot run it.
    """
    original = model_io.load_proto(path)
    feeds = inputs.make_inputs(original, "ordinary", shapes=shapes)
    options = ort_runner.Options(providers=providers, data_folder=path.parent)
    library = ort_runner.find_library()
    with_library = dataclasses.replace(options, library=library)
    plugin = gn_onnx.fuse(model_io.to_ir(original, folder=path.parent, name=str(path)))
    fused = model_io.to_proto(plugin.model, like=original)
    refused: dict[str, str] = {}
    plans = {ORIGINAL: (original, options), FUSED: (fused, options), FUSED_LIBRARY: (fused, with_library)}
    try:
        result = gn_onnx.fuse(model_io.to_ir(original, folder=path.parent, name=str(path)), target="onnx")
        native = model_io.to_proto(result.model, like=original)
        plans |= {NATIVE: (native, options), NATIVE_LIBRARY: (native, with_library)}
    except GnOnnxError as error:
        refused[NATIVE] = refused[NATIVE_LIBRARY] = str(error)
    sessions = {}
    for label, (proto, how) in plans.items():
        if how is with_library and library is None:
            refused[label] = "the operator library is not built"
            continue
        try:
            sessions[label] = ort_runner.Session(proto, how)
        except GnOnnxError as error:
            if label == ORIGINAL:
                raise
            refused[label] = str(error)
    expected = sessions[ORIGINAL].run(feeds)
    for label, session in sessions.items():
        far = [c for c in compare_outputs(expected, session.run(feeds), coarsest=tolerances.coarsest(original)) if not c.ok]
        if far:
            refused[label] = f"output {far[0].name!r} differs by {far[0].relative:.1e}"
    timings = bench.interleave(
        {label: _runner(session, feeds) for label, session in sessions.items()},
        runs=runs, seconds=seconds, warm_up=1, pause=0.05, progress=progress,
    )  # fmt: skip
    names = {name for site in plugin.fused for name in site.node_names}
    names |= {node.name for _, (proto, _) in plans.items() for node in proto.graph.node if is_group_norm(node)}
    moved, largest = _bytes_moved(original, [value_name(site.x) for site in plugin.fused], feeds)
    shares, spent, rates = {}, {}, {}
    for label in sessions:
        share, microseconds = _profile(*plans[label], feeds, names)
        if microseconds > 0:
            shares[label] = share
            spent[label] = microseconds / 1e3
            rates[label] = moved / microseconds / 1e3
    copy = bench.interleave({"copy": bench.ParallelCopy(max(largest, 1))}, runs=20)["copy"]
    return ModelResult(str(path), len(plugin.fused), timings, shares, spent, rates, 8 * largest / copy.median / 1e3, refused)


def _runner(session: ort_runner.Session, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    return lambda: session.run(feeds)


def _bytes_moved(proto: onnx.ModelProto, names: Iterable[str], feeds: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Bytes that the GroupNorms must move at least, and the elements of the largest x."""
    shapes = concrete_shapes.concrete_shapes(proto, {name: array.shape for name, array in feeds.items()})
    types = concrete_shapes.element_types(proto)
    total = largest = 0
    for name in names:
        elements = int(np.prod(shapes.get(name, (0,))))
        width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types.get(name, onnx.TensorProto.FLOAT))).itemsize
        total += 2 * elements * width
        largest = max(largest, elements)
    return total, largest


def _profile(
    proto: onnx.ModelProto, options: ort_runner.Options, feeds: Mapping[str, np.ndarray], names: set[str]
) -> tuple[float, float]:
    """Share of the time in GroupNorm nodes, and that time per run in microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(pathlib.Path(folder) / "profile")
        session = ort_runner.Session(proto, dataclasses.replace(options, profile=prefix))
        for _ in range(_PROFILED_RUNS):
            session.run(feeds)
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    own = {node.name for node in proto.graph.node if node.op_type != "Constant"}
    expands = "" not in own and any(map(is_group_norm, proto.graph.node))
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event.get("args", {}).get("op_name", ""))
            durations.setdefault(key, []).append(event["dur"])
    ours = total = 0.0
    for (name, operator), times in durations.items():
        # The median over the runs: the first run allocates, and another program may hold one up.
        spent = float(np.median(times)) * len(times) / _PROFILED_RUNS
        total += spent
        # A node that ONNX Runtime expanded left nodes that it named itself, operator and number.
        expanded = expands and name not in own and re.fullmatch(rf"{re.escape(operator)}_\d+", name)
        if operator.startswith("GroupNormalization") or name in names or expanded:
            ours += spent
    return (ours / total if total else 0.0), ours
