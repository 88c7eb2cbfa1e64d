"""What passes from benchmarks to styles: one problem as it was published, and nothing of how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from sod.records import Task

Kind = Literal["math", "choice", "code"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@final
@dataclass(frozen=True)
class Problem:
    """A problem of a benchmark.

    `question` is the set's own text, without options or starter code. `answer` is the published one: of `math` the
    final answer (of GSM8K what stands behind `####`), of `choice` the text of the right option, of `code` the reference
    solution, empty where the set has none. `choices` stand in the set's order, the right one first where the set has it
    apart (GPQA); a style puts them into the order that it shows (`Style.arranged`), and `right` says where the right
    one is then. `difficulty` is the set's own word (MATH `1` to `5`, LiveCodeBench `easy`, ...), None where it has
    none. `task` is there for `code`: its truth are the tests, as `sod.rewards.code_suites` reads them. `row` is the
    data row, for what else a style shows (`entry_point`, `starter_code`, `test_list`, `solution`).
    """

    id: str
    benchmark: str
    kind: Kind
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    right: int = 0
    difficulty: str | None = None
    task: Task | None = None
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def letter(self) -> str:
        """The letter of the right option, in the order of `choices`."""
        return LETTERS[self.right]
