"""Multi-device configurations of nodes (IR version 11): how the tensors around a node are sharded, told by value.

Imports: onnx_ir.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

Configurations = tuple[Any, ...]
"""Of onnx_ir.NodeDeviceConfiguration, which onnx_ir has since 1.0."""


def configurations_of(node: ir.Node | None) -> Configurations:
    return getattr(node, "device_configurations", ())


def take_over(node: ir.Node, configurations: Configurations, stand_in: Callable[[ir.Value], ir.Value | None]) -> None:
    """Gives a node the configurations of another; `stand_in` is the value instead of one of its own, if any."""
    moved = []
    for configuration in configurations:
        pairs = [(spec, None if spec.value is None else stand_in(spec.value)) for spec in configuration.sharding_specs]
        specs = tuple(dataclasses.replace(spec, value=value) for spec, value in pairs if value is not None)
        moved.append(dataclasses.replace(configuration, sharding_specs=specs))
    if moved:
        node.device_configurations = tuple(moved)
