"""What an episode asks for, and what it is answered."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import final

from sod.engines.base import Sampled, SampleRequest
from sod.environments.base import WorldReply, WorldRequest
from sod.records import Fault, ToolResult, Trajectory
from sod.tools.base import ToolRequest

Request = ToolRequest | WorldRequest
Result = ToolResult | WorldReply


@final
@dataclass(frozen=True)
class AskTurn:
    """Sample this turn and send back a `Sampled`, or a `Fault`."""

    request: SampleRequest


@final
@dataclass(frozen=True)
class AskTools:
    """Run these calls, the environment's part among them, and send back one result each, or a single `Fault`."""

    requests: tuple[Request, ...]


Ask = AskTurn | AskTools
Reply = Sampled | list[Result] | Fault
Play = Generator[Ask, Reply, Trajectory]
