"""The `sod` command: parses and calls, no logic."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from sod.cli.align import EXAMPLES as ALIGN_EXAMPLES
from sod.cli.align import align
from sod.cli.allocator import reexecute_with_tunables
from sod.cli.chat import EXAMPLES as CHAT_EXAMPLES
from sod.cli.chat import chat
from sod.cli.compare import EXAMPLES as COMPARE_EXAMPLES
from sod.cli.compare import compare
from sod.cli.env import env_app
from sod.cli.evaluate import EXAMPLES as EVAL_EXAMPLES
from sod.cli.evaluate import evaluate
from sod.cli.init import EXAMPLES as INIT_EXAMPLES
from sod.cli.init import init
from sod.cli.inspect import EXAMPLES as INSPECT_EXAMPLES
from sod.cli.inspect import inspect
from sod.cli.making import data_app, models_app
from sod.cli.plan import EXAMPLES as PLAN_EXAMPLES
from sod.cli.plan import plan
from sod.cli.ranks import end_rank, keep_quiet, tell
from sod.cli.recipe import recipe_app
from sod.cli.running import QUICKSTART_EXAMPLES, SFT_EXAMPLES, TRAIN_EXAMPLES, quickstart, sft, train
from sod.cli.sandbox import sandbox_app
from sod.cli.score import EXAMPLES as SCORE_EXAMPLES
from sod.cli.score import score
from sod.cli.teacher import teacher_app
from sod.records import SodError
from sod.report.console import err, methods_table, out, rows_table

try:  # newer typer brings its own copy of click
    from typer._click.exceptions import ClickException, NoArgsIsHelpError
except ImportError:
    from click.exceptions import ClickException, NoArgsIsHelpError  # type: ignore[assignment]

HELP = """Train small language models to be tool-using agents by on-policy distillation.

The student solves tasks over several turns with real tools, the teacher scores every token of it, and the student
moves toward the teacher. A recipe, one YAML file, fixes a run; any of its keys can be set on the command line as
KEY=VALUE.

A first hour, in order:

1. `sod quickstart`: the whole path from nothing, on a CPU, in minutes
2. `sod train recipes/quickstart.yaml method=opd`: another method on the quickstart's data and models
3. `sod eval runs/quickstart-opd --data runs/quickstart/data/test.parquet`: how good that run's model is
4. `sod methods`: what else `method` may be; `sod compare` sets methods against each other over seeds
5. `sod init quickstart`: a copy of its recipe, to be changed and run

Every command has examples under `-h`."""
FIRST, LATER, PARTS = "A first hour", "More", "Data, models, worlds and the sandbox"
COMPLETION = "_SOD_COMPLETE"
"""Set by the shell where it asks for completions."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=FIRST, epilog=QUICKSTART_EXAMPLES)(quickstart)
app.command(rich_help_panel=FIRST, epilog=TRAIN_EXAMPLES)(train)
app.command(name="eval", rich_help_panel=FIRST, epilog=EVAL_EXAMPLES)(evaluate)
app.command(rich_help_panel=LATER, epilog=PLAN_EXAMPLES)(plan)
app.command(rich_help_panel=LATER, epilog=SFT_EXAMPLES)(sft)
app.command(rich_help_panel=LATER, epilog=CHAT_EXAMPLES)(chat)
app.command(rich_help_panel=LATER, epilog=ALIGN_EXAMPLES)(align)
app.command(rich_help_panel=LATER, epilog=SCORE_EXAMPLES)(score)
app.command(rich_help_panel=LATER, epilog=COMPARE_EXAMPLES)(compare)
app.command(rich_help_panel=LATER, epilog=INIT_EXAMPLES)(init)


def main() -> None:
    """Entry point of the console script: one line for every expected error, exit codes 1, 130 and 143."""
    try:
        _run()
    except SystemExit as end:
        end_rank(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    end_rank(0)


def _run() -> None:
    """The command; raises SystemExit where it ends otherwise than well."""
    if COMPLETION not in os.environ:
        reexecute_with_tunables()
    keep_quiet()
    try:
        # The name that completion scripts and usage lines carry, however the command was started.
        code = app(standalone_mode=False, prog_name="sod")
    except SodError as error:
        tell(error)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except typer.Abort:
        sys.exit(130)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except ClickException as error:
        err.print(f"error: {error.format_message()}", markup=False)
        sys.exit(error.exit_code)
    except OSError as error:
        err.print(f"error: {error.filename or 'system'}: {error.strerror or error}", markup=False)
        sys.exit(1)
    if code == 128 + signal.SIGINT:  # which is what typer makes of a KeyboardInterrupt
        err.print("stopped at once; what was written before is kept", markup=False)
    if isinstance(code, int) and code:
        sys.exit(code)


def _version(asked: bool) -> None:
    """Print what a report of a bug needs; importing nothing of it."""
    if not asked:
        return
    from sod.runlog.manifest import versions

    for name, version in versions().items():
        out.print(f"{name} {version or 'not installed'}", markup=False)
    raise typer.Exit


@app.callback(help=HELP)
def sod(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=_version, help="Versions of sod, Python, torch, transformers."
        ),
    ] = False,
) -> None:
    """Options of `sod` itself."""


@app.command(rich_help_panel=FIRST, epilog="Example: `sod methods`")
def methods() -> None:
    """List the methods: paper, what each needs, its knobs and their defaults."""
    from sod.build.method import knob_rows, method_rows

    out.print(methods_table(method_rows()))
    out.print(rows_table("knobs", ("knob", "values", "meaning"), knob_rows()))


data_app.command(epilog=INSPECT_EXAMPLES)(inspect)
app.add_typer(recipe_app, name="recipe", rich_help_panel=LATER)
app.add_typer(data_app, name="data", rich_help_panel=PARTS)
app.add_typer(models_app, name="models", rich_help_panel=PARTS)
app.add_typer(teacher_app, name="teacher", rich_help_panel=PARTS)
app.add_typer(env_app, name="env", rich_help_panel=PARTS)
app.add_typer(sandbox_app, name="sandbox", rich_help_panel=PARTS)
