"""What a style is: how a harness asks the problems of a benchmark, and how it reads and compares the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from sod.evaluation.benchmarks.problem import Problem
from sod.records import Fault, Message, Verdict
from sod.rewards.base import Verifier
from sod.rewards.code import CodeVerifier


@final
@dataclass(frozen=True)
class StyleSampling:
    """How a harness samples: `temperature` 0 is greedy, `top_k` 0 takes all tokens.

    `max_tokens` are those of a whole response, of all its turns and tool results; `k` are samples per problem.
    `max_turns` is for styles with tools; 0: as the recipe has it.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    k: int
    max_turns: int = 0


@final
@dataclass(frozen=True)
class Means:
    """What judging may use: `workers` processes that compare mathematics, `seconds` (CPU) for one comparison, and
    `code`, which gives the verifier that runs programs (`CodeVerifier.judged` for those that a style extracted itself).

    The sandbox of `code` starts when it is called, and is closed by whoever made these means.
    """

    code: Callable[[], CodeVerifier]
    workers: int = 1
    seconds: int = 3


class Style(Protocol):
    """A style. It keeps nothing between calls."""

    @property
    def name(self) -> str:
        """What `--style` and results call it."""
        ...

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks that it has."""
        ...

    @property
    def uses_tools(self) -> bool:
        """Whether the run's tools are shown; else the model is asked without any."""
        ...

    def flaws(self, benchmark: str) -> tuple[str, ...]:
        """What is known to be wrong or odd about its figures there, a sentence each, said in the result."""
        ...

    def sampling(self, benchmark: str) -> StyleSampling:
        """How it samples there, unless the user says otherwise."""
        ...

    def arranged(self, problems: Sequence[Problem], seed: int) -> list[Problem]:
        """All problems of one benchmark, in order, with the options of each in the order that is shown.

        `seed` is the run's; a style whose harness fixes one of its own does not look at it. All else of this protocol
        is given arranged problems.
        """
        ...

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        """What the model is asked."""
        ...

    def truth(self, problem: Problem) -> str:
        """The right answer in the form that is compared, for records: a number, a letter, tests."""
        ...

    def verifier(self, problems: Sequence[Problem], means: Means) -> Verifier:
        """Judges episodes on tasks whose ids are those of `problems`, also episodes that were cut off.

        An answer that cannot be read is a `Verdict` with `answer` None.
        """
        ...

    def score(self, problem: Problem, text: str, means: Means) -> Verdict | Fault:
        """The answer in a recorded output, and whether it is right."""
        ...

    def scores(self, outputs: Sequence[tuple[Problem, str]], means: Means) -> list[Verdict | Fault]:
        """`score` of each output, in order; many together cost far less than one by one."""
        ...
