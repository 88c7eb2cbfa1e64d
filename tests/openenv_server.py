"""Servers of OpenEnv, run as `python openenv_server.py text|tools PORT`: a guessing game, and a box of numbers."""

from __future__ import annotations

import random
import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State


class Guess(Action):
    """A guess."""

    message: str


class Answer(Observation):
    """What the game says."""

    text: str = ""


class Guessing(Environment[Guess, Answer, State]):
    """A number from 1 to 9 that the seed decides."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **given: Any) -> Answer:
        self.number = random.Random(seed).randint(1, 9)
        return Answer(text="Guess a number from 1 to 9.")

    def step(self, action: Guess, timeout_s: float | None = None, **given: Any) -> Answer:
        if not action.message.strip().isdigit():
            return Answer(text="A number.", reward=-0.5)
        guess = int(action.message)
        if guess == self.number:
            return Answer(text="Right.", reward=1.0, done=True)
        return Answer(text="Higher." if guess < self.number else "Lower.", reward=0.0)

    @property
    def state(self) -> State:
        return State(step_count=0)


class Box(MCPEnvironment):
    """Numbers are put into it until there are ten."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        self.total = 0
        server = FastMCP("box")

        @server.tool
        def put(number: int) -> str:
            """Put a number into the box."""
            if number < 0:
                raise ValueError("no debts")
            self.total += number
            return f"{self.total} in the box"

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **given: Any) -> Observation:
        self.total = 0
        return Answer(text="Fill the box.")

    def step(self, action: Action, timeout_s: float | None = None, **given: Any) -> Observation:
        return self._scored(super().step(action, timeout_s=timeout_s, **given))

    async def step_async(self, action: Action, timeout_s: float | None = None, **given: Any) -> Observation:
        return self._scored(await super().step_async(action, timeout_s=timeout_s, **given))

    def _scored(self, observation: Observation) -> Observation:
        if isinstance(observation, CallToolObservation):
            observation.reward, observation.done = float(self.total == 10), self.total >= 10
        return observation

    def _step_impl(self, action: Action, timeout_s: float | None = None, **given: Any) -> Observation:
        return Answer(text="Call put.")

    @property
    def state(self) -> State:
        return State(step_count=0)


if __name__ == "__main__":
    kind, port = sys.argv[1:]
    if kind == "text":
        app = create_fastapi_app(Guessing, Guess, Answer, max_concurrent_envs=8)
    else:
        app = create_fastapi_app(Box, CallToolAction, CallToolObservation, max_concurrent_envs=8)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
