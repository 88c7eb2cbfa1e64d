"""A world so small that everything the student can sample in it can be summed over.

Three tokens; token 2 ends a turn, and the next turn begins at once, so the turn ids touch. An episode is over after
`turns` turns or `longest` tokens. A turn's tool call fails where the turn begins with token 1, so errors depend on
what was sampled. Student and teacher are tables of logits, one row for each prefix.

Nothing here uses the package but `expected_gradient`: the figures of an `Episode`, baselines and shares are loops over
python floats, from the papers' formulas.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sod.objective import (
    Method,
    TokenBatch,
    advantage,
    distillation_loss,
    divergence,
    loss_weights,
    supervised_batch,
    surrogate,
)
from sod.objective.scores import TeacherScores

V, END = 3, 2
Sampled = tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """One thing that can be sampled, in python floats; per token unless it says `of the turns`."""

    tokens: Sampled
    turn_ids: list[int]
    logp: list[float]
    gap: list[float]
    top1: list[float]
    errors: list[bool]  # of the turns
    reward: float
    probability: float

    def of_turn(self, values: Sequence[float], k: int) -> list[float]:
        return [value for value, turn in zip(values, self.turn_ids, strict=True) if turn == k]

    @property
    def turns(self) -> range:
        return range(1, max(self.turn_ids) + 1)

    @property
    def d(self) -> list[float]:
        """Mean absolute teacher gap of the turns."""
        return [statistics.fmean(map(abs, self.of_turn(self.gap, k))) for k in self.turns]

    @property
    def h(self) -> list[float]:
        """Mean surprise of the turns."""
        return [-statistics.fmean(self.of_turn(self.logp, k)) for k in self.turns]

    @property
    def sure(self) -> list[float]:
        """Mean top-1 probability of the teacher over the turns."""
        return [statistics.fmean(self.of_turn(self.top1, k)) for k in self.turns]


@dataclass(frozen=True)
class World:
    """`rewards` None: a number that depends on every token."""

    student_PV: Tensor
    teacher_PV: Tensor
    longest: int
    turns: int
    reward: float | None = None

    @cached_property
    def sampled(self) -> list[Sampled]:
        """Everything that can be sampled."""
        return [(*p, a) for p in self.index for a in range(V) if self.over((*p, a))]

    @cached_property
    def index(self) -> dict[Sampled, int]:
        """Row of each prefix that something can be sampled after."""
        return rows(self.longest, self.turns)

    def over(self, tokens: Sampled) -> bool:
        return over(tokens, self.longest, self.turns)

    @cached_property
    def episodes(self) -> list[Episode]:
        return [self.episode(tokens) for tokens in self.sampled]

    def episode(self, tokens: Sampled) -> Episode:
        student, teacher = self.student_PV.softmax(-1).tolist(), self.teacher_PV.softmax(-1).tolist()
        at = [self.index[tokens[:t]] for t in range(len(tokens))]
        chosen = [student[row][token] for row, token in zip(at, tokens, strict=True)]
        gap = [math.log(teacher[row][token] / student[row][token]) for row, token in zip(at, tokens, strict=True)]
        turn_ids = [1 + tokens[:t].count(END) for t in range(len(tokens))]
        first = [tokens[turn_ids.index(k)] for k in range(1, turn_ids[-1] + 1)]
        mixed = sum((t + 1) * token for t, token in enumerate(tokens)) + len(tokens)
        return Episode(
            tokens=tokens,
            turn_ids=turn_ids,
            logp=[math.log(p) for p in chosen],
            gap=gap,
            top1=[max(teacher[row]) for row in at],
            errors=[token == 1 for token in first],
            reward=self.reward if self.reward is not None else (-1.0, 0.25, 1.0, 0.6)[mixed % 4],
            probability=math.prod(chosen),
        )


def over(tokens: Sampled, longest: int, turns: int) -> bool:
    return len(tokens) == longest or tokens.count(END) >= turns


def rows(longest: int, turns: int) -> dict[Sampled, int]:
    prefixes = [p for n in range(longest) for p in itertools.product(range(V), repeat=n)]
    return {p: row for row, p in enumerate(p for p in prefixes if not over(p, longest, turns))}


def make_world(
    longest: int = 4, turns: int = 3, seed: int = 7, alike: bool = False, reward: float | None = None
) -> World:
    """Random tables; with `alike` the teacher is the student, `reward` is what every episode earns."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(rows(longest, turns)), V)
    student_PV, teacher_PV = torch.randn(shape, generator=generator, dtype=torch.float64)
    return World(student_PV, student_PV if alike else teacher_PV, longest, turns, reward)


