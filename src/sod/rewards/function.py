"""Reward functions of the user's own: what they are given, how they are called, and how what they return is read.

A function takes one `records.Episode` (a task and the whole trajectory), or a list of them where its parameter says so
(`episodes`, or the annotation `list[Episode]`): then it is called once for a group. It may be async. It returns a
number; or a mapping of names to numbers, whose sum is the reward; or a `records.Verdict`, which also says what was
answered. A function of groups returns a list of those, one for each episode.

What it raises, a time limit that passes and a number that is not finite are faults of that episode, or group: nothing
is learned from it. Anything else than a number is a mistake in the function, and stops the run.
"""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, SupportsFloat, final, get_origin

from sod.asynchronous import Called, LeftBehind, LoopBlockedError, Raised, Returned, called, error_at, loop_thread
from sod.outcomes import retried
from sod.records import Episode, Fault, FaultKind, SodError, ToolFault, Verdict, may_retry

SECONDS = 60.0
WORKERS = 8
LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
LIST_NAMES = ("list", "tuple", "sequence", "iterable", "collection")
"""The same by name, where a hint cannot be looked up: it was imported for type checkers only, say."""
RETURNS = "return a number, or a mapping of names to numbers"


@final
@dataclass(frozen=True)
class OwnReward:
    """A reward function and how it is called.

    `part` names its share of the reward, which is what it returns times `weight`. `where` is what messages call it.
    `groups`: it takes the episodes of a group at once. `seconds` (wall clock) bound a call, and `workers` how many run
    at a time.
    """

    part: str
    function: Callable[[Any], Any]
    where: str
    weight: float = 1.0
    groups: bool = False
    seconds: float = SECONDS
    workers: int = WORKERS


@final
@dataclass(frozen=True)
class Score:
    """What functions gave an episode: weighted parts by name, and the verdict of the first that returned one."""

    parts: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None

    def beside(self, other: Score) -> Score:
        """This one and another function's."""
        return Score({**self.parts, **other.parts}, self.verdict or other.verdict)


@final
@dataclass(frozen=True)
class _Call:
    """A call of a function for the episodes at these places."""

    reward: OwnReward
    places: Sequence[int]
    episodes: Sequence[Episode]

    @property
    def argument(self) -> Episode | list[Episode]:
        return list(self.episodes) if self.reward.groups else self.episodes[0]


def own_reward(
    thing: Any, part: str, where: str, weight: float = 1.0, seconds: float = SECONDS, workers: int = WORKERS
) -> OwnReward:
    """The reward function that `thing` is: a function, an object that can be called, or a class of such objects.

    Raises SodError, which names `where`, for what cannot be called with an episode, or a list of them, alone.
    """
    function = _made(thing, where) if inspect.isclass(thing) else thing
    if not callable(function):
        raise SodError(f"{where}: is a {type(function).__name__} and cannot be called; name a function of an episode")
    return OwnReward(part, function, where, weight, _takes_groups(function, where), seconds, workers)


def scored(rewards: Sequence[OwnReward], episodes: Sequence[Episode], retries: int = 0) -> list[Score | Fault]:
    """What all functions give each episode, in order; calls that fault are tried again up to `retries` times.

    Raises SodError where a function returns what is no number, and where an async one never lets others run.
    """
    calls = [call for reward in rewards for call in _calls(reward, episodes)]
    outcomes, _ = retried(calls, _run, may_retry, retries)
    scores: list[Score | Fault] = [Score() for _ in episodes]
    for call, outcome in zip(calls, outcomes, strict=True):
        given = [outcome] * len(call.places) if isinstance(outcome, Fault) else outcome
        for place, score in zip(call.places, given, strict=True):
            scores[place] = _together(scores[place], score)
    return scores


def _together(known: Score | Fault, more: Score | Fault) -> Score | Fault:
    """One fault is enough: the reward lacks a part."""
    if isinstance(known, Fault):
        return known
    return more if isinstance(more, Fault) else known.beside(more)


def _made(thing: type, where: str) -> Any:
    try:
        return thing()
    except SodError:
        raise
    except Exception as error:
        raise SodError(f"{where}: making one failed: {error_at(error)}; it is called without arguments") from error


