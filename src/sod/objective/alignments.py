"""How a teacher of another tokenizer gives its signal, over spans of equal bytes (`sod.alignment`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

from sod.objective.scores import Level

Kind = Literal["chunk", "simct", "shared_tokens", "strict_topk", "gold", "uld", "bpm"]
UnitScore = Literal["logp", "logit"]


def default_kind(level: Level) -> Kind:
    """The estimator for a teacher that gives so much of its distribution: SimCT's where that is all of it."""
    return "simct" if level == "full" else "chunk"


@final
@dataclass(frozen=True)
class Alignment:
    """Which estimator, and its settings; each reads its own, see `sod.alignment.estimators`.

    `top_k` of strict_topk, `beta` and `matched` of gold, `unit_score` of simct. Raises ValueError for another kind.
    """

    kind: Kind = "chunk"
    top_k: int = 16
    beta: float = 0.5
    matched: float | None = None
    unit_score: UnitScore = "logp"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"alignment kind {self.kind!r} is none of {', '.join(get_args(Kind))}")

    @property
    def dense(self) -> bool:
        """Whether it compares whole distributions, and so is a loss of its own, beside the advantage."""
        return self.kind != "chunk"