Signal = Callable[[Sequence[Episode]], list[list[float]]]
"""The episodes of a batch to the advantage of each of their tokens."""
Weights = Callable[[Episode], list[float]]
"""An episode to the weights of its turns."""


def distilled(weights: Weights, kappa: float = 1.0, rho: float = 0.0) -> Signal:
    """`kappa w_k delta_t + rho A`, the episodes of a batch being one group."""

    def signal(episodes: Sequence[Episode]) -> list[list[float]]:
        baselined = group_advantages([e.reward for e in episodes])
        table = []
        for episode, reward in zip(episodes, baselined, strict=True):
            weight = weights(episode)
            pairs = zip(episode.gap, episode.turn_ids, strict=True)
            table.append([kappa * weight[k - 1] * gap + rho * reward for gap, k in pairs])
        return table

    return signal


def ones(episode: Episode) -> list[float]:
    """No turn counts more than another."""
    return [1.0 for _ in episode.turns]


def group_advantages(rewards: list[float]) -> list[float]:
    """GRPO's; a group of one keeps its reward, equal rewards give 0."""
    if len(rewards) == 1:
        return rewards
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    return [(r - statistics.fmean(rewards)) / (statistics.stdev(rewards) + 1e-6) for r in rewards]


def shares(episodes: Sequence[Episode], loss_aggregation: str) -> list[list[float]]:
    """Each token's part of the mean."""
    tokens = sum(len(e.tokens) for e in episodes)
    turns = sum(len(e.turns) for e in episodes)
    if loss_aggregation == "token-mean":
        return [[1 / tokens for _ in e.tokens] for e in episodes]
    if loss_aggregation == "seq-mean-token-mean":
        return [[1 / (len(e.tokens) * len(episodes)) for _ in e.tokens] for e in episodes]
    return [[1 / (e.turn_ids.count(k) * turns) for k in e.turn_ids] for e in episodes]


def payoff(world: World, signal: Signal, size: int, loss_aggregation: str) -> Callable[[Tensor], Tensor]:
    """The exact objective as a function of the student's table, `size` episodes making a batch.

    After every prefix the student meets a bandit: an action is worth what share times signal will be on average over
    all that can follow it (and over all other episodes of the batch). The objective is minus the sum over prefixes of
    the probability to get there times the expected worth of the action taken. Only the action's probability moves.
    """
    worth_PV = torch.zeros_like(world.student_PV)
    probability_PV = world.student_PV.softmax(-1)
    for episodes in itertools.product(world.episodes, repeat=size):
        probability = math.prod(e.probability for e in episodes)
        for episode, values, parts in zip(episodes, signal(episodes), shares(episodes, loss_aggregation), strict=True):
            for t, token in enumerate(episode.tokens):
                worth_PV[world.index[episode.tokens[:t]], token] += probability * parts[t] * values[t]
    worth_PV = worth_PV / probability_PV  # given the action, not together with it
    return lambda theta_PV: -(theta_PV.softmax(-1) * worth_PV).sum()


