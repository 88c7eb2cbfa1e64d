"""Prompts to token ids, such that nothing in messages or tools becomes an added token (see `content`).

A template decides what becomes of its contents, so a prompt is rendered as ever, save that a content which holds an
added token's text is hidden from the template and encoded apart. Where a content could make one with what it touches
(it ends in `<|im_`, say), the prompt is rendered once more with all such contents hidden: if the frame by itself has
the same added tokens, nothing was made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import final

from sod.chat.content import ContentEncoder
from sod.chat.dialects.base import Piece
from sod.chat.hidden import Hidden, texts_in, with_texts
from sod.chat.rendering import Tools
from sod.records import Message, ToolCall

Render = Callable[[Sequence[Message], Tools], str]

# What templates look for in a tool's schema. These words are the format's, not content.
_SCHEMA = (
    "type function name description parameters properties required items enum default title format anyOf oneOf allOf "
    "additionalProperties strict return returns object array string number integer boolean null"
)
_SCHEMA_WORDS = frozenset(_SCHEMA.split())
_PROBE = (Message("user", "probe"),)


@final
class Prompts:
    """Encodes prompts: `render` is the template, `pieces` cuts an assistant's content at its marks."""

    def __init__(self, encoder: ContentEncoder, pieces: Callable[[str], list[Piece]], render: Render) -> None:
        self._encoder = encoder
        self._pieces = pieces
        self._render = render
        self._texts_of_tools: dict[str, frozenset[str]] = {}

    def ids(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        """Token ids of the rendering. Raises SodError where the template fails."""
        of_tools = self._hidden_of_tools(tools)
        suspects = {text for text in self._texts(messages) if self._encoder.may_join(text)}
        return self._encoded(messages, tools, suspects, of_tools)[0]

    def _hidden_of_tools(self, tools: Tools) -> frozenset[str]:
        """The texts of `tools` to hide from the template, found out once."""
        key = repr(tools)
        if key not in self._texts_of_tools:
            texts = set(texts_in(list(tools))) - _SCHEMA_WORDS
            suspects = {text for text in texts if self._encoder.may_join(text)}
            self._texts_of_tools[key] = self._encoded(_PROBE, tools, suspects, frozenset())[1]
        return self._texts_of_tools[key]

    def _encoded(
        self, messages: Sequence[Message], tools: Tools, suspects: Collection[str], always: frozenset[str]
    ) -> tuple[list[int], frozenset[str]]:
        """`(ids, the texts that had to be hidden for them)`: `always`, and of `suspects` what must be."""
        held = always.union(text for text in suspects if self._encoder.holds_control(text))
        ids = self._rendered(messages, tools, held, trimmed=True)
        if not suspects:
            return ids, held
        everything = always.union(suspects)
        apart = self._rendered(messages, tools, everything, trimmed=False)
        if self._encoder.control_ids(ids) == self._encoder.control_ids(apart):
            return ids, held
        return apart, everything

    def _rendered(self, messages: Sequence[Message], tools: Tools, texts: frozenset[str], trimmed: bool) -> list[int]:
        """Ids of the rendering with `texts` hidden; `trimmed`: white space around a content is left to the template."""
        if not texts:
            return self._encoder.encode_apart([Piece(self._render(messages, tools), frame=True)])
        hidden = Hidden()
        hide_content = hidden.trimmed if trimmed else hidden.whole

        def content(text: str) -> str:
            return hide_content(text) if text in texts else text

        def in_json(text: str) -> str:
            return hidden.words(text) if text in texts else text

        shown = [self._changed(message, content, in_json) for message in messages]
        return self._encoder.encode_apart(hidden.pieces(self._render(shown, with_texts(list(tools), in_json))))

    def _contents(self, message: Message) -> list[Piece]:
        return self._pieces(message.content) if message.role == "assistant" else [Piece(message.content, frame=False)]

    def _texts(self, messages: Sequence[Message]) -> Iterator[str]:
        """Every content of the messages, those of calls and the names of tools included."""
        for message in messages:
            for piece in self._contents(message):
                if not piece.frame:
                    yield piece.text
            for call in message.tool_calls:
                yield call.name
                yield from texts_in(dict(call.arguments))
            if message.name:
                yield message.name
            if message.reasoning:
                yield message.reasoning

    def _changed(self, message: Message, content: Callable[[str], str], in_json: Callable[[str], str]) -> Message:
        shown = "".join(piece.text if piece.frame else content(piece.text) for piece in self._contents(message))
        calls = tuple(
            ToolCall(in_json(call.name), with_texts(dict(call.arguments), in_json), call.id)
            for call in message.tool_calls
        )
        thought = message.reasoning and content(message.reasoning)
        name = message.name and in_json(message.name)
        return replace(message, content=shown, tool_calls=calls, name=name, reasoning=thought)
