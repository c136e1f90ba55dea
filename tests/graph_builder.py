"""Writes an ONNX graph node by node, choosing at random among spellings of the same step.

Sizes are `Dim`s, products of a number and of named axes of x, so that one description gives a static model (all
sizes are numbers) or a dynamic one (targets of Reshape by 0, -1 or arithmetic on Shape).
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class Dim:
    """`factor * product(symbols)`; a symbol is the name of a dynamic axis of x."""

    factor: int = 1
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: Dim) -> Dim:
        return Dim(self.factor * other.factor, tuple(sorted(self.symbols + other.symbols)))

    @property
    def static(self) -> int | None:
        return None if self.symbols else self.factor


ONE = Dim()


def product(dims: Sequence[Dim]) -> Dim:
    return math.prod(dims, start=ONE)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the graph and its sizes."""

    name: str
    dims: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.dims)


class GraphBuilder:
    """Nodes, initializers and further graph inputs of one graph.

    Args:
        rng: Source of every choice.
        opset: Version of the ONNX domain.
        dtype: TensorProto element type of x.
        noise: Probability of an Identity, a Dropout or a Cast forth and back behind a value.
    """

    def __init__(self, rng: random.Random, opset: int, dtype: int, noise: float = 0.03) -> None:
        self.rng, self.opset, self.dtype, self.noise = rng, opset, dtype, noise
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: dict[str, np.ndarray] = {}
        self.axes_of_x: dict[str, int] = {}
        self.x: Tensor | None = None
        self._count = 0

    def choose(self, *options: Any) -> Any:
        return options[self.rng.randrange(len(options))]

    def sometimes(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint.lower()}_{self._count}"

    # --- nodes -------------------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [self.fresh(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, f"node_{len(self.nodes)}", **attributes))
        return names[0]

    def op(self, op: str, *inputs: Tensor, dims: Sequence[Dim] | None = None, **attributes: Any) -> Tensor:
        """An operator on activations; dims of the result default to NumPy broadcasting."""
        name = self.node(op, *(t.name for t in inputs), **attributes)
        result = Tensor(name, tuple(dims) if dims is not None else broadcast(*(t.dims for t in inputs)))
        return self.noisy(result) if self.sometimes(self.noise) else result

    def noisy(self, t: Tensor) -> Tensor:
        """Something that changes nothing."""
        kind = self.choose("Identity", "Dropout", "Cast", "Unsqueeze", "Transpose")
        if kind == "Cast":
            return Tensor(self.node("Cast", t.name, to=self.dtype), t.dims)
        if kind == "Unsqueeze":
            axis = self.rng.randrange(t.rank + 1)
            wider = self.unsqueeze(t, [axis])
            return self.squeeze(wider, [axis])
        if kind == "Transpose" and t.rank > 1:
            perm = list(range(t.rank))
            self.rng.shuffle(perm)
            there = self.node("Transpose", t.name, perm=perm)
            return Tensor(self.node("Transpose", there, perm=[perm.index(i) for i in range(t.rank)]), t.dims)
        return Tensor(self.node("Dropout" if kind == "Dropout" else "Identity", t.name), t.dims)

    def commuted(self, op: str, a: Tensor, b: Tensor) -> Tensor:
        return self.op(op, a, b) if self.sometimes(0.5) else self.op(op, b, a)

    # --- constants ---------------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray) -> str:
        if self.sometimes(0.4):
            return self.node("Constant", value=numpy_helper.from_array(array))
        name = self.fresh("c")
        self.initializers.append(numpy_helper.from_array(array, name))
        return self.node("Identity", name) if self.sometimes(0.05) else name

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.asarray(values, np.int64))

    def number(self, value: float, dtype: int | None = None) -> Tensor:
        """A constant scalar, of shape [] or [1]."""
        array = np.asarray(value, helper.tensor_dtype_to_np_dtype(dtype or self.dtype))
        array = array.reshape(self.choose((), (1,), ()))
        return Tensor(self.constant(array), (ONE,) * array.ndim)

    # --- sizes -------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim) -> str:
        """A size as an int64 tensor of shape [1]."""
        if not dim.symbols and self.sometimes(0.7):
            return self.ints([dim.factor])
        parts = [self._axis(self.axes_of_x[symbol]) for symbol in dim.symbols]
        if dim.factor != 1 or not parts:
            parts.append(self.ints([dim.factor]))
        self.rng.shuffle(parts)
        total = parts[0]
        for part in parts[1:]:
            total = self.node("Mul", total, part)
        return total

    def _axis(self, axis: int) -> str:
        assert self.x is not None
        shape = self.node("Shape", self.x.name)
        kind = self.choose("gather", "vector", "slice")
        if kind == "gather":
            scalar = self.node("Gather", shape, self.constant(np.asarray(axis, np.int64)), axis=0)
            return self._unsqueeze(scalar, [0])
        if kind == "vector":
            return self.node("Gather", shape, self.ints([axis]), axis=0)
        if self.opset < 10:
            return self.node("Slice", shape, starts=[axis], ends=[axis + 1], axes=[0])
        return self.node("Slice", shape, self.ints([axis]), self.ints([axis + 1]), self.ints([0]))

    def target(self, dims: Sequence[Dim], like: Sequence[Dim]) -> str:
        """The shape input of a Reshape to `dims` from a tensor of sizes `like`."""
        entries: list[int | None] = [dim.static for dim in dims]
        unknown = [i for i, entry in enumerate(entries) if entry is None]
        for i in range(len(dims)):
            if i < len(like) and like[i] == dims[i] and self.sometimes(0.3 if entries[i] is not None else 0.5):
                entries[i] = 0
        open_entries = [i for i in unknown if entries[i] is None]
        if len(open_entries) <= 1 and self.sometimes(0.7):
            wild = open_entries or ([self.rng.randrange(len(dims))] if dims and self.sometimes(0.3) else [])
            for i in wild:
                entries[i] = -1
            return self.ints([entry for entry in entries if entry is not None])
        parts: list[str] = []
        pending: list[int] = []
        wildcard = self.rng.choice(open_entries) if open_entries and self.sometimes(0.4) else None
        for i, entry in enumerate(entries):
            if entry is not None or i == wildcard:
                pending.append(-1 if i == wildcard else int(entry or 0))
                continue
            if pending:
                parts.append(self.ints(pending))
                pending = []
            parts.append(self.size(dims[i]))
        if pending:
            parts.append(self.ints(pending))
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    # --- layout ------------------------------------------------------------------------------------------------------

    def reshape(self, t: Tensor, dims: Sequence[Dim]) -> Tensor:
        dims = tuple(dims)
        if self.x is not None and dims == self.x.dims and self.sometimes(0.3):
            return Tensor(self.node("Reshape", t.name, self.node("Shape", self.x.name)), dims)
        if len(dims) == 2 and t.rank >= 2 and dims[0] == product(t.dims[:2]) and self.sometimes(0.3):
            return Tensor(self.node("Flatten", t.name, axis=2), dims)
        if len(dims) == 2 and dims[0] == t.dims[0] and self.sometimes(0.2):
            return Tensor(self.node("Flatten", t.name, axis=1), dims)
        return self.op("Reshape", t, Tensor(self.target(dims, t.dims), ()), dims=dims)

    def transpose(self, t: Tensor, perm: Sequence[int]) -> Tensor:
        return self.op("Transpose", t, dims=[t.dims[i] for i in perm], perm=list(perm))

    def unsqueeze(self, t: Tensor, axes: Sequence[int]) -> Tensor:
        dims = list(t.dims)
        for axis in sorted(axes):
            dims.insert(axis, ONE)
        return Tensor(self._unsqueeze(t.name, axes), tuple(dims))

    def squeeze(self, t: Tensor, axes: Sequence[int]) -> Tensor:
        dims = tuple(dim for i, dim in enumerate(t.dims) if i not in axes)
        if self.opset < 13:
            return Tensor(self.node("Squeeze", t.name, axes=list(axes)), dims)
        return Tensor(self.node("Squeeze", t.name, self.ints(axes)), dims)

    def _unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        if self.opset < 13:
            return self.node("Unsqueeze", name, axes=list(axes))
        return self.node("Unsqueeze", name, self.ints(axes))

    def reduce(self, op: str, t: Tensor, axes: Sequence[int]) -> Tensor:
        """A reduction that keeps the dimensions, spelled with negative axes or keepdims=0 and Unsqueeze now and then."""
        kept = not self.sometimes(0.15)
        given = [a - t.rank if self.opset >= 11 and self.sometimes(0.25) else a for a in axes]
        self.rng.shuffle(given)
        by_input = self.opset >= (13 if op == "ReduceSum" else 18)
        names = [t.name, self.ints(given)] if by_input else [t.name]
        attributes = {} if by_input else {"axes": given}
        name = self.node(op, *names, keepdims=int(kept), **attributes)
        dims = tuple(ONE if i in axes else dim for i, dim in enumerate(t.dims))
        if kept:
            return Tensor(name, dims)
        flat = Tensor(name, tuple(dim for i, dim in enumerate(t.dims) if i not in axes))
        if self.sometimes(0.5) or sum(d.static is None for d in dims) > 1:
            return Tensor(self._unsqueeze(flat.name, sorted(axes)), dims)
        return self.reshape(flat, dims)

    def expand(self, t: Tensor, dims: Sequence[Dim]) -> Tensor:
        """Broadcasting written down, by Expand or by Tile."""
        dims = tuple(dims)
        if self.sometimes(0.3):
            repeats = [ONE if have == want else want for have, want in zip(t.dims, dims, strict=True)]
            return Tensor(self.node("Tile", t.name, self._sizes(repeats)), dims)
        return Tensor(self.node("Expand", t.name, self._sizes(dims)), dims)

    def _sizes(self, dims: Sequence[Dim]) -> str:
        if all(dim.static is not None for dim in dims) and self.sometimes(0.7):
            return self.ints([dim.factor for dim in dims])
        return self.node("Concat", *(self.size(dim) for dim in dims), axis=0)

    # --- result ------------------------------------------------------------------------------------------------------

    def graph_input(self, hint: str, array: np.ndarray) -> Tensor:
        name = self.fresh(hint)
        self.inputs[name] = array
        return Tensor(name, tuple(Dim(n) for n in array.shape))

    def input_infos(self) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.inputs.items()
        ]


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(len(dims) for dims in shapes)
    padded = [(ONE,) * (rank - len(dims)) + dims for dims in shapes]
    return tuple(next((d for d in column if d != ONE), ONE) for column in zip(*padded, strict=True))


ELEMENT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
