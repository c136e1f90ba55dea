"""One file per command: its arguments (`add_parser`) and what it does (`run`).

These files import the rest of the package inside `run`: `gn-onnx --help` loads them all.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
