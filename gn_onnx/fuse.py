"""The public way in: every GroupNorm of a model becomes one node."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar, cast

import onnx
import onnx_ir as ir

from gn_onnx import collector
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import graph_walk, model_io
from gn_onnx.group_norm import OP_TYPE, GroupNorm, Rejection
from gn_onnx.recognition.model_view import FIRST_IR_VERSION_WITH_DEFAULTS, subgraphs
from gn_onnx.recognition.recognize import recognize
from gn_onnx.rewriting.contrib import holds_compounds, split_compounds
from gn_onnx.rewriting.epilogues import with_epilogues
from gn_onnx.rewriting.expanding import expand, uses_ours
from gn_onnx.rewriting.opsets import converted, onnx_opset, raise_import
from gn_onnx.rewriting.present import lacks_bodies, plain_nodes
from gn_onnx.rewriting.rewrite import declare, rewrite, standardise
from gn_onnx.rewriting.transposes import across_transposes

logger = logging.getLogger(__name__)

Target = Literal["plugin", "onnx"]
TARGETS: tuple[Target, ...] = ("plugin", "onnx")

GROUP_NORMALIZATION_OPSET = 21
"""The first opset in which GroupNormalization has a scale per channel."""

MIN_OPSET = 9
"""The oldest opset that is rewritten: function bodies need operators that are not in older ones."""

ModelLike = TypeVar("ModelLike", ir.Model, onnx.ModelProto, str, "os.PathLike[str]")


@dataclasses.dataclass(frozen=True)
class FusionResult(Generic[ModelLike]):
    """What `fuse` did.

    Attributes:
        model: The fused model, of the kind that was given (for a path: an onnx_ir.Model).
        fused: One record per node that was put in, in graph order.
        rejected: Look-alikes that stay as they were, and why.
    """

    model: ModelLike
    fused: tuple[GroupNorm, ...]
    rejected: tuple[Rejection, ...]


class FuseGroupNorm(ir.passes.InPlacePass):
    """An onnx_ir pass that fuses every GroupNorm in place; composes with `onnx_ir.passes.Sequential`.

    Args:
        target: "plugin": `gn_onnx::GroupNormalization*` nodes that carry their bodies as model-local functions.
            "onnx": `ai.onnx::GroupNormalization` of opset 21, for runtimes that have it.
        activations: Fuse an activation behind the GroupNorm too (plugin only).
        freeze_defaults: Make constants of the graph inputs that have a default value, where that leads to a GroupNorm.
            MXNet exports every number so; nobody can feed another afterwards.

    After a call, `fused` and `rejected` say what was found.
    """

    def __init__(self, target: Target = "plugin", *, activations: bool = True, freeze_defaults: bool = False) -> None:
        super().__init__()
        if target not in TARGETS:
            raise GnOnnxError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
        self.target: Target = target
        self.activations = activations
        self.freeze_defaults = freeze_defaults
        self.fused: tuple[GroupNorm, ...] = ()
        self.rejected: tuple[Rejection, ...] = ()

    @collector.paused()
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        inputs = list(model.graph.inputs)
        if self.freeze_defaults and model.ir_version >= FIRST_IR_VERSION_WITH_DEFAULTS:
            model.graph.inputs[:] = [value for value in inputs if not value.is_initializer()]
        self._fuse(model)
        if not self.fused:
            model.graph.inputs[:] = inputs
        return ir.passes.PassResult(model, modified=bool(self.fused))

    def _fuse(self, model: ir.Model) -> None:
        if onnx_opset(model) >= MIN_OPSET:
            split_compounds(model)
        found, rejected = _recognized(model)
        if found and onnx_opset(model) < MIN_OPSET:
            reason = f"the model's opset {onnx_opset(model)} is older than {MIN_OPSET}"
            found, rejected = [], [*rejected, *_refusals(found, reason)]
        if self.target == "onnx":
            found, rejected = self._to_onnx(model, found, rejected)
        else:
            if self.activations:
                plain = plain_nodes(model)
                found = [g for g in with_epilogues(model, [*found, *plain]) if g not in plain]
            found = across_transposes(found)
            rewrite(model, found)
            if lacks_bodies(model):
                declare(model, onnx_opset(model))
        self.fused, self.rejected = tuple(found), tuple(rejected)

    def _to_onnx(
        self, model: ir.Model, found: list[GroupNorm], rejected: list[Rejection]
    ) -> tuple[list[GroupNorm], list[Rejection]]:
        """GroupNormalization of opset 21, in a newer opset where the model's is older; all of the model or none of it."""
        version = onnx_opset(model)
        trial = model if version >= GROUP_NORMALIZATION_OPSET and not uses_ours(model) else model.clone()
        if uses_ours(model):
            trial = expand(trial)
            found, rejected = _recognized(trial)
        found = [g for g in found if version < GROUP_NORMALIZATION_OPSET or not _is_standard(g)]
        if version >= GROUP_NORMALIZATION_OPSET:
            found, old = _in_recent_functions(trial, found)
            rejected = [*rejected, *old]
        if not found:
            return found, rejected
        now = found if version >= GROUP_NORMALIZATION_OPSET else _recognized(trial)[0]
        rewrite(trial, across_transposes(now), "onnx")
        if version < GROUP_NORMALIZATION_OPSET:
            try:
                trial = converted(trial, GROUP_NORMALIZATION_OPSET)
            except GnOnnxError as error:
                return [], [*rejected, *_refusals(found, str(error))]
            logger.info("brought from opset %d to %d", version, GROUP_NORMALIZATION_OPSET)
        standardise(trial)
        if trial is not model:
            functions = dict(trial.functions)
            model.graph, model.ir_version = trial.graph, trial.ir_version
            model.functions.clear()
            model.functions.update(functions)
        return found, rejected


