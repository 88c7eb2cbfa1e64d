"""Parts of a content that name what they are by a key and not by a type: Bedrock's and Gemini's."""

from __future__ import annotations

from typing import Any

from sod.tasks.formats.base import Row

_KINDS = {
    "toolUse": "tool_use",
    "functionCall": "tool_call",
    "function_call": "tool_call",
    "toolResult": "tool_result",
    "functionResponse": "tool_result",
    "function_response": "tool_result",
    "reasoningContent": "reasoning",
}


def typed(block: Any) -> Any:
    """A part under its key as one with a type; any other as it is."""
    if not isinstance(block, dict) or "type" in block:
        return block
    if block.get("thought") is True and isinstance(block.get("text"), str):
        return {"type": "reasoning", "text": block["text"]}
    key = next((key for key in _KINDS if isinstance(block.get(key), dict)), None)
    if key is None:
        return block
    body = block[key]
    if _KINDS[key] == "reasoning":
        inner = body.get("reasoningText")
        body = inner if isinstance(inner, dict) else body
    if _KINDS[key] == "tool_result" and isinstance(body.get("content"), list):
        body = {**body, "content": _result(body["content"])}
    return {**body, "type": _KINDS[key]}


def _result(blocks: list[Row]) -> Any:
    """What a tool gave: texts as parts, one JSON value as itself."""
    if len(blocks) == 1 and isinstance(blocks[0], dict) and "json" in blocks[0]:
        return blocks[0]["json"]
    return [{"type": "text", **block} if isinstance(block, dict) and "text" in block else block for block in blocks]
