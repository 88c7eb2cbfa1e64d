"""A style as a table: for each benchmark that it has the rules of asking, reading, comparing and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.base import Means, StyleSampling
from sod.evaluation.styles.judges import Item, Judge, Resources
from sod.records import Episode, Fault, Message, SodError, Verdict
from sod.rewards.base import as_answered

Arrange = Callable[[Sequence[Problem], int], list[Problem]]
Truth = Callable[[Problem], str]


def published_answer(problem: Problem) -> str:
    """The answer as it was published, a choice's letter, or a program's tests."""
    if problem.kind == "choice":
        return problem.letter
    return problem.answer if problem.task is None else problem.task.ground_truth


@final
@dataclass(frozen=True)
class Rules:
    """How one benchmark is played: `ask` gives the user's message, or `system` one before it, `output` the text of an
    episode that the harness would have read, and `judge` says of such texts what they answer.
    """

    ask: Callable[[Problem], str]
    output: Callable[[Problem, Episode], str]
    judge: Judge
    sampling: StyleSampling
    flaws: tuple[str, ...] = ()
    system: str | None = None
    truth: Truth = published_answer


@final
@dataclass(frozen=True)
class RuledStyle:
    """See `Style`."""

    name: str
    uses_tools: bool
    rules: Mapping[str, Rules]
    arrange: Arrange
    common: tuple[str, ...] = ()
    """What is known of all its figures."""

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """See `Style.benchmarks`."""
        return tuple(self.rules)

    def of(self, benchmark: str) -> Rules:
        """The rules of a benchmark. Raises SodError for one that the style lacks."""
        found = self.rules.get(benchmark)
        if found is None:
            have = ", ".join(self.rules)
            raise SodError(f"--style {self.name} has no rules for {benchmark}; it has {have}: use --style official")
        return found

    def flaws(self, benchmark: str) -> tuple[str, ...]:
        """See `Style.flaws`."""
        return (*self.of(benchmark).flaws, *self.common)

    def sampling(self, benchmark: str) -> StyleSampling:
        """See `Style.sampling`."""
        return self.of(benchmark).sampling

    def arranged(self, problems: Sequence[Problem], seed: int) -> list[Problem]:
        """See `Style.arranged`."""
        return self.arrange(problems, seed)

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        """See `Style.prompt`."""
        rules = self.of(problem.benchmark)
        before = () if rules.system is None else (Message("system", rules.system),)
        return (*before, Message("user", rules.ask(problem)))

    def truth(self, problem: Problem) -> str:
        """See `Style.truth`."""
        return self.of(problem.benchmark).truth(problem)

    def verifier(self, problems: Sequence[Problem], means: Means) -> RuledVerifier:
        """See `Style.verifier`."""
        return RuledVerifier(self, problems, means)

    def score(self, problem: Problem, text: str, means: Means) -> Verdict | Fault:
        """See `Style.score`."""
        return self.scores([(problem, text)], means)[0]

    def scores(self, outputs: Sequence[tuple[Problem, str]], means: Means) -> list[Verdict | Fault]:
        """See `Style.scores`."""
        resources = Resources(means)
        try:
            return self.judged([Item(problem, text) for problem, text in outputs], resources)
        finally:
            resources.close()

    def judged(self, items: Sequence[Item], resources: Resources) -> list[Verdict | Fault]:
        """The outcomes of texts, in order; those of one benchmark are judged together."""
        outcomes: dict[int, Verdict | Fault] = {}
        for benchmark in dict.fromkeys(item.problem.benchmark for item in items):
            mine = [at for at, item in enumerate(items) if item.problem.benchmark == benchmark]
            found = self.of(benchmark).judge([items[at] for at in mine], resources)
            outcomes.update(zip(mine, found, strict=True))
        return [outcomes[at] for at in range(len(items))]


@final
class RuledVerifier:
    """Judges episodes on the problems of a style, as the texts that its harness would have read."""

    def __init__(self, style: RuledStyle, problems: Sequence[Problem], means: Means) -> None:
        self._style = style
        self._problems = {problem.id: problem for problem in problems}
        self._resources = Resources(means)

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """See `Verifier.verify`. Raises SodError for an episode on another task, and for tests that cannot be read."""
        return self._style.judged([self._item(episode) for episode in episodes], self._resources)

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """See `Verifier.votes`. Answers are equal where the harness's own spelling of them is."""
        return as_answered(groups)

    def close(self) -> None:
        """End the comparisons; the sandbox belongs to whoever made the means."""
        self._resources.close()

    def _item(self, episode: Episode) -> Item:
        problem = self._problems.get(episode.task.id)
        if problem is None:
            raise SodError(f"--style {self._style.name}: task {episode.task.id!r} is none of its problems")
        return Item(problem, self._style.of(problem.benchmark).output(problem, episode))
