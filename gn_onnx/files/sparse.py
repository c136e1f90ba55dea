"""Sparse initializers, which ONNX IR has no place for.

In ONNX IR each is an initializer whose shape and type are known, but whose elements nobody can read; when the model is
written it is itself again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

_LOCATION = "\0sparse initializer "
"""Begins what stands in for the name of a data file; no file has such a name."""


class SparseTensor(ir.ExternalTensor):
    """In the place of one sparse initializer.

    Args:
        sparse: The initializer.
        location: Tells it from the others of the model.
    """

    def __init__(self, sparse: onnx.SparseTensorProto, location: str) -> None:
        dtype = ir.DataType(sparse.values.data_type)
        super().__init__(location, None, None, dtype, shape=ir.Shape(sparse.dims), name=sparse.values.name)
        self.sparse = sparse

    def numpy(self) -> NoReturn:
        raise ValueError("the elements of a sparse initializer are not read")

    def tobytes(self) -> NoReturn:
        self.numpy()


@contextlib.contextmanager
def stand_ins(graphs: Iterable[onnx.GraphProto]) -> Iterator[list[onnx.SparseTensorProto]]:
    """Gives the graphs an initializer for each sparse one, and takes them away again.

    Yields:
        The sparse initializers, for `put_in`.
    """
    found: list[onnx.SparseTensorProto] = []
    added: list[tuple[Any, int]] = []
    try:
        for graph in graphs:
            for sparse in graph.sparse_initializer:
                values = sparse.values
                tensor = graph.initializer.add(name=values.name, data_type=values.data_type, dims=sparse.dims)
                tensor.data_location = onnx.TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value=f"{_LOCATION}{len(found)}")
                found.append(sparse)
            added.append((graph.initializer, len(graph.sparse_initializer)))
        yield found
    finally:
        for initializers, count in added:
            del initializers[len(initializers) - count :]


def put_in(model: ir.Model, found: list[onnx.SparseTensorProto]) -> None:
    """Gives the initializers that were made from stand-ins their sparse tensors."""
    for value in _initializers(model) if found else ():
        tensor = value.const_value
        location = str(tensor.location) if isinstance(tensor, ir.ExternalTensor) else ""
        if location.startswith(_LOCATION):
            value.const_value = SparseTensor(found[int(location.removeprefix(_LOCATION))], location)


def restore(graphs: Iterable[onnx.GraphProto], model: ir.Model) -> None:
    """Makes sparse initializers of those that stand for one in graphs that were made from `model`."""
    tensors = [value.const_value for value in _initializers(model)]
    known = {str(tensor.location): tensor.sparse for tensor in tensors if isinstance(tensor, SparseTensor)}
    for graph in graphs if known else ():
        for index, tensor in reversed(list(enumerate(graph.initializer))):
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if location in known:
                sparse = onnx.SparseTensorProto()
                sparse.CopyFrom(known[location])
                sparse.values.name = tensor.name
                graph.sparse_initializer.insert(0, sparse)
                del graph.initializer[index]


def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The same initializer with all its elements."""
    array = np.zeros(tuple(sparse.dims), onnx.helper.tensor_dtype_to_np_dtype(sparse.values.data_type))
    indices = numpy_helper.to_array(sparse.indices)
    places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), array.shape)
    array.reshape(-1)[places] = numpy_helper.to_array(sparse.values)
    return numpy_helper.from_array(array, sparse.values.name)


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for outermost in (model.graph, *(function.graph for function in model.functions.values())):
        for graph in (outermost, *outermost.subgraphs()):
            yield from graph.initializers.values()
