"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warm import run_warm

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_one_step_shows_a_step_of_sod() -> None:
    """Every episode with its turns, weights within SOD's limits, and an update that moved the student."""
    done = run_warm([ROOT / "examples" / "one_step.py"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(re.findall(r"^chain-\d #\d: reward", done.stdout, re.M)) == 12
    weights = [float(w) for w in re.findall(r"^  turn \d  d [\d.]+  w ([\d.]+)", done.stdout, re.M)]
    assert len(weights) > 24
    assert all(0.0 <= weight <= 1.2 for weight in weights)
    assert len(set(weights)) > 6
    moved = re.search(r"largest change of a weight ([\d.e+-]+)", done.stdout)
    assert moved is not None
    assert 1e-5 < float(moved[1]) < 1e-1


def test_one_step_is_short_enough_to_be_read() -> None:
    lines = (ROOT / "examples" / "one_step.py").read_text().splitlines()
    assert len(lines) <= 110
