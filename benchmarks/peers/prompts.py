"""The prompts of `engine.py`: the same random token ids for every side. Standard library only."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

LOWEST, HIGHEST = 1_000, 40_000  # ordinary tokens of SmolLM2's vocabulary


def prompt_ids(settings: Mapping[str, Any], repetition: int) -> list[list[int]]:
    """`prompts` lists of `prompt_tokens` ids, other ones in every repetition."""
    rng = random.Random(repetition)
    return [
        [rng.randrange(LOWEST, HIGHEST) for _ in range(settings["prompt_tokens"])] for _ in range(settings["prompts"])
    ]
