"""What stands in for content while a template renders it, so that the template can neither read nor change it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any, final

from sod.chat.dialects.base import Piece

# Of a text in JSON: words and the spaces between them, which no JSON writer escapes.
_WORDS = re.compile(r'[^\s"\\\x00-\x1f\x7f]+(?: +[^\s"\\\x00-\x1f\x7f]+)*')


@final
class Hidden:
    """Texts by what stands in for each: letters and digits, with a number drawn anew that no text can guess."""

    def __init__(self) -> None:
        self._mark = f"s{secrets.token_hex(8)}x"
        self._stand_in = re.compile(f"{self._mark}([0-9]+)x", re.IGNORECASE)  # templates change the case of a text, too
        self._numbers: dict[str, int] = {}

    def whole(self, text: str) -> str:
        """What stands in for `text`. The same text has the same, as templates compare names."""
        return f"{self._mark}{self._numbers.setdefault(text, len(self._numbers))}x" if text else ""

    def trimmed(self, text: str) -> str:
        """The same, with the white space around the text left in sight, as templates trim it."""
        core = text.strip()
        before, _, after = text.partition(core) if core else (text, "", "")
        return before + self.whole(core) + after

    def words(self, text: str) -> str:
        """The same for what a template writes as JSON: characters that JSON escapes are left in sight."""
        return _WORDS.sub(lambda run: self.whole(run.group()), text)

    def pieces(self, rendered: str) -> list[Piece]:
        """A rendering cut at the stand-ins: content where they stood, frame between."""
        texts = list(self._numbers)
        found = []
        for n, part in enumerate(self._stand_in.split(rendered)):
            found.append(Piece(part, frame=True) if n % 2 == 0 else Piece(texts[int(part)], frame=False))
        return [piece for piece in found if piece.text]


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_in(key)
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with `change(text)` for every text in it, names of fields included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {with_texts(key, change): with_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_texts(inner, change) for inner in value]
    return value
