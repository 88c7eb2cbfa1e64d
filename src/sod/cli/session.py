"""An episode at the terminal: what the model would read, and what a person types in its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from rich.panel import Panel
from rich.text import Text

from sod.environments.base import Action
from sod.environments.playing import Game
from sod.environments.typed import TypedError, shown_action, typed_action, usage
from sod.records import SodError, Task, ToolResult
from sod.report.console import out
from sod.rollout.opening import prompt_after

PROMPT = "> "
CHOICES, EXPERT = "?", "!"
KEYS = "? lists what can be done, ?2 does the second of it, ! asks the expert, Ctrl-D ends"


@final
class Session:
    """Shows a game on the terminal; `success` is the reward from which an episode is right."""

    def __init__(self, game: Game, task: Task, success: float, max_turns: int) -> None:
        self._game = game
        self._task = task
        self._success = success
        self._max_turns = max_turns
        self._tools: Sequence[Mapping[str, Any]] = ()

    def play(self) -> None:
        """A person plays, until the episode or what is typed ends. Raises SodError for a fault."""
        self._begin()
        out.print(f"{self._forms()}; {KEYS}", style="dim", markup=False)
        for line in _typed():
            if line.strip():
                self._answer(line.strip())
            if self._is_over():
                break
        self._end()

    def watch(self) -> None:
        """The world's expert plays. Raises SodError for a fault, and where there is no expert."""
        self._begin()
        while not self._is_over():
            (action,) = self._game.advised("expert")
            out.print(f"{PROMPT}{shown_action(action)}", style="bold", markup=False)
            self._act(action)
        self._end()

    def _begin(self) -> None:
        began = self._game.begin()
        self._tools = began.tools
        out.print(f"task {self._task.id}", style="dim", markup=False)
        for message in prompt_after(self._task.prompt, began.observation):
            _show(message.role, message.content)
        for tool in began.tools:
            out.print(f"{usage(tool)}: {tool['function'].get('description', '')}", markup=False)

    def _forms(self) -> str:
        calls = [usage(tool) for tool in self._tools]
        return f"type {' or '.join([*calls, 'what is said'])}" if calls else "type what is said"

    def _answer(self, line: str) -> None:
        """Do what was typed; what cannot be read is told."""
        try:
            action = self._action(line)
        except (TypedError, SodError) as error:
            out.print(str(error), style="red", markup=False)
            return
        if action is not None:
            self._act(action)

    def _action(self, line: str) -> Action | None:
        """What a line stands for; None where it only asked. Raises TypedError or SodError where it cannot be read."""
        if line == EXPERT:
            out.print(shown_action(self._game.advised("expert")[0]), style="green", markup=False)
            return None
        if not line.startswith(CHOICES):
            return typed_action(line, self._tools)
        choices = self._game.advised("choices")
        number = line.removeprefix(CHOICES).strip()
        if not number:
            for at, choice in enumerate(choices, 1):
                out.print(f"{at:>3}  {shown_action(choice)}", style="green", markup=False)
            return None
        if not number.isdecimal() or not 1 <= int(number) <= len(choices):
            raise TypedError(f"? takes a number from 1 to {len(choices)}")
        return choices[int(number) - 1]

    def _act(self, action: Action) -> None:
        stepped = self._game.act(action)
        names = ["user"] if isinstance(action, str) else [call.name for call in action]
        for name, result in zip(names, stepped.results, strict=True):
            _show(_titled(name, result), result.text)
        if stepped.reward:
            out.print(f"reward {stepped.reward:g}", style="cyan", markup=False)

    def _is_over(self) -> bool:
        return self._game.done or self._game.turns >= self._max_turns

    def _end(self) -> None:
        total = self._game.end()
        over = "over" if self._game.done else "ended before it was over"
        right = "the goal is reached" if total >= self._success else "the goal is not reached"
        turns = f"{self._game.turns} turn{'' if self._game.turns == 1 else 's'}"
        out.print(f"{over} after {turns}, reward {total:g}: {right}", style="bold", markup=False)


def _typed() -> Iterator[str]:
    """The lines that are typed, until Ctrl-D or Ctrl-C; those of a pipe are shown too."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            out.print(f"{PROMPT}{line.rstrip()}", style="bold", markup=False)
            yield line
        return
    import readline  # noqa: F401  the line can be edited, and earlier ones come back

    while True:
        try:
            yield input(PROMPT)
        except (EOFError, KeyboardInterrupt):
            out.print()
            return


def _titled(name: str, result: ToolResult) -> str:
    return f"{name}: {result.error}" if result.error else name


def _show(title: str, text: str) -> None:
    if text:
        out.print(Panel(Text(text), title=title, title_align="left"), soft_wrap=False)  # else long lines are cut off
