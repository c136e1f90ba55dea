"""A random spelling of a random GroupNorm, and the truth about it.

`group_norm(rng)` draws the shape, the groups, the element type, epsilon, the layout, the opset, static or dynamic
sizes, the core (mean and variance, InstanceNormalization, LayerNormalization, BatchNormalization in training mode, a
loop over groups, the standard operator), the place and form of scale and bias, and what stands around it. Every model
is a GroupNorm by construction; test_properties.py also compares each with the definition.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import onnx
from graph_builder import ELEMENT_TYPES, ONE, Dim, GraphBuilder, Tensor, product
from onnx import TensorProto, helper
from spelling import affine, applied, dims_of, normalised, plus_epsilon, reciprocal_root, statistics

_NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}
EPSILONS = (1e-5, 1e-3, 1e-6, 1e-12, 0.1)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the model computes: `y = GroupNorm(x)` with x of `x_shape`."""

    num_groups: int
    epsilon: float
    scale: np.ndarray
    bias: np.ndarray
    x_shape: tuple[int, ...]
    channels_last: bool
    dtype: int
    dynamic: bool


@dataclasses.dataclass(frozen=True)
class Case:
    """A model whose input "x" and output "y" are those of one GroupNorm; `inputs` feeds the rest."""

    model: onnx.ModelProto
    truth: Truth
    inputs: dict[str, np.ndarray]
    description: str


@dataclasses.dataclass
class _Setting:
    """What was drawn before the first node."""

    groups: int
    per_group: int
    x_dims: tuple[Dim, ...]
    sizes: dict[str, int]
    channels_last: bool
    epsilon: float

    @property
    def channels(self) -> int:
        return self.groups * self.per_group

    @property
    def spatial(self) -> tuple[Dim, ...]:
        return self.x_dims[1:-1] if self.channels_last else self.x_dims[2:]


