"""ONNX Runtime sessions for timing: on CUDA graphs, with inputs and outputs bound to PyTorch's tensors, never waiting.

Imports: torch and onnxruntime inside functions.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gn_onnx.benchmarks import cuda_timing
from gn_onnx.benchmarks.bench import Timing
from gn_onnx.errors import GnOnnxError

PROVIDER = "CUDAExecutionProvider"
_NUMPY = {"float16": np.float16, "float32": np.float32, "int64": np.int64}


class BoundSession:
    """One model on a stream of its own.

    Args:
        model: Serialised, or the path of a file, where its external data lies beside it.
        library: The operator library, for models that have our operators.
        inputs: By name, on the device; read at every run.
        outputs: By name, on the device; written at every run.

    Raises:
        GnOnnxError: ONNX Runtime cannot start its CUDA provider.
    """

    def __init__(
        self,
        model: bytes | str,
        *,
        library: pathlib.Path | None = None,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        import onnxruntime
        import torch

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        if library is not None:
            settings.register_custom_ops_library(str(library))
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        provider = {
            "enable_cuda_graph": "1",
            "user_compute_stream": str(self._stream.cuda_stream),
            "cudnn_conv_algo_search": "HEURISTIC",  # the default tries every algorithm for every shape, for minutes
        }
        providers = [(PROVIDER, provider if PROVIDER.startswith("CUDA") else {})]
        self._session = onnxruntime.InferenceSession(model, settings, providers=providers)
        if PROVIDER not in self._session.get_providers():
            raise GnOnnxError("ONNX Runtime could not start its CUDA provider")
        self._binding = self._session.io_binding()
        for bind, tensors in ((self._binding.bind_input, inputs), (self._binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                element = _NUMPY[str(tensor.dtype).removeprefix("torch.")]
                bind(name, cuda_timing.DEVICE, 0, element, list(tensor.shape), tensor.data_ptr())
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def warm_up(self) -> None:
        """Run until the graph is captured, and wait; the outputs hold what the last run wrote."""
        import torch

        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            for _ in range(4):  # the first ones allocate, the next one captures
                self._run()
            self._stream.synchronize()

    def time(self, label: str, launches: int, *, runs: int = 1, repeats: int = cuda_timing.REPLAYS) -> Timing:
        """Microseconds of each of the `launches` in a run, from `runs` runs between two events."""
        import torch

        def run() -> None:
            for _ in range(runs):
                self._run()

        with torch.cuda.stream(self._stream):
            return cuda_timing.event_time(label, run, launches * runs, repeats=repeats)

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


def use_pytorchs_libraries() -> None:
    """Let ONNX Runtime find the CUDA libraries that came with PyTorch, where its build can look for them."""
    import onnxruntime
    import torch

    if (
        hasattr(onnxruntime, "preload_dlls")
        and PROVIDER in onnxruntime.get_available_providers()
        and torch.cuda.is_available()
    ):
        onnxruntime.preload_dlls()
