"""`sod chat`: what a model is shown and how it is read, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sod.cli.options import AllowCodeOption, Overrides
from sod.front.evaluating import recipe_of
from sod.report.console import notice, out

if TYPE_CHECKING:
    from sod.build.transcript import Part, Run
    from sod.chat.render import Chat

EXAMPLES = """Examples:

- `sod chat runs/quickstart/sod`
- `sod chat MODEL --recipe recipes/smollm2-gsm8k.yaml`
- `sod chat MODEL chat.template=hermes`"""

LEGEND = "> begins a line of tokens that are sampled and trained on; [control tokens] stand in brackets; ⏎ ends a line"
CONTROL, ACTION = "magenta", "green"


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Run directory, a checkpoint of one, a directory with a tokenizer, or a hub id."
        ),
    ],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe whose tools and chat keys are used.")] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Show a conversation as the model gets it: prompt with tools, a call, its result, an answer; text and token ids.

    Tells which chat template and which dialect of calls were taken, and why. Only the tokenizer is loaded.
    """
    from sod.build.data import make_chat
    from sod.build.evaluated import find_evaluated
    from sod.build.job import final_model
    from sod.build.transcript import transcript
    from sod.models.load import load_tokenizer

    spec = recipe_of(find_evaluated(model, notice), recipe, overrides or [], allow_code, notice)
    shown = make_chat(spec, load_tokenizer(final_model(spec.student.path, notice)), _unsaid)
    for line in _facts(shown):
        out.print(line, markup=False)
    for part in transcript(shown):
        out.print()
        _print(part)


def _unsaid(line: str) -> None:
    """What was taken is said in full above the conversation."""


def _facts(shown: Chat) -> list[str]:
    ends = ", ".join(str(shown.tokenizer.decode([token])) for token in sorted(shown.stop_ids))
    return [
        f"template: {shown.why}",
        f"dialect: {shown.dialect.name}",
        f"turns end in: {shown.end_text}; sampling stops in: {ends}",
        LEGEND,
    ]


def _print(part: Part) -> None:
    sampled = part.said is not None
    out.print(f"{part.title} ({part.tokens} tokens)", style="bold", markup=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(ratio=3, overflow="fold")
    table.add_column(ratio=2, overflow="fold")
    for line in part.lines:
        ids = " ".join(str(token) for run in line for token in run.token_ids)
        table.add_row(">" if sampled else "", Text.assemble(*(_styled(run, sampled) for run in line)), ids)
    out.print(table)
    if sampled:
        out.print(f"read as: {part.said}", markup=False)


def _styled(run: Run, sampled: bool) -> tuple[str, str]:
    text = run.text.replace("\n", "⏎")
    return (f"[{text}]", CONTROL) if run.kind == "control" else (text, ACTION if sampled else "")
