"""Two arrays that should be equal, and how far they are apart in the numbers that people ask for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from gn_onnx.checking import tolerances
from gn_onnx.errors import GnOnnxError


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one output is from what was expected.

    Attributes:
        name: Of the output.
        dtype: Element type.
        shape: Of the expected array.
        against: What was expected: "original", "torch", "float64", ...
        data: Kind of input data, one of `inputs.KINDS`, or "given".
        max_abs: Largest |difference|.
        rms: Root mean square of the difference.
        relative: max_abs divided by the largest |expected|.
        ulp: Largest |difference| in units of the type's spacing at the element, or at the array's root mean
            square where the element is smaller: near zero every difference would be millions of ulp.
        cosine: Of the angle between the arrays.
        tolerance: Largest `relative` that is allowed.
        explained: It is too far, but the fused model is right (`arbitration`).
        reason: "" or why the arrays cannot be compared (shapes, types, NaN in one of them).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    against: str
    data: str
    max_abs: float
    rms: float
    relative: float
    ulp: float
    cosine: float
    tolerance: float
    reason: str = ""
    explained: bool = False

    @property
    def ok(self) -> bool:
        return self.explained or (not self.reason and self.relative <= self.tolerance)

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        verdict = "explained" if self.explained else "ok" if self.ok else self.reason or "TOO FAR"
        return (
            f"{self.name:24} {self.data:12} max {self.max_abs:.2e}  rms {self.rms:.2e}  rel {self.relative:.2e}"
            f"  {self.ulp:8.1f} ulp  1-cos {1 - self.cosine:.1e}  tolerance {self.tolerance:.1e}  {verdict}"
        )


def compare(
    expected: np.ndarray,
    actual: np.ndarray,
    *,
    name: str,
    against: str,
    data: str = "given",
    tolerance: float | None = None,
    dtype: np.dtype[np.generic] | None = None,
) -> Comparison:
    """Compare `actual` with `expected`, element by element in float64.

    Args:
        expected: The reference; any dtype.
        actual: Same shape.
        name: For the record.
        against: For the record.
        data: For the record.
        tolerance: Relative; None takes the table's for the type.
        dtype: Type whose spacing counts, by default that of `actual`.
    """
    expected, actual = np.asarray(expected), np.asarray(actual)
    dtype = np.dtype(actual.dtype if dtype is None else dtype)
    bound = tolerances.output_tolerance(dtype) if tolerance is None else tolerance
    reason = _obstacle(expected, actual)
    numbers = _numbers(expected, actual, dtype) if not reason else (math.inf,) * 4 + (math.nan,)
    max_abs, rms, relative, ulp, cosine = numbers
    return Comparison(
        name, tolerances.name_of(dtype), expected.shape, against, data,
        max_abs, rms, relative, ulp, cosine, bound, reason,
    )  # fmt: skip


def _obstacle(expected: np.ndarray, actual: np.ndarray) -> str:
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if not (_is_number(expected) and _is_number(actual)):
        same = expected.dtype == actual.dtype and bool(np.all(expected == actual))
        return "" if same else "values that are not numbers differ"
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    for what, test in (("NaN", np.isnan), ("infinity", np.isinf)):
        if not np.array_equal(test(wide), test(other)):
            return f"{what} at {int(np.count_nonzero(test(wide)))} and {int(np.count_nonzero(test(other)))} elements"
    return ""


def _is_number(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" or array.dtype == ml_dtypes.bfloat16


def _numbers(
    expected: np.ndarray, actual: np.ndarray, dtype: np.dtype[np.generic]
) -> tuple[float, float, float, float, float]:
    if not expected.size or not _is_number(expected):
        return 0.0, 0.0, 0.0, 0.0, 1.0
    wide, other = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    finite = np.isfinite(wide)
    if not finite.all():
        wide, other = wide[finite], other[finite]
        if not wide.size:
            return 0.0, 0.0, 0.0, 0.0, 1.0
    difference = np.abs(wide - other)
    largest = float(np.abs(wide).max())
    max_abs = float(difference.max())
    rms = float(np.sqrt(np.mean(np.square(difference))))
    relative = max_abs / largest if largest > 0 else (0.0 if max_abs == 0 else math.inf)
    norms = float(np.linalg.norm(wide)) * float(np.linalg.norm(other))
    cosine = float(np.dot(wide, other)) / norms if norms > 0 else float(max_abs == 0)
    return max_abs, rms, relative, _ulp(wide, difference, dtype), cosine


def _ulp(expected: np.ndarray, difference: np.ndarray, dtype: np.dtype[np.generic]) -> float:
    unit = tolerances.UNIT.get(tolerances.name_of(dtype))
    if unit is None:
        return float(difference.max())
    size = np.maximum(np.abs(expected), np.sqrt(np.mean(np.square(expected))))
    if not size.max() > 0:
        return 0.0 if difference.max() == 0 else math.inf
    spacing = np.exp2(np.floor(np.log2(np.maximum(size, 1e-300)))) * 2 * unit
    return float((difference / spacing).max())


def compare_outputs(
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    *,
    against: str = "original",
    data: str = "given",
    tolerance: float | None = None,
    coarsest: float = 0.0,
) -> list[Comparison]:
    """One comparison per output.

    Args:
        expected: By name.
        actual: By name.
        against: For the record.
        data: For the record.
        tolerance: None takes the table's for each output's type.
        coarsest: Then at least this much for floating-point outputs: `tolerances.coarsest` of the model.

    Raises:
        GnOnnxError: The names of the outputs differ.
    """
    if list(expected) != list(actual):
        raise GnOnnxError(f"the outputs were {list(expected)} and are {list(actual)}")
    return [
        compare(
            expected[name],
            actual[name],
            name=name,
            against=against,
            data=data,
            tolerance=_tolerance(actual[name], coarsest) if tolerance is None else tolerance,
        )
        for name in expected
    ]


def _tolerance(array: np.ndarray, coarsest: float) -> float:
    own = tolerances.output_tolerance(np.asarray(array).dtype)
    return max(own, coarsest) if own else own
