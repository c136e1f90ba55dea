"""What fusing one file did, as text for people and JSON for programs. Wording only; nothing is decided here."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gn_onnx.console import Console, size

if TYPE_CHECKING:
    import onnx_ir as ir

    from gn_onnx.checking.verify import Verification
    from gn_onnx.group_norm import GroupNorm, Rejection


@dataclasses.dataclass(frozen=True)
class FusionReport:
    """One file.

    Attributes:
        model: The file.
        target: "plugin" or "onnx".
        fused: Sites that were fused.
        rejected: Look-alikes that stay.
        already: Fused nodes that the model had before.
        nodes: Number of nodes before and after, function bodies not counted.
        bytes: Size before and after, external data included.
        verification: What was checked, or None with --no-verify.
        output: File that was written, or None.
        seconds: Time of the fusing itself.
    """

    model: pathlib.Path
    target: str
    fused: Sequence[GroupNorm]
    rejected: Sequence[Rejection]
    already: int
    nodes: tuple[int, int]
    bytes: tuple[int, int]
    verification: Verification | None = None
    output: pathlib.Path | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "model": str(self.model),
            "target": self.target,
            "fused": [site_json(site) for site in self.fused],
            "rejected": [dataclasses.asdict(rejection) for rejection in self.rejected],
            "already_fused": self.already,
            "nodes": list(self.nodes),
            "bytes": list(self.bytes),
            "verification": self.verification.to_json() if self.verification else None,
            "output": str(self.output) if self.output else None,
            "seconds": round(self.seconds, 3),
        }

    def to_text(self, console: Console, *, check: bool = False) -> str:
        """Lines as in the README's demo."""
        lines = [f"  {'would fuse' if check else 'fused':10}{len(self.fused):6}  {summary(self.fused)}".rstrip()]
        if not self.fused:
            had = f"{self.already} fused already" if self.already else "no GroupNorm found"
            lines = [f"  nothing to do: {had}"]
        if self.rejected:
            lines.append(f"  {'rejected':10}{len(self.rejected):6}  `gn-onnx explain {self.model}` tells why")
        if self.fused:
            before, after = self.nodes
            lines.append(f"  {'nodes':10}{before:6} → {after}    size {size(self.bytes[0])} → {size(self.bytes[1])}")
        if self.verification is not None and self.fused:
            lines += verification_lines(self.verification, console)
        elif self.fused and not check:
            lines.append(f"  {console.paint('not verified', 'warn')}")
        if self.output is not None:
            lines.append(f"  wrote {self.output}")
        return "\n".join(lines)


def summary(sites: Sequence[GroupNorm]) -> str:
    """`GroupNormalization (num_groups=32), 44 with silu`."""
    groups = sorted({site.num_groups for site in sites})
    shown = ", ".join(map(str, groups[:6])) + (", ..." if len(groups) > 6 else "")
    text = f"GroupNormalization (num_groups={shown})"
    for activation, count in collections.Counter(site.activation for site in sites).most_common():
        if activation != "none":
            text += f", {count} with {activation}"
    if last := sum(site.channels_last for site in sites):
        text += f", {last} channels-last"
    return text if sites else ""


def verification_lines(verification: Verification, console: Console) -> list[str]:
    """What was verified, in two or three lines, and the notes."""
    good, bad = console.paint("ok", "good"), console.paint("WRONG", "bad")
    lines = []
    checked = [site for site in verification.sites if site.status != "not checked"]
    if checked:
        worst = max(checked, key=lambda site: site.error)
        wrong = any(site.status == "different" for site in checked)
        lines.append(
            f"  {'sites':10}{len(checked):6} of {len(verification.sites)} checked in float64,"
            f" max |Δ| {worst.error:.1e}   {bad if wrong else good}"
        )
    if (output := verification.worst) is not None:
        lines.append(
            f"  {'outputs':10}max |Δ| {output.max_abs:.1e}, relative {output.relative:.1e}"
            f" ({output.dtype}, tolerance {output.tolerance:.1e}; {output.data})"
            f"   {good if verification.ok else bad}"
        )
    lines += [f"  {'note':10}{note}" for note in verification.notes]
    lines.append(f"  {'verified':10}in {verification.seconds:.1f} s")
    return lines


def value_name(value: ir.Value) -> str:
    """The value's name in the model, "" when it has none."""
    return value.name or ""


def site_json(site: GroupNorm) -> dict[str, object]:
    """One fused site for programs."""
    return {
        "op_type": site.op_type,
        "x": value_name(site.x),
        "output": value_name(site.output),
        "num_groups": site.num_groups,
        "num_channels": site.num_channels,
        "epsilon": site.epsilon,
        "stash_type": site.stash_type,
        "channels_last": site.channels_last,
        "activation": site.activation,
        "core": site.core,
        "native": site.native,
        "nodes": list(site.node_names),
    }
