"""Our side of `engine.py`: `TorchEngine` as a run makes it. `python sod_engine.py SETTINGS.json`"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()  # as the `sod` command does

import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from prompts import prompt_ids
from protocol import Line

from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.load import load_model


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    line, numbers = Line(), count()
    engine = TorchEngine(load_model(settings["model"], "bfloat16"), frozenset(), settings["prompts"])

    def generate() -> dict[str, Any]:
        repetition = next(numbers)
        asked = [
            SampleRequest(f"{n}", ids, settings["tokens"], (repetition << 32) + n)
            for n, ids in enumerate(prompt_ids(settings, repetition))
        ]
        began = time.perf_counter()
        answers = engine.generate(asked, Sampling())
        seconds = time.perf_counter() - began
        engine.forget([request.session for request in asked])
        return {"seconds": seconds, "tokens": sum(len(answer.token_ids) for answer in answers)}

    line.ready("sod-distill", "transformers", "torch")
    line.serve(generate)


if __name__ == "__main__":
    main()
