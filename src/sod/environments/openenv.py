"""Clients of OpenEnv servers (`openenv-core` 0.3): one session of the server for each episode under way.

What the model says becomes the client's action: `GenericEnvClient` is sent `{ACTION: text}`, where ACTION is what the
observation's server calls it (`message` by default, `environment.action` names another). An observation is read from
its `text`, `message`, `output` or `prompt`, else it is shown as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, final

from sod.environments.base import Action
from sod.records import Task

TEXTS = ("text", "message", "output", "prompt", "observation", "result")


@final
class OpenEnvironment:
    """`sod.environments.base.Environment` over a client, sync or async."""

    def __init__(self, client: Any, where: str) -> None:
        sync = getattr(client, "sync", None)
        self._client = sync() if callable(sync) else client

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`; the server gets the row's seed, else the episode's."""
        result = self._client.reset(seed=int(task.extra.get("seed", seed)) % 2**32)
        return _text(result.observation), ()

    def step(self, action: Action) -> tuple[str, float, bool]:
        """See `Environment.step`."""
        result = self._client.step({"message": action})
        return _text(result.observation), result.reward or 0.0, bool(result.done)

    def close(self) -> None:
        """End the session."""
        self._client.close()


def _text(observation: Any) -> str:
    if isinstance(observation, str):
        return observation
    dump = getattr(observation, "model_dump", None)
    fields = observation if isinstance(observation, Mapping) else dump() if callable(dump) else vars(observation)
    for name in TEXTS:
        if isinstance(fields.get(name), str):
            return str(fields[name])
    return json.dumps(dict(fields), ensure_ascii=False, default=str)
