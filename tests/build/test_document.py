"""The reference of keys."""

from __future__ import annotations

from pathlib import Path

from sod.build.document import keys_page
from sod.objective.presets import PRESETS, knobs
from sod.recipe.describe import key_rows

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def test_the_page_in_the_repository_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == keys_page(), "run `python -m sod.build.document > docs/keys.md`"


def test_every_key_and_every_knob_of_every_preset_has_a_line() -> None:
    lines = keys_page().splitlines()
    for row in key_rows():
        (line,) = [line for line in lines if line.startswith(f"| `{row.key}` | {row.type} |")]
        assert row.description.replace("|", "\\|") in line
    for name in PRESETS:
        told = [line for line in lines if line.startswith(f"| `{name}` | `")]
        assert [line.split("`")[3] for line in told] == list(knobs(name))
        assert all(knob.declared.meaning in line for knob, line in zip(knobs(name).values(), told, strict=True))
