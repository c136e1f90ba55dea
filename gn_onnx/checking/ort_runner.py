"""Run a model in ONNX Runtime: the one place of run, check and measure that knows its Python interface.

ONNX Runtime is imported inside the functions. Its exceptions, which share no base class of their own, become
`GnOnnxError` here.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from gn_onnx.checking import stoppable
from gn_onnx.errors import GnOnnxError

CPU = ("CPUExecutionProvider",)

DISABLED_OPTIMIZERS = ("Pad_Fusion",)
"""ONNX Runtime's Pad_Fusion folds a zero Pad into MaxPool, whose own padding is minus infinity: a wrong result
in some classification models, with or without fusing. The baseline must not have it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to open a session.

    Attributes:
        providers: Execution providers, in order.
        library: Operator library to register, or None to run our operators by their function bodies.
        data_folder: Folder that external data is relative to.
        optimise: ONNX Runtime's graph optimisations, all or none.
        threads: Threads within an operator, 0 for ONNX Runtime's choice.
        profile: Prefix of the profile file, or None for no profile.
        disabled_optimizers: Names of optimizers that must not run.
    """

    providers: Sequence[str] = CPU
    library: pathlib.Path | None = None
    data_folder: pathlib.Path | None = None
    optimise: bool = True
    threads: int = 0
    profile: str | None = None
    disabled_optimizers: Sequence[str] = DISABLED_OPTIMIZERS


def is_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("onnxruntime") is not None


def available_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def providers(name: str) -> tuple[str, ...]:
    """`cpu` or `cuda` to ONNX Runtime's provider names.

    Raises:
        GnOnnxError: This ONNX Runtime does not have it.
    """
    if name == "cpu":
        return CPU
    wanted = {"cuda": "CUDAExecutionProvider"}[name]
    if not is_installed() or wanted not in available_providers():
        raise GnOnnxError(f"this ONNX Runtime has no {wanted}: pip install onnxruntime-gpu")
    return (wanted, *CPU)


def find_library() -> pathlib.Path | None:
    """The operator library where it is built, else None."""
    import importlib.util

    if importlib.util.find_spec("gn_onnx.runtime") is None:
        return None
    from gn_onnx import runtime

    try:
        path = pathlib.Path(runtime.library_path())
    except GnOnnxError:
        return None
    return path if path.exists() else None


@contextlib.contextmanager
def _errors_of_onnxruntime(doing: str) -> Iterator[None]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError)
    try:
        yield
    except kinds as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise GnOnnxError(f"ONNX Runtime cannot {doing}: {lines[0][:500]}") from error


class Session:
    """A model loaded in ONNX Runtime.

    Raises:
        GnOnnxError: ONNX Runtime is not installed or refuses the model.
    """

    def __init__(self, model: onnx.ModelProto | bytes, options: Options | None = None) -> None:
        options = options or Options()
        if not is_installed():
            raise GnOnnxError("ONNX Runtime is not installed: pip install onnxruntime, or use --no-verify")
        import onnxruntime

        data = model if isinstance(model, bytes) else _serialize(model)
        with _errors_of_onnxruntime("load the model"):
            settings = onnxruntime.SessionOptions()
            settings.log_severity_level = 4
            settings.intra_op_num_threads = options.threads
            if not options.optimise:
                settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            if options.data_folder is not None:
                key = "session.model_external_initializers_file_folder_path"
                settings.add_session_config_entry(key, str(options.data_folder.absolute()))
            if options.library is not None:
                settings.register_custom_ops_library(str(options.library))
            if options.profile is not None:
                settings.enable_profiling = True
                settings.profile_file_prefix = options.profile
            self.raw = onnxruntime.InferenceSession(
                data,
                settings,
                providers=list(options.providers),
                disabled_optimizers=list(options.disabled_optimizers),
            )
        self.output_names: list[str] = [output.name for output in self.raw.get_outputs()]
        self._input_names = {value.name for value in self.raw.get_inputs()}
        types = [value.type for value in (*self.raw.get_inputs(), *self.raw.get_outputs())]
        self._has_bfloat16 = any("bfloat16" in kind for kind in types)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; feeds that the model has no input for are ignored.

        Raises:
            GnOnnxError: The model failed on them.
        """
        used = {name: array for name, array in feeds.items() if name in self._input_names}
        with _errors_of_onnxruntime("run the model"):
            if self._has_bfloat16:
                values = _to_ort(used)
                results = stoppable.call(lambda how: self.raw.run_with_ort_values(None, values, how))
                results = [_to_numpy(value) for value in results]
            else:
                results = stoppable.call(lambda how: self.raw.run(None, used, how))
        return dict(zip(self.output_names, results, strict=True))

    def bind(self, feeds: Mapping[str, np.ndarray]) -> BoundRun:
        """The model on these feeds, to be run many times.

        Raises:
            GnOnnxError: The model failed on them.
        """
        values = _to_ort(feeds)
        with _errors_of_onnxruntime("run the model"):
            results = self.raw.run_with_ort_values(None, values)
            return BoundRun(self.raw, values, dict(zip(self.output_names, results, strict=True)))

    def end_profiling(self) -> str:
        with _errors_of_onnxruntime("write the profile"):
            return str(self.raw.end_profiling())


class BoundRun:
    """Runs a model on the same feeds and into the same outputs each time: nothing is copied or allocated in a call."""

    def __init__(self, session: Any, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._session, self._feeds, self._outputs = session, feeds, outputs  # kept alive
        self._binding = session.io_binding()
        for name, value in feeds.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> list[np.ndarray]:
        """Of the last run."""
        return [_to_numpy(value) for value in self._outputs.values()]


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise GnOnnxError(f"the model is too large to hand to ONNX Runtime from memory: {error}") from error


def _to_ort(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import onnxruntime

    values = {}
    for name, array in feeds.items():
        if array.dtype == ml_dtypes.bfloat16:
            bits = np.ascontiguousarray(array).view(np.uint16)
            make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
            values[name] = make(bits, onnx.TensorProto.BFLOAT16)
        else:
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return values


def _to_numpy(value: Any) -> np.ndarray:
    """ONNX Runtime's own conversion refuses bfloat16."""
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    shape = value.shape()
    count = math.prod(shape)
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr()) if count else b""
    array: np.ndarray = np.frombuffer(bits, np.uint16).copy().view(ml_dtypes.bfloat16).reshape(shape)
    return array
