"""What a recipe adds to the prompts of its data: a system message, and a text behind what the user says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from sod.records import Message


@final
@dataclass(frozen=True)
class Wording:
    """`system` becomes the first message of rows without a system message; a row's own is kept.

    `suffix` is appended, as it is, to the last user message before an answer, unless that message ends with it.
    """

    system: str | None = None
    suffix: str | None = None

    def apply(self, messages: tuple[Message, ...], remark: Callable[[str], None]) -> tuple[Message, ...]:
        """The messages with what is added; `remark` hears what became of it in this row."""
        if self.suffix:
            messages = _with_suffix(messages, self.suffix, remark)
        if not self.system:
            return messages
        if any(message.role == "system" for message in messages):
            remark("data.system is left out, as the row has a system message of its own")
            return messages
        remark("data.system is put in front")
        return (Message("system", self.system), *messages)


def _with_suffix(messages: tuple[Message, ...], suffix: str, remark: Callable[[str], None]) -> tuple[Message, ...]:
    answered = next((at for at, message in enumerate(messages) if message.role == "assistant"), len(messages))
    at = max((n for n in range(answered) if messages[n].role == "user"), default=None)
    if at is None:
        remark("data.suffix is left out, as no user message stands before an answer")
    elif messages[at].content.endswith(suffix):
        remark("data.suffix is there already")
    else:
        remark("data.suffix is appended")
        longer = replace(messages[at], content=messages[at].content + suffix)
        return (*messages[:at], longer, *messages[at + 1 :])
    return messages
