"""Both sides of `commits.py quickstart`: training steps of its recipe. `python sod_quickstart.py SETTINGS.json`

Of `sod` it uses what the older commits to compare with have, too.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()  # as the `sod` command does

import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from protocol import Line

from sod.build.method import make_method
from sod.build.training import checked, opened
from sod.clock import Clock
from sod.recipe import load_recipe
from sod.training.step import Run, gather, learn

PHASES = ("sample", "tools", "reward", "teacher", "update")


def taken(run: Run, steps: range) -> dict[str, Any]:
    """Seconds of these steps, whole and by phase; their tokens."""
    seconds: Counter[str] = Counter()
    tokens, began = 0, time.perf_counter()
    for step in steps:
        run.clock = Clock()
        gathered = gather(run, step)
        learn(run, gathered.batch, step)
        seconds.update(run.clock.seconds)
        tokens += int(gathered.batch.length_B.sum())
    whole = time.perf_counter() - began
    return {"seconds": whole, "tokens": tokens} | {f"{phase}_seconds": seconds[phase] for phase in PHASES}


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    line, size = Line(), settings["steps"]
    os.chdir(settings["world"])  # where the recipe's relative paths lead
    with ExitStack() as resources:
        scratch = resources.enter_context(tempfile.TemporaryDirectory())
        recipe = load_recipe("recipes/quickstart.yaml")
        inputs = checked(recipe, make_method(recipe.method), Path(scratch) / "run", False, print, resources)
        (run, _), repetitions = opened(inputs, resources), count()

        def repetition() -> dict[str, Any]:
            first = 1 + next(repetitions) * size
            return taken(run, range(first, first + size))

        line.ready("sod-distill", "transformers", "torch")
        line.serve(repetition)


if __name__ == "__main__":
    main()
