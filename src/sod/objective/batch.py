"""The token batch: every trajectory of a step as right-padded tensors with absolute positions.

Legend: B trajectories, T tokens (padded), K turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sod.records import Group, Trajectory


@dataclass(frozen=True)
class TokenBatch:
    """Trajectories as tensors. Log-probabilities are in nats; entry `t` is of token `t` given `< t`.

    token_BT        int64, right-padded with 0
    turn_BT         int64: 0 = context or padding, k = sampled in the k-th turn
    length_B        int64: tokens of each trajectory, prompt included
    group_B         int64: trajectories with equal numbers belong to one task (GRPO's group)
    reward_B        float32
    sampled_BT      float32: log-probs reported by the sampler
    old_BT          float32: log-probs from the trainer's own forward before the update
    teacher_BT      float32: the teacher's log-probs of the same tokens
    advantage_BT    float32: what the surrogate multiplies
    rewarded_B      bool: False where a fault left no reward: no part of any baseline, no reward advantage
    prompt_B        int64: tokens before the first that the student sampled
    error_BK        bool: a tool call of turn k ended in a tool error (column k - 1)
    confidence_BT   float32: the teacher's top-1 probability at the same positions
    distil_BT       float32: the factor of a dense divergence, `kappa * w_k`
    loss_weight_BT        float32: each token's share in the loss of its mini-batch

    Columns of a phase are None until it has run; `rewarded_B` is None where every trajectory has its reward.
    """

    token_BT: Tensor
    turn_BT: Tensor
    length_B: Tensor
    group_B: Tensor
    reward_B: Tensor
    sampled_BT: Tensor
    old_BT: Tensor | None = None
    teacher_BT: Tensor | None = None
    advantage_BT: Tensor | None = None
    rewarded_B: Tensor | None = None
    prompt_B: Tensor | None = None
    error_BK: Tensor | None = None
    confidence_BT: Tensor | None = None
    distil_BT: Tensor | None = None
    loss_weight_BT: Tensor | None = None

    def __len__(self) -> int:
        return int(self.token_BT.shape[0])

    def action_tokens(self) -> int:
        """Sampled tokens in the batch."""
        return int((self.turn_BT > 0).sum())

    def filled(self, **columns: Tensor | None) -> TokenBatch:
        """A copy with the named columns set."""
        return replace(self, **columns)  # type: ignore[arg-type]

    def rows(self, index: Sequence[int] | Tensor) -> TokenBatch:
        """The given trajectories, trimmed to their longest."""
        at = torch.as_tensor(index, dtype=torch.int64)
        width = int(self.length_B[at].max()) if len(at) else 0
        columns: dict[str, Tensor | None] = {}
        for name in self.__dataclass_fields__:
            column: Tensor | None = getattr(self, name)
            if column is not None:
                columns[name] = column[at][:, :width] if name.endswith("_BT") else column[at]
        return TokenBatch(**columns)  # type: ignore[arg-type]

    def micro_indices(self, budget: int) -> list[list[int]]:
        """Row numbers of each micro-batch: length-sorted, `rows x longest <= budget` tokens (padding counted).

        A trajectory longer than the budget gets a micro-batch of its own.
        """
        order = sorted(range(len(self)), key=lambda row: (-int(self.length_B[row]), row))
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


def pack(groups: Sequence[Group], distill_before_fault: bool = False) -> TokenBatch:
    """The usable trajectories of `groups` as one batch, in order.

    Faulted episodes are not in it, unless `distill_before_fault`: then what they sampled before the fault
    follows after all the others, without a reward. Raises ValueError when nothing is left.
    """
    numbered = [(number, t) for number, group in enumerate(groups) for t in group.trajectories]
    usable = len(numbered)
    if distill_before_fault:
        cut = [(number, t.before_fault()) for number, group in enumerate(groups) for t in group.faulted]
        numbered += [(number, t) for number, t in cut if t.action_tokens]
    if not numbered:
        raise ValueError("no usable trajectory in this step: every episode faulted")
    trajectories = [trajectory for _, trajectory in numbered]
    return TokenBatch(
        token_BT=_pad([t.token_ids for t in trajectories], torch.int64),
        turn_BT=_pad([t.turn_ids for t in trajectories], torch.int64),
        length_B=torch.tensor([len(t.token_ids) for t in trajectories]),
        group_B=torch.tensor([number for number, _ in numbered]),
        reward_B=torch.tensor([t.reward for t in trajectories], dtype=torch.float32),
        rewarded_B=torch.arange(len(trajectories)) < usable if len(trajectories) > usable else None,
        sampled_BT=_pad([t.sampled_logps for t in trajectories], torch.float32),
        prompt_B=torch.tensor([t.prompt_tokens for t in trajectories]),
        error_BK=_tool_errors(trajectories),
    )


def with_prompts(batch: TokenBatch, prompts: Sequence[Sequence[int]]) -> TokenBatch:
    """The same trajectories after other prompts: what a teacher with privileged context reads.

    `prompts[g]` are the token ids that replace the prompt of every trajectory of group `g`; all that follows (the
    student's tokens, tool output, turn ids) is unchanged, so the action tokens are the same in the same order. Log-
    probabilities are 0. Raises ValueError where the prompts' lengths are not known.
    """
    if batch.prompt_B is None:
        raise ValueError("the batch does not know where its prompts end")
    tokens, turns = [], []
    lengths: list[int] = batch.length_B.tolist()
    for row, (group, start) in enumerate(zip(batch.group_B.tolist(), batch.prompt_B.tolist(), strict=True)):
        prompt = list(prompts[group])
        tokens.append(prompt + batch.token_BT[row, start : lengths[row]].tolist())
        turns.append([0] * len(prompt) + batch.turn_BT[row, start : lengths[row]].tolist())
    return TokenBatch(
        token_BT=_pad(tokens, torch.int64),
        turn_BT=_pad(turns, torch.int64),
        length_B=torch.tensor([len(row) for row in tokens]),
        group_B=batch.group_B,
        reward_B=batch.reward_B,
        sampled_BT=_pad([[0.0] * len(row) for row in tokens], torch.float32),
        prompt_B=torch.tensor([len(prompts[group]) for group in batch.group_B.tolist()]),
    )


def aligned(value_BT: Tensor, view: TokenBatch, batch: TokenBatch) -> Tensor:
    """Per-token values of `view` (see `with_prompts`) at the same action tokens of `batch`; 0 at context. Shape B x T.

    Raises ValueError where a trajectory has another number of action tokens in the two.
    """
    if not torch.equal((view.turn_BT > 0).sum(dim=1), (batch.turn_BT > 0).sum(dim=1)):
        raise ValueError("the teacher's view of a trajectory has another number of action tokens")
    blank_BT = torch.zeros(batch.token_BT.shape, dtype=value_BT.dtype)
    return blank_BT.masked_scatter(batch.turn_BT > 0, value_BT[view.turn_BT > 0])


def supervised_batch(ledgers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> TokenBatch:
    """SFT examples, each `(token_ids, turn_ids)`, as a batch: the assistant's tokens are the actions."""
    blank = [[0.0] * len(tokens) for tokens, _ in ledgers]
    return TokenBatch(
        token_BT=_pad([tokens for tokens, _ in ledgers], torch.int64),
        turn_BT=_pad([turns for _, turns in ledgers], torch.int64),
        length_B=torch.tensor([len(tokens) for tokens, _ in ledgers]),
        group_B=torch.arange(len(ledgers)),
        reward_B=torch.zeros(len(ledgers)),
        sampled_BT=_pad(blank, torch.float32),
    )


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
