"""ALFWorld: a household in text, played in the game engine of the packages `alfworld` and `textworld[pddl]`.

The problems are ALFWorld-style: the domain, the grammar, the rooms and the wording of the goals are the package's own;
which things lie where and what has to be done is drawn by a seed (`alfworld_problems`), so nothing is downloaded. With
`games`, the folder of ALFWorld's own games that a user has, those are played.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, final

from sod.environments.alfworld_expert import goal_of, house_of, next_command, shown_in
from sod.environments.alfworld_games import Game, Seen, Source, original, package_source
from sod.environments.alfworld_problems import KINDS, problem
from sod.environments.alfworld_rooms import package_folder
from sod.environments.base import Action
from sod.records import SodError, Task, ToolCall, ToolResult
from sod.seeds import derive

COMMANDS: Final = (
    "look; inventory; go to (receptacle); open (receptacle); close (receptacle); take (object) from (receptacle); "
    "{put}; examine (something); use (object); heat (object) with (receptacle); clean (object) with (receptacle); "
    "cool (object) with (receptacle); slice (object) with (object)"
)
PUT: Final = ("move (object) to (receptacle)", "put (object) in/on (receptacle)")
"""How a thing is put down, now and in older games."""
SAY: Final = "\n\nCommands: {commands}.\nSay one command a turn, in the form <action>go to desk 1</action>."
OVER: Final = "The task is done."
TENTH: Final = 10
"""Of games in no folder named `train`, every tenth is for validation."""
PLENTY: Final = {"train": 1000, "validation": 200}


@final
class AlfWorld:
    """`sod.environments.base.Environment`: a reward of 1 when the task is done, which ends the episode.

    `kinds` are the kinds of tasks, each in its turn; `train` and `validation` how many there are of each split (with
    `games`, at most). With `tools: false` no tool is shown and commands are said; with `admissible: true` every text
    ends with the commands that can be taken. `expert` searches by itself, or has the planner say the way.
    Raises SodError for what is missing or cannot be.
    """

    def __init__(
        self,
        kinds: str | Sequence[str] = KINDS,
        train: int | None = None,
        validation: int | None = None,
        seed: int = 0,
        tools: bool = True,
        admissible: bool = False,
        games: str | None = None,
        expert: Literal["search", "planner"] = "search",
    ) -> None:
        package_folder()
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not self._kinds or not set(self._kinds) <= set(KINDS):
            raise SodError(f"environment.kinds={list(self._kinds)}: name some of {', '.join(KINDS)}")
        if expert not in ("search", "planner"):
            raise SodError(f"environment.expert={expert!r}: is search or planner")
        self._counts = {"train": train, "validation": validation}
        self._seed = seed
        self._tools = tools
        self._admissible = admissible
        self._folder = None if games is None else Path(games).expanduser()
        self._expert = expert
        self._game = Game()
        self._source: Source | None = None
        self._commands: tuple[str, ...] = ()
        self._shown: set[str] = set()
        self._plan: list[str] = []
        self._won = False

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split, `train` or `validation`, in different rooms. Raises SodError without any games."""
        count = self._counts.get(split)
        if self._folder is not None:
            names = _games(self._folder, split, self._kinds)[:count]
            return [Task(name, (), "", _kind_in(name), {"game": name}) for name in names]
        many = PLENTY.get(split, 0) if count is None else count
        kinds = [self._kinds[number % len(self._kinds)] for number in range(many)]
        return [
            Task(f"{split}-{number}", (), "", kind, {"split": split, "number": number})
            for number, kind in enumerate(kinds)
        ]

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`. There is no chance in a game: `seed` is not used."""
        self._source = self._source_of(task)
        self._shown, self._plan, self._won = set(), [], False
        text = self._told(self._game.begin(self._source))
        commands = COMMANDS.format(put=PUT["put {o} in/on {r}" in self._source.grammar])
        return (text, [_act(commands)]) if self._tools else (text + SAY.format(commands=commands), [])

    def step(self, action: Action) -> tuple[str | list[ToolResult], float, bool]:
        """See `Environment.step`."""
        before = self._won
        told: str | list[ToolResult]
        if isinstance(action, str):
            told = self._taken(said_command(action))
        else:
            told = [self._result(call) for call in action]
        return told, float(self._won and not before), self._won

    def replay(self, actions: Sequence[Action]) -> None:
        """See `Replays.replay`: the game is the same whenever the same is done."""
        for action in actions:
            self.step(action)

    def expert(self) -> Action:
        """See `HasExpert.expert`. Raises ToolFault where the goal cannot be reached, ValueError for a game that is none
        of the six kinds.
        """
        return self._action(self._next())

    def choices(self) -> list[Action]:
        """See `HasChoices.choices`: all that can be done now."""
        return [self._action(command) for command in self._commands]

    def close(self) -> None:
        """See `Closes.close`."""
        self._game.end()

    def _next(self) -> str:
        if self._won or self._source is None:
            return "look"
        if self._expert == "planner":
            self._plan = self._plan or self._game.plan() or ["look"]
            return self._plan[0]
        house = house_of(self._game.facts())
        command = next_command(goal_of(self._source.problem), house, frozenset(self._shown))
        before = re.sub(r"^move (.+) to (.+)$", r"put \1 in/on \2", command)
        return before if before in self._commands else command

    def _action(self, command: str) -> Action:
        return (ToolCall("act", {"command": command}),) if self._tools else f"<action>{command}</action>"

    def _result(self, call: ToolCall) -> ToolResult:
        command = call.arguments.get("command")
        if not isinstance(command, str):
            return ToolResult("Error: command has to be text", error="wrong_arguments")
        return ToolResult(self._taken(_plain(command)))

    def _taken(self, command: str) -> str:
        self._plan = self._plan[1:] if self._plan[:1] == [command] else []  # who leaves it needs another
        return OVER if self._won else self._told(self._game.act(command))

    def _told(self, seen: Seen) -> str:
        """What the player reads; and what the world keeps of it."""
        self._commands, self._won = seen.commands, seen.won
        self._shown |= shown_in(seen.text)
        offer = self._admissible and not seen.won
        return f"{seen.text}\n\nYou can: {'; '.join(seen.commands)}." if offer else seen.text

    def _source_of(self, task: Task) -> Source:
        """What a task is made of. Raises SodError for a row that is none of ours."""
        if "game" in task.extra:
            file = (self._folder or Path()) / str(task.extra["game"])
            try:
                return original(file)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise SodError(f"{file}: is no game of ALFWorld (game.tw-pddl): {error}") from None
        if not isinstance(task.extra.get("number"), int) or "split" not in task.extra:
            raise SodError(
                f"task {task.id}: sod.environments.alfworld has tasks of its own; leave data.train out, or give rows a "
                "`game`, the path of a game.tw-pddl"
            )
        made = problem(self._seed, str(task.extra["split"]), task.extra["number"], self._kinds)
        domain, grammar = package_source()
        return Source(domain, grammar, made.pddl, made.text)


def _act(commands: str) -> dict[str, Any]:
    """The schema of the tool."""
    command = {"type": "string", "description": "One command, as in: go to desk 1"}
    return {
        "name": "act",
        "description": f"Do something in the house. Commands: {commands}.",
        "parameters": {"type": "object", "properties": {"command": command}, "required": ["command"]},
    }


def said_command(said: str) -> str:
    """The command in what was said: between the last `<action>` tags, else the last line."""
    tagged = re.findall(r"<action>(.*?)</action>", said, re.DOTALL)
    lines = said.strip().splitlines()
    return _plain(tagged[-1] if tagged else lines[-1] if lines else "")


def _plain(command: str) -> str:
    """In the game's spelling: small letters, single spaces, no full stop or prompt sign."""
    return " ".join(command.lower().split()).removeprefix("> ").rstrip(". ")


def _games(folder: Path, split: str, kinds: Sequence[str]) -> list[str]:
    """The games of a split: those in `train`, and in `valid_unseen` or else `valid_seen`. Raises SodError for none.

    Always in the same order, which mixes the kinds. As ALFWorld does, games with sliced things or with things in
    things are left out, and those known not to be solvable.
    """
    every = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.tw-pddl"))
    if (folder / "train").is_dir():
        found: list[str] = []
        for part in ("train",) if split == "train" else ("valid_unseen", "valid_seen"):
            found = found or [game for game in every if game.startswith(part)]
    else:
        found = [game for at, game in enumerate(every) if (at % TENTH == TENTH - 1) == (split != "train")]
    games = [game for game in found if _kind_in(game) in (*kinds, "") and _playable(folder, game)]
    if not games and split == "train":
        raise SodError(f"environment.games={str(folder)!r}: no game.tw-pddl below it that can be played ({split})")
    return sorted(games, key=lambda game: derive(0, game))


def _playable(folder: Path, game: str) -> bool:
    if "movable_recep" in game or "Sliced" in game:
        return False
    return '"solvable": false' not in (folder / game).read_text(encoding="utf-8")


def _kind_in(path: str) -> str:
    """The kind of task that ALFWorld writes into a game's path; "" where it does not."""
    return next((kind for kind in KINDS if kind in path), "")
