"""`reward`."""

from __future__ import annotations

import re
from typing import Literal

import regex  # what the verifiers match with
from pydantic import Field, field_validator, model_validator

from sod.recipe.keys.section import Section
from sod.records import Task
from sod.records import VerifierName as VerifierName

ANSWER_FORMS = ("auto", "boxed", "hash", "answer_line", "tags", "last_number")
ANSWER_PATTERN = "regex:"


class ChoiceSpec(Section):
    """What the choice verifier reads."""

    letters: str = Field("ABCD", description="the letters of the choices, A first: ABCDE, ABCDEFGHIJ, ...")
    answer_line: bool = Field(
        False, description="without a box, a last line such as `Answer: B` or `The answer is (B).` answers too"
    )

    @field_validator("letters")
    @classmethod
    def _distinct_capitals(cls, letters: str) -> str:
        if len(letters) < 2 or len(set(letters)) < len(letters) or not re.fullmatch("[A-Z]*", letters):
            raise ValueError("reward.choice.letters: must be two or more different letters from A to Z, such as ABCDE")
        return letters


class RewardSpec(Section):
    """What an episode earns, and who decides."""

    correct: float = Field(1.0, description="reward of a right answer")
    wrong: float = Field(-1.0, description="reward of a wrong answer")
    verifier: VerifierName = Field("math", description="who decides whether an answer is right")
    by_source: dict[str, VerifierName] = Field(
        default_factory=dict, description="verifiers of single data_sources, in place of reward.verifier"
    )
    answer: str = Field(
        "auto",
        description="where answers stand: boxed, hash, answer_line, tags, last_number, regex:...; auto: as prompts ask",
    )
    truths: Literal["auto", "any", "all"] = Field(
        "auto",
        description="of several truths any is right, or all together; auto: as a row's is_multiple_answer says",
    )
    tool_bonus: bool = Field(
        False, description="the SOD paper's: a wrong answer earns -1 plus 0.1 a round of tool calls, at most -0.6"
    )
    overlong_buffer: int = Field(
        0, ge=0, description="tokens before rollout.max_response_tokens over which a penalty grows to -1; 0: none"
    )
    choice: ChoiceSpec = Field(ChoiceSpec(), description="what the choice verifier reads")
    math_seconds: int = Field(3, ge=1, description="CPU seconds of the math verifier per answer")
    code_seconds: float = Field(6.0, gt=0, description="seconds of the code verifier per test")
    code_memory_mb: int = Field(1024, ge=32, description="memory of a program that the code verifier runs (MiB)")
    code_check: bool = Field(
        True, description="first run the tests and reference solutions of programming tasks; leave out those at fault"
    )
    workers: int = Field(2, ge=1, description="processes of the math verifier")

    @field_validator("answer")
    @classmethod
    def _known_form(cls, answer: str) -> str:
        if answer.startswith(ANSWER_PATTERN):
            _refuse_unusable(answer.removeprefix(ANSWER_PATTERN))
        elif answer not in ANSWER_FORMS:
            raise ValueError(f"reward.answer: must be {', '.join(ANSWER_FORMS)}, or {ANSWER_PATTERN} and a pattern")
        return answer

    @model_validator(mode="after")
    def _consistent(self) -> RewardSpec:
        if self.answer == "last_number" and "choice" in self.verifiers:
            raise ValueError(
                "reward.answer: last_number finds no letter for the choice verifier; take auto, or regex: and a pattern"
            )
        if self.tool_bonus and self.wrong != -1.0:
            raise ValueError(
                f"reward.wrong: {self.wrong:g} cannot be set with reward.tool_bonus, which starts from -1; "
                "leave reward.wrong out or switch reward.tool_bonus off"
            )
        return self

    def verifier_of(self, task: Task) -> VerifierName:
        """Who judges a task: as `by_source` says of its data_source, else as its row tells, else `verifier`."""
        return self.by_source.get(task.data_source) or task.verifier or self.verifier

    @property
    def verifiers(self) -> set[VerifierName]:
        """Every verifier that is named here; tasks whose rows hold tests need `code` beside them."""
        return {self.verifier, *self.by_source.values()}


def _refuse_unusable(pattern: str) -> None:
    """Raises ValueError for a pattern that is none, or that matches nothing but emptiness."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"reward.answer: {ANSWER_PATTERN}{pattern} is no regular expression: {error}") from error
    if not pattern:
        raise ValueError(
            f"reward.answer: {ANSWER_PATTERN} needs a pattern behind it, such as {ANSWER_PATTERN}Answer is (.+)"
        )
