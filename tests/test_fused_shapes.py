"""`onnx.shape_inference` on fused models: every value has its whole shape, as files are written and without annotations."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
from forms_reader import FORMS, Form
from onnx import shape_inference

from gn_onnx import fuse
from gn_onnx.group_norm import DOMAIN

FUSED = [form for form in FORMS if form.counts and form.counts[-1]]
QUICK = ("activation_silu", "in_torchscript_opset11", "if_branch", "nhwc_paper", "native_21", "shape_arithmetic")
FOLLOWS_SHAPES = 14
"""Opset from which inference follows Shape into the Reshape at a body's end; before, the fused node's annotation says it."""


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Names of values with whole shapes; a size is a number or the name of a symbol."""
    found = {}
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for graph in graphs(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            sizes = [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.HasField("shape") and all(sizes):
                found[value.name] = sizes
        for tensor in graph.initializer:
            found[tensor.name] = list(tensor.dims)
    return found


def fused_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in graphs(model.graph) for node in graph.node if node.domain == DOMAIN]


def check(model: onnx.ModelProto, after: dict[str, list[int | str]]) -> None:
    """Whatever inference knows of a fused node's X, it knows of its result; symbols may have got another name."""
    for node in fused_nodes(model):
        if node.input[0] in after:
            for size, of_x in zip(after[node.output[0]], after[node.input[0]], strict=True):
                assert size == of_x or isinstance(of_x, str), node


def without_annotations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nothing says what shapes fused nodes have."""
    results = {name for node in fused_nodes(model) for name in node.output}
    for graph in graphs(model.graph):
        kept = [value for value in graph.value_info if value.name not in results]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    for value in model.graph.output:
        if value.name in results:
            value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize(
    "form", [pytest.param(form, id=form.name, marks=() if form.name in QUICK else pytest.mark.slow) for form in FUSED]
)
def test_every_fused_node_and_what_is_behind_it(form: Form) -> None:
    before, model = shapes(form.model), fuse(form.model).model
    after = shapes(model)
    assert all(node.output[0] in after for node in fused_nodes(model))
    check(model, after)
    there = {name for node in model.graph.node for name in node.output}
    assert not (before.keys() - after.keys()) & there
    if next(o.version for o in model.opset_import if o.domain == "") >= FOLLOWS_SHAPES:
        check(model, shapes(without_annotations(model)))


def test_static_and_dynamic_sizes_reach_the_outputs() -> None:
    form = next(form for form in FUSED if form.name == "activation_silu")
    for sizes in ([2, 12, 3, 4], ["N", 12, "H", "W"]):
        model = onnx.ModelProto.FromString(form.model.SerializeToString())
        dims = model.graph.input[0].type.tensor_type.shape.dim
        sizes = [size if i != 1 else dims[1].dim_value for i, size in enumerate(sizes)]
        for dim, size in zip(dims, sizes, strict=True):
            dim.Clear()
            setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        fused = fuse(model).model
        del fused.graph.value_info[:]
        for value in fused.graph.output:
            value.type.tensor_type.ClearField("shape")
        assert shapes(fused)[fused.graph.output[0].name] == sizes


def test_the_input_has_a_rank_where_it_had_no_annotation() -> None:
    """With the library, ONNX Runtime takes an input without a shape for a scalar, and a Transpose behind it fails."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        group_norm (float[N,8,H,W] x) => (float[N,2,4,H,W] y)
        <int64 i0 = {0}, int64 i2 = {2}, int64 i3 = {3}, int64[1] first = {0}, int64[1] four = {4}, int64[1] two = {2},
         float eps = {0.00001}>
        {
            s = Shape (x)
            a = Gather <axis = 0> (s, i0)
            b = Gather <axis = 0> (s, i2)
            c = Gather <axis = 0> (s, i3)
            n = Unsqueeze (a, first)
            h = Unsqueeze (b, first)
            w = Unsqueeze (c, first)
            split = Concat <axis = 0> (n, four, two, h, w)
            g = Reshape (x, split)
            m = ReduceMean <axes = [2, 3, 4], keepdims = 1> (g)
            d = Sub (g, m)
            p = Mul (d, d)
            v = ReduceMean <axes = [2, 3, 4], keepdims = 1> (p)
            e = Add (v, eps)
            r = Sqrt (e)
            z = Div (d, r)
            y = Transpose <perm = [0, 2, 1, 3, 4]> (z)
        }""")
    result = fuse(model)
    assert len(result.fused) == 1
    (shape,) = (info.type.tensor_type.shape for info in result.model.graph.value_info if info.name == "g")
    assert [dim.dim_value for dim in shape.dim] == [0, 4, 2, 0, 0]
