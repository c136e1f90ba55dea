"""One random change of a graph: a constant, an axis, an attribute, an edge, an operator, a node more or less.

The result is a valid, runnable model that computes something else (now and then, by luck, the same). Whatever fusing
does to it, its outputs must stay what they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

_REPLACEMENTS = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min"),
    ("Sqrt", "Abs", "Reciprocal", "Neg", "Identity", "Relu", "Sigmoid", "Exp"),
    ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2", "ReduceL1"),
    ("GlobalAveragePool", "GlobalMaxPool"),
)
_UNARY = ("Neg", "Abs", "Relu", "Sigmoid", "Tanh", "Sqrt", "Reciprocal")


def mutated(model: onnx.ModelProto, rng: random.Random) -> tuple[onnx.ModelProto, str] | None:
    """A changed copy and what was changed, or None where the drawn change does not apply.

    The copy is not checked: it may be ill-formed, see test_properties.py.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    kinds = rng.choices(tuple(_KINDS), weights=[weight for _, weight in _KINDS.values()])
    done = _KINDS[kinds[0]][0](graph, rng)
    if done is None:
        return None
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy, f"{kinds[0]}: {done}"


def _tensors(graph: GraphProto, floating: bool) -> list[tuple[str, TensorProto]]:
    found = [(t.name, t) for t in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            found += [(node.output[0], a.t) for a in node.attribute if a.type == AttributeProto.TENSOR]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return [(name, t) for name, t in found if (t.data_type in kinds) == floating]


def _number(graph: GraphProto, rng: random.Random) -> str | None:
    choices = _tensors(graph, floating=True)
    if not choices:
        return None
    name, tensor = rng.choice(choices)
    array = numpy_helper.to_array(tensor).copy()
    factor = rng.choice((-1.0, 0.0, 0.5, 2.0, 1.01, 0.99, 1.001, 10.0, 1e3, 1e-3))
    if array.size > 1 and rng.random() < 0.4:
        index = rng.randrange(array.size)
        array.ravel()[index] = array.ravel()[index] * factor + (rng.random() < 0.2)
    elif array.size > 1 and rng.random() < 0.2:
        array = array.ravel()[::-1].reshape(array.shape)
    elif rng.random() < 0.2:
        array = array + np.asarray(rng.choice((1.0, -1.0, 1e-3)), array.dtype)
    else:
        array = (array * factor).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))
    return f"{name} * {factor}"


def _integer(graph: GraphProto, rng: random.Random) -> str | None:
    choices = [(name, t) for name, t in _tensors(graph, floating=False) if t.dims[:1] != [0]]
    if not choices:
        return None
    name, tensor = rng.choice(choices)
    array = np.atleast_1d(numpy_helper.to_array(tensor)).copy()
    old = array.tolist()
    i, j = rng.randrange(array.size), rng.randrange(array.size)
    kind = rng.randrange(5)
    if kind == 0 and array.size > 1:
        array[[i, j]] = array[[j, i]]
    elif kind == 1 and array.size > 1 and array[i] > 1:
        array[i], array[j] = 1, array[j] * array[i]
    elif kind == 2 and array.size > 1 and array[i] % 2 == 0 and array[i] > 0:
        array[i], array[j] = array[i] // 2, array[j] * 2
    elif kind == 3:
        array[i] = rng.choice((-1, 0, 1, 2, 3))
    else:
        array[i] += rng.choice((-1, 1))
    if array.tolist() == old:
        return None
    tensor.CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name))
    return f"{name} {old} -> {array.tolist()}"


def _attribute(graph: GraphProto, rng: random.Random) -> str | None:
    choices = [
        (n, a) for n in graph.node for a in n.attribute
        if a.type in (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT) and a.name not in ("to", "num_outputs")
    ]  # fmt: skip
    if not choices:
        return None
    node, attribute = rng.choice(choices)
    if attribute.type == AttributeProto.FLOAT:
        attribute.f *= rng.choice((0.0, 2.0, 10.0, 1e3, -1.0))
    elif attribute.type == AttributeProto.INT:
        attribute.i = (
            1 - attribute.i if attribute.name in ("keepdims", "training_mode") else attribute.i + rng.choice((-1, 1))
        )
    else:
        values = list(attribute.ints)
        if not values:
            return None
        kind, i, j = rng.randrange(4), rng.randrange(len(values)), rng.randrange(len(values))
        if kind == 0 or attribute.name == "perm":
            values[i], values[j] = values[j], values[i]
        elif kind == 1 and len(values) > 1:
            del values[i]
        elif kind == 2:
            values.append(rng.randrange(4))
        else:
            values[i] += rng.choice((-1, 1))
        if len(set(values)) != len(values) or values == list(attribute.ints):
            return None
        attribute.ints[:] = values
    return f"{node.op_type}.{attribute.name}"


