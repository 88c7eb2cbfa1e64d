"""Another commit against this working tree, doing the same work in turns in one run.

    git worktree add --detach /tmp/base c076def
    python benchmarks/commits.py /tmp/base engine --model models/smollm2-135m --json engine.json
    python benchmarks/commits.py /tmp/base step --model models/smollm2-135m
    python benchmarks/commits.py /tmp/base quickstart --world .     # a folder in which `sod quickstart` has run

`engine` and `step` are the tasks of `engine.py` and `step.py`. `quickstart` is the training step of the quickstart's
recipe: after the warm-up, `--steps` of them are one repetition, and both sides begin with the same student. Both sides
run the workers of this tree on the packages of their own. Above 1: the working tree is faster.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import OURS, Side, add_options, run
from step import HERE, prompt_texts

WORKERS = {"engine": "sod_engine.py", "step": "sod_worker.py", "quickstart": "sod_quickstart.py"}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a checkout of the other commit")
    parser.add_argument("work", choices=WORKERS)
    add_options(parser)
    parser.add_argument("--model", default="models/smollm2-135m", help="of engine and step")
    parser.add_argument("--world", type=Path, default=Path("."), help="of quickstart")
    parser.add_argument("--prompts", type=int, help="default 64 for engine, 32 for step")
    parser.add_argument("--tokens", type=int, default=128, help="sampled for each prompt (default 128)")
    parser.add_argument("--steps", type=int, default=5, help="of quickstart, in one repetition (default 5)")
    options = parser.parse_args(arguments)
    if not (options.base / "src" / "sod").is_dir():
        sys.exit(f"{options.base}: no checkout of sod (src/sod is not there)")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What both sides are asked to do."""
    model = str(Path(options.model).resolve())
    if options.work == "engine":
        return {"model": model, "prompts": options.prompts or 64, "prompt_tokens": 96, "tokens": options.tokens}
    if options.work == "quickstart":
        return {"world": str(options.world.resolve()), "steps": options.steps}
    return {
        "model": model,
        "prompts": prompt_texts(options.prompts or 32),
        "tokens": options.tokens,
        "turns": 1,
        "page": None,
        "temperature": 1.0,
        "recompute": False,
    }


def main() -> None:
    options = parse_options()
    settings = settings_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "settings.json"
        path.write_text(json.dumps(settings))
        command = (sys.executable, str(HERE / "peers" / WORKERS[options.work]), str(path))

        def sides() -> list[Side]:
            trees = {OURS: HERE.parent, "base": options.base.resolve()}
            return [Side(name, command, {"PYTHONPATH": str(tree / "src")}, str(tree)) for name, tree in trees.items()]

        shown = settings | {"work": options.work, "base": str(options.base)}
        run(sides, options, shown | ({"prompts": len(settings["prompts"])} if options.work == "step" else {}))


if __name__ == "__main__":
    main()
