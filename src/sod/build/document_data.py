"""The page of the data that is read, made by reading it: `python -m sod.build.document_data > docs/data.md`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sod.build.data_examples import CONVERSATIONS, REFUSED, TASKS, Example
from sod.build.inspection import Inspection, inspected
from sod.recipe import apply_overrides, parse_recipe
from sod.recipe.describe import key_rows
from sod.records import SodError
from sod.tasks.formats.columns import PROMPTS, TRUTHS

HEAD = """# Data

Made by `python -m sod.build.document_data > docs/data.md`, which reads every example below; change the examples in
`src/sod/build/data_examples.py`, or the shapes in `src/sod/tasks/formats/`, then run it again.

`sod data inspect FILE` shows the same of a file of yours: what its rows are read as, what of them is not used, which
are skipped and why, how long they are, and three of them as the model will see them, with what carries loss. With
`--recipe R` it reads as that recipe says, and shows tokens.

The rule: every field of a row is used, or named as unused; every row trains on what it declares, or is skipped by
number with the reason. A row is read by the first shape that knows it; nested columns may be JSON text. How
verifiers read a truth: [sandbox.md](sandbox.md#rewards).
"""


def data_page() -> str:
    """Every example with what was read of it, as Markdown."""
    parts = [
        HEAD,
        _keys_table(),
        "## RL tasks\n",
        _names(),
        *map(_section, TASKS),
        "## SFT conversations\n",
        "Between ⟦ and ⟧ stands what carries loss.\n",
        *map(_section, CONVERSATIONS),
        "## What is refused\n",
        _refusals(REFUSED),
    ]
    return "\n".join(parts)


def read_example(example: Example) -> Inspection:
    """The example's row out of a file, as `sod data inspect` reads it. Raises SodError where it cannot be used."""
    given = {"student": {"path": "none"}}
    overrides = [f"{key}={json.dumps(value)}" for key, value in example.settings.items()]
    recipe = parse_recipe(apply_overrides(given, overrides, "here", lambda text: None), "here")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "row.jsonl"
        path.write_text(json.dumps(example.row, ensure_ascii=False), encoding="utf-8")
        try:
            return inspected(str(path), recipe, None, 1, "sft" if example.sft else "tasks")
        except SodError as error:
            raise SodError(str(error).replace(f"{path}: ", "")) from error


def _section(example: Example) -> str:
    """The row, what is set for it, what it was read as, and the text of its parts."""
    found = read_example(example)
    facts = dict(found.facts)
    shape = facts["read as"].rpartition("; ")[2].partition(" (")[0]
    (row,) = found.rows
    said = row.title.partition(": ")[2]
    lines = [f"### {example.title}\n", "```json", json.dumps(example.row, ensure_ascii=False), "```\n"]
    unused = facts["unused"].partition(": ")[2] or f"not used: {facts['unused']}"
    lines.append(f"Shape `{shape}`; {_settings(example)}{unused}. {_sentence(said)}".strip())
    shown = "".join(f"⟦{part.text}⟧" if part.loss else part.text for part in row.parts).strip()
    fence = "````" if "```" in shown else "```"
    return "\n".join([*lines, "", f"{fence}text", shown, fence, ""])


def _keys_table() -> str:
    """The keys of `data`, as docs/keys.md has them."""
    lines = ["| key | what it says |\n| --- | --- |"]
    lines += [f"| `{row.key}` | {row.description} |" for row in key_rows() if row.key.startswith("data.")]
    return "\n".join(lines) + "\n"


def _names() -> str:
    """Under which names a prompt and a truth are found."""
    prompts, truths = (", ".join(f"`{name}`" for name in names) for names in (PROMPTS, TRUTHS))
    return (
        f"Without a shape of its own, a row's prompt is the first of {prompts} that it has, its truth the first of "
        f"{truths}; names are compared without case, spaces and underscores. `data.columns` names any others.\n"
    )


def _settings(example: Example) -> str:
    return "".join(f"with `{key}={json.dumps(value)}`; " for key, value in example.settings.items())


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _refusals(examples: Sequence[Example]) -> str:
    """A table of what is refused and what is said of it."""
    lines = ["| row | what is said |\n| --- | --- |"]
    for example in examples:
        try:
            read_example(example)
        except SodError as error:
            said = str(error).rpartition("row 0: ")[2].replace("|", "\\|")
            lines.append(f"| {example.title} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(data_page())