def _takes_groups(function: Callable[..., Any], where: str) -> bool:
    """Whether a function's one parameter is a list of episodes. Raises SodError where it is not one parameter."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, AttributeError, SyntaxError):  # hints that mean nothing at run time
        signature = inspect.signature(function)
    except ValueError:  # a builtin that does not say
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [one for one in signature.parameters.values() if one.kind in kinds]
    needed = [one for one in signature.parameters.values() if one.default is one.empty and "VAR" not in one.kind.name]
    if not taken or needed not in ([], taken[:1]):
        shown = ", ".join(one.name for one in needed) or "nothing"
        raise SodError(f"{where}: takes {shown}; a reward function takes one episode, or a list of a group's episodes")
    hint = taken[0].annotation
    if hint is inspect.Parameter.empty:
        return taken[0].name == "episodes"
    if isinstance(hint, str):
        return hint.partition("[")[0].rpartition(".")[2].lower() in LIST_NAMES
    return (get_origin(hint) or hint) in LISTS


def _calls(reward: OwnReward, episodes: Sequence[Episode]) -> list[_Call]:
    """The calls that score these episodes, which stand group by group, sample by sample."""
    places: list[list[int]] = []
    for place, episode in enumerate(episodes):
        before = episodes[place - 1] if place else None
        if reward.groups and before is not None and _one_group(before, episode):
            places[-1].append(place)
        else:
            places.append([place])
    return [_Call(reward, mine, [episodes[place] for place in mine]) for mine in places]


def _one_group(one: Episode, after: Episode) -> bool:
    """Whether an episode is of the group of the one before it: a task drawn twice in a step begins at sample 0 anew."""
    return one.task.id == after.task.id and one.trajectory.sample < after.trajectory.sample


def _run(calls: Sequence[_Call]) -> list[list[Score | Fault] | Fault]:
    """All of the calls, as many at a time as each function allows."""
    try:
        outcomes = loop_thread().run(_all_called(calls))
    except LoopBlockedError:
        names = ", ".join(dict.fromkeys(call.reward.where for call in calls))
        raise SodError(
            f"{names}: an async reward function keeps the event loop to itself, so that nothing else runs; await what "
            "takes long, or leave the async out"
        ) from None
    return [_read(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]


async def _all_called(calls: Sequence[_Call]) -> list[Called]:
    places = {id(call.reward): asyncio.Semaphore(call.reward.workers) for call in calls}
    left_behind = LeftBehind()

    async def one(call: _Call) -> Called:
        async with places[id(call.reward)]:
            return await called(partial(call.reward.function, call.argument), call.reward.seconds, left_behind)

    return list(await asyncio.gather(*[one(call) for call in calls]))


def _read(call: _Call, outcome: Called) -> list[Score | Fault] | Fault:
    """What a call gave each of its episodes; a fault where it gave nothing."""
    where = call.reward.where
    if isinstance(outcome, Returned):
        values = _one_each(call, outcome.value) if call.reward.groups else [outcome.value]
        return [_score(call.reward, value, one) for value, one in zip(values, call.episodes, strict=True)]
    if not isinstance(outcome, Raised):
        return Fault(FaultKind.VERIFIER, f"{where}: no result within {call.reward.seconds:g} s", retryable=False)
    error = outcome.error
    if isinstance(error, SodError):
        raise error
    retryable = error.retryable if isinstance(error, ToolFault) else True
    return Fault(FaultKind.VERIFIER, f"{where}: {error_at(error)}", retryable)


def _one_each(call: _Call, value: Any) -> list[Any]:
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    given = list(value) if several else None
    if given is None or len(given) != len(call.episodes):
        returned = f"{len(given)} values" if given is not None else f"a {type(value).__name__}"
        raise SodError(
            f"{call.reward.where}: returned {returned} for the {len(call.episodes)} episodes of task "
            f"{call.episodes[0].task.id}; return a list with one entry for each"
        )
    return given


def _score(reward: OwnReward, value: Any, episode: Episode) -> Score | Fault:
    """What was returned for an episode. Raises SodError where it is no number."""
    if isinstance(value, Fault):
        return value
    verdict = value if isinstance(value, Verdict) else None
    if isinstance(value, Mapping):
        named = {f"{reward.part}/{name}": part for name, part in value.items()}
    else:
        named = {reward.part: value if verdict is None else verdict.score}
    parts: dict[str, float] = {}
    for name, part in named.items():
        number = _number(part)
        about = (
            f"{reward.where}: returned {_shown(part)}{f' as {name}' if name != reward.part else ''} for {_of(episode)}"
        )
        if number is None:
            raise SodError(f"{about}; {RETURNS}")
        if not math.isfinite(number * reward.weight):
            return Fault(FaultKind.VERIFIER, f"{about}; return a finite number", retryable=False)
        parts[name] = number * reward.weight
    return Score(parts, verdict)


def _number(value: Any) -> float | None:
    """The number that a value is (of Python, NumPy or a tensor's one element), else None."""
    if not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array or tensor of several
        return None


def _of(episode: Episode) -> str:
    return f"task {episode.task.id}, sample {episode.trajectory.sample}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
