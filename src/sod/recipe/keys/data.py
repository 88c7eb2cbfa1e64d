"""`data`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from sod.recipe.keys.section import Section
from sod.recipe.nearest import offered

COLUMNS = (
    *("prompt", "ground_truth", "data_source", "id", "tools", "choices", "hint", "solution", "extra_info"),
    *("messages", "conversations", "completion"),
)
"""What `data.columns` can give a name: of RL tasks, and of conversations."""


Source = str | list[str]
"""A file, a folder, a glob or `owner/name:config@split` of the hub; or a list of these."""


def refuse_unnamed(key: str, value: Any) -> None:
    """Raises ValueError for what is no source, nor null."""
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) and name.strip() for name in names)):
        raise ValueError(
            f"{key}={value!r}: name a file, a folder, a glob or a hub dataset, owner/name:config@split, or a list of "
            "these"
        )


SET_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
FIGURES = ("avg_at_k", "pass_at_k", "maj_at_k")
"""What figures are called, and so no set of tasks."""


def validation_key(name: str) -> str:
    """What messages and files call a set of validation tasks."""
    return f"data.validation.{name}" if name else "data.validation"


def _refuse_unfit_names(names: list[Any]) -> None:
    """Raises ValueError for names of sets by which figures could not be told apart, or that are none."""
    if not names:
        raise ValueError("data.validation={}: names no set; write {NAME: source, ...}, a source, or null")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not SET_NAME.fullmatch(name) or name in FIGURES:
            raise ValueError(
                f"data.validation: {name!r} is no name of a set; use letters, digits, '_', '-' and '.', as in aime24"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"data.validation: the sets {other} and {name} differ in case alone; rename one")


class DataSpec(Section):
    """Where tasks and conversations come from: files, folders, globs or Hugging Face hub ids, or lists of these."""

    train: Source | None = Field(
        None, description="tasks to train on: files, globs, owner/name:config@split, or a list"
    )
    validation: Source | dict[str, Source] | None = Field(
        None, description="tasks for evaluations during training, as data.train, or several sets {NAME: source, ...}"
    )
    sft: Source | None = Field(None, description="conversations for supervised fine-tuning, named as data.train")
    split: str = Field("train", description="split of hub datasets that name none, of folders and of split JSON files")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="columns by what they are, e.g. {prompt: q, ground_truth: meta.answer}; others go by their names",
    )
    system: str | None = Field(None, description="system message put in front of rows that have none of their own")
    suffix: str | None = Field(None, description="text appended as it is to the last user message before an answer")
    tools: str | None = Field(None, description="JSON file of function schemas that conversations without tools show")
    min_reward: float | None = Field(
        None, description="SFT on episodes of a run: rows that earned less are left out; null: all of them"
    )
    overlong_prompts: Literal["skip", "refuse"] = Field(
        "skip", description="what to do with prompts over rollout.max_prompt_tokens: skip and count them, or stop"
    )

    @property
    def validation_sets(self) -> dict[str, Source]:
        """The sets of validation tasks by name; one that has none is under the empty name."""
        named = self.validation
        if named is None:
            return {}
        return dict(named) if isinstance(named, dict) else {"": named}

    @property
    def validation_tasks(self) -> Source | None:
        """All validation tasks as one source; None where there are none."""
        sets = list(self.validation_sets.values())
        if len(sets) <= 1:
            return sets[0] if sets else None
        together: list[str] = []
        for source in sets:
            together += [source] if isinstance(source, str) else source
        return list(dict.fromkeys(together))

    @field_validator("validation", mode="before")
    @classmethod
    def _sets(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            refuse_unnamed("data.validation", value)
            return value
        _refuse_unfit_names(list(value))
        for name, source in value.items():
            if source is None:
                raise ValueError(f"data.validation.{name}: names no source; leave the set out, or name its tasks")
            refuse_unnamed(f"data.validation.{name}", source)
        return dict(value)

    @field_validator("train", "sft", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_unnamed(f"data.{info.field_name}", value)
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, column in columns.items():
            if name not in COLUMNS:
                raise ValueError(
                    f"data.columns.{name}: no part of a row is called so{offered(name, COLUMNS)}; there are "
                    f"{', '.join(COLUMNS)}"
                )
            if not column.strip():
                raise ValueError(f"data.columns.{name}: names no column")
        return columns
