"""The public way in: every GroupNorm of a model becomes one node."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Generic, Literal, TypeVar, cast

import onnx
import onnx_ir as ir

from gn_onnx import model_io
from gn_onnx.epilogues import with_epilogues
from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import GroupNorm, Rejection
from gn_onnx.recognize import recognize
from gn_onnx.rewrite import onnx_opset, rewrite

Target = Literal["plugin", "onnx"]
TARGETS: tuple[Target, ...] = ("plugin", "onnx")

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

    After a call, `fused` and `rejected` say what was found.
    """

    def __init__(self, target: Target = "plugin", *, activations: bool = True) -> None:
        super().__init__()
        if target not in TARGETS:
            raise GnOnnxError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
        self.target: Target = target
        self.activations = activations
        self.fused: tuple[GroupNorm, ...] = ()
        self.rejected: tuple[Rejection, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = onnx_opset(model)
        found, rejected = recognize(model)
        if found and opset < MIN_OPSET:
            rejected += [Rejection(f"the model's opset {opset} is older than {MIN_OPSET}", value=g.output.name or "") for g in found]
            found = []
        if self.activations and self.target == "plugin":
            found = with_epilogues(model, found)
        self.fused, self.rejected = tuple(found), tuple(rejected)
        rewrite(model, found, self.target)
        return ir.passes.PassResult(model, modified=bool(found))


def fuse(model: ModelLike, *, target: Target = "plugin", activations: bool = True) -> FusionResult[ModelLike]:
    """Every GroupNorm of `model` as one node.

    Args:
        model: An onnx_ir.Model or an onnx.ModelProto (neither is changed), or the path of a model.
        target: See `FuseGroupNorm`.
        activations: See `FuseGroupNorm`.

    Raises:
        GnOnnxError: When the model cannot be read, or cannot be brought to the opset that `target` needs.
    """
    fuser = FuseGroupNorm(target, activations=activations)
    result: ir.Model | onnx.ModelProto
    if isinstance(model, onnx.ModelProto):
        result = model_io.to_proto(fuser(model_io.to_ir(model)).model, like=model)
    elif isinstance(model, ir.Model):
        result = fuser(model.clone()).model
    else:
        result = fuser(model_io.load_model(model)).model
    return FusionResult(cast("Any", result), fuser.fused, fuser.rejected)


def find_group_norms(model: ir.Model | onnx.ModelProto | str | os.PathLike[str]) -> list[GroupNorm | Rejection]:
    """What `fuse` would fuse, and what it would reject and why; nothing is changed."""
    if isinstance(model, onnx.ModelProto):
        found, rejected = recognize(model_io.to_ir(model))
    elif isinstance(model, ir.Model):
        found, rejected = recognize(model)
    else:
        found, rejected = recognize(model_io.load_model(model))
    return [*found, *rejected]
