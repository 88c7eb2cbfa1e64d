"""Messages of verifiers as ours, and ours as messages of verifiers."""

from __future__ import annotations

import json
from typing import Any

import verifiers.v1 as vf  # type: ignore[import-not-found]

from sod.environments.base import Action
from sod.environments.replies import BadReplyError
from sod.records import Message, ToolCall


def message_of(message: Any) -> Message:
    """A message of verifiers. Raises BadReplyError for an image."""
    content = message.content or ""
    if not isinstance(content, str):
        if any(part.type != "text" for part in content):
            raise BadReplyError(f"a {message.role} message has an image; here all is text")
        content = "\n".join(part.text for part in content)
    calls = tuple(_call(call) for call in getattr(message, "tool_calls", None) or ())
    return Message(message.role, content, tool_calls=calls, name=getattr(message, "name", None))


def assistant_of(action: Action, number: int) -> Any:
    """What the model did as an assistant message; `number` tells its calls from those of other turns."""
    if isinstance(action, str):
        return vf.AssistantMessage(content=action)
    calls = [
        vf.ToolCall(id=f"call_{number}_{at}", name=call.name, arguments=json.dumps(dict(call.arguments)))
        for at, call in enumerate(action)
    ]
    return vf.AssistantMessage(tool_calls=calls)


def _call(call: Any) -> ToolCall:
    arguments = json.loads(call.arguments or "{}")
    return ToolCall(call.name, arguments if isinstance(arguments, dict) else {}, id=call.id)
