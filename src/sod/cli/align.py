"""`sod align`: which of a student's tokens match those of a teacher with another tokenizer, before a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sod.cli.options import AllowCodeOption, Overrides
from sod.front.evaluating import recipe_of
from sod.records import SodError
from sod.report.console import facts, notice, out, progress

if TYPE_CHECKING:
    from sod.build.alignment import Covered, Numbered, Pair, Reader, Tally
    from sod.build.alignment_rows import Rows
    from sod.build.alignment_shown import Kind, ShownTurn

EXAMPLES = """Examples:

- `sod align Qwen/Qwen3-0.6B meta-llama/Llama-3.1-8B-Instruct sft.jsonl`
- `sod align STUDENT TEACHER runs/first --row 5 --tokens`
- `sod align STUDENT TEACHER tasks.parquet --min-coverage 0.9`"""

LOOKS: Mapping[Kind, tuple[str, str, str, str]] = {
    "one": ("", "", "green", "matched, token for token"),
    "several": ("⌊", "⌋", "cyan", "matched in a span of several tokens"),
    "control": ("[", "]", "magenta", "control token"),
    "syntax": ("⟨", "⟩", "bright_black", "call syntax and marks"),
    "straddling": ("«", "»", "yellow", "straddling: partly in other bytes"),
    "unmatched": ("⟦", "⟧", "red", "unmatched"),
}
"""For each kind what stands before and after it without colours, its colour, and what it is."""
NAMES: Mapping[Kind, str] = {"one": "1:1", "several": "span"}
"""What kinds are called that have other names for a person."""
LAST_TURN = 8
"""From the next one on, turns are one line of the table."""


def align(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="Run directory, a directory with a tokenizer, or a hub id.")
    ],
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="The same of a teacher with another tokenizer.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Conversations or tasks (as `sod data inspect` reads), or a run.")
    ],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe whose tools and chat keys are used.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to count over, spread evenly over the file.")] = 32,
    row: Annotated[
        int | None, typer.Option("--row", min=0, help="Number of the row to show; default: one of them.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show both models' tokens beside each other.")] = False,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", min=0.0, max=1.0, help="End with 1 where a smaller share is matched.")
    ] = 0.0,
    allow_code: AllowCodeOption = False,
) -> None:
    """Show on a conversation which of the student's tokens match tokens of a teacher that has another tokenizer.

    With the shares of each turn and over more rows. Coverage is the share of what the student says (call syntax and
    control tokens apart) whose bytes the teacher's tokens spell in the same place. Only tokenizers are loaded.
    """
    from sod.build.alignment import coverage_of, pair_of, refuse_uncovered, spread
    from sod.build.alignment_rows import row_to_show, rows_of
    from sod.build.evaluated import find_evaluated
    from sod.build.job import final_model

    about = find_evaluated(student, notice)
    spec = recipe_of(about, recipe, overrides or [], allow_code, notice)
    teacher_path = final_model(find_evaluated(teacher, notice).path, notice)
    pair = pair_of(spec, final_model(spec.student.path, notice), teacher_path)
    read = rows_of(file, spec, pair.student.chat.tools)
    chosen = spread(read.numbered, rows)
    with progress("matching", total=len(chosen), unit="rows") as bar:
        task = bar.task_ids[0]
        covered = coverage_of(pair, chosen, lambda done, total: bar.update(task, completed=done, total=total))
    facts(file, _facts(pair, read, covered))
    _print_row(pair, row_to_show(file, read, chosen, covered, row), tokens)
    _print_covered(covered)
    refuse_uncovered(covered, min_coverage, "--min-coverage", teacher)


def _facts(pair: Pair, read: Rows, covered: Covered) -> list[tuple[str, str]]:
    from sod.build.alignment_rows import MADE_UP
    from sod.tasks.loaded import skips_line

    what = f"tasks, whose turns are made up: {MADE_UP}" if read.made_up else "conversations"
    total = len(read.numbered)
    found = [("student", _reader(pair.student)), ("teacher", _reader(pair.teacher))]
    found.append(("rows", f"{covered.rows:,} of {total:,} {what}"))
    if covered.unread:
        first = covered.unread[0]
        which = f"{len(covered.unread):,} that the teacher cannot be shown, e.g. row {first.row}: {first.reason}"
        found.append(("unread", which))
    skipped = [*read.skipped, *covered.skipped]
    if skipped:
        found.append(("skipped", skips_line(skipped)))
    return found


def _reader(reader: Reader) -> str:
    return f"{reader.path}: {reader.chat.why}; dialect {reader.chat.dialect.name}"


def _print_row(pair: Pair, numbered: Numbered, tokens: bool) -> None:
    from sod.build.alignment_shown import shown_turns

    number, conversation = numbered
    try:
        aligned = pair.aligned(conversation)
    except ValueError as error:
        raise SodError(f"row {number}: {error}; show another with --row") from error
    out.print()
    out.print(f"row {number}, {conversation.id}", style="bold", markup=False)
    if not tokens:
        legend = [_styled(kind, meaning) for kind, (_, _, _, meaning) in LOOKS.items()]
        out.print(Text("  ").join(legend))
    for turn in shown_turns(aligned):
        out.print()
        out.print(f"turn {turn.number}: {_in_words(turn.tally)}", style="bold", markup=False)
        out.print(_side_by_side(turn) if tokens else _text(turn))


def _text(turn: ShownTurn) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in turn.lines:
        table.add_row(">", Text.assemble(*(_styled(stretch.kind, stretch.text) for stretch in line)))
    return table


def _side_by_side(turn: ShownTurn) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("student's tokens", ratio=1, overflow="fold")
    table.add_column("teacher's tokens", ratio=1, overflow="fold")
    for pairing in turn.pairings:
        colour = "" if pairing.kind is None else LOOKS[pairing.kind][2]
        name = "" if pairing.kind is None else NAMES.get(pairing.kind, pairing.kind)
        table.add_row(name, Text(pairing.student, colour), Text(pairing.teacher, colour))
    return table


def _styled(kind: Kind, text: str) -> Text:
    """Text of a kind: in its colour, or where there are no colours between its marks."""
    before, after, colour, _ = LOOKS[kind]
    if out.color_system is not None and not out.no_color:
        return Text(text, colour)
    return Text(f"{before}{text}{after}")


def _in_words(tally: Tally) -> str:
    found = tally.coverage
    left_out = {
        "control": found.control,
        "syntax": found.syntax,
        "straddling": found.straddling,
        "unmatched": found.unmatched,
    }
    named = ", ".join(f"{count} {name}" for name, count in left_out.items() if count) or "none left out"
    return (
        f"coverage {found.share:.1%}; {found.matched} of {found.tokens} tokens matched, {tally.one_to_one} of them "
        f"one to one; {named}"
    )


def _print_covered(covered: Covered) -> None:
    out.print()
    table = Table(title=f"coverage over {covered.rows:,} row{'' if covered.rows == 1 else 's'}", title_justify="left")
    for name in ("turn", "turns", "tokens", "coverage", "matched", "one to one"):
        table.add_column(name, justify="left" if name == "turn" else "right")
    for name in ("control", "syntax", "straddling", "unmatched"):
        table.add_column(name, justify="right")
    for name, tally in [*_by_turn(covered), ("all", covered.total)]:
        table.add_row(name, *_figures(tally))
    out.print(table)
    least = covered.least
    out.print(f"least is matched in row {least.row}, turn {least.turn}: {least.share:.1%}", markup=False)


def _by_turn(covered: Covered) -> list[tuple[str, Tally]]:
    """The turns of each number, later ones together."""
    numbers = sorted(covered.by_turn)
    found = [(str(number), covered.by_turn[number]) for number in numbers if number <= LAST_TURN]
    later = [covered.by_turn[number] for number in numbers if number > LAST_TURN]
    return [*found, (f"{LAST_TURN + 1} and later", sum(later[1:], later[0]))] if later else found


def _figures(tally: Tally) -> list[str]:
    """The cells of a table's row: counts of turns and tokens, coverage, and shares of all tokens."""
    found, tokens = tally.coverage, max(tally.coverage.tokens, 1)
    counts = (found.matched, tally.one_to_one, found.control, found.syntax, found.straddling, found.unmatched)
    shares = [f"{count / tokens:.1%}" for count in counts]
    return [f"{tally.turns:,}", f"{found.tokens:,}", f"{found.share:.1%}", *shares]
