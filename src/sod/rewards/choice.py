"""Multiple choice (GPQA, MMLU): the letter that was boxed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sod.records import Episode, Fault, SodError, Verdict
from sod.rewards.base import as_answered, verified_text
from sod.rewards.math import WRAPPERS, last_boxed

_LONGEST_BOX = 200  # characters; more is not a letter
_WRAPPER = re.compile(rf"(?:{WRAPPERS}|\\(?:rm|bf|tt))\b|[{{}}$\s*]")
_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")
_ANSWER_LINE = re.compile(
    r"[ \t*#>]*(?:the[ ]+)?(?:(?:final|correct)[ ]+)?answer(?:[ ]+is)?[ \t*]*:?[ \t*]*\$?\(?([A-Za-z])\)?\$?[ \t*.]*",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True)
class ChoiceVerifier:
    """Right is the letter of the last `\\boxed{}`: `B`, `b`, `(B)`, `\\text{(B)}`, `\\textbf{B.}`.

    A box with anything else answers nothing. With `answer_line`, a text without any box answers by
    its last non-empty line if that is `Answer: B` or `The answer is (B).` and nothing more.
    Letters beyond `letters` answer nothing.
    """

    letters: str = "ABCD"
    answer_line: bool = False

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
        chosen = self._chosen(verified_text(episode))
        return Verdict(chosen, float(chosen in truths), "" if chosen else f"no letter of {self.letters} was boxed")

    def _chosen(self, text: str) -> str | None:
        boxed = last_boxed(text)
        if boxed is not None:
            return self.letter(boxed)
        last_line = text.rstrip().rpartition("\n")[2]
        if self.answer_line and len(last_line) <= _LONGEST_BOX and (match := _ANSWER_LINE.fullmatch(last_line)):
            return self.letter(match.group(1))
        return None

    def letter(self, text: str) -> str | None:
        """The letter of `letters` that a box or a ground truth says; None where it says none."""
        if len(text) > _LONGEST_BOX:
            return None
        match = _LETTER.fullmatch(_WRAPPER.sub("", text))
        letter = match.group(1).upper() if match else None
        return letter if letter and letter in self.letters else None
