"""Puts one node in the place of each GroupNorm that was recognised.

The node takes over the uses and the name of one value; then the nodes go that became dead by it, and no others. So a
value that is used elsewhere, or is an output of the graph, keeps existing without a special case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, DOMAIN_VERSION, OP_TYPE, GroupNorm, PerChannel, op_type
from gn_onnx.recognition.model_view import FIRST_IR_VERSION_WITH_DEFAULTS, STANDARD_DOMAINS, ModelView, subgraphs
from gn_onnx.rewriting import devices
from gn_onnx.rewriting.building import Builder, Constants, Namer
from gn_onnx.rewriting.functions import can_mix_dtypes, function_body, unused_prefix
from gn_onnx.rewriting.opsets import onnx_opset

MIN_IR_VERSION = 8
"""The first IR version that has model-local functions."""

_PLUGIN_OPS = {op_type(a, channels_last=last): (a, last) for a in ACTIVATIONS for last in (False, True)}


def rewrite(model: ir.Model, group_norms: Sequence[GroupNorm], target: str = "plugin") -> None:
    """Replaces every GroupNorm by one node, in place.

    Args:
        model: The model that the records were found in.
        group_norms: Records of `recognize`, not overlapping.
        target: "plugin" for our operators with their function bodies; "onnx" for GroupNormalization nodes as ONNX has
            them, but in our domain until `standardise` is called (the model's opset may be older than they are).
    """
    if not group_norms:
        return
    if model.ir_version < FIRST_IR_VERSION_WITH_DEFAULTS:
        # Initializers were inputs too, and constants: in a newer version they would be defaults that one may replace.
        for value in [value for value in model.graph.inputs if value.is_initializer()]:
            model.graph.inputs.remove(value)
        model.ir_version = FIRST_IR_VERSION_WITH_DEFAULTS
    called = _called_functions(model)
    opset = onnx_opset(model)
    constants = Constants(Namer(model))
    one_type = _needs_one_type(group_norms, opset) if target == "plugin" else {}
    functions: dict[ir.Graph, ir.Function] = {}
    for function in model.functions.values():
        functions.update(dict.fromkeys((function.graph, *function.subgraphs()), function))
    replaced: dict[ir.Value, ir.Value] = {}
    for group_norm in group_norms:
        current = _with_current_values(group_norm, replaced)
        dtype = one_type.get(group_norm.op_type, group_norm.dtype)
        replaced[group_norm.output] = _replace(current, constants, target, opset, dtype, functions)
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    if target == "plugin":
        declare(model, opset)
    for identifier in called - _called_functions(model):
        del model.functions[identifier]


def _needs_one_type(group_norms: Sequence[GroupNorm], opset: int) -> dict[str, ir.DataType]:
    """Operators called with several element types in an opset whose function bodies serve only one: the wider one."""
    if can_mix_dtypes(opset):
        return {}
    types: dict[str, set[ir.DataType]] = {}
    for group_norm in group_norms:
        types.setdefault(group_norm.op_type, set()).add(group_norm.dtype)
    double = ir.DataType.DOUBLE
    return {op: double if double in kinds else ir.DataType.FLOAT for op, kinds in types.items() if len(kinds) > 1}


def _with_current_values(group_norm: GroupNorm, replaced: dict[ir.Value, ir.Value]) -> GroupNorm:
    """The record with values that an earlier site replaced brought up to date (GroupNorm of a GroupNorm)."""

    def current(per_channel: PerChannel) -> PerChannel:
        return PerChannel(tuple((c, tuple(replaced.get(v, v) for v in values)) for c, values in per_channel.terms))

    x = replaced.get(group_norm.x, group_norm.x)
    return dataclasses.replace(group_norm, x=x, scale=current(group_norm.scale), bias=current(group_norm.bias))


def _replace(
    group_norm: GroupNorm,
    constants: Constants,
    target: str,
    opset: int,
    dtype: ir.DataType,
    functions: dict[ir.Graph, ir.Function],
) -> ir.Value:
    """Puts the node in; the value that stands for `group_norm.output` from now on."""
    output = group_norm.output
    last = output.producer()
    assert last is not None and isinstance(last.graph, ir.Graph), "a recognised output is computed by a node of a graph"
    function = functions.get(last.graph)
    in_function = function is not None and last.graph is function.graph
    builder = Builder(last.graph, output.name or "group_norm", constants, dtype, opset, in_function=in_function)
    x = group_norm.x
    if group_norm.x_perm is not None:
        x = builder.node("Transpose", [x], "transposed", group_norm.dtype, perm=group_norm.x_perm)
    if group_norm.x_shape is not None:
        x = builder.node("Reshape", [x, builder.ints(group_norm.x_shape, "shape")], "reshaped", group_norm.dtype)
    if dtype != group_norm.dtype:
        x = builder.node("Cast", [x], "widened", to=dtype.value)
    new = _group_norm_node(builder, group_norm, x, target)
    if dtype != group_norm.dtype:
        new = builder.node("Cast", [new], "narrowed", group_norm.dtype, to=group_norm.dtype.value)
    for node in builder.nodes:
        node.metadata_props.update(last.metadata_props)
    last.graph.insert_before(last, builder.nodes)
    if function is not None:
        function.opset_imports[DOMAIN] = DOMAIN_VERSION
    output.shape = output.shape or _shape(group_norm)
    as_it_is = group_norm.x_shape is None and group_norm.x_perm is None
    if as_it_is and group_norm.x.shape is None and function is None:
        # With the library, ONNX Runtime takes an input whose rank it does not infer for a scalar, and so the output.
        group_norm.x.shape = _shape(group_norm)
        group_norm.x.type = group_norm.x.type or ir.TensorType(group_norm.dtype)
    take_over(output, new, constants.namer)
    for value in group_norm.shaped_like_x:
        for user, index in tuple(value.uses()):
            if user.op_type == "Shape" and as_it_is:
                user.replace_input_with(index, group_norm.x)
    remove_dead(last)
    if output.producer() is None or last.graph is None:
        output.name = new.name  # it is in no graph any more; records of it keep the name that people know
    return new


def _shape(group_norm: GroupNorm) -> ir.Shape | None:
    """Of the output: what was inferred, and the names that x gives to the other sizes."""
    named = group_norm.x.shape if group_norm.x_shape is None and group_norm.x_perm is None else None
    if group_norm.sizes is None or (named is not None and len(named) != group_norm.rank):
        return named
    return ir.Shape(
        [size if size is not None or named is None else named[axis] for axis, size in enumerate(group_norm.sizes)]
    )


def _group_norm_node(builder: Builder, group_norm: GroupNorm, x: ir.Value, target: str) -> ir.Value:
    plugin = target == "plugin"
    rank = group_norm.rank + group_norm.one_sample
    if group_norm.one_sample:
        x = builder.with_axes("Unsqueeze", x, [0], "batch_of_one")
    if not plugin and group_norm.channels_last:
        x = _channels_first(builder, x, rank)
    axis = -1 if plugin and group_norm.channels_last else 1
    scale = builder.per_channel(group_norm.scale, group_norm.num_channels, x, axis, "scale")
    bias = builder.per_channel(group_norm.bias, group_norm.num_channels, x, axis, "bias")
    attributes: dict[str, Any] = {
        "num_groups": group_norm.num_groups,
        "epsilon": float(group_norm.epsilon),
        "stash_type": group_norm.stash_type,
    }
    if plugin and group_norm.activation == "leaky_relu":
        attributes["alpha"] = float(group_norm.alpha)
    op = group_norm.op_type if plugin else OP_TYPE
    y = builder.node(op, [x, scale, bias], "GroupNorm", domain=DOMAIN, **attributes)
    own = group_norm.output.shape or _shape(group_norm)
    if plugin and group_norm.one_sample and own is not None:
        y.shape = ir.Shape([1, *own])
    if not plugin and group_norm.channels_last:
        y = builder.node("Transpose", [y], "to_channels_last", perm=_to_channels_last(rank))
    return builder.with_axes("Squeeze", y, [0], "the_sample") if group_norm.one_sample else y


def _channels_first(builder: Builder, x: ir.Value, rank: int) -> ir.Value:
    """x with the channels behind the batch; where a Transpose put them last, what that was made of."""
    made = x.producer()
    is_transpose = made is not None and made.op_type == "Transpose" and made.domain in STANDARD_DOMAINS
    perm = made.attributes.get("perm") if made is not None and is_transpose else None
    if made is None or perm is None or perm.is_ref() or list(perm.as_ints()) != _to_channels_last(rank):
        return builder.node("Transpose", [x], "to_channels_first", perm=_to_channels_first(rank))
    source = made.inputs[0]
    assert source is not None, "a Transpose has an input"
    if made in builder.nodes:  # made for this site, and not needed after all
        builder.nodes.remove(made)
        made.replace_input_with(0, None)
    return source


def _to_channels_first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


def _to_channels_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]


def standardise(model: ir.Model) -> None:
    """Gives the GroupNormalization nodes that `rewrite` made for target "onnx" to the ONNX domain, in place."""
    containers: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for container in containers:
        for node in container.all_nodes():
            if node.domain == DOMAIN and node.op_type == OP_TYPE:
                node.domain = ""
        container.opset_imports.pop(DOMAIN, None)


def take_over(old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """`new` gets the uses, the name and the annotations of `old`."""
    new.type = old.type or new.type
    new.shape, new.doc_string = old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)  # the annotation of quantisation is there
    name = old.name
    old.name = namer.fresh(f"{name}/replaced")
    new.name = name
    before, after = old.producer(), new.producer()
    sharded = {user: devices.configurations_of(user) for user, _ in old.uses()}
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    for user, configurations in sharded.items():
        devices.take_over(user, configurations, lambda value: new if value is old else value)
    if after is not None:
        devices.take_over(after, devices.configurations_of(before), lambda value: new if value is old else None)


def remove_dead(node: ir.Node) -> None:
    """Removes `node` if nothing uses it any more, then whatever that leaves without a use."""
    stack = [node]
    while stack:
        current = stack.pop()
        container = current.graph
        if container is None or any(value.uses() or value.is_graph_output() for value in current.outputs):
            continue
        inputs = _inputs_of(current)
        container.remove(current, safe=True)
        for value in inputs:
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            producer = value.producer()
            if producer is not None:
                stack.append(producer)
            elif value.is_initializer() and isinstance(value.graph, ir.Graph):
                value.graph.initializers.pop(value.name or "", None)


def _inputs_of(node: ir.Node) -> list[ir.Value]:
    """What the node uses, in order and once each, also inside its bodies."""
    inputs = list(node.inputs)
    for graph in subgraphs(node):
        for inner in graph.all_nodes():
            inputs.extend(inner.inputs)
    return [value for value in dict.fromkeys(inputs) if value is not None]


def declare(model: ir.Model, opset: int) -> None:
    """Gives every operator of ours that is called its body."""
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    types: dict[str, set[ir.DataType]] = {}
    containers: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    view: ModelView | None = None
    for container in containers:
        for node in container.all_nodes():
            if node.domain == DOMAIN and node.op_type in _PLUGIN_OPS:
                dtype = next((value.dtype for value in (*node.outputs, *node.inputs) if value and value.dtype), None)
                if dtype is None:
                    view = view or ModelView(model)
                    dtype = view.dtype(node.outputs[0]) or ir.DataType.FLOAT
                types.setdefault(node.op_type, set()).add(dtype)
    prefix = unused_prefix(model)
    bodies = {}
    for op, kinds in types.items():
        activation, last = _PLUGIN_OPS[op]
        body = function_body(activation, channels_last=last, dtypes=frozenset(kinds), opset=opset, prefix=prefix)
        bodies[body.identifier()] = body
    # Before the model's own functions, which may call them: onnx.reference reads a function after those that it calls.
    own = {identifier: function for identifier, function in model.functions.items() if identifier not in bodies}
    model.functions.clear()
    model.functions.update(bodies)
    model.functions.update(own)


def _called_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Model-local functions that are reached from the main graph."""
    reached: set[ir.OperatorIdentifier] = set()
    if not model.functions:
        return reached
    stack: list[ir.Graph | ir.Function] = [model.graph]
    while stack:
        for node in stack.pop().all_nodes():
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in reached:
                reached.add(identifier)
                stack.append(model.functions[identifier])
    return reached
