"""`sod env`: worlds that agents act in, to be looked at, played, and played by scripted players."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sod.records import SodError
from sod.report.console import notice, out, rows_table

env_app = typer.Typer(no_args_is_help=True, help="Play in the worlds that agents act in, and have them played.")

WorldArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A world (`sod env list`), module:name, ./file.py:name, or a recipe (YAML) with one."
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Arguments of the world, e.g. hops=3; of a recipe its keys."),
]
SplitOption = Annotated[Literal["train", "validation"], typer.Option("--split", help="Whose tasks.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the chance in the world.")]
MaxTurnsOption = Annotated[int, typer.Option("--max-turns", min=1, help="Turns after which an episode is given up.")]

PLAY_EXAMPLES = """Examples:

- `sod env play searchqa`
- `sod env play searchqa hops=3 --task 7 --expert`
- `sod env play ./counter.py:Counter goal=5`"""
TRACES_EXAMPLES = """Examples:

- `sod env traces searchqa --out data/searchqa.jsonl`
- `sod env traces searchqa hops=3 --tasks 200 --out data/searchqa.parquet`"""
SPEED_EXAMPLES = """Examples:

- `sod env speed searchqa`
- `sod env speed searchqa --player random --episodes 500`"""


@env_app.command(name="list", epilog="Example: `sod env list`")
def list_worlds() -> None:
    """List the worlds that come with sod: names for `sod env play` and a recipe's environment.call."""
    from sod.environments.catalogue import CATALOGUE, INSTALL

    rows = []
    for world in CATALOGUE:
        missing = world.missing()
        rows.append((world.name, world.what, f"needs {', '.join(missing)}" if missing else "yes", world.path))
    out.print(rows_table("worlds", ("name", "what", "installed", "import path"), rows))
    if any(world.missing() for world in CATALOGUE):
        notice(f"{INSTALL} brings what is missing")


@env_app.command(epilog=PLAY_EXAMPLES)
def play(
    name: WorldArgument,
    arguments: Arguments = None,
    expert: Annotated[bool, typer.Option("--expert", help="Watch the world's scripted expert play.")] = False,
    task: Annotated[str, typer.Option("--task", help="Which task: its id, or its number from 0.")] = "0",
    split: SplitOption = "train",
    seed: SeedOption = 0,
    max_turns: MaxTurnsOption = 100,
) -> None:
    """Play an episode at the terminal, as the model would: read what it reads, type what it could say.

    Without a terminal the lines of the standard input are what is typed.
    """
    from sod.build.playable import playable, task_named
    from sod.cli.session import Session
    from sod.environments.playing import Game

    world = playable(name, arguments or [], split, notice)
    chosen = task_named(world, task, name)
    with world.worlds() as worlds:
        session = Session(Game(worlds, chosen, seed), chosen, world.spec.success, max_turns)
        session.watch() if expert else session.play()


@env_app.command(epilog=TRACES_EXAMPLES)
def traces(
    name: WorldArgument,
    to: Annotated[Path, typer.Option("--out", help="File to write: .jsonl or .parquet.")],
    arguments: Arguments = None,
    tasks: Annotated[int | None, typer.Option("--tasks", min=1, help="The first so many tasks; default: all.")] = None,
    split: SplitOption = "train",
    seed: SeedOption = 0,
    max_turns: MaxTurnsOption = 100,
) -> None:
    """Write what the world's expert does as conversations for a cold start (`data.sft`): one for each solved task."""
    from sod.build.playable import playable
    from sod.build.traces import traces as play_all
    from sod.tasks.files import write_conversations

    if to.suffix not in (".jsonl", ".parquet"):
        raise SodError(f"--out {to}: conversations are written as .jsonl or .parquet; name it so")
    made = play_all(playable(name, arguments or [], split, notice).first(tasks), seed, max_turns, name)
    write_conversations(to, made.conversations)
    out.print(f"{to}: {len(made.conversations):,} conversations of {made.played:,} episodes played", markup=False)
    if lost := made.played - len(made.conversations):
        notice(f"in {lost:,} episodes the expert did not reach the goal; they are left out")


@env_app.command(epilog=SPEED_EXAMPLES)
def speed(
    name: WorldArgument,
    arguments: Arguments = None,
    player: Annotated[
        Literal["expert", "random"], typer.Option("--player", help="Who plays: the world's expert, or any choice.")
    ] = "expert",
    count: Annotated[int, typer.Option("--episodes", min=1, help="Episodes to play.")] = 200,
    split: SplitOption = "train",
    seed: SeedOption = 0,
    max_turns: MaxTurnsOption = 100,
) -> None:
    """Measure how many episodes a minute the world plays, and how often a scripted player reaches the goal."""
    from sod.build.pace import pace
    from sod.build.playable import playable

    measured = pace(playable(name, arguments or [], split, notice), player, count, seed, max_turns)
    figures = [
        ("episodes a minute", f"{measured.per_minute:,.0f}"),
        ("episodes", f"{count:,}"),
        ("reached the goal", f"{measured.succeeded / count:.1%}"),
        ("reward of an episode", f"{measured.reward:.3f}"),
        ("turns of an episode", f"{measured.turns:.1f}"),
    ]
    out.print(rows_table(f"{name}, {player} player", ("what", "measured"), figures))
