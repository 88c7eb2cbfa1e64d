"""The token batch: every trajectory of a step as right-padded tensors with absolute positions.

Legend: B trajectories, T tokens (padded), K turns, N action tokens in row-major order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, final

import torch
from torch import Tensor

from sod.objective.columns import Axes, action_numbers, check_axes, cut
from sod.objective.scores import OldSource, Scores, Targets, TeacherScores
from sod.records import Episode, Group, Task, Trajectory


@final
@dataclass(frozen=True)
class TokenBatch:
    """Trajectories as tensors. Log-probabilities are in nats; entry `t` is of token `t` given `< t`.

    token_BT        int64, right-padded with 0
    turn_BT         int64: 0 = context or padding, k = sampled in the k-th turn
    length_B        int64: tokens of each trajectory, prompt included
    group_B         int64: trajectories with equal numbers belong to one task (GRPO's group)
    reward_B        float32
    rewarded_B      bool: False where a fault left no reward: no part of any baseline, no reward advantage
    prompt_B        int64: tokens before the first that the student sampled
    sampled_BT      float32: log-probs reported by the sampler
    error_BK        bool: a tool call of turn k ended in a tool error (column k - 1)
    loss_weight_BT  float32: each token's weight in the loss of its mini-batch; None until there are mini-batches
    reward_advantage_B  float32: the rewards beside those of the step's other trajectories; None where nobody asked
    scores          what was scored; None before
    targets         what the method made of it; None before
    episodes        one per trajectory: messages and text, for teachers that read another rendering; empty for SFT

    Raises ValueError for shapes that do not agree.
    """

    token_BT: Annotated[Tensor, Axes("BT")]
    turn_BT: Annotated[Tensor, Axes("BT")]
    length_B: Annotated[Tensor, Axes("B")]
    group_B: Annotated[Tensor, Axes("B")]
    reward_B: Annotated[Tensor, Axes("B")]
    rewarded_B: Annotated[Tensor, Axes("B")]
    prompt_B: Annotated[Tensor, Axes("B")]
    sampled_BT: Annotated[Tensor, Axes("BT")]
    error_BK: Annotated[Tensor, Axes("BK")]
    loss_weight_BT: Annotated[Tensor | None, Axes("BT")] = None
    reward_advantage_B: Annotated[Tensor | None, Axes("B")] = None
    scores: Scores | None = None
    targets: Targets | None = None
    episodes: tuple[Episode, ...] = ()

    def __post_init__(self) -> None:
        check_axes(self)
        old_BT = None if self.scores is None else self.scores.old_BT
        if old_BT is not None and old_BT.shape != self.token_BT.shape:
            raise ValueError("the scores are of another batch: their shape differs")
        if self.targets is not None and self.targets.advantage_BT.shape != self.token_BT.shape:
            raise ValueError("the targets are of another batch: their shape differs")

    def __len__(self) -> int:
        return int(self.token_BT.shape[0])

    def action_tokens(self) -> int:
        """Sampled tokens in the batch."""
        return int((self.turn_BT > 0).sum())

    def filled(self, **columns: Tensor) -> TokenBatch:
        """A copy with the named columns set."""
        return replace(self, **columns)  # type: ignore[arg-type]

    def scored(
        self, old_BT: Tensor | None, teacher: TeacherScores | None = None, old_source: OldSource = "trainer"
    ) -> TokenBatch:
        """A copy that knows its scores; the old ones are None where the update's own forward will give them."""
        return replace(self, scores=Scores(old_BT, teacher, old_source))

    def with_old(self, old_BT: Tensor) -> TokenBatch:
        """A copy whose old log-probabilities are these, its other scores the same. Raises ValueError without any."""
        if self.scores is None:
            raise ValueError("the batch has no scores whose old log-probabilities could be set")
        return replace(self, scores=replace(self.scores, old_BT=old_BT))

    def aimed(self, advantage_BT: Tensor, distil_BT: Tensor | None = None) -> TokenBatch:
        """A copy that knows what the loss pulls at."""
        return replace(self, targets=Targets(advantage_BT, distil_BT))

    def rows(self, index: Sequence[int] | Tensor) -> TokenBatch:
        """The given trajectories, trimmed to their longest."""
        at_B = torch.as_tensor(index, dtype=torch.int64)
        width = int(self.length_B[at_B].max()) if len(at_B) else 0
        number_BT = action_numbers(self.turn_BT > 0)[at_B]
        return cut(self, at_B, width, number_BT[number_BT >= 0])

    @property
    def shortest(self) -> int:
        """The number of the shortest trajectory with an action token; ValueError where there is none."""
        lengths = self.length_B.tolist()
        rows: list[int] = torch.nonzero((self.turn_BT > 0).any(1)).flatten().tolist()
        return min(rows, key=lambda row: lengths[row])

    def micro_indices(self, budget: int, among: Sequence[int] | None = None) -> list[list[int]]:
        """Row numbers of each micro-batch: length-sorted, `rows x longest <= budget` tokens (padding counted).

        Of all rows, or of those `among` them. A trajectory longer than the budget gets a micro-batch of its own.
        """
        order = sorted(range(len(self)) if among is None else among, key=lambda row: (-int(self.length_B[row]), row))
        micros: list[list[int]] = []
        for row in order:
            if micros and int(self.length_B[micros[-1][0]]) * (len(micros[-1]) + 1) <= budget:
                micros[-1].append(row)
            else:
                micros.append([row])
        return micros

    def split(self, budget: int) -> list[TokenBatch]:
        """Micro-batches of at most `budget` tokens; see `micro_indices`."""
        return [self.rows(index) for index in self.micro_indices(budget)]

    def minibatches(self, groups: int) -> list[TokenBatch]:
        """Whole groups, `groups` of them at a time, in the order they were drawn."""
        kept = torch.unique(self.group_B, sorted=True)
        chunks = kept.split(groups)
        return [self.rows(torch.nonzero(torch.isin(self.group_B, chunk)).flatten()) for chunk in chunks]


def pack(
    groups: Sequence[Group], distill_before_fault: bool = False, tasks: Sequence[Task] | None = None
) -> TokenBatch:
    """The usable trajectories of `groups` as one batch, in order; with the tasks of the groups, its episodes too.

    Faulted episodes are not in it, unless `distill_before_fault`: then what they sampled before the fault
    follows after all the others, without a reward. Raises ValueError when nothing is left.
    """
    numbered = [(number, t) for number, group in enumerate(groups) for t in group.trajectories]
    usable = len(numbered)
    if distill_before_fault:
        before = [(number, t.before_fault()) for number, group in enumerate(groups) for t in group.faulted]
        numbered += [(number, t) for number, t in before if t.action_tokens]
    if not numbered:
        raise ValueError("no usable trajectory in this step: every episode faulted")
    trajectories = [trajectory for _, trajectory in numbered]
    return TokenBatch(
        token_BT=_pad([t.token_ids for t in trajectories], torch.int64),
        turn_BT=_pad([t.turn_ids for t in trajectories], torch.int64),
        length_B=torch.tensor([len(t.token_ids) for t in trajectories]),
        group_B=torch.tensor([number for number, _ in numbered]),
        reward_B=torch.tensor([t.reward for t in trajectories], dtype=torch.float32),
        rewarded_B=torch.arange(len(trajectories)) < usable,
        sampled_BT=_pad([t.sampled_logps for t in trajectories], torch.float32),
        prompt_B=torch.tensor([t.prompt_tokens for t in trajectories]),
        error_BK=_tool_errors(trajectories),
        episodes=() if tasks is None else tuple(Episode(tasks[number], t) for number, t in numbered),
    )


def with_prompts(batch: TokenBatch, prompts: Sequence[Sequence[int]] | Mapping[int, Sequence[int]]) -> TokenBatch:
    """The same trajectories after other prompts: what a teacher with privileged context reads.

    `prompts[g]` are the token ids that replace the prompt of every trajectory of group `g`; all that follows (the
    student's tokens, tool output, turn ids) is unchanged, so the action tokens are the same in the same order. Log-
    probabilities are 0, and nothing is scored yet.
    """
    tokens, turns = [], []
    lengths: list[int] = batch.length_B.tolist()
    for row, (group, start) in enumerate(zip(batch.group_B.tolist(), batch.prompt_B.tolist(), strict=True)):
        prompt = list(prompts[group])
        tokens.append(prompt + batch.token_BT[row, start : lengths[row]].tolist())
        turns.append([0] * len(prompt) + batch.turn_BT[row, start : lengths[row]].tolist())
    return replace(
        batch,
        token_BT=_pad(tokens, torch.int64),
        turn_BT=_pad(turns, torch.int64),
        length_B=torch.tensor([len(row) for row in tokens]),
        prompt_B=torch.tensor([len(prompts[group]) for group in batch.group_B.tolist()]),
        sampled_BT=_pad([[0.0] * len(row) for row in tokens], torch.float32),
        loss_weight_BT=None,
        scores=None,
        targets=None,
    )


def aligned(value_BT: Tensor, view: TokenBatch, batch: TokenBatch) -> Tensor:
    """Per-token values of `view` (see `with_prompts`) at the same action tokens of `batch`; 0 at context. Shape B x T.

    Raises ValueError where a trajectory has another number of action tokens in the two.
    """
    if not torch.equal((view.turn_BT > 0).sum(dim=1), (batch.turn_BT > 0).sum(dim=1)):
        raise ValueError("the teacher's view of a trajectory has another number of action tokens")
    blank_BT = torch.zeros(batch.token_BT.shape, dtype=value_BT.dtype)
    return blank_BT.masked_scatter(batch.turn_BT > 0, value_BT[view.turn_BT > 0])


def aligned_scores(scores: TeacherScores, view: TokenBatch, batch: TokenBatch) -> TeacherScores:
    """A teacher's scores of `view` as scores of `batch`; see `aligned`. Choices per action token need no moving."""
    return replace(
        scores,
        logp_BT=aligned(scores.logp_BT, view, batch),
        top1_BT=None if scores.top1_BT is None else aligned(scores.top1_BT, view, batch),
        entropy_BT=None if scores.entropy_BT is None else aligned(scores.entropy_BT, view, batch),
    )


def supervised_batch(
    ledgers: Sequence[tuple[Sequence[int], Sequence[int]]], weights: Sequence[Sequence[float]] | None = None
) -> TokenBatch:
    """SFT examples, each `(token_ids, turn_ids)`, as a batch: the assistant's tokens are the actions.

    `weights[b][k - 1]` is the loss weight of every token of turn k of example b, 1 where an example has no weights; a
    turn of weight 0 is context. The batch knows them as `loss_weight_BT`, which is None without `weights`.
    """
    turn_BT = _pad([turns for _, turns in ledgers], torch.int64)
    weight_BT = None
    if weights is not None:
        weight_BT = _pad(
            [_of_tokens(turns, own) for (_, turns), own in zip(ledgers, weights, strict=True)], torch.float32
        )
        turn_BT = turn_BT * (weight_BT > 0)
    return TokenBatch(
        token_BT=_pad([tokens for tokens, _ in ledgers], torch.int64),
        turn_BT=turn_BT,
        length_B=torch.tensor([len(tokens) for tokens, _ in ledgers]),
        group_B=torch.arange(len(ledgers)),
        reward_B=torch.zeros(len(ledgers)),
        rewarded_B=torch.ones(len(ledgers), dtype=torch.bool),
        prompt_B=(turn_BT > 0).to(torch.int64).argmax(dim=1),
        sampled_BT=torch.zeros(turn_BT.shape),
        error_BK=torch.zeros(len(ledgers), int(turn_BT.max()), dtype=torch.bool),
        loss_weight_BT=weight_BT,
    )


def _of_tokens(turns: Sequence[int], weights: Sequence[float]) -> list[float]:
    """The weight of each token by that of its turn, 0 at context."""
    by_turn = [0.0, *weights] if weights else [0.0, *([1.0] * max(turns))]
    return [by_turn[k] for k in turns]


def _tool_errors(trajectories: Sequence[Trajectory]) -> Tensor:
    turns = max(len(t.turns) for t in trajectories)
    error_BK = torch.zeros(len(trajectories), turns, dtype=torch.bool)
    for row, trajectory in enumerate(trajectories):
        for turn in trajectory.turns:
            error_BK[row, turn.index - 1] = any(result.error is not None for result in turn.results)
    return error_BK


def _pad(rows: Sequence[Sequence[int] | Sequence[float]], dtype: torch.dtype) -> Tensor:
    out = torch.zeros(len(rows), max(len(row) for row in rows), dtype=dtype)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=dtype)
    return out
