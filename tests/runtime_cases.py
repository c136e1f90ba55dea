"""What every version of ONNX Runtime is given: models, their inputs, and outputs by the definition in float64.

Files are written once by this Python and read by runtime_probe.py in each runtime's environment. Element types other
than float32 begin and end with a Cast, since not every version's Python takes bfloat16.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from hand_models import detector
from helpers import group_norm, sample
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import gn_onnx
from gn_onnx.group_norm import DOMAIN, op_type
from gn_onnx.rewriting import functions

ELEMENT = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}
CHANNELS, GROUPS, EPSILON = 32, 8, 1e-5
OPEN = ("N", CHANNELS, "H", "W")

Feeds = dict[str, np.ndarray]


def norm_model(
    kind: str,
    domain: str,
    shape: Sequence[int | str | None] | None = OPEN,
    *,
    opset: int = 21,
    ir_version: int = 10,
    inputs: Sequence[str] = ("x", "scale", "bias"),
    attributes: Sequence[str] = ("num_groups", "epsilon"),
    op: str = "GroupNormalization",
) -> onnx.ModelProto:
    """Graph inputs (float32) -> Cast -> one GroupNorm in `kind` -> Cast -> y; scale and bias of any size."""
    named = [name for name in inputs if name]
    values = {"num_groups": GROUPS, "epsilon": EPSILON}
    nodes = [helper.make_node("Cast", [f"{name}_in"], [name], to=ELEMENT[kind]) for name in named]
    chosen = {name: values[name] for name in attributes}
    nodes.append(helper.make_node(op, list(inputs), ["norm"], "the_norm", domain=domain, **chosen))
    nodes.append(helper.make_node("Cast", ["norm"], ["y"], to=TensorProto.FLOAT))
    shapes = {"x": shape, "scale": ["S"], "bias": ["B"]}
    infos = [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shapes[name]) for name in named]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def with_body(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The model and the function that its gn_onnx node stands for, as fusing writes it."""
    opset = model.opset_import[0].version
    types = frozenset({ir.DataType(ELEMENT[kind])})
    model.functions.append(ir.to_proto(functions.function_body("none", channels_last=False, dtypes=types, opset=opset)))
    return model


def norm_feeds(shape: tuple[int, ...], scale: int | None = None) -> Feeds:
    """Values that every type holds exactly, so that one result serves all. x: [N, C, H, W]; scale: [C] unless given."""
    rng = np.random.default_rng(len(shape))
    x = rng.integers(-128, 128, shape).astype(np.float32) / 64
    gamma = rng.integers(64, 192, scale or shape[1]).astype(np.float32) / 128
    beta = rng.integers(-128, 128, shape[1]).astype(np.float32) / 128
    return {"x_in": x, "scale_in": gamma, "bias_in": beta}


def wanted(feeds: Feeds) -> np.ndarray:
    return group_norm(feeds["x_in"], feeds["scale_in"], feeds["bias_in"], GROUPS, EPSILON)


class Cases:
    """Collects cases in a folder, and keeps `cases.json` for the probe."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._listed: list[dict[str, object]] = []

    def add(
        self, name: str, model: onnx.ModelProto, feeds: Feeds, want: np.ndarray | None, *, also: Sequence[str] = ()
    ) -> None:
        """A model to be run with the library; `also`: "without" it, or in "two sessions".

        `want` is None for a model that has to be refused; only inputs that the model has are kept.
        """
        stem = name.replace(" ", "_")
        (self._folder / f"{stem}.onnx").write_bytes(model.SerializeToString())
        names = {value.name for value in model.graph.input}
        stored = {f"in.{key}": value for key, value in feeds.items() if key in names}
        stored["out"] = np.zeros(0) if want is None else want
        np.savez(self._folder / f"{stem}.npz", **stored)
        self._listed.append({"name": name, "model": f"{stem}.onnx", "arrays": f"{stem}.npz", "also": list(also)})
        (self._folder / "cases.json").write_text(json.dumps(self._listed))


def write(folder: pathlib.Path) -> None:
    """All cases, in the order in which they are run: what has ended a process in some version comes last."""
    cases = Cases(folder)
    image = {"image": sample("ordinary", (2, 3, 24, 28)).astype(np.float32)}
    (features,) = ReferenceEvaluator(detector()).run(None, dict(image))
    fused = gn_onnx.fuse(detector()).model
    cases.add("fused detector", fused, image, features, also=["without", "two sessions"])

    # Groups of 7,200 elements in one chunk, and of 240,000, which several threads share and which need scratch memory.
    feeds, large = norm_feeds((2, CHANNELS, 40, 45)), norm_feeds((1, CHANNELS, 200, 300))
    for kind in ELEMENT:
        carrying = with_body(norm_model(kind, DOMAIN, opset=17, ir_version=8), kind)
        cases.add(f"fused {kind}", carrying, feeds, wanted(feeds), also=["without", "two sessions"])
        cases.add(f"native {kind}", norm_model(kind, ""), feeds, wanted(feeds), also=["without"])
    # In opset 18 scale and bias were per group: no kernel of ours, and the library must not be in its way.
    per_group = feeds | {name: norm_feeds((1, GROUPS, 1))[name] for name in ("scale_in", "bias_in")}
    spread = {name: np.repeat(per_group[name], CHANNELS // GROUPS) for name in ("scale_in", "bias_in")}
    model = norm_model("float32", "", opset=18, ir_version=8)
    cases.add("native, opset 18", model, per_group, wanted(feeds | spread), also=["without"])

    # From here on there is no function body that could take the kernel's place.
    plain = functools.partial(norm_model, "float32", DOMAIN, opset=17, ir_version=8)
    cases.add("large", plain(), large, wanted(large))
    last = large | {"x_in": np.ascontiguousarray(np.moveaxis(large["x_in"], 1, -1))}
    node = op_type("none", channels_last=True)
    cases.add("large, channels last", plain((1, "H", "W", CHANNELS), op=node), last, np.moveaxis(wanted(large), 1, -1))
    cases.add("no epsilon", plain(attributes=["num_groups"]), feeds, wanted(feeds))  # its default is EPSILON
    cases.add("shape not known", plain(None), feeds, wanted(feeds))
    cases.add("sizes without names", plain([None, CHANNELS, None, None]), feeds, wanted(feeds))
    cases.add("no num_groups", plain(attributes=["epsilon"]), feeds, None)
    cases.add("scale of another size", plain(), norm_feeds((2, CHANNELS, 9, 11), scale=5), None)
    cases.add("channels that groups do not divide", plain((2, 7, 9, 11)), norm_feeds((2, 7, 9, 11)), None)
    cases.add("an empty name for the bias", plain(inputs=["x", "scale", ""]), feeds, None)
    cases.add("no bias", plain(inputs=["x", "scale"]), feeds, None)
