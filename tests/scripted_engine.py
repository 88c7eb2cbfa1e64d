"""An engine that says given texts, for tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sod.chat.render import Chat
from sod.engines.base import Sampled, SampleRequest, Sampling


@dataclass
class ScriptedEngine:
    """An engine that says given texts: `script[task][k - 1]`, or every turn of its only task alike."""

    chat: Chat
    script: Mapping[str, Sequence[str]]
    stopped: bool = True
    asked: list[SampleRequest] = field(default_factory=list)
    waiting: list[SampleRequest] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        self.waiting += requests

    def advance(self, tokens: int) -> list[tuple[str, Sampled]]:
        answers = []
        while self.waiting:
            request = self.waiting.pop(0)
            turn = sum(earlier.noise_key == request.noise_key for earlier in self.asked)
            self.asked.append(request)
            name = next(name for name in self.script if request.session.find(name) >= 0)
            ids = self.chat.tokenizer.encode(self.script[name][turn], add_special_tokens=False)
            ids += [self.chat.end_id] if self.stopped else []
            answers.append((request.session, Sampled(tuple(ids), (-1.0,) * len(ids), self.stopped)))
        return answers

    def forget(self, sessions: Iterable[str]) -> None:
        self.forgotten += sessions

    def sync(self, model: Any) -> None:
        raise AssertionError("a rollout does not sync")