class _Affine:
    """Scale and bias, handed out in parts, each once: inside the groups, or per channel at the end."""

    def __init__(self, g: GraphBuilder, s: _Setting) -> None:
        self.g, self.s = g, s
        self.scale = np.ones(s.channels)
        self.bias = np.zeros(s.channels)
        self.kind = g.choose("both", "both", "both", "scale", "bias", "none", "scalars")

    def _draw(self, length: int, *, around: float) -> np.ndarray:
        dtype = _NUMPY[self.g.dtype]
        values = np.array([self.g.rng.uniform(0.5, 2.0) * self.g.choose(1, 1, -1) for _ in range(length)])
        return (values if around else values - 1.0).astype(dtype)

    def parts(self, shape: tuple[Dim, ...]) -> tuple[Tensor | None, Tensor | None]:
        """A scale and a bias of the given shape (per channel, in order); what was asked for before is scaled too."""
        if self.kind == "none":
            return None, None
        length = 1 if self.kind == "scalars" else self.s.channels
        scale = bias = None
        if self.kind != "bias":
            values = self._draw(length, around=1.0)
            self.scale, self.bias = self.scale * values, self.bias * values
            scale = self._parameter(values, shape)
        if self.kind != "scale":
            values = self._draw(length, around=0.0)
            self.bias = self.bias + values
            bias = self._parameter(values, shape)
        return scale, bias

    def per_group(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias of the groups, for a node that has its own."""
        if self.kind == "none" or self.g.sometimes(0.7):
            return np.ones(self.s.groups, _NUMPY[self.g.dtype]), np.zeros(self.s.groups, _NUMPY[self.g.dtype])
        scale, bias = self._draw(self.s.groups, around=1.0), self._draw(self.s.groups, around=0.0)
        full_scale, full_bias = (np.repeat(v, self.s.per_group) for v in (scale, bias))
        self.scale, self.bias = self.scale * full_scale, self.bias * full_scale + full_bias
        return scale, bias

    def _parameter(self, values: np.ndarray, shape: tuple[Dim, ...]) -> Tensor:
        g = self.g
        sizes = tuple(d.factor for d in shape)
        if values.size == 1 and sizes != (1,):
            sizes = (1,) * g.rng.randrange(len(shape) + 1)
        dims = dims_of(sizes)
        kind = g.choose("constant", "constant", "constant", "flat", "input", "identity")
        if kind == "constant" or values.size == 1:
            return Tensor(g.constant(values.reshape(sizes)), dims)
        if kind == "identity":
            return Tensor(g.node("Identity", g.constant(values.reshape(sizes))), dims)
        flat = g.graph_input("p", values) if kind == "input" else Tensor(g.constant(values), (Dim(values.size),))
        return flat if len(sizes) == 1 else g.reshape(flat, dims)


def group_norm(rng: random.Random) -> Case:
    """One random case; the same state of `rng` gives the same case."""
    dtype = rng.choice((TensorProto.FLOAT, TensorProto.FLOAT, *ELEMENT_TYPES))
    g = GraphBuilder(rng, rng.randrange(9, 24), dtype, noise=rng.choice((0.0, 0.03, 0.1)))
    s = _draw_setting(g)
    x = Tensor("x", s.x_dims)
    g.axes_of_x = {symbol: i for i, dim in enumerate(s.x_dims) for symbol in dim.symbols}
    g.x = x
    parts = _Affine(g, s)
    wider = dtype == TensorProto.FLOAT16 and g.sometimes(0.5)
    if wider:
        g.dtype = TensorProto.FLOAT
        x = Tensor(g.node("Cast", x.name, to=TensorProto.FLOAT), x.dims)
    names = _cores(g, s)
    core = rng.choice(sorted(names))
    y, closed = names[core](g, s, x, parts)
    if wider:
        early = not closed and g.sometimes(0.5)
        if early:
            y = Tensor(g.node("Cast", y.name, to=dtype), y.dims)
            g.dtype = dtype
    if not closed:
        y = affine(g, y, *parts.parts(_channel_shape(g, s)))
    if wider and g.dtype != dtype:
        y = Tensor(g.node("Cast", y.name, to=dtype), y.dims)
    model = _model(g, s, y, dtype)
    sizes = tuple(_concrete(d, s.sizes) for d in s.x_dims)
    truth = Truth(s.groups, s.epsilon, parts.scale, parts.bias, sizes, s.channels_last, dtype, bool(s.sizes))
    return Case(model, truth, dict(g.inputs), f"{core} opset {g.opset} {sizes} G={s.groups} {parts.kind}")


def _draw_setting(g: GraphBuilder) -> _Setting:
    """Sizes that are told apart by the definition: groups of two elements or more, and no plain LayerNorm of a matrix."""
    while True:
        groups, per_group = g.choose(1, 2, 2, 3, 4), g.choose(1, 2, 2, 3, 4)
        rank = g.choose(0, 1, 1, 2, 2, 2, 2, 3)
        spatial = [g.choose(1, 2, 3, 4, 5) for _ in range(rank)]
        channels_last = rank > 0 and g.sometimes(0.35)
        area = int(np.prod(spatial))
        if per_group * area < 2 or (area == 1 and groups == 1) or (rank == 1 and per_group == 1):
            continue
        break
    batch = g.choose(1, 2, 2, 3)
    sizes: dict[str, int] = {}
    dims = [Dim(batch), *(Dim(n) for n in spatial)]
    if g.sometimes(0.5):
        names = ["N", "H", "W", "D"]
        for i, dim in enumerate(dims):
            if g.sometimes(0.75):
                sizes[names[i]] = dim.factor
                dims[i] = Dim(1, (names[i],))
    channel = Dim(groups * per_group)
    x_dims = (*dims, channel) if channels_last else (dims[0], channel, *dims[1:])
    return _Setting(groups, per_group, x_dims, sizes, channels_last, g.choose(*EPSILONS[: 3 if g.dtype == 10 else 5]))


def _concrete(dim: Dim, sizes: dict[str, int]) -> int:
    return dim.factor * int(np.prod([sizes[s] for s in dim.symbols], dtype=np.int64))


def _channel_shape(g: GraphBuilder, s: _Setting) -> tuple[Dim, ...]:
    if s.channels_last:
        return (ONE,) * g.rng.randrange(len(s.x_dims)) + (Dim(s.channels),)
    lead = g.choose((), (), (ONE,))
    return (*lead, Dim(s.channels), *(ONE,) * len(s.spatial))


# --- cores: each gives the value in x's layout, and whether scale and bias are already in it ---------------------------


def _cores(g: GraphBuilder, s: _Setting) -> dict:
    cores = {"grouped": _grouped, "grouped again": _grouped, "slices": _slices, "spread": _spread}
    if s.channels_last:
        cores["transposed"] = _transposed
    else:
        cores["nodes"] = _one_node
        if g.opset >= 21:
            cores["native"] = _native
    return cores


def _layouts(g: GraphBuilder, s: _Setting) -> list[tuple[tuple[Dim, ...], tuple[int, ...], int | None]]:
    """(sizes, reduced axes, axis of the groups where scale and bias can be [G, K] there) of the grouped x."""
    n, groups, per_group, spatial = s.x_dims[0], Dim(s.groups), Dim(s.per_group), s.spatial
    area, rank = product(spatial), len(spatial)
    if s.channels_last:
        found = [((n, *spatial, groups, per_group), (*range(1, rank + 1), rank + 2), rank + 1)]
        if rank:
            found.append(((n, area, groups, per_group), (1, 3), 2))
        if s.groups == 1:
            found.append((s.x_dims, tuple(range(1, rank + 2)), None))
        if s.per_group == 1:
            found.append((s.x_dims, tuple(range(1, rank + 1)), None))
        return found
    found = [
        ((n, groups, product([per_group, area])), (2,), None),
        ((n, groups, per_group, *spatial), tuple(range(2, rank + 3)), 1),
        ((n * groups, product([per_group, area])), (1,), None),
        ((n * groups, per_group, *spatial), tuple(range(1, rank + 2)), None),
    ]
    if rank:
        found.append(((n, groups, per_group, area), (2, 3), 1))
    if s.groups == 1:
        found.append((s.x_dims, tuple(range(1, rank + 2)), None))
    if s.per_group == 1 and rank:
        found.append((s.x_dims, tuple(range(2, rank + 2)), None))
    return found


def _grouped(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    dims, axes, at = g.choose(*_layouts(g, s))
    t = x if dims == x.dims else g.reshape(x, dims)
    y = normalised(g, t, axes, s.epsilon)
    closed = False
    if at is not None and g.sometimes(0.3):
        tail = len(dims) - at - 2
        y = affine(g, y, *parts.parts((Dim(s.groups), Dim(s.per_group), *(ONE,) * tail)))
        closed = g.sometimes(0.7)
    return (y if dims == x.dims else g.reshape(y, x.dims)), closed


def _one_node(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    """InstanceNormalization, LayerNormalization or BatchNormalization of the grouped x."""
    n, groups = s.x_dims[0], Dim(s.groups)
    rest = product([Dim(s.per_group), *s.spatial])
    rows = n * groups
    kinds = ["instance"] * 3
    if g.opset >= 17:
        kinds.append("layer")
    if rows.static is not None:
        kinds.append("merged instance")
        if g.opset >= 14:
            kinds.append("batch")
    kind = g.choose(*kinds)
    dtype = _NUMPY[g.dtype]
    if kind == "layer":
        if rest.static is None:
            return _grouped(g, s, x, parts)
        dims = g.choose((n, groups, rest), (rows, rest))
        flat = [g.constant(np.ones(rest.factor, dtype))]
        if g.sometimes(0.7):
            flat.append(g.constant(np.zeros(rest.factor, dtype)))
        tensors = [g.reshape(x, dims), *(Tensor(name, (rest,)) for name in flat)]
        y = g.op("LayerNormalization", *tensors, dims=dims, axis=g.choose(-1, len(dims) - 1), epsilon=s.epsilon)
        return g.reshape(y, x.dims), False
    scale, bias = parts.per_group()
    tail = g.choose((rest,), (rest,), (rest, ONE), (Dim(s.per_group), *s.spatial))
    if kind == "instance":
        dims = (n, groups, *tail)
        t = g.reshape(x, dims)
        inputs = [Tensor(g.constant(v), (groups,)) for v in (scale, bias)]
        y = g.op("InstanceNormalization", t, *inputs, dims=dims, epsilon=s.epsilon)
        return g.reshape(y, x.dims), False
    dims = (ONE, rows, *tail)
    t = g.reshape(x, dims)
    inputs = [Tensor(g.constant(np.tile(v, n.factor)), (rows,)) for v in (scale, bias)]
    if kind == "merged instance":
        y = g.op("InstanceNormalization", t, *inputs, dims=dims, epsilon=s.epsilon)
        return g.reshape(y, x.dims), False
    running = [Tensor(g.constant(f(rows.factor, dtype)), (rows,)) for f in (np.zeros, np.ones)]
    names = [v.name for v in (t, *inputs, *running)]
    name = g.node("BatchNormalization", *names, outputs=3, training_mode=1, epsilon=s.epsilon)
    return g.reshape(Tensor(name, dims), x.dims), False


def _native(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    kind, parts.kind = parts.kind, "both"
    scale, bias = parts.parts((Dim(s.channels),))
    parts.kind = kind
    assert scale is not None and bias is not None
    attributes = {"stash_type": 11} if g.dtype == TensorProto.DOUBLE else {}
    y = g.op("GroupNormalization", x, scale, bias, dims=x.dims, num_groups=s.groups, epsilon=s.epsilon, **attributes)
    return y, g.sometimes(0.5)


def _transposed(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    """Channels last data, normalised between two Transposes."""
    rank = len(s.x_dims)
    there = g.transpose(x, [0, rank - 1, *range(1, rank - 1)])
    inner = dataclasses.replace(s, x_dims=there.dims, channels_last=False)
    core = g.choose(_grouped, _one_node, _spread)
    y, closed = core(g, inner, there, parts)
    if not closed and g.sometimes(0.5):
        y, closed = affine(g, y, *parts.parts(_channel_shape(g, inner))), True
    return g.transpose(y, [0, *range(2, rank), 1]), closed


def _slices(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    """A loop over groups: Split, the same of each, Concat."""
    if s.groups == 1:
        return _grouped(g, s, x, parts)
    if g.sometimes(0.2):
        return _picked(g, s, x)
    axis = x.rank - 1 if s.channels_last else 1
    dims = tuple(Dim(s.per_group) if i == axis else d for i, d in enumerate(x.dims))
    if g.sometimes(0.5):
        first = g.node("Split", x.name, outputs=s.groups, axis=axis, **({"num_outputs": s.groups} if g.opset >= 18 else {}))
        names = list(g.nodes[-1].output)
        assert names[0] == first
    else:
        names = [_slice(g, x, axis, i * s.per_group, (i + 1) * s.per_group) for i in range(s.groups)]
    state = g.rng.getstate()
    outputs = []
    for name in names:
        g.rng.setstate(state)
        outputs.append(normalised(g, Tensor(name, dims), tuple(range(1, x.rank)), s.epsilon))
    return _together(g, x, axis, outputs), False


def _picked(g: GraphBuilder, s: _Setting, x: Tensor) -> tuple[Tensor, bool]:
    """A loop over groups or samples by Gather of one position; the results are stacked."""
    axis = x.rank - 1 if s.channels_last else 1
    t = g.reshape(x, (*x.dims[:axis], Dim(s.groups), Dim(s.per_group), *x.dims[axis + 1 :]))
    along = 0 if x.dims[0].static not in (None, 1) and g.sometimes(0.5) else axis
    count = t.dims[along].factor
    dims = tuple(d for i, d in enumerate(t.dims) if i != along)
    reduced = [i - (i > along) for i in range(1, t.rank) if i != axis]
    state = g.rng.getstate()
    outputs = []
    for i in range(count):
        g.rng.setstate(state)
        position = g.constant(np.asarray(i, np.int64))
        part = Tensor(g.node("Gather", t.name, position, axis=along), dims)
        y = normalised(g, part, tuple(reduced), s.epsilon)
        outputs.append(g.unsqueeze(y, [along]))
    return g.reshape(_together(g, t, along, outputs), x.dims), False


def _together(g: GraphBuilder, like: Tensor, axis: int, parts: list[Tensor]) -> Tensor:
    """Slices of an axis side by side: by a Concat, or written one after another into a tensor of that shape."""
    if g.opset < 13 or g.sometimes(0.6):
        return Tensor(g.node("Concat", *(part.name for part in parts), axis=axis), like.dims)
    shape = g.node("Shape", like.name)
    whole = like if g.sometimes(0.5) else Tensor(g.node("Expand", g.number(0.0).name, shape), like.dims)
    front = [axis, *(i for i in range(like.rank) if i != axis)]
    back = [front.index(i) for i in range(like.rank)]
    length = parts[0].dims[axis].factor
    start = 0
    for part in parts:
        if length == 1 and g.sometimes(0.5):
            number = g.node("Expand", g.constant(np.asarray(start, np.int64)), g.node("Shape", part.name))
            whole = Tensor(g.node("ScatterElements", whole.name, number, part.name, axis=axis), like.dims)
        else:
            rows = g.constant(np.arange(start, start + length)[:, None])
            written = g.node("ScatterND", g.transpose(whole, front).name, rows, g.transpose(part, front).name)
            whole = g.transpose(Tensor(written, tuple(like.dims[i] for i in front)), back)
        start += length
    return whole


def _slice(g: GraphBuilder, x: Tensor, axis: int, start: int, end: int) -> str:
    if g.opset < 10:
        return g.node("Slice", x.name, starts=[start], ends=[end], axes=[axis])
    return g.node("Slice", x.name, g.ints([start]), g.ints([end]), g.ints([axis]))


def _spread(g: GraphBuilder, s: _Setting, x: Tensor, parts: _Affine) -> tuple[Tensor, bool]:
    """Statistics of the groups, brought to the channels, and applied to x itself."""
    candidates = [(d, a, i) for d, a, i in _layouts(g, s) if d[0] == x.dims[0] and d != x.dims]
    dims, axes, _ = g.choose(*candidates)
    stats = statistics(g, g.reshape(x, dims), axes)
    v = plus_epsilon(g, stats.variance, s.epsilon)
    values = (stats.mean, reciprocal_root(g, v))
    m, rstd = (_to_channels(g, s, value, x) for value in values)
    if g.sometimes(0.5):
        return applied(g, x, m, rstd, *parts.parts(_channel_shape(g, s))), True
    return applied(g, x, m, rstd, None, None), False


def _to_channels(g: GraphBuilder, s: _Setting, value: Tensor, x: Tensor) -> Tensor:
    """One value per sample and group -> one per sample and channel, to broadcast against x."""
    n, groups, per_group, channels = x.dims[0], Dim(s.groups), Dim(s.per_group), Dim(s.channels)
    ones = (ONE,) * len(s.spatial)
    final = (n, *ones, channels) if s.channels_last else (n, channels, *ones)
    if s.per_group == 1:
        return g.reshape(value, final)
    if s.groups == 1:
        return g.reshape(value, (n, *(ONE,) * (x.rank - 1)))
    if g.sometimes(0.3):
        flat = g.reshape(value, (n, groups))
        repeat = np.repeat(np.arange(s.groups), s.per_group)
        return g.reshape(Tensor(g.node("Gather", flat.name, g.ints(repeat), axis=1), (n, channels)), final)
    if g.opset >= 11 and g.sometimes(0.2):
        row = g.reshape(value, (n, ONE, groups))
        scales = g.constant(np.array([1, 1, s.per_group], np.float32))
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        wide = g.node("Resize", row.name, g.constant(np.zeros(0, np.float32)), scales, **how)
        return g.reshape(Tensor(wide, (n, ONE, channels)), final)
    column = g.reshape(value, (n, groups, ONE))
    return g.reshape(g.expand(column, (n, groups, per_group)), final)


# --- model -----------------------------------------------------------------------------------------------------------


def _model(g: GraphBuilder, s: _Setting, y: Tensor, dtype: int) -> onnx.ModelProto:
    shape = [d.symbols[0] if d.symbols else d.factor for d in s.x_dims]
    g.nodes.append(helper.make_node("Identity", [y.name], ["y"], "last"))
    graph = helper.make_graph(
        g.nodes, "generated",
        [helper.make_tensor_value_info("x", dtype, shape), *g.input_infos()],
        [helper.make_tensor_value_info("y", dtype, shape)],
        g.initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], producer_name="generated")
    model.ir_version = 8 if g.opset < 19 else 10
    return model