def _edge(graph: GraphProto, rng: random.Random) -> str | None:
    """One input of one node becomes another value that exists before it."""
    position = rng.randrange(len(graph.node))
    node = graph.node[position]
    if not node.input:
        return None
    before = [v.name for v in graph.input] + [t.name for t in graph.initializer]
    before += [name for earlier in graph.node[:position] for name in earlier.output]
    index = rng.randrange(len(node.input))
    new = rng.choice(before)
    if new == node.input[index]:
        return None
    text = f"{node.op_type}[{index}] {node.input[index]} -> {new}"
    node.input[index] = new
    return text


def _operator(graph: GraphProto, rng: random.Random) -> str | None:
    choices = [(node, family) for node in graph.node for family in _REPLACEMENTS if node.op_type in family]
    if not choices:
        return None
    node, family = rng.choice(choices)
    old, node.op_type = node.op_type, rng.choice([op for op in family if op != node.op_type])
    return f"{old} -> {node.op_type}"


def _operands(graph: GraphProto, rng: random.Random) -> str | None:
    choices = [n for n in graph.node if len(n.input) > 1 and n.input[0] != n.input[1]]
    if not choices:
        return None
    node = rng.choice(choices)
    i, j = rng.sample(range(len(node.input)), 2)
    node.input[i], node.input[j] = node.input[j], node.input[i]
    return f"{node.op_type} {i} <-> {j}"


def _drop(graph: GraphProto, rng: random.Random) -> str | None:
    choices = [n for n in graph.node if n.input]
    node = rng.choice(choices)
    gone, instead = node.output[0], rng.choice(node.input)
    if any(gone == value.name for value in graph.output) or not instead:
        return None
    graph.node.remove(node)
    _redirect(graph.node, gone, instead)
    return f"{node.op_type} {gone}"


def _redirect(nodes: Sequence[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _insert(graph: GraphProto, rng: random.Random) -> str | None:
    """A unary operator on one edge, or on a value for all its uses."""
    position = rng.randrange(len(graph.node))
    user = graph.node[position]
    if not user.input:
        return None
    name = rng.choice(user.input)
    op = rng.choice(_UNARY)
    new = helper.make_node(op, [name], ["inserted"], "inserted")
    if rng.random() < 0.5:
        for i, given in enumerate(user.input):
            if given == name:
                user.input[i] = "inserted"
                break
    else:
        _redirect(graph.node[position:], name, "inserted")
    graph.node.insert(position, new)
    return f"{op}({name})"


def _transpose(graph: GraphProto, rng: random.Random) -> str | None:
    """Two equal-ranked axes swapped on one edge: told apart by sizes only where they differ."""
    choices = [i for i, n in enumerate(graph.node) if n.op_type in ("Reshape", "Mul", "Sub", "Div", "Add", "ReduceMean")]
    if not choices:
        return None
    position = rng.choice(choices)
    rank = rng.randrange(2, 6)
    perm = list(range(rank))
    i, j = rng.sample(range(rank), 2)
    perm[i], perm[j] = perm[j], perm[i]
    user = graph.node[position]
    new = helper.make_node("Transpose", [user.input[0]], ["swapped"], "swapped", perm=perm)
    user.input[0] = "swapped"
    graph.node.insert(position, new)
    return f"{user.op_type} of {perm}"


def _output(graph: GraphProto, rng: random.Random) -> str | None:
    """An interior value becomes a graph output too."""
    names = [n.output[0] for n in graph.node if n.op_type not in ("Constant", "Shape", "Gather", "Slice", "Concat")]
    name = rng.choice(names)
    if any(name == value.name for value in graph.output):
        return None
    kind = graph.input[0].type.tensor_type.elem_type
    graph.output.append(
        onnx.ValueInfoProto(name=name, type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=kind)))
    )
    return name


def _mixed(graph: GraphProto, rng: random.Random) -> str | None:
    """The result is combined with an interior value."""
    last = graph.node[-1]
    names = [v.name for v in graph.input] + [n.output[0] for n in graph.node[:-1] if n.op_type not in ("Constant", "Shape")]
    name = rng.choice(names)
    op = rng.choice(("Add", "Mul", "Sub", "Div"))
    last.op_type = op
    last.input.append(name)
    if rng.random() < 0.5:
        last.input[0], last.input[1] = last.input[1], last.input[0]
    return f"{op} with {name}"


