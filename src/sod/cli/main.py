"""The `sod` command: parses and calls, no logic."""

from __future__ import annotations

import sys

import typer

from sod.cli.allocator import reexecute_with_tunables
from sod.cli.compare import compare
from sod.cli.evaluate import evaluate
from sod.cli.making import data_app, models_app
from sod.cli.running import quickstart, sft, train
from sod.cli.sandbox import sandbox_app
from sod.records import SodError
from sod.report.console import err, methods_table, out, rows_table

try:  # newer typer brings its own copy of click
    from typer._click.exceptions import ClickException, NoArgsIsHelpError
except ImportError:
    from click.exceptions import ClickException, NoArgsIsHelpError  # type: ignore[assignment]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(models_app, name="models")
app.command()(train)
app.command()(sft)
app.command(name="eval")(evaluate)
app.command()(quickstart)
app.command()(compare)


def main() -> None:
    """Entry point of the console script: one line for every expected error, exit codes 1, 130 and 143."""
    reexecute_with_tunables()
    try:
        app(standalone_mode=False)
    except SodError as error:
        err.print(f"error: {error}", markup=False)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        err.print("stopped at once; the newest checkpoint is kept", markup=False)
        sys.exit(130)
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


@app.command()
def methods() -> None:
    """List the methods: paper, what each needs, its knobs and their defaults."""
    from sod.build.method import knob_rows, method_rows

    out.print(methods_table(method_rows()))
    out.print(rows_table("knobs", ("knob", "values", "meaning"), knob_rows()))
