"""Where the contents of a turn stand in its text: its thought, its answer, the names and arguments of its calls.

A dialect tells what a turn says, not where. A place is first guessed (the content's text, raw or as JSON writes it, in
the order of the contents), then proven: with another word in that place the dialect must read that very word as that
very content. So a value is never taken for a key of the same spelling, and no dialect has to know of any of this.

Turns whose contents alone differ are one text with words in their places, so one proof does for all of them (`Proofs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

from sod.records import Said, ToolCall

Key = tuple[str | int, ...]
"""Which content: ("thinking",), ("answer", n), ("name", call) or ("argument", call, its path)."""
Read = Callable[[str], Said]
"""What reads a turn: always alike for one text, and hashable; equal ones read alike."""
Proofs = dict[tuple[Read, str, tuple[Key, ...], tuple[str, ...]], tuple[bool, ...]]
"""Which contents are proven, by what reads, the text with words in their places, their keys and these words."""

_TRIES = 16  # places looked at for one content, before it counts as not found
_MOST_VALUES = 64  # values of one call's arguments that are looked for; any beyond count as not found
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.")

_WITHOUT_ESCAPES = re.compile(r"[ !#-\[\]-~]*")  # what JSON writes as it is
_IN_JSON, _IN_ASCII_JSON = json.JSONEncoder(ensure_ascii=False).encode, json.JSONEncoder().encode


@final
@dataclass(frozen=True)
class Content:
    """One content of a turn: the text it stands for, and its place `[start, stop)` in the turn's text (characters).

    `escaped` where it stands there as JSON writes a string, `number` where it is no string at all.
    """

    key: Key
    value: str
    start: int
    stop: int
    escaped: bool = False
    number: bool = False

    def runs(self, text: str) -> list[tuple[int, int, int]]:
        """`(from, to, start)` of each stretch of the value, from its characters on, that stands as it is in `text`."""
        if not self.escaped:
            return [(0, len(self.value), self.start)]
        runs, at, value_at = [], self.start, 0
        for escape in _ESCAPE.finditer(text, self.start, self.stop):
            if escape.start() > at:
                runs.append((value_at, value_at + escape.start() - at, at))
            value_at += escape.start() - at + 1
            at = escape.end()
        if self.stop > at:
            runs.append((value_at, value_at + self.stop - at, at))
        return runs


@final
@dataclass(frozen=True)
class _Wanted:
    key: Key
    value: str
    forms: tuple[tuple[str, bool], ...]  # the text to look for, and whether that is escaped
    number: bool = False


@final
@dataclass(frozen=True)
class Located:
    """The contents of a turn in the order of its text, and the keys of those that were not found."""

    contents: tuple[Content, ...]
    missing: tuple[Key, ...]


def located(text: str, read: Read, proofs: Proofs | None = None) -> Located:
    """Where each content of a finished turn stands in its text, proven by `read`.

    Content that the dialect makes of several places, or does not keep as it stands, is not found. `proofs` are those
    that were done before, to which this one's are added.
    """
    said = read(text)
    answer = said.answer.strip()
    if answer == text.strip() and not said.calls and not said.thinking.strip():  # nothing else is there
        start = len(text) - len(text.lstrip())
        return Located((Content(("answer", 0), answer, start, start + len(answer)),) if answer else (), ())
    wanted = list(_wanted(text, said))
    prover = _Prover(text, read, {} if proofs is None else proofs)
    proven = prover.proven(_in_order(text, [want for want in wanted if not want.number], []))
    if len(proven) == len(wanted):
        return Located(tuple(proven), ())
    proven += prover.proven(_in_order(text, wanted, proven))  # numbers are short: they stand between what was found
    for want in _missing(wanted, proven):
        proven += _searched(want, proven, prover)
    missing = tuple(want.key for want in _missing(wanted, proven))
    return Located(tuple(sorted(proven, key=lambda content: content.start)), missing)


def _missing(wanted: Sequence[_Wanted], proven: Sequence[Content]) -> list[_Wanted]:
    found = {content.key for content in proven}
    return [want for want in wanted if want.key not in found]


def _wanted(text: str, said: Said) -> Iterator[_Wanted]:
    """The contents of a turn in the order in which most dialects write them, white space around them left out.

    Values that are true, false, null or an empty string are call syntax.
    """
    if said.thinking.strip():
        yield _plain(("thinking",), said.thinking.strip())
    for number, part in enumerate(_parts(said.answer.strip(), text)):
        yield _plain(("answer", number), part)
    calls = [call for call in said.calls if isinstance(call, ToolCall)]
    for number, call in enumerate(calls):
        yield _quoted(("name", number), call.name)
        for count, (path, value) in enumerate(_leaves(call.arguments, ())):
            key = ("argument", number, *path)
            if count >= _MOST_VALUES:
                yield _Wanted(key, "", ())
            elif isinstance(value, str) and value:
                yield _quoted(key, value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield _Wanted(key, json.dumps(value), ((json.dumps(value), False),), number=True)


def _parts(answer: str, text: str) -> list[str]:
    """The answer, or its lines where a call stands between two of them."""
    if not answer or answer in text:
        return [answer] if answer else []
    return [line.strip() for line in answer.splitlines() if line.strip()]


def _plain(key: Key, value: str) -> _Wanted:
    return _Wanted(key, value, ((value, False),))


def _quoted(key: Key, value: str) -> _Wanted:
    """A string, as it is or as one of JSON; the escaped forms are looked for where they differ."""
    if _WITHOUT_ESCAPES.fullmatch(value):
        return _plain(key, value)
    forms = {value: False}
    for written in (_IN_JSON,) if value.isascii() else (_IN_JSON, _IN_ASCII_JSON):
        forms.setdefault(written(value)[1:-1], True)
    return _Wanted(key, value, tuple(forms.items()))


def _leaves(value: Any, path: Key) -> Iterator[tuple[Key, Any]]:
    """The values in an object that hold no others, each with the keys that lead to it."""
    if isinstance(value, str):  # most are
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, number))
    else:
        yield path, value


def _in_order(text: str, wanted: Sequence[_Wanted], proven: Sequence[Content]) -> list[Content]:
    """A guess for what is not proven yet: where its text first stands behind the content before."""
    known = {content.key: content for content in proven}
    guessed, cursor = [], 0
    for want in wanted:
        content = known.get(want.key) or next(_places(text, want, cursor), None)
        if content is None:
            continue
        cursor = max(cursor, content.stop)
        if not known or (want.key not in known and _is_free(content, proven)):
            guessed.append(content)
    return guessed


def _is_free(content: Content, others: Sequence[Content]) -> bool:
    return all(content.stop <= other.start or other.stop <= content.start for other in others)


def _places(text: str, want: _Wanted, start: int) -> Iterator[Content]:
    """Where the text of a content stands, in any of its forms, from `start` on; those of the first form first."""
    for form, escaped in want.forms:
        at = text.find(form, start)
        while at >= 0:
            yield Content(want.key, want.value, at, at + len(form), escaped, want.number)
            at = text.find(form, at + 1)


def _searched(want: _Wanted, proven: Sequence[Content], prover: _Prover) -> list[Content]:
    """A content whose guess was wrong: the first place that proves to be its own, as a list of at most one."""
    for content in islice(_places(prover.text, want, 0), _TRIES):
        if _is_free(content, proven) and prover.proven([content]):
            return [content]
    return []


@final
@dataclass(frozen=True)
class _Prover:
    """Proves places in one text."""

    text: str
    read: Read
    proofs: Proofs

    def proven(self, contents: Sequence[Content]) -> list[Content]:
        """Those contents, in the order of the text, in whose place another word is read as that content."""
        if not contents:
            return []
        words = tuple([_word(content, number) for number, content in enumerate(contents)])
        keys = tuple([content.key for content in contents])
        text = self._with(words, contents)
        proof = (self.read, text, keys, words)
        if proof not in self.proofs:
            self.proofs[proof] = _read_as(self.read(text), keys, words)
        return [content for content, right in zip(contents, self.proofs[proof], strict=True) if right]

    def _with(self, words: Sequence[str], contents: Sequence[Content]) -> str:
        """The text with words in place of contents."""
        parts, at = [], 0
        for word, content in zip(words, contents, strict=True):
            parts += [self.text[at : content.start], word]
            at = content.stop
        return "".join([*parts, self.text[at:]])


def _read_as(said: Said, keys: Sequence[Key], words: Sequence[str]) -> tuple[bool, ...]:
    """Which of the words were read as the contents of these keys."""
    calls = [call for call in said.calls if isinstance(call, ToolCall)]
    right = []
    for key, word in zip(keys, words, strict=True):
        if key[0] == "thinking":
            right.append(said.thinking.strip() == word)
        elif key[0] == "answer":
            right.append(word in said.answer)
        else:
            right.append(_at(calls, key) == word)
    return tuple(right)


def _word(content: Content, number: int) -> str:
    """A word that no turn holds, in place of a content: a number for a number."""
    return str(7_310_940_000_000 + number) if content.number else f"sodq{number}zz"


def _at(calls: Sequence[ToolCall], key: Key) -> str | None:
    """The name or the value that a key leads to, as text."""
    number = int(key[1])
    if number >= len(calls):
        return None
    if key[0] == "name":
        return calls[number].name
    value: Any = calls[number].arguments
    for step in key[2:]:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return str(value) if isinstance(value, str | int | float) else None
