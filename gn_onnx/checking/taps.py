"""Look inside a run: the input and the output of every GroupNorm site, checked against float64 there and then.

Differences between two models at their outputs mix what a GroupNorm did with what the layers behind it made of
it. At the site itself the float64 formula on the very x that the run had says how good each side was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from gn_onnx.checking import concrete_shapes, ort_runner, tolerances
from gn_onnx.checking.comparison import Comparison, compare
from gn_onnx.checking.scope import CannotEvaluate
from gn_onnx.checking.site_check import Site
from gn_onnx.checking.subgraph import Evaluator, Piece
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import graph_walk, model_io

_MAX_BYTES_PER_RUN = 1 << 28


@dataclasses.dataclass(frozen=True)
class SiteNumerics:
    """One site in one run: what the model made of x, against float64 on the same x.

    Attributes:
        site: The site's output name.
        comparison: Of y with the float64 value; its tolerance allows for the condition of x.
    """

    site: str
    comparison: Comparison


def with_outputs(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model in which values of the main graph are outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    present = {value.name for value in proto.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def measured_shapes(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], options: ort_runner.Options
) -> dict[str, tuple[int, ...]]:
    """Shapes that inference does not find, by running the model: operators of ONNX Runtime's own hide them.

    Empty where inference finds all, or where the model does not run.
    """
    known = concrete_shapes.concrete_shapes(proto, {name: array.shape for name, array in feeds.items()})
    missing = [name for node in proto.graph.node for name in node.output if name and name not in known]
    if not missing:
        return {}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    prefix = "gn_onnx shape of "
    for name in missing:
        copy.graph.node.append(onnx.helper.make_node("Shape", [name], [prefix + name]))
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=prefix + name) for name in missing)
    try:
        found = ort_runner.Session(copy, options).run(feeds)
    except GnOnnxError:
        return {}
    return {name.removeprefix(prefix): tuple(map(int, shape)) for name, shape in found.items()}


def site_numerics(
    proto: onnx.ModelProto,
    sites: Sequence[Site],
    feeds: Mapping[str, np.ndarray],
    *,
    options: ort_runner.Options,
    data: str,
    original: bool = False,
) -> Iterator[SiteNumerics]:
    """Run the model with its sites tapped and compare each with float64.

    Args:
        proto: The fused model, or with `original` the model before.
        sites: Sites of the main graph.
        feeds: Inputs of the model.
        options: How to run it.
        data: Kind of the inputs, for the records.
        original: Which of the site's two pieces belongs to the model.

    Raises:
        GnOnnxError: ONNX Runtime cannot run the model.
    """
    evaluator = Evaluator()
    for some in _portions(proto, sites, feeds):
        wanted = {name for site in some for name in (*_piece(site, original).leaves, site.x, site.output)}
        values = dict(feeds)
        runnable = with_outputs(proto, sorted(wanted - set(feeds)))
        values.update(ort_runner.Session(runnable, options).run(feeds))
        for site in some:
            try:
                yield SiteNumerics(site.output, _compare(site, values, evaluator, data, original))
            except CannotEvaluate:
                continue


def _piece(site: Site, original: bool) -> Piece:
    return site.before if original else site.after


def _compare(site: Site, values: Mapping[str, np.ndarray], evaluator: Evaluator, data: str, original: bool) -> Comparison:
    piece = _piece(site, original)
    leaves = {name: values[name].astype(np.float64) for name in piece.leaves}
    x, y = values[site.x], values[site.output]
    if x.ndim != y.ndim and x.size == y.size:
        x = x.reshape(y.shape)  # as the node is given it
    bound = tolerances.conditioned(
        tolerances.output_tolerance(y.dtype),
        x[None] if site.one_sample else x,
        site.num_groups,
        channels_last=site.channels_last,
    )
    expected = evaluator.run(piece, leaves)
    return compare(expected, y, name=site.output, against="float64", data=data, tolerance=bound)


def _portions(proto: onnx.ModelProto, sites: Sequence[Site], feeds: Mapping[str, np.ndarray]) -> Iterator[list[Site]]:
    """Sites whose tensors together fit into memory."""
    shapes = concrete_shapes.concrete_shapes(proto, {name: array.shape for name, array in feeds.items()})
    some: list[Site] = []
    total = 0
    for site in sites:
        size = 8 * 2 * math.prod(shapes.get(site.x, ()))
        if some and total + size > _MAX_BYTES_PER_RUN:
            yield some
            some, total = [], 0
        some.append(site)
        total += size
    if some:
        yield some


def unchanged_elsewhere(original: onnx.ModelProto, fused: onnx.ModelProto, sites: Sequence[Site]) -> bool:
    """Whether every node outside the sites is, byte for byte, a node of the original.

    Then values of equal names are equal by induction over the graph, given that the sites are.
    """
    # Once through ONNX IR, which spells some things its own way, as the fused model has been.
    original = model_io.to_proto(model_io.to_ir(original))
    computed = frozenset[str]().union(*(site.after.computed for site in sites))
    known = {name: node for node in original.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in original.graph.initializer}
    held = {tensor.name: tensor for tensor in fused.graph.initializer}
    for node in fused.graph.node:
        if computed.issuperset(filter(None, node.output)):
            continue
        if known.get(node.output[0]) != node:
            return False
        if any(held.get(name) != constants.get(name) for name in graph_walk.uses(node)):
            return False
    names = [[value.name for value in graph.output] for graph in (original.graph, fused.graph)]
    return names[0] == names[1]
