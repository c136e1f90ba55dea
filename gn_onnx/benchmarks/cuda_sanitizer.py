"""compute-sanitizer on a reduced set of checks: out-of-bounds accesses, races in shared memory, wrong barriers.

The tools run side by side, each in a process of its own. Imports: standard library only.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

TOOLS = ("memcheck", "racecheck", "synccheck")
PASSED, FAILED = "passed", "failed"
_SECONDS = 45.0
_LEAST_SECONDS = 10.0
_ERROR_STATUS = 9
_SHARE_OF_CHECKS = 0.5
"""Of the time: the rest is for starting Python under the tool, and for its report."""


def run(library: pathlib.Path, deadline: float) -> dict[str, str]:
    """PASSED, FAILED and the tool's last line, or why it gave no answer, for each tool.

    Args:
        library: The operator library.
        deadline: By time.monotonic().
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        return dict.fromkeys(TOOLS, "not run: compute-sanitizer is not installed")
    seconds = min(_SECONDS, deadline - time.monotonic())
    if seconds < _LEAST_SECONDS:
        return dict.fromkeys(TOOLS, "not run: no time left")
    checks = [sys.executable, "-m", "gn_onnx.benchmarks.bench_cuda", "--reduced", f"--library={library}"]
    checks.append(f"--seconds={seconds * _SHARE_OF_CHECKS}")
    started = {
        tool: subprocess.Popen(
            [program, f"--tool={tool}", f"--error-exitcode={_ERROR_STATUS}", *checks],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        for tool in TOOLS
    }  # fmt: skip
    end = time.monotonic() + seconds
    return {tool: _verdict(process, end) for tool, process in started.items()}


def _verdict(process: subprocess.Popen[str], end: float) -> str:
    try:
        output, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool's child too: it would disturb the times that follow
        process.communicate()
        return "not done in its time"
    if "Device not supported" in output:
        return "not run: the tool does not support this device"
    if process.returncode == 0:
        return PASSED
    lines = output.strip().splitlines() or [f"exit status {process.returncode}"]
    return f"{FAILED}: {lines[-1].strip()[:200]}"