def _shape(graph: GraphProto, rng: random.Random) -> str | None:
    """A constant keeps its numbers and gets more axes, or is repeated along one: it broadcasts differently."""
    choices = _tensors(graph, floating=True)
    if not choices:
        return None
    name, tensor = rng.choice(choices)
    array = numpy_helper.to_array(tensor)
    if array.size == 1 and rng.random() < 0.7:
        shape = [1] * rng.randrange(1, 5)
        shape[rng.randrange(len(shape))] = rng.choice((1, 2, 3, 4))
        new = np.full(shape, array.ravel()[0])
    else:
        new = np.repeat(array[np.newaxis], rng.choice((1, 1, 2, 3)), axis=0)
    tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    return f"{name} {list(array.shape)} -> {list(new.shape)}"


def _type(graph: GraphProto, rng: random.Random) -> str | None:
    """A value goes through another type and back, on one edge."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64)
    shapes = ("Shape", "Gather", "Slice", "Squeeze", "Unsqueeze", "Size")
    own = {v.name: v.type.tensor_type.elem_type for v in graph.input} | {t.name: t.data_type for t in graph.initializer}
    main = graph.input[0].type.tensor_type.elem_type
    own.update({o: TensorProto.INT64 if n.op_type in shapes else main for n in graph.node for o in n.output})
    users = [(i, j) for i, n in enumerate(graph.node) for j, name in enumerate(n.input) if own.get(name) in kinds]
    position, index = rng.choice(users)
    user = graph.node[position]
    name = user.input[index]
    other = rng.choice(
        (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL)
    )
    graph.node.insert(position, helper.make_node("Cast", [name], ["there"], "there", to=other))
    graph.node.insert(position + 1, helper.make_node("Cast", ["there"], ["back"], "back", to=own[name]))
    graph.node[position + 2].input[index] = "back"
    return f"{name} by {TensorProto.DataType.Name(other)}"


def _twin(graph: GraphProto, rng: random.Random) -> str | None:
    """A node is there twice, the second with another attribute or operand, and some of its users take that one."""
    position = rng.randrange(len(graph.node))
    node = graph.node[position]
    uses = [(n, i) for n in graph.node[position + 1 :] for i, name in enumerate(n.input) if name == node.output[0]]
    if len(node.output) != 1 or len(uses) < 2:
        return None
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = "twin", "twin"
    graph.node.insert(position + 1, copy)
    twin = graph.node[position + 1]
    user, index = rng.choice(uses)
    user.input[index] = "twin"
    numbers = [a for a in twin.attribute if a.type in (AttributeProto.FLOAT, AttributeProto.INTS)]
    if numbers and rng.random() < 0.5:
        attribute = rng.choice(numbers)
        if attribute.type == AttributeProto.FLOAT:
            attribute.f *= rng.choice((0.5, 2.0, 10.0))
        else:
            attribute.ints[:] = list(attribute.ints)[1:]
        return f"{node.op_type}.{attribute.name}"
    before = [v.name for v in graph.input] + [name for n in graph.node[:position] for name in n.output]
    if not twin.input or not before:
        return None
    twin.input[0] = rng.choice(before)
    return f"{node.op_type} of {twin.input[0]}"


def _sizes(graph: GraphProto, rng: random.Random) -> str | None:
    """Two axes of x are said to be equal, or one that was known is not known any more."""
    dims = graph.input[0].type.tensor_type.shape.dim
    axis = rng.randrange(len(dims))
    symbols = [dim.dim_param for dim in dims if dim.dim_param]
    if dims[axis].dim_param:
        if len(symbols) < 2:
            return None
        dims[axis].dim_param = rng.choice(symbols)
    else:
        dims[axis].dim_param = NEVER_ONE
    return f"axis {axis} is {dims[axis].dim_param}"


NEVER_ONE = "Q"
"""Size of an axis that may be the channels': with a single one, the parameters of many would make as many of it."""

_Mutation = Callable[[GraphProto, random.Random], "str | None"]
_KINDS: dict[str, tuple[_Mutation, int]] = {
    "number": (_number, 4),
    "integer": (_integer, 4),
    "attribute": (_attribute, 3),
    "edge": (_edge, 4),
    "operator": (_operator, 3),
    "operands": (_operands, 2),
    "drop": (_drop, 2),
    "insert": (_insert, 2),
    "transpose": (_transpose, 1),
    "output": (_output, 1),
    "mixed": (_mixed, 1),
    "shape": (_shape, 2),
    "type": (_type, 1),
    "twin": (_twin, 1),
    "sizes": (_sizes, 1),
}
"""What can be changed, and how often."""
