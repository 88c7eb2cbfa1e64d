"""`reward`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import regex  # what the verifiers match with
from pydantic import BeforeValidator, Field, field_validator, model_validator

from sod.recipe.keys.code import Code, written
from sod.recipe.keys.judge import JUDGE, JudgeSpec
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


OUR_PARTS = ("outcome", "tool_bonus", "overlong", "environment", JUDGE)
"""Parts of a reward that are not the user's functions."""


class CallSpec(Section):
    """A reward function of the user's; `./mine.py:score` alone is short for `{call: ./mine.py:score}`."""

    call: Code = Field(description="its import path: module:name, or ./file.py:name beside the recipe")
    weight: float = Field(1.0, description="factor on what it returns")
    name: str = Field("", description="what its part of the reward is called; empty: the function's name")

    @field_validator("weight")
    @classmethod
    def _a_factor(cls, weight: float) -> float:
        if not math.isfinite(weight) or weight == 0.0:
            raise ValueError(f"reward.call: a weight of {weight:g} makes no sense; take another, or leave it out")
        return weight

    @property
    def part(self) -> str:
        """The name of its part of the reward."""
        return self.name or re.split("[:.]", written(self.call))[-1]


def _listed(value: Any) -> Any:
    """One function or several, each by its path alone or as a mapping, as a list of mappings."""
    if value is None:
        return []
    given = value if isinstance(value, list) else [value]
    return [item if isinstance(item, Mapping | CallSpec) else {"call": item} for item in given]


class RewardSpec(Section):
    """What an episode earns, and who decides."""

    call: Annotated[list[CallSpec], BeforeValidator(_listed)] = Field(
        default_factory=list, description="own reward functions: an import path, or a list of {call, weight, name}"
    )
    call_seconds: float = Field(60.0, gt=0, description="seconds of a call of an own reward function; then a fault")
    call_workers: int = Field(8, ge=1, description="calls of own reward functions that run at a time")
    call_right: float = Field(
        1.0, description="without a verifier: an episode is right where own functions give this or more"
    )
    judge: JudgeSpec | None = Field(None, description="a model behind a url that grades episodes; null: none")
    correct: float = Field(1.0, description="reward of a right answer")
    wrong: float = Field(-1.0, description="reward of a wrong answer")
    verifier: VerifierName | None = Field(
        "math", description="who decides whether an answer is right; null, as with own functions: they alone"
    )
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

    @model_validator(mode="before")
    @classmethod
    def _own_functions_stand_alone(cls, given: Any) -> Any:
        """Own functions take the verifiers' place, unless the recipe names a verifier beside them."""
        own = isinstance(given, Mapping) and (given.get("call") or given.get("judge"))
        return {**given, "verifier": None} if own and "verifier" not in given else given

    @model_validator(mode="after")
    def _own_parts(self) -> RewardSpec:
        names = [spec.part for spec in self.call]
        for spec in self.call:
            if names.count(spec.part) > 1 or spec.part in OUR_PARTS or not re.fullmatch(r"[\w.-]+", spec.part):
                raise ValueError(
                    f"reward.call: {spec.part!r} cannot name the part of {written(spec.call)}, names are words of "
                    f"their own; set another: {{call: {written(spec.call)!r}, name: ...}}"
                )
        if self.verifier is None and not (self.call or self.judge):
            raise ValueError("reward.verifier: null leaves the reward to reward.call or reward.judge; set one of them")
        return self

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

    def verifier_of(self, task: Task) -> VerifierName | None:
        """Who judges a task: as `by_source` says of its data_source, else as its row tells, else `verifier`.

        None where own functions alone do: without a `verifier` a row's word does not count.
        """
        declared = None if self.verifier is None else task.verifier or self.verifier
        return self.by_source.get(task.data_source) or declared

    @property
    def verifiers(self) -> set[VerifierName]:
        """Every verifier that is named here; tasks whose rows hold tests need `code` beside them."""
        named = set() if self.verifier is None else {self.verifier}
        return {*named, *self.by_source.values()}


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
