"""Environments as users of verifiers 0.4 write them, for tests where that package is installed."""

from __future__ import annotations

from typing import ClassVar

import verifiers.v1 as vf


class ShelfData(vf.TaskData):
    goal: int


class ShelfState(vf.State):
    total: int = 0


class ShelfTools(vf.Toolset[vf.ToolsetConfig, ShelfState]):
    TOOL_PREFIX = "shelf"

    async def setup_task(self, task: ShelfData) -> None:
        self.goal = task.goal

    @vf.tool
    def put(self, number: int) -> str:
        """Put a number on the shelf."""
        if number < 0:
            raise ValueError("no debts")
        self.state.total += number
        return f"{self.state.total} of {self.goal}"


class ClockTools(vf.Toolset[vf.SharedToolsetConfig, vf.State]):
    """Shared by all tasks; counts how often it was set up."""

    TOOL_PREFIX = None
    setups = 0

    async def setup(self) -> None:
        type(self).setups += 1

    @vf.tool
    async def now(self) -> str:
        """Tell the time."""
        return "noon"


class ShelfTask(vf.Task[ShelfData, ShelfState]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [ShelfTools(vf.ToolsetConfig())]

    @vf.reward
    async def full(self, task: ShelfData, trace: vf.Trace) -> float:
        return float(trace.state.total == self.data.goal)

    @vf.reward(weight=0.5)
    async def polite(self, trace: vf.Trace) -> float:
        return float("thank" in trace.last_reply)

    @vf.stop
    async def over(self, trace: vf.Trace) -> bool:
        return trace.state.total > 10


class ShelfConfig(vf.TasksetConfig):
    goals: int = 12


class Shelf(vf.Taskset[ShelfTask, ShelfConfig]):
    @classmethod
    def toolsets(cls, config: ShelfConfig) -> list[vf.Toolset]:
        return [ClockTools(vf.SharedToolsetConfig())]

    def load(self):
        for goal in range(self.config.goals):
            data = ShelfData(prompt=f"Make {goal}.", system_prompt="You stack.", goal=goal)
            yield ShelfTask(data, self.config.task)


class RemoteConfig(vf.TasksetConfig):
    clock: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class Remote(vf.Taskset[ShelfTask, RemoteConfig]):
    """Its shared toolset may be at a url."""

    @classmethod
    def toolsets(cls, config: RemoteConfig) -> list[vf.Toolset]:
        return [ClockTools(config.clock)]

    def load(self):
        yield ShelfTask(ShelfData(prompt="Make 3.", goal=3))


class Boxed(Remote):
    """Its shared toolset is for a container."""

    @classmethod
    def toolsets(cls, config: RemoteConfig) -> list[vf.Toolset]:
        return [ClockTools(vf.SharedToolsetConfig(runtime=vf.DockerConfig()))]


class WatchedTask(ShelfTask):
    """Works in its runtime, and changes what the model reads."""

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        trace.state.total = int((await runtime.run(["sh", "-c", "echo 2 > shelf; cat shelf"], {})).stdout)

    async def finalize(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        trace.info["shelf"] = (await runtime.run(["cat", "shelf"], {})).stdout.strip()

    @vf.intercept
    async def veil(self, request: vf.Request) -> vf.Request | None:
        last = request.messages[-1]
        if not isinstance(last, vf.ToolMessage) or not last.content:
            return None
        return request.model_copy(
            update={"messages": [*request.messages[:-1], last.model_copy(update={"content": "?"})]}
        )

    @vf.reward
    async def kept(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return 10.0 * (trace.info["shelf"] == "2")


class TwiceTask(ShelfTask):
    """Two toolsets of one name."""

    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [ShelfTools(vf.ToolsetConfig()), ShelfTools(vf.ToolsetConfig())]


class BrokenTask(ShelfTask):
    """A reward that cannot be given."""

    @vf.reward
    async def full(self, trace: vf.Trace) -> float:
        raise ZeroDivisionError("no shelf")


class NanTask(ShelfTask):
    @vf.reward
    async def full(self, trace: vf.Trace) -> float:
        return float("nan")


class UnpreparedTask(ShelfTask):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        raise OSError("no wood")


class HurriedTask(ShelfTask):
    """Gives its agent a moment."""

    def __init__(self, data, config=None):
        super().__init__(data.model_copy(update={"timeout": vf.TaskTimeout(agent=0.1)}), config)


class PlainTask(vf.Task[ShelfData, vf.State]):
    """No tools."""


def _of(kind: type[vf.Task]) -> type[vf.Taskset]:
    class Made(vf.Taskset[kind, ShelfConfig]):
        def load(self):
            yield kind(ShelfData(prompt="Make 3.", goal=3))

    return Made


Twice, Broken, Nan, Unprepared = _of(TwiceTask), _of(BrokenTask), _of(NanTask), _of(UnpreparedTask)
Watched, Hurried = _of(WatchedTask), _of(HurriedTask)


class Plain(vf.Taskset[PlainTask, ShelfConfig]):
    """Its user opens the conversation."""

    def load(self):
        for goal in (3, 4):
            yield PlainTask(ShelfData(prompt=None, goal=goal))


class GuessConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class Guess(vf.Env[GuessConfig]):
    """A user who knows a number and answers every guess."""

    async def run(self, task, agents):
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn("Which number?")
            guesses = 0
            while not segment.terminated:
                guesses += 1
                if segment.last_reply == str(task.data.goal):
                    break
                segment = await talk.turn("No.")
        talk.trace.record_reward("guessed", float(segment.last_reply == str(task.data.goal)))
        talk.trace.record_metric("guesses", guesses)

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        trace.record_reward("quick", 0.25 if trace.metrics["guesses"] == 1 else 0.0)


class Kept(Guess):
    """Keeps something for all its episodes."""

    log: ClassVar[list[str]] = []

    async def start(self):
        self.log.append("start")

    async def stop(self):
        self.log.append("stop")


class Again(vf.Env[GuessConfig]):
    """Runs its agent twice."""

    async def run(self, task, agents):
        await agents.player.run(task.with_data(prompt="One."))
        await agents.player.run(task.with_data(prompt="Two."))


class PairConfig(vf.EnvConfig):
    one: vf.AgentConfig = vf.AgentConfig()
    other: vf.AgentConfig = vf.AgentConfig()


class Pair(vf.Env[PairConfig]):
    async def run(self, task, agents):
        await agents.one.run(task)


__all__ = ["Plain"]  # what `taskset: {id: verifiers_games}` finds

if __name__ == "__main__":
    ClockTools.run()
