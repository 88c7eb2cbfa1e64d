"""Where an answer stands in what a model said: in a box, behind `####` or `Answer:`, or wherever the recipe says.

`reward.answer` decides. `auto` goes by what a task's own prompt asks for: GSM8K's asks for `####`, DAPO's for a line
`Answer:`, most others for a box. An explicit form is strict: what is written in another form is no answer.
Everything here is linear in the length of the text, save a recipe's own pattern, which has a limit of CPU time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, final

import regex  # as `re`, with a limit of time

from sod.records import Episode, Message, Task
from sod.rewards.base import verified_text
from sod.rewards.math import last_boxed

Form = Literal["boxed", "hash", "answer_line", "tags", "last_number", "regex"]

PATTERN = "regex:"
"""What a `reward.answer` that is a pattern begins with."""
SHOWN: Mapping[Form, str] = {
    "boxed": "in \\boxed{}",
    "hash": "behind '####'",
    "answer_line": "behind 'Answer:'",
    "tags": "between <answer> tags",
    "last_number": "as the last number",
    "regex": "where the pattern of reward.answer matches",
}
"""Where an answer of each form is looked for, in words."""
MISSING: Mapping[Form, str] = {
    "boxed": "nothing was boxed",
    "hash": "nothing stands behind '####'",
    "answer_line": "nothing stands behind 'Answer:'",
    "tags": "nothing stands between <answer> tags",
    "last_number": "there is no number",
    "regex": "the pattern of reward.answer matches nothing",
}
"""Why there is no answer."""
LONGEST_SAID = 3  # words behind "the answer is"; more are a sentence

_BOX_ASKED = re.compile(r"\\(?:boxed|fbox)")
_HASH = re.compile(r"(?<!#)####(?!#)")
_HEADED = re.compile(r"(?:^|\n)[ \t>*-]*\Z")
# What follows `####` at the start of a line where it is no heading: a gap to be filled in, an example, nothing.
_FILLED_IN = re.compile(
    r"[ \t]*(?:[\[<({$\"'`]|[+\-\u2212]?[0-9][0-9.,/]*[ \t]*(?:\n|\Z)|\n|\Z"
    r"|(?:(?:the|your|final|numeric|numerical|correct)[ \t]+)*(?:answer|number|result|value)\b)",
    re.IGNORECASE,
)
_TAGS_ASKED = re.compile(r"</answer>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>|</answer>", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"\banswer\b[*_]{0,3}(?P<says>[ \t]{1,4}is\b)?[ \t]{0,4}[*_]{0,3}(?P<colon>[:\uff1a])?[*_]{0,3}", re.IGNORECASE
)
_LEADING = re.compile(rf"(?:(?:the|final|correct)[ \t]{{1,4}}){{0,3}}{_ANNOUNCED.pattern}", re.IGNORECASE)
_HEADING = re.compile(r"(?:(?:the|final|correct|your)[ \t]{1,4}){0,3}answer:?", re.IGNORECASE)
_WRITTEN = re.compile(r"(?:[\"'`*_]|\b[Ff]inal[ \t]+|(?:^|\n)[ \t>*_#-]*)\Z")  # before a lower-case `answer:`
_GAP = re.compile(r"[ \t]*[\[<({]")
_LABELLED = re.compile(r"\(?[A-Z][).:]")
_SOMETHING = re.compile(r"\S")
_AROUND = " \t*`\"'"
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.[0-9]+)?(?:/[0-9]+)?%?"
)


class Read(NamedTuple):
    """The text of an answer; or None, and `why` there is none."""

    text: str | None
    why: str = ""


@final
@dataclass(frozen=True)
class Answers:
    """Finds the answer of an episode, as `asked` says: the recipe's `reward.answer`.

    With `auto`, where an answer is not in the form that the prompt asks for, its last box counts: there is one answer
    either way. A pattern gets `seconds` of CPU time; a text over which it takes longer answers nothing.
    """

    asked: str = "auto"
    seconds: float = 3.0

    def forms(self, task: Task) -> tuple[Form, ...]:
        """The forms in which answers to this task are looked for, in order: the first one found counts."""
        if self.asked == "auto":
            return tuple(dict.fromkeys((*asked_forms(task.prompt), "boxed")))
        return (explicit_form(self.asked),)

    def read(self, episode: Episode) -> Read:
        """The answer in what the final turn says."""
        text, forms = verified_text(episode), self.forms(episode.task)
        for form in forms:
            try:
                found = self._in_form(text, form)
            except TimeoutError:
                return Read(None, f"the pattern of reward.answer took more than {self.seconds:g} s")
            if found is not None:
                return Read(found)
        return Read(None, MISSING[forms[0]])

    def _in_form(self, text: str, form: Form) -> str | None:
        if form == "regex":
            return _last_match(text, self.asked.removeprefix(PATTERN), self.seconds)
        return READERS[form](text)


def explicit_form(asked: str) -> Form:
    """The form that a `reward.answer` other than `auto` means."""
    form: Any = "regex" if asked.startswith(PATTERN) else asked
    if form not in SHOWN:
        raise ValueError(f"no form of an answer is called {asked!r}")
    return form  # type: ignore[no-any-return]


def asked_forms(prompt: Sequence[Message]) -> tuple[Form, ...]:
    """The forms that a prompt asks for, a box first, then the one it names last; none where it asks for none.

    A heading `#### Examples` asks for nothing, nor does the `Answer:` that ends a prompt, after which one goes on.
    """
    text = "\n".join(message.content for message in prompt)
    last: dict[Form, int] = {}
    for match in _HASH.finditer(text):
        if _HEADED.search(text, max(0, match.start() - 40), match.start()) is None or _FILLED_IN.match(
            text, match.end()
        ):
            last["hash"] = match.start()
    for match in _ANNOUNCED.finditer(text):
        asks = _is_label(text, match) or (match["says"] and _GAP.match(text, match.end()))
        if asks and text[match.end() : match.end() + 1000].strip():
            last["answer_line"] = match.start()
    for match in _TAGS_ASKED.finditer(text):
        last["tags"] = match.start()
    others = sorted(last, key=lambda form: -last[form])
    return ("boxed", *others) if _BOX_ASKED.search(text) else tuple(others)


def behind_hash(text: str) -> str | None:
    """What stands behind the last `####` that anything stands behind; None without one."""
    ends = [match.end() for match in _HASH.finditer(text)]
    for end in reversed(ends):
        found = _without_words(_line_behind(text, end))
        if found:
            return found
    return None


def behind_answer(text: str) -> str | None:
    """What stands behind the last `Answer:`, else behind the last "answer is" or "answer:"; None without one."""
    matches = [match for match in _ANNOUNCED.finditer(text) if match["colon"] or match["says"]]
    labels = [match for match in matches if _is_label(text, match)]
    for match in [*reversed(labels), *reversed(matches)]:
        found = _line_behind(text, match.end())
        if found and (_is_label(text, match) or _stands_alone(found)):
            return found
    return None


def _is_label(text: str, match: re.Match[str]) -> bool:
    """Whether it announces an answer: `Answer:`, `Final answer:`; "to find the answer: add them" does not."""
    if not match["colon"]:
        return False
    start = match.start()
    return text[start] == "A" or _WRITTEN.search(text, max(0, start - 20), start) is not None


def _stands_alone(text: str) -> bool:
    """Whether what follows "the answer is" is one: a few words or a labelled choice, no sentence."""
    return len(text.split()) <= LONGEST_SAID or _LABELLED.match(text) is not None


def between_tags(text: str) -> str | None:
    """What stands between the last complete pair of `<answer>` tags; a box in it is the answer."""
    start, found = None, None
    for match in _TAGGED.finditer(text):
        if not match.group().startswith("</"):
            start = match.end()
        elif start is not None:
            found, start = text[start : match.start()], None
    return None if found is None else _boxed_or_whole(found)


def last_number(text: str) -> str | None:
    """The last number written in digits, with its sign, thousands commas, decimals or denominator."""
    found = None
    for match in _NUMBER.finditer(text):
        found = match.group()
    return found


READERS: Mapping[Form, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "hash": behind_hash,
    "answer_line": behind_answer,
    "tags": between_tags,
    "last_number": last_number,
}


def _line_behind(text: str, start: int) -> str:
    """The rest of a line, or where it says nothing the next one with anything on it; of a box what is in it."""
    rest = _to_line_end(text, start)
    if not rest.strip(_AROUND) or _HEADING.fullmatch(rest.strip(_AROUND)):
        below = _SOMETHING.search(text, start + len(rest))
        if below is None:
            return ""
        start = below.start()
        rest = _to_line_end(text, start)
    if _BOX_ASKED.search(rest):  # it may close on another line
        return last_boxed(text[start:]) or ""
    return rest.strip(_AROUND)


def _to_line_end(text: str, start: int) -> str:
    stop = text.find("\n", start)
    return text[start:] if stop < 0 else text[start:stop]


def _without_words(line: str) -> str:
    """`#### Answer: 18` says 18."""
    match = _LEADING.match(line)
    said = match is not None and (match["colon"] or match["says"])
    return line[match.end() :].strip(_AROUND) if match is not None and said else line


def _boxed_or_whole(text: str) -> str | None:
    boxed = last_boxed(text)
    return boxed if boxed is not None else text.strip(_AROUND + "\n") or None


@cache
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern)


def _last_match(text: str, pattern: str, seconds: float) -> str | None:
    """The first group of the last match, or all of it where there are no groups. Raises TimeoutError."""
    compiled, found = _compiled(pattern), None
    deadline = time.process_time() + seconds  # of all matches together; `timeout` ends a single one
    for match in compiled.finditer(text, timeout=seconds):
        if time.process_time() > deadline:
            raise TimeoutError
        said = match.group(1) if compiled.groups else match.group()
        found = said if said is not None and said.strip() else found
    return None if found is None else str(found).strip()
