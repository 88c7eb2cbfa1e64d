"""Equal answers of one task in one spelling, so that a majority vote counts them together.

Which answers are merged does not depend on the order of the samples: answers are compared in the order of their
spelling, each with the first member of every class there is. The work is bounded: of a task's distinct answers the
`MOST_COMPARED` commonest are compared, and those over which a comparison ran out of time or memory not again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

MOST_COMPARED = 12  # distinct answers of a task: 66 comparisons where all differ

Compared = Literal["equal", "different", "costly"]
Compare = Callable[[Sequence[tuple[str, str]]], list[Compared]]
"""What each of many couples of texts is; `costly` is different, and dear to find out."""


@final
@dataclass
class _Task:
    """The distinct answers of a task still to be placed, the text to compare of each, and the classes so far."""

    waiting: list[str]
    texts: Mapping[str, str]
    classes: list[list[str]]
    closed: list[list[str]]  # classes that nothing is compared with any more

    def couples(self) -> list[tuple[str, str]]:
        """The next answer with the first member of every open class."""
        return [(self.texts[members[0]], self.texts[self.waiting[0]]) for members in self.classes]

    def place(self, found: Sequence[Compared]) -> None:
        """Put the next answer where it belongs; `found` are its comparisons."""
        answer = self.waiting.pop(0)
        equal = [members for members, said in zip(self.classes, found, strict=True) if said == "equal"]
        costly = [members for members, said in zip(self.classes, found, strict=True) if said == "costly"]
        self.closed += costly
        self.classes = [members for members in self.classes if members not in costly]
        if equal:
            equal[0].append(answer)
        elif costly:
            self.closed.append([answer])
        else:
            self.classes.append([answer])


def merged(tasks: Sequence[Sequence[tuple[str, str]]], compare: Compare) -> list[dict[str, str]]:
    """For each task its answers' common spelling: that of the commonest of those found equal.

    `tasks` are (answer, text to compare) of every sample; `compare` is asked about many tasks at once.
    """
    counted = [Counter(answer for answer, _ in samples) for samples in tasks]
    open_tasks = [_task(samples, counts) for samples, counts in zip(tasks, counted, strict=True)]
    while under_way := [task for task in open_tasks if task.waiting]:
        couples = [task.couples() for task in under_way]
        found = iter(compare([couple for mine in couples for couple in mine]))
        for task, mine in zip(under_way, couples, strict=True):
            task.place([next(found) for _ in mine])
    return [_spellings(task, counts) for task, counts in zip(open_tasks, counted, strict=True)]


def _task(samples: Sequence[tuple[str, str]], counts: Counter[str]) -> _Task:
    """An answer that was written in several ways is compared by the first of them in alphabetical order."""
    texts = dict(sorted(samples, reverse=True))
    commonest = sorted(counts, key=lambda answer: (-counts[answer], answer))[:MOST_COMPARED]
    return _Task(sorted(commonest), texts, [], [])


def _spellings(task: _Task, counts: Counter[str]) -> dict[str, str]:
    spelled = {}
    for members in [*task.classes, *task.closed]:
        chosen = min(members, key=lambda answer: (-counts[answer], answer))
        spelled.update(dict.fromkeys(members, chosen))
    return spelled
