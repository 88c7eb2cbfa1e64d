"""The reference of recipe keys, made of the descriptions in the code: `python -m sod.build.document > docs/keys.md`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sod.build.method import shown_knob_default, shown_knob_type
from sod.objective.presets import PRESETS, knobs
from sod.recipe.describe import KeyRow, key_rows

HEAD = """# Recipe keys

Made by `python -m sod.build.document > docs/keys.md`; change the descriptions in `src/sod/recipe/keys/` and
`src/sod/objective/presets.py`, then run it again. How recipes are written and used: [recipes.md](recipes.md).

A section is a mapping of the keys below it. A key without a default must be given where its section is.
"""
KNOBS = """## Knobs by preset

Set as `method.KNOB`, e.g. `method: {name: sod, epsilon: 0.5}`. Knobs left out, or null, keep the preset's value. A
schedule is `{schedule: linear, start: 1, end: 0.1, steps: 80}` (or `cosine`): the value at step 1, the value after
`steps` steps, kept from then on.
"""


def keys_page() -> str:
    """Every key of a recipe, section by section, and the knobs of every preset, as Markdown."""
    sections: dict[str, list[KeyRow]] = {}
    for row in key_rows():
        top = row.key.partition(".")[0] if "." in row.key or row.type.startswith("section") else "The run"
        sections.setdefault(top, []).append(row)
    parts = [HEAD]
    for name, rows in sections.items():
        title = name if name == "The run" else f"`{name}`"
        lines = [(f"`{row.key}`", row.type, _default(row), row.bounds, _text(row)) for row in rows]
        parts.append(f"## {title}\n\n{_table(('key', 'type', 'default', 'bounds', 'description'), lines)}")
    parts.append(f"{KNOBS}\n{_table(('preset', 'knob', 'values', 'default', 'meaning'), _knob_lines())}")
    return "\n".join(parts)


def _knob_lines() -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", f"`{knob}`", shown_knob_type(one), f"`{shown_knob_default(one)}`", one.declared.meaning)
        for name in PRESETS
        for knob, one in knobs(name).items()
    ]


def _default(row: KeyRow) -> str:
    return f"`{row.default}`" if row.default else ""


def _text(row: KeyRow) -> str:
    also = ", ".join(f"`{name.rpartition('.')[2]}`" for name in row.other_names)
    return f"{row.description} (also accepted: {also})" if also else row.description


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(keys_page())
