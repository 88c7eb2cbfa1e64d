"""Prompts in the shape that a template takes: some know no system message, some no two user messages in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import final

from sod.chat.confined import UnboundedTemplateError
from sod.chat.probes import ANSWER
from sod.records import Message, Role, SodError

_BETWEEN = "\n\n"


@final
class Shape:
    """Joins the messages of a prompt where `text`, the template's rendering, takes them joined only."""

    def __init__(self, text: Callable[[Sequence[Message]], str]) -> None:
        self._text = text

    def shaped(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with a system message at the front of the user's, and users' joined, where they have to be."""
        shown = list(messages)
        if len(shown) > 1 and shown[0].role == "system" and shown[1].role == "user" and self._folds_system:
            shown[:2] = [_joined(shown[0], shown[1])]
        merged: list[Message] = []
        for message in shown:
            if merged and message.role == merged[-1].role == "user" and self._joins_users:
                merged[-1] = _joined(merged[-1], message)
            else:
                merged.append(message)
        return merged

    @cached_property
    def _folds_system(self) -> bool:
        return not self._shows("system", "user")

    @cached_property
    def _joins_users(self) -> bool:
        return not self._shows("user", "user")

    def _shows(self, *roles: Role) -> bool:
        """Whether the template renders messages of these roles, one after the other, with what they say."""
        contents = [ANSWER.format(number) for number in range(len(roles))]
        try:
            text = self._text([Message(role, said) for role, said in zip(roles, contents, strict=True)])
        except UnboundedTemplateError:
            raise
        except SodError:
            return False
        return all(said in text for said in contents)


def _joined(first: Message, second: Message) -> Message:
    """A user message that says what both say."""
    said = [message.content for message in (first, second) if message.content]
    return replace(second, content=_BETWEEN.join(said))
