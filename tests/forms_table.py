"""The README's tables of forms and look-alikes, made from the header lines of tests/forms.

`python tests/forms_table.py` writes them between the marks `<!-- forms -->` of the README; a test keeps them current.
"""

from __future__ import annotations

import pathlib
import re
import sys

from forms_reader import FORMS, Form

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- forms -->", "<!-- /forms -->"


def tables() -> str:
    """Markdown: what is fused and who writes it, what is not and why."""
    shown = [form for form in FORMS if not form.name.startswith("attack_")]
    fused = [form for form in shown if 0 not in form.counts]
    kept = [form for form in shown if 0 in form.counts]
    return "\n".join(
        [
            f"<details><summary>{len(fused)} forms that are fused</summary>",
            "",
            *_table(["form", "written by"], [(form.what, form.exporter) for form in fused]),
            "",
            "</details>",
            "",
            f"<details><summary>{len(kept)} look-alikes that stay as they are</summary>",
            "",
            *_table(["look-alike", "where it comes from", "reason"], [(f.what, f.exporter, _reason(f)) for f in kept]),
            "",
            "</details>",
        ]
    )


def _reason(form: Form) -> str:
    """The words that the rejection has to have, as the form's file gives them."""
    return form.reason.replace("\\", "") or "fused in part, or not at all"


def _table(head: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(_cell(text) for text in row)} |" for row in sorted(rows)]


def _cell(text: str) -> str:
    return text.replace("|", " or ").replace("<", "&lt;")


def with_tables(readme: str) -> str:
    """The README with its tables as they should be."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{tables()}\n{END}", readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
    sys.exit(0)
