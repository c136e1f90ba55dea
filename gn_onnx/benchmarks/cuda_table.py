"""The table of single GroupNorms. Imports: standard library only."""

from __future__ import annotations

from gn_onnx.benchmarks import cuda_models, cuda_rivals

_COLUMNS = (
    (cuda_rivals.EAGER, "eager"),
    (cuda_rivals.COMPILED, "compile"),
    (cuda_models.CHAIN, "chain"),
    (cuda_models.NATIVE, "native"),
    (cuda_models.CONTRIB, "contrib"),
)


def table(results: list[cuda_rivals.Result], empty_us: float) -> str:
    """Microseconds of one GroupNorm with a cold L2 cache, and how many times ours each rival takes."""
    heads = "".join(f"{head:>9}" for _, head in _COLUMNS)
    lines = [
        f"empty kernel {empty_us:.2f} us in a graph. L2 cold unless said; MB: x read once and y written once;",
        "of copy: the copy's time over ours; eager and compile as multiples of ours, the rest of ours in ONNX Runtime.",
        f"{'case':42}{'MB':>7}{'copy us':>9}{'ours us':>9}{'of copy':>9}{'warm us':>9}{'ORT us':>9}{heads}",
    ]
    for result in results:
        cold, warm = result.cold, result.warm
        values = [cold.get(cuda_rivals.COPY), cold.get(cuda_rivals.OURS), warm.get(cuda_rivals.OURS)]
        copy_us, ours_us, warm_us = (value.median if value else None for value in values)
        in_runtime = cold.get(cuda_models.OURS)
        share = copy_us / ours_us if copy_us and ours_us else None
        label = result.timed.label + ("" if result.is_cold else " (L2 not cold)")
        row = f"{label:42}{result.timed.bytes_moved / 1e6:7.1f}{_cell(copy_us, '.2f')}{_cell(ours_us, '.2f')}"
        row += f"{_cell(share, '.0%')}{_cell(warm_us, '.2f')}{_cell(in_runtime.median if in_runtime else None, '.2f')}"
        row += "".join(_cell(result.ratio(name), ".2f") for name, _ in _COLUMNS)
        lines.append(row)
        lines += [f"    {name}: {reason}" for name, reason in result.refused.items()]
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>9}"
