"""How much of what the student said a teacher of another tokenizer can score: figures, and when it is too little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from sod.alignment.turns import Coverage
from sod.objective.scores import Aligned
from sod.records import SodError

LEFT_OUT = ("control", "syntax", "straddling", "unmatched")
"""Kinds of tokens that are in no span, by the names of `Coverage`."""


def refuse_low_coverage(turns: Sequence[Mapping[int, Coverage]], least: float, path: str) -> None:
    """Raises SodError where less than `least` of the contents of all turns is matched.

    `turns` are those of each episode by number. Names the turn with the lowest share, and what mostly is left out
    there.
    """
    by_number = _by_number(turns)
    share = sum(by_number.values(), Coverage()).share
    if share >= least:
        return
    number = min(by_number, key=lambda number: by_number[number].share)
    worst = by_number[number]
    if worst.unmatched >= worst.straddling:
        kind, count = "unmatched (in other bytes there, or not to be written there at all)", worst.unmatched
    else:
        kind, count = "straddling (tokens across the edge of what is equal)", worst.straddling
    raise SodError(
        f"{path}: this teacher of another tokenizer can score {share:.0%} of what the student said in the step's "
        f"{len(turns)} episodes, less than method.alignment.min_coverage={least:g}; lowest is turn {number} with "
        f"{worst.share:.0%}: {count:,} of its {worst.tokens:,} tokens are {kind}; take a teacher of a nearer chat "
        "template, or lower the limit"
    )


def coverage_figures(aligned: Aligned) -> dict[str, float]:
    """Metrics: what is matched of contents, in all and by turn; and of all action tokens, with what is left out."""
    by_turn = [_coverage(counts_C) for counts_C in aligned.coverage_BUC.sum(0)]
    whole = sum(by_turn, Coverage())
    figures = {"coverage": whole.share, "aligned": whole.matched / max(1, whole.tokens)}
    figures |= {f"coverage/turn{number}": one.share for number, one in enumerate(by_turn, start=1) if one.tokens}
    figures |= {f"left_out/{kind}": getattr(whole, kind) / max(1, whole.tokens) for kind in LEFT_OUT}
    return figures | {"unread": float(aligned.unread_B.sum())}


def turn_coverage(aligned: Aligned, row: int) -> list[float]:
    """The share of contents that is matched in each turn of a row, by its number less one; 1 where it has none."""
    return [_coverage(counts_C).share for counts_C in aligned.coverage_BUC[row]]


def _coverage(counts_C: Tensor) -> Coverage:
    return Coverage(*counts_C.tolist())


def _by_number(turns: Sequence[Mapping[int, Coverage]]) -> dict[int, Coverage]:
    """The coverage of all first turns, of all second ones, and so on."""
    by_number: dict[int, Coverage] = {}
    for episode in turns:
        for number, coverage in episode.items():
            by_number[number] = by_number.get(number, Coverage()) + coverage
    return by_number