def _recognized(model: ir.Model) -> tuple[list[GroupNorm], list[Rejection]]:
    """All that can be fused. ONNX Runtime expands a SequenceMap to a Loop, and then fails on functions in its body."""
    found, rejected = recognize(model)
    inside: set[ir.Graph | ir.Function | None] = set()
    for container in (model.graph, *(function.graph for function in model.functions.values())):
        for node in container.all_nodes():
            if node.op_type == "SequenceMap":
                for body in subgraphs(node):
                    inside.update((body, *body.subgraphs()))
    # What nobody uses is left of a call whose other results are used; fused again, it would be left of that again.
    used = [g for g in found if g.output.uses() or g.output.is_graph_output()]
    kept = [g for g in used if _container(g) not in inside]
    refused = [g for g in used if _container(g) in inside]
    return kept, [*rejected, *_refusals(refused, "in the body of a SequenceMap, where ONNX Runtime cannot run the node")]


def _container(group_norm: GroupNorm) -> ir.Graph | ir.Function | None:
    producer = group_norm.output.producer()
    return None if producer is None else producer.graph


def _in_recent_functions(model: ir.Model, found: list[GroupNorm]) -> tuple[list[GroupNorm], list[Rejection]]:
    """Without those inside functions that import an opset in which GroupNormalization means something else."""
    holders = {graph: f for f in model.functions.values() for graph in (f.graph, *f.subgraphs())}
    kept: list[GroupNorm] = []
    refused: list[Rejection] = []
    for group_norm in found:
        producer = group_norm.output.producer()
        function = holders.get(producer.graph) if producer is not None and isinstance(producer.graph, ir.Graph) else None
        version = GROUP_NORMALIZATION_OPSET if function is None else function.opset_imports.get("", 1)
        if function is None or version >= GROUP_NORMALIZATION_OPSET or raise_import(function, onnx_opset(model)):
            kept.append(group_norm)
        else:
            reason = (
                f"the function {function.domain}::{function.name} imports opset {version}: inline it, or raise its opset"
            )
            refused += _refusals([group_norm], reason)
    return kept, refused


def _is_standard(group_norm: GroupNorm) -> bool:
    """Whether it is one valid GroupNormalization node already, behind the Reshape that `rewrite` would put there or none.

    ONNX's converter writes scales that are too short.
    """
    node = group_norm.output.producer()
    if node is None or node.op_type != OP_TYPE or group_norm.core != OP_TYPE:
        return False
    first = None if node.inputs[0] is None else node.inputs[0].producer()
    reshapes = first is not None and first.op_type == "Reshape" and first.inputs[0] is group_norm.x
    if not group_norm.native and not (reshapes and group_norm.x_shape is not None):
        return False
    shapes = [value.shape for value in node.inputs[1:3] if value is not None and value.shape is not None]
    return not any(len(shape) == 1 and shape[0] == 1 and group_norm.num_channels != 1 for shape in shapes)


def _refusals(group_norms: list[GroupNorm], reason: str) -> list[Rejection]:
    return [Rejection(reason, value=g.output.name or "", op_type=g.core) for g in group_norms]


@collector.paused()
def fuse(
    model: ModelLike, *, target: Target = "plugin", activations: bool = True, freeze_defaults: bool = False
) -> FusionResult[ModelLike]:
    """Every GroupNorm of `model` as one node.

    Args:
        model: An onnx_ir.Model or an onnx.ModelProto (neither is changed), or the path of a model.
        target: See `FuseGroupNorm`.
        activations: See `FuseGroupNorm`.
        freeze_defaults: See `FuseGroupNorm`.

    Raises:
        GnOnnxError: When the model cannot be read, or cannot be brought to the opset that `target` needs.
    """
    fuser = FuseGroupNorm(target, activations=activations, freeze_defaults=freeze_defaults)
    result: ir.Model | onnx.ModelProto
    if isinstance(model, onnx.ModelProto):
        with _as_ir(model) as given:
            result = model_io.to_proto(fuser(given).model, like=model)
    elif isinstance(model, ir.Model):
        result = fuser(model.clone()).model
    else:
        result = fuser(model_io.load_model(model)).model
    return FusionResult(cast("Any", result), fuser.fused, fuser.rejected)


@contextlib.contextmanager
def _as_ir(proto: onnx.ModelProto) -> Iterator[ir.Model]:
    """The model as ONNX IR, nodes in order; `proto` is as it was afterwards.

    ONNX IR shares the tensors of the proto and gives names to those that have none.
    """
    if not graph_walk.is_sorted(proto):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        graph_walk.sort(copy)
        proto = copy
    lists = [proto.graph.node, *(function.node for function in proto.functions)]
    attributes = [a for nodes in lists for node in graph_walk.all_nodes(nodes) for a in node.attribute]
    unnamed = [a.t for a in attributes if a.HasField("t") and not a.t.HasField("name")]
    try:
        yield model_io.to_ir(proto)
    finally:
        for tensor in unnamed:
            tensor.ClearField("name")


@collector.paused()
def find_group_norms(model: ir.Model | onnx.ModelProto | str | os.PathLike[str]) -> list[GroupNorm | Rejection]:
    """What `fuse` would fuse, and what it would reject and why; nothing is changed."""
    if isinstance(model, onnx.ModelProto):
        with _as_ir(model) as given:
            found, rejected = _recognize_parts(given)
    elif isinstance(model, ir.Model):
        found, rejected = _recognize_parts(model)
    else:
        found, rejected = _recognize_parts(model_io.load_model(model))
    return [*found, *rejected]


def _recognize_parts(model: ir.Model) -> tuple[list[GroupNorm], list[Rejection]]:
    if holds_compounds(model):
        model = model.clone()
        split_compounds(model)
    return _recognized(model)
