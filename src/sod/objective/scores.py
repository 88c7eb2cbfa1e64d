"""What was scored of a batch: by the student as it sampled, and by its teacher.

Legend: B trajectories, T tokens, N action tokens in row-major order, K the k of top-k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, final

from torch import Tensor

from sod.objective.columns import Axes, check_axes
from sod.records import Fault

Level = Literal["sampled", "top1", "topk", "full"]
LEVELS: tuple[Level, ...] = ("sampled", "top1", "topk", "full")
"""How much of its distribution a teacher gives at a position: the log-probability of the sampled token, also the
highest probability (and the entropy, where it can), the k highest, or all of it. Each holds those before it."""

OldSource = Literal["engine", "trainer", "update"]
"""Whose log-probabilities count as the old ones: the engine's as it sampled, those of a forward of the trainer's for
that alone, or those of the very forward that the update takes its gradient from."""


@final
@dataclass(frozen=True)
class ScoreNeed:
    """What is asked of a teacher beside the log-probabilities of the sampled tokens.

    `top1` is the probability of its most probable token, `entropy` that of its distribution (nats), `k` the number of
    most probable tokens whose ids and log-probabilities are wanted (0: none).
    """

    top1: bool = False
    entropy: bool = False
    k: int = 0


SAMPLED_ONLY = ScoreNeed()


@final
@dataclass(frozen=True)
class TeacherScores:
    """A teacher's view of the tokens that somebody else sampled. Log-probabilities and entropy in nats, float32.

    logp_BT     of the action tokens; 0 at context
    top1_BT     probability of the most probable token at the same places; 0 at context
    entropy_BT  of the next-token distribution at the same places; 0 at context
    ids_NK      int64: the k most probable tokens of each action token's place, the most probable first
    logps_NK    their log-probabilities
    faults      by row: why a trajectory could not be scored; its values mean nothing

    Columns that were not asked for are None. Raises ValueError for shapes that do not agree.
    """

    logp_BT: Annotated[Tensor, Axes("BT")]
    top1_BT: Annotated[Tensor | None, Axes("BT")] = None
    entropy_BT: Annotated[Tensor | None, Axes("BT")] = None
    ids_NK: Annotated[Tensor | None, Axes("NK")] = None
    logps_NK: Annotated[Tensor | None, Axes("NK")] = None
    faults: Mapping[int, Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_axes(self)


@final
@dataclass(frozen=True)
class Scores:
    """The batch's tokens under the weights that sampled them (`old_BT`, nats, 0 at context), and as the teacher saw.

    `old_source` says whose figures the old ones are; an engine's are to be checked against the trainer's forward, and
    an update's are None until its forward.
    """

    old_BT: Annotated[Tensor | None, Axes("BT")]
    teacher: TeacherScores | None = None
    old_source: OldSource = "trainer"

    def __post_init__(self) -> None:
        check_axes(self)


@final
@dataclass(frozen=True)
class Targets:
    """What the loss pulls at: the advantage, and the factor `kappa * w_k` of a dense divergence. 0 at context."""

    advantage_BT: Annotated[Tensor, Axes("BT")]
    distil_BT: Annotated[Tensor | None, Axes("BT")] = None

    def __post_init__(self) -> None:
        check_axes(self)
