"""What the episodes of a run say about its recipe: told once each, with the key that helps.

Nothing here changes a run. A reward that is the same for all, a verifier that finds nothing to read and tools that only
fail are legal, and in most runs they mean that something was set up wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from sod.recipe import Notice, RewardSpec
from sod.records import Group, StopReason, Task, Trajectory
from sod.rewards.answers import SHOWN, Answers

FEWEST = 8  # episodes, groups or calls of which anything is said
MOSTLY = 0.8  # the share from which on a thing is the rule
LIMITS = {
    StopReason.LENGTH: "cut off at a token limit; raise rollout.max_turn_tokens and rollout.max_response_tokens",
    StopReason.MAX_TURNS: "still calling tools at their last turn; raise rollout.max_turns",
}


@final
@dataclass
class Hints:
    """Looks at the episodes of every step, or of an evaluation, and tells `notice` what stands out, each thing once.

    `compares` is whether rewards are compared within groups.
    """

    reward: RewardSpec
    notice: Notice
    compares: bool = True
    told: set[str] = field(default_factory=set)

    def look(self, tasks: Sequence[Task], groups: Sequence[Group]) -> None:
        """`tasks` are those of the groups, in order."""
        for kind, text in self._found(tasks, groups):
            if kind not in self.told:
                self.told.add(kind)
                self.notice(text)

    def _found(self, tasks: Sequence[Task], groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        if len(trajectories) >= FEWEST:
            cut_off = list(_cut_off(trajectories))
            yield from cut_off or self._unanswered(tasks, trajectories)
            yield from _failed_calls(trajectories)
        if self.compares:
            yield from _flat(groups)

    def _unanswered(self, tasks: Sequence[Task], trajectories: Sequence[Trajectory]) -> Iterator[tuple[str, str]]:
        judged = [task for task in tasks if self.reward.verifier_of(task) is not None]
        answered = any(one.answer is not None or one.opening is not None for one in trajectories)
        if not judged or answered:
            return  # in an environment what is said at the end need be no answer
        read = {self._reads(task) for task in judged}
        reads = "; ".join(f"the verifier reads {where}" for where in sorted(read))
        yield (
            "unanswered",
            f"0 of {len(trajectories)} episodes gave a readable answer ({reads}); have the prompts ask for it, "
            "teach it with `sod sft`, or change reward.answer or reward.verifier",
        )

    def _reads(self, task: Task) -> str:
        """Where the verifier of a task looks for the answer."""
        verifier = self.reward.verifier_of(task)
        if verifier == "code":
            return "the last fenced Python block"
        what = "a letter" if verifier == "choice" else "the answer"
        return f"{what} {SHOWN[Answers(self.reward.answer).forms(task)[0]]}"


def _cut_off(trajectories: Sequence[Trajectory]) -> Iterator[tuple[str, str]]:
    """Episodes that ended at a limit: they have not answered, whatever they had in mind."""
    for stop, happened in LIMITS.items():
        share = _share([trajectory.stop is stop for trajectory in trajectories])
        if share >= MOSTLY:
            yield stop.value, f"{share:.0%} of {len(trajectories)} episodes were {happened}"


def _failed_calls(trajectories: Sequence[Trajectory]) -> Iterator[tuple[str, str]]:
    results = [result for trajectory in trajectories for result in trajectory.tool_results]
    errors = Counter(result.error for result in results if result.error is not None)
    if len(results) < FEWEST or errors.total() < len(results):
        return
    name, count = errors.most_common(1)[0]
    helps = {
        "timeout": "raise tools.python.timeout_seconds, or that of your own tool",
        "memory": "raise tools.python.memory_mb",
    }.get(str(name), "see the results in trajectories/; `sod sft` teaches calls, chat.template is how they are written")
    yield "calls", f"every one of {len(results)} tool calls failed, {count} of them with {name}; {helps}"


def _flat(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """Groups of equal rewards, which have no advantage."""
    rewards = [[trajectory.reward for trajectory in group.trajectories] for group in groups]
    compared = [values for values in rewards if len(values) > 1]
    if len(compared) < FEWEST:
        return
    flat = [values for values in compared if len(set(values)) == 1]
    share = len(flat) / len(compared)
    if share < MOSTLY:
        return
    right = _share([group.trajectories[0].correct for group in groups if len(group.trajectories) > 1])
    tasks = "harder tasks" if right > 0.5 else "easier tasks, or `sod sft` first"
    yield (
        "flat",
        f"{share:.0%} of groups are flat (all rewards of a task equal), where the reward term says nothing; "
        f"raise rollout.samples, or take {tasks}",
    )


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
