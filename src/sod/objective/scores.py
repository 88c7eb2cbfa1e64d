"""What was scored of a batch: by the student as it sampled, and by its teacher.

Legend: B trajectories, T tokens, N action tokens in row-major order, K the k of top-k, U turns, C counts.
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
    most probable tokens whose ids and log-probabilities are wanted (0: none). `rendering`: also what a teacher of
    another tokenizer read, for a loss over spans.
    """

    top1: bool = False
    entropy: bool = False
    k: int = 0
    rendering: bool = False


SAMPLED_ONLY = ScoreNeed()


@final
@dataclass(frozen=True)
class Rendering:
    """What a teacher of another tokenizer read: its own tokens, padded, L of them. Int64.

    token_BL, turn_BL  its token ids, and the turn that each is in: 0 at context
    span_BL            the span that each is in, by the numbers of `Aligned`; 0: in none
    length_B           its tokens of each trajectory; 0 where it read nothing
    """

    token_BL: Annotated[Tensor, Axes("BL")]
    turn_BL: Annotated[Tensor, Axes("BL")]
    span_BL: Annotated[Tensor, Axes("BL")]
    length_B: Annotated[Tensor, Axes("B")]

    def __post_init__(self) -> None:
        check_axes(self)


@final
@dataclass(frozen=True)
class Aligned:
    """What a teacher of another tokenizer could score of the student's tokens: those in spans of equal bytes.

    span_BT       int64: the number of the span that a token is in, from 1 on over the whole batch; 0: in none
    coverage_BUC  int64: what became of the tokens of each turn, the counts of `sod.alignment.turns.Coverage` in order
    unread_B      bool: the teacher could not be shown the trajectory at all
    rendering     what it read instead; None where nobody asked
    """

    span_BT: Annotated[Tensor, Axes("BT")]
    coverage_BUC: Annotated[Tensor, Axes("BUC")]
    unread_B: Annotated[Tensor, Axes("B")]
    rendering: Rendering | None = None

    def __post_init__(self) -> None:
        check_axes(self)


@final
@dataclass(frozen=True)
class TeacherScores:
    """A teacher's view of the tokens that somebody else sampled. Log-probabilities and entropy in nats, float32.

    logp_BT     of the action tokens; 0 at context. With `aligned` at each token that of its whole span, 0 in none
    top1_BT     probability of the most probable token at the same places; 0 at context
    entropy_BT  of the next-token distribution at the same places; 0 at context
    ids_NK      int64: the k most probable tokens of each action token's place, the most probable first
    logps_NK    their log-probabilities
    faults      by row: why a trajectory could not be scored; its values mean nothing
    aligned     which tokens it could score, where its own are others; None: all of them, each as it was sampled
    weight_B    factor on the teacher's signal in each trajectory; None: 1 in all

    Top-1 probability and entropy at a token of a span are the means over the teacher's tokens of that span.
    Columns that were not asked for are None. Raises ValueError for shapes that do not agree.
    """

    logp_BT: Annotated[Tensor, Axes("BT")]
    top1_BT: Annotated[Tensor | None, Axes("BT")] = None
    entropy_BT: Annotated[Tensor | None, Axes("BT")] = None
    ids_NK: Annotated[Tensor | None, Axes("NK")] = None
    logps_NK: Annotated[Tensor | None, Axes("NK")] = None
    faults: Mapping[int, Fault] = field(default_factory=dict)
    aligned: Aligned | None = None
    weight_B: Annotated[Tensor | None, Axes("B")] = None

    def __post_init__(self) -> None:
        check_axes(self)

    def scored_at(self, turn_BT: Tensor) -> Tensor:
        """Bool: the action tokens that the teacher has a score for. Shape B x T."""
        return turn_BT > 0 if self.aligned is None else self.aligned.span_BT > 0


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
