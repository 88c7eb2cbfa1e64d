"""Which methods are set against which, and their differences: by seed, and by task where all seeds share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from sod.evaluation.statistics import spread

Cell = Mapping[str, Any]
BASELINES = ("opd", "opd_grpo")
FEATURED = "sod"
START = "start"


def paired(scores: Mapping[int, float], against: Mapping[int, float]) -> dict[str, Any] | None:
    """The difference of two methods over the seeds that both have, and how many of those each won.

    None where they have no seed in common.
    """
    shared = sorted(set(scores) & set(against))
    if not shared:
        return None
    gaps = [scores[seed] - against[seed] for seed in shared]
    wins, ties = sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps)
    return {**spread(gaps).as_dict(), "wins": wins, "ties": ties}


def paired_by_task(cells: Sequence[Cell], method: str, against: str) -> dict[str, Any] | None:
    """The same by task: each task's mean difference over the seeds in which both methods were judged on it.

    None where there is no such task, and where tasks are a seed's own.
    """
    ours, theirs = _correct_by_seed(cells, method), _correct_by_seed(cells, against)
    gaps: dict[str, list[float]] = {}
    for seed in sorted(set(ours) & set(theirs)):
        for task in ours[seed].keys() & theirs[seed].keys():
            gaps.setdefault(task, []).append(ours[seed][task] - theirs[seed][task])
    means = [fmean(gaps[task]) for task in sorted(gaps)]
    return spread(means).as_dict() if means else None


def differences(
    cells: Sequence[Cell], scores: Mapping[str, Mapping[int, float]], trained: Sequence[str], own: bool
) -> list[dict[str, Any]]:
    """Every trained method against the baselines, then SOD against the method that does best beside it.

    Without a world (`own`) the student before training is a baseline too, else the first of the trained methods where
    there is no other. Pairs without a seed in common are left out. `picked` marks the last row, whose pair depends on
    the scores.
    """
    baselines = [name for name in BASELINES if name in trained]
    if own:
        baselines = ([START] if START in scores else []) + baselines or list(trained[:1])
    rows = _rows(cells, scores, [(name, baseline) for baseline, name in product(baselines, trained)])
    if FEATURED in trained:
        against_each = _rows(cells, scores, [(FEATURED, name) for name in trained])
        if against_each:
            closest = min(against_each, key=lambda row: float(row["mean"]))
            rows.append({**closest, "picked": True})
    return rows


def _rows(
    cells: Sequence[Cell], scores: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """A row for each pair of two methods that have a seed in common."""
    rows = []
    for method, against in pairs:
        difference = paired(scores[method], scores[against])
        if method == against or difference is None:
            continue
        by_task = paired_by_task(cells, method, against)
        more = {} if by_task is None else {"by_task": by_task}
        rows.append({"method": method, "against": against, "picked": False, **difference, **more})
    return rows


def _correct_by_seed(cells: Sequence[Cell], method: str) -> dict[int, Mapping[str, float]]:
    """Correctness by task and seed; nothing of cells that were judged on tasks of their own."""
    own = {cell["seed"]: cell.get("correct") for cell in cells if cell["method"] == method}
    return {seed: correct for seed, correct in own.items() if isinstance(correct, Mapping)}
