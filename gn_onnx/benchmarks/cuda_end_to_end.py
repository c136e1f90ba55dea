"""Whole networks in ONNX Runtime: as exported, after gn_onnx, and as if GroupNorm cost nothing.

The networks come as files without their large weights (`make gpu-models`); those are drawn here. The fused model's
outputs must agree with the original's, or it has no time. Imports: numpy, onnx; torch and onnxruntime inside functions.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
import tempfile
import time
from typing import Any

import numpy as np
import onnx

from gn_onnx.benchmarks import cuda_sessions, cuda_timing, drawn_weights
from gn_onnx.benchmarks.bench import Timing
from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN

ORIGINAL, FUSED, FREE = VARIANTS = ("original", "fused", "free")
_MOST_ERROR = 0.1
"""Of the largest output: a random network of a hundred layers in float16."""
_LEAST_SECONDS = 15.0
_RUNS = 5


@dataclasses.dataclass
class Network:
    """One network.

    Attributes:
        name: Of its files.
        group_norms: Fused nodes.
        times: By variant, of one run; empty on the host.
        error: The fused model's outputs against the original's, relative to the largest.
        refused: By variant, why it has no time.
    """

    name: str
    group_norms: int = 0
    times: dict[str, Timing] = dataclasses.field(default_factory=dict)
    error: float | None = None
    refused: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return self.error is not None and not self.error <= _MOST_ERROR  # also when it is not a number

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"times": {k: t.to_json() for k, t in self.times.items()}}


def run(folder: pathlib.Path, library: pathlib.Path, deadline: float, *, on_device: bool) -> list[Network]:
    """Every network in `folder`, the smallest first, until the deadline.

    Args:
        folder: NAME.original.onnx, NAME.fused.onnx and NAME.free.onnx.
        library: The operator library.
        deadline: By time.monotonic().
        on_device: Time them on the CUDA provider; else run each once on the CPU provider.

    Raises:
        GnOnnxError: There is no network in the folder.
    """
    names = sorted(path.name.removesuffix(f".{ORIGINAL}.onnx") for path in folder.glob(f"*.{ORIGINAL}.onnx"))
    if not names:
        raise GnOnnxError(f"{folder}: no networks; make gpu-models writes them")
    models = {name: onnx.load_model(_file(folder, name, ORIGINAL), load_external_data=False) for name in names}
    networks = []
    for name in sorted(names, key=lambda name: drawn_weights.total_bytes(models[name])):
        network = Network(name)
        networks.append(network)
        if deadline - time.monotonic() < _LEAST_SECONDS:
            network.refused = dict.fromkeys(VARIANTS, "no time left")
            continue
        with tempfile.TemporaryDirectory() as place:
            for variant in VARIANTS:
                shutil.copy(_file(folder, name, variant), place)
            drawn_weights.draw(models[name], pathlib.Path(place))
            _run_network(network, models[name], pathlib.Path(place), library, deadline, on_device=on_device)
    return networks


def _file(folder: pathlib.Path, name: str, variant: str) -> pathlib.Path:
    return folder / f"{name}.{variant}.onnx"


def _run_network(
    network: Network,
    model: onnx.ModelProto,
    folder: pathlib.Path,
    library: pathlib.Path,
    deadline: float,
    *,
    on_device: bool,
) -> None:
    fused = onnx.load_model(_file(folder, network.name, FUSED), load_external_data=False)
    network.group_norms = sum(node.domain == DOMAIN for node in fused.graph.node)
    feeds = draw_inputs(model)
    outputs: dict[str, list[np.ndarray[Any, Any]]] = {}
    for variant in VARIANTS:
        path = _file(folder, network.name, variant)
        if deadline < time.monotonic():
            network.refused[variant] = "no time left"
            continue
        try:
            if on_device:
                outputs[variant] = _time(network, variant, path, model, feeds, library)
            else:
                outputs[variant] = _run_on_host(path, variant, feeds, library)
        except Exception as error:  # whatever ONNX Runtime raises for one variant must not cost the others
            lines = str(error).strip().splitlines() or [type(error).__name__]
            network.refused[variant] = lines[0][:200]
    if {ORIGINAL, FUSED} <= outputs.keys():
        pairs = zip(outputs[FUSED], outputs[ORIGINAL], strict=True)
        network.error = max(_error(a, b) for a, b in pairs)
        if network.wrong:
            network.refused[FUSED] = f"off by {network.error:.1e}, allowed {_MOST_ERROR:.0e}"
            network.times.pop(FUSED, None)
    if FREE in outputs and not all(np.isfinite(y).all() and y.any() for y in outputs[FREE]):
        network.refused[FREE] = "its values left float16: its time may not be that of ordinary numbers"


def draw_inputs(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Random numbers for tensors, 500 for what is an integer (a time step)."""
    rng = np.random.default_rng(1)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    initializers = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in initializers:
            continue
        shape, integers = _shape(value), value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        feeds[value.name] = np.full(shape, 500, np.int64) if integers else rng.standard_normal(shape).astype(np.float16)
    return feeds


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _error(y: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    y, expected = y.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def _time(
    network: Network, variant: str, path: pathlib.Path, model: onnx.ModelProto, feeds: dict[str, Any], library: pathlib.Path
) -> list[np.ndarray[Any, Any]]:
    import torch

    inputs = {name: torch.from_numpy(np.asarray(array)).to(cuda_timing.DEVICE) for name, array in feeds.items()}
    outputs = {
        value.name: torch.full(_shape(value), math.nan, dtype=torch.float16, device=cuda_timing.DEVICE)
        for value in model.graph.output
    }
    session = cuda_sessions.BoundSession(
        str(path), library=library if variant == FUSED else None, inputs=inputs, outputs=outputs
    )
    session.warm_up()
    arrays = [tensor.cpu().numpy() for tensor in outputs.values()]
    network.times[variant] = session.time(variant, 1, runs=_RUNS)
    return arrays


def _run_on_host(
    path: pathlib.Path, variant: str, feeds: dict[str, Any], library: pathlib.Path
) -> list[np.ndarray[Any, Any]]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if variant == FUSED:
        settings.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def table(networks: list[Network]) -> str:
    """Milliseconds of one run, how many times faster fused is, and how much of what GroupNorm costs is gone."""
    lines = [
        "end to end, float16, CUDA graphs; free: every fused GroupNorm left out",
        f"{'network':28}{'GroupNorms':>11}{'original ms':>13}{'fused ms':>11}{'free ms':>11}"
        f"{'speed-up':>10}{'of cost gone':>14}",
    ]
    for network in networks:
        ms = {variant: network.times[variant].median / 1e3 for variant in network.times}
        row = f"{network.name:28}{network.group_norms:11}"
        for variant, width in zip(VARIANTS, (13, 11, 11), strict=True):
            row += f"{format(ms[variant], '.3f') if variant in ms else '-':>{width}}"
        row += f"{format(ms[ORIGINAL] / ms[FUSED], '.2f') if {ORIGINAL, FUSED} <= ms.keys() else '-':>10}"
        all_there = ms.keys() == set(VARIANTS) and ms[ORIGINAL] > ms[FREE]
        gone = (ms[ORIGINAL] - ms[FUSED]) / (ms[ORIGINAL] - ms[FREE]) if all_there else None
        lines.append(row + f"{'-' if gone is None else format(gone, '.0%'):>14}")
        if network.error is not None:
            lines.append(f"    largest difference between fused and original: {network.error:.1e} of the largest output")
        lines += [f"    {variant}: {reason}" for variant, reason in network.refused.items()]
    return "\n".join(lines)