def exact_gradient(world: World, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Of an exact objective at the student's table, by autograd."""
    theta_PV = world.student_PV.clone().requires_grad_()
    (gradient_PV,) = torch.autograd.grad(function(theta_PV), theta_PV)
    return gradient_PV


def numeric_gradient(world: World, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The same by central differences."""
    gradient_PV = torch.zeros_like(world.student_PV)
    for row, token in itertools.product(*map(range, gradient_PV.shape)):
        step_PV = torch.zeros_like(gradient_PV)
        step_PV[row, token] = 1e-5
        ends = [float(function(world.student_PV + sign * step_PV)) for sign in (1, -1)]
        gradient_PV[row, token] = (ends[0] - ends[1]) / 2e-5
    return gradient_PV


def batch_of(world: World, episodes: Sequence[Episode]) -> TokenBatch:
    """The episodes as a batch of one group, after one prompt token, with all that a method may ask for."""
    batch = supervised_batch([([0, *e.tokens], [0, *e.turn_ids]) for e in episodes])
    error_BK = torch.zeros(len(episodes), world.turns, dtype=torch.bool)
    for row, episode in enumerate(episodes):
        error_BK[row, : len(episode.errors)] = torch.tensor(episode.errors)

    def column(values: list[list[float]]) -> Tensor:
        flat = torch.tensor([v for row in values for v in row], dtype=torch.float64)
        return torch.zeros(batch.token_BT.shape, dtype=torch.float64).masked_scatter(batch.turn_BT > 0, flat)

    batch = batch.filled(
        group_B=torch.zeros(len(episodes), dtype=torch.int64),
        reward_B=torch.tensor([e.reward for e in episodes]),
        error_BK=error_BK,
    )
    teacher = TeacherScores(
        logp_BT=column([[a + b for a, b in zip(e.logp, e.gap, strict=True)] for e in episodes]),
        top1_BT=column([e.top1 for e in episodes]),
    )
    return batch.scored(column([e.logp for e in episodes]), teacher)


def expected_gradient(world: World, method: Method, size: int = 1, step: int = 1) -> Tensor:
    """The gradient of the package's own loss at theta = old, averaged over every batch of `size` episodes."""
    theta_PV = world.student_PV.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for episodes in itertools.product(world.episodes, repeat=size):
        batch = batch_of(world, episodes)
        signal = advantage(method, batch, step)
        batch = batch.aimed(signal.advantage_BT, signal.distil_BT)
        batch = batch.filled(loss_weight_BT=loss_weights(batch.turn_BT, method.loss_aggregation))
        at_N = torch.tensor([world.index[e.tokens[:t]] for e in episodes for t in range(len(e.tokens))])
        token_N = torch.tensor([token for e in episodes for token in e.tokens])
        action_BT = batch.turn_BT > 0
        blank_BT = torch.zeros(action_BT.shape, dtype=torch.float64)
        logp_BT = blank_BT.masked_scatter(action_BT, theta_PV.log_softmax(-1)[at_N, token_N])
        loss = surrogate(method, logp_BT, batch).loss
        if method.divergence is not None:
            dense_N = divergence(theta_PV[at_N], world.teacher_PV[at_N], method.divergence)
            loss = loss + distillation_loss(blank_BT.masked_scatter(action_BT, dense_N), batch)
        total = total + math.prod(e.probability for e in episodes) * loss
    (gradient_PV,) = torch.autograd.grad(total, theta_PV)
    return gradient_PV


def assert_proven(world: World, method: Method, signal: Signal, size: int = 1, step: int = 1) -> None:
    """The package's expected gradient is that of `payoff`, by autograd and by finite differences."""
    assert_gradient_of(world, method, payoff(world, signal, size, method.loss_aggregation), size, step)


def assert_gradient_of(
    world: World, method: Method, function: Callable[[Tensor], Tensor], size: int = 1, step: int = 1
) -> None:
    """The package's expected gradient is that of `function`, by autograd and by finite differences."""
    ours_PV, exact_PV = expected_gradient(world, method, size, step), exact_gradient(world, function)
    torch.testing.assert_close(ours_PV, exact_PV, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(numeric_gradient(world, function), exact_PV, atol=1e-8, rtol=1e-6)
    assert float(exact_PV.abs().max()) > 1e-2  # something to be wrong about
