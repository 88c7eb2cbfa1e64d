"""Multiple choice (GPQA, MMLU, AQuA): the letter that was answered, and what else a truth may call a choice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from sod.records import Episode, Fault, SodError, Task, Verdict
from sod.rewards.answers import Answers
from sod.rewards.base import as_answered, verified_text
from sod.rewards.math import WRAPPERS
from sod.rewards.truths import UnmatchedTruthError, stated

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
USUAL = "ABCD"
"""The letters that a recipe has by default: data with more choices widens them."""

AS_ASKED = Answers()

_LONGEST_BOX = 200  # characters; more is not a letter
_WRAPPER = re.compile(rf"(?:{WRAPPERS}|\\(?:rm|bf|tt))\b|[{{}}$\s*]")
_LETTER = re.compile(r"(?:(?:option|choice)(?:is)?:?)?\(?([A-Za-z])\)?\.?", re.IGNORECASE)
# `B) 12` and `(B) 12` name the choice with its label; `A) or B)` names two.
_LABELLED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])(?!.*[A-Z]\)).+", re.DOTALL)
_ANSWER_LINE = re.compile(
    r"[ \t*#>]*(?:the[ ]+)?(?:(?:final|correct)[ ]+)?answer(?:[ ]+is)?[ \t*]*:?[ \t*]*\$?\(?([A-Za-z])\)?\$?[ \t*.]*",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True)
class ChoiceVerifier:
    """Right is the letter that is answered: `B`, `b`, `(B)`, `B) 12`, `\\text{(B)}`, `\\textbf{B.}`, `option B`.

    `answers` says where the answer stands. What stands there and is no letter answers nothing, nor do letters beyond
    `letters`. With `answer_line`, a text without an answer there answers by its last non-empty line if that is
    `Answer: B` or `The answer is (B).` and nothing more.
    """

    letters: str = USUAL
    answer_line: bool = False
    answers: Answers = AS_ASKED

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """See `Verifier.verify`. Raises SodError where the ground truth is no letter of `letters`."""
        return [self._verdict(episode) for episode in episodes]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """See `Verifier.votes`. A letter has one spelling."""
        return as_answered(groups)

    def close(self) -> None:
        """Nothing is open."""

    def _verdict(self, episode: Episode) -> Verdict:
        truths = [self.letter(truth) for truth in (episode.task.ground_truth, *episode.task.truths)]
        if None in truths:
            shown = episode.task.ground_truth[:40]
            raise SodError(f"choice: ground_truth must be one of {self.letters}, not {shown!r}")
        chosen, why = self._chosen(episode)
        return Verdict(chosen, float(chosen in truths), "" if chosen else why)

    def _chosen(self, episode: Episode) -> tuple[str | None, str]:
        """The letter that was answered; or None, and why."""
        read = self.answers.read(episode)
        if read.text is not None:
            return self.letter(read.text), f"{read.text[:40]!r} is no letter of {self.letters}"
        last_line = verified_text(episode).rstrip().rpartition("\n")[2]
        if self.answer_line and len(last_line) <= _LONGEST_BOX and (match := _ANSWER_LINE.fullmatch(last_line)):
            return self.letter(match.group(1)), f"no letter of {self.letters} was answered"
        return None, f"no letter of {self.letters} was answered, {read.why}"

    def letter(self, text: str) -> str | None:
        """The letter of `letters` that an answer or a ground truth says; None where it says none."""
        if len(text) > _LONGEST_BOX:
            return None
        bare = _WRAPPER.sub("", text)
        match = _LETTER.fullmatch(bare) or _LABELLED.fullmatch(bare)
        letter = next(group for group in match.groups() if group).upper() if match else None
        return letter if letter and letter in self.letters else None


def choices_of(task: Task) -> tuple[str, ...]:
    """The texts of a task's choices, in order, where its row lists them; none where it does not.

    They are `choices` or `options` of `extra_info`: a list, a mapping of letters to texts, or ARC's
    `{label: [...], text: [...]}`.
    """
    found = task.extra.get("choices") or task.extra.get("options")
    if isinstance(found, Mapping):
        found = found.get("text") or list(found.values())
    if not isinstance(found, Iterable) or isinstance(found, str):
        return ()
    return tuple(str(text) for text in found)


def said_letters(task: Task) -> list[str]:
    """The letters that a task's truths say, whatever letters there are; what says none is left out."""
    any_letter = ChoiceVerifier(ALPHABET)
    found = []
    for text in (task.ground_truth, *task.truths):
        try:
            found.append(any_letter.letter(stated(text).text))
        except UnmatchedTruthError:
            continue
    return [letter for letter in found if letter is not None]


def letters_of(tasks: Iterable[Task], letters: str) -> str:
    """The letters that may be answered: the recipe's, or where those are the usual ones as many as the tasks have."""
    if letters != USUAL:
        return letters
    most = len(letters)
    for task in tasks:
        most = max(most, len(choices_of(task)), *(ALPHABET.index(letter) + 1 for letter in said_letters(task)))
    return ALPHABET[:most]
