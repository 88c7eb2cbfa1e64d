"""ALFWorld's games in a process of their own, which `alfworld_games` starts as a script: a line of JSON for each thing
that is asked, and one for what came of it.

A process apart, since TextWorld's part for PDDL keeps no promise to the program around it: a translation takes the
standard output and `sys.argv` of the whole process, a library that is closed crashes it, and the order in which things
are told depends on the hashes of texts, which only a process's environment can fix.

What takes TextWorld's time is cut without a change of what is said (a test compares): a translation is kept, one for
the planner is made when it is asked for, a phrase of the grammar is parsed once, and a command is worded without the
grammar where its template is plain.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from alfworld.agents.utils.misc import Demangler
from textworld.envs.pddl import logic as pddl
from textworld.envs.pddl import textgen
from textworld.generator.game import EntityInfo

TRANSLATIONS = 64
"""Problems whose translation is kept: about a MB each."""
GO_TO = re.compile(r"\[\{(\w+)\.name \| receptacleatlocation\(\1:receptacle, lend:location\)\}\]")
"""The way in which the grammar asks for a thing that the action names already."""
TOLD = {
    *("atlocation", "receptacleatlocation", "inreceptacle", "holds"),
    *("objecttype", "receptacletype", "cancontain"),
    *("openable", "opened", "isclean", "ishot", "iscool", "istoggled"),
}
"""The facts that a player by the state needs."""


class Game:
    """One game at a time, and again; the copy of the planner's library that it runs in is never closed."""

    def __init__(self) -> None:
        self._library = pddl.fast_downward.load_lib()
        self._actions: dict[str, Any] = {}

    def begin(self, domain: str, grammar: str, problem: str) -> str:
        """Start a problem; the first text."""
        self._logic = game_logic(domain, grammar)
        try:
            self._state = pddl.PddlState(self._library, problem, self._logic)
        except KeyError as error:
            if error.args == ("val1",):  # the translator found the goal impossible and wrote an empty task
                raise ValueError("the goal cannot be reached; a thing or a canContain fact is missing") from None
            raise
        named = {argument.name: argument for fact in self._state.facts for argument in fact.arguments}
        self._infos = {name: EntityInfo(name, argument.type) for name, argument in named.items()}
        words = Demangler(game_infos=self._infos)
        for info in self._infos.values():
            info.name = words.demangle_alfred_name(info.id)
            info.definite, info.indefinite = "the", "a"
        self._actions = self._admissible()
        return self._said("#intro#", {})

    def act(self, command: str) -> str:
        """Take a command; what comes of it."""
        action = self._actions.get(command)
        if action is None:
            return "Nothing happens."
        self._state.apply(action)
        text = self._said(action.feedback_rule, action.mapping)
        self._actions = self._admissible()
        return text

    def commands(self) -> list[str]:
        """What can be done now, in alphabetical order."""
        return sorted(self._actions)

    def won(self) -> bool:
        """Whether the goal is reached."""
        return bool(self._state.check_goal())

    def facts(self) -> list[list[str]]:
        """What is so, in the names that the player reads."""
        told = [
            [fact.name, *(self._infos[argument.name].name.strip() for argument in fact.arguments)]
            for fact in self._state.facts
            if fact.name in TOLD
        ]
        return sorted(told)

    def plan(self) -> list[str]:
        """The planner's commands from here to the goal; none where it finds no way, or is there."""
        _, translated = TRANSLATE(self._logic.domain, self._state.pddl_problem, optimize=True)
        self._library.load_sas_replan(translated.encode("utf-8"))
        commands: list[str] = self._state.replan(self._infos)
        return commands

    def _admissible(self) -> dict[str, Any]:
        """Actions by their commands; of two that are worded alike the first, as in TextWorld."""
        found: dict[str, Any] = {}
        for action in self._state.all_applicable_actions():
            found.setdefault(self._worded(action), action)
        return found

    def _worded(self, action: Any) -> str:
        template = GO_TO.sub(r"{\1}", action.command_template)
        if any(mark in template for mark in "[|#"):
            return self._said(action.command_template, action.mapping)
        return template.format(**self._named(action.mapping))

    def _named(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        return {placeholder.name: self._infos[variable.name] for placeholder, variable in mapping.items()}

    def _said(self, rule: str, mapping: Mapping[Any, Any]) -> str:
        context = {
            "state": self._state,
            "facts": [],
            "variables": self._named(mapping),
            "mapping": dict(mapping),
            "entity_infos": self._infos,
        }
        text: str = self._logic.grammar.derive(rule, context)
        return text


TRANSLATE: Callable[..., tuple[Any, str]] = lru_cache(maxsize=TRANSLATIONS)(pddl.fast_downward.pddl2sas)


@lru_cache(maxsize=8)
def game_logic(domain: str, grammar: str) -> Any:
    """A domain and its grammar, parsed once: many problems share them."""
    return pddl.GameLogic(domain=domain, grammar=grammar)


def hasten() -> None:
    """Have TextWorld keep what it would make anew at every step."""
    parse = lru_cache(maxsize=4096)(textgen._parse_and_convert)

    def parsed(text: str, rule_name: str, trace: bool = False) -> Any:
        return copy.deepcopy(parse(text, rule_name=rule_name))

    def copied(given: Mapping[str, Any]) -> Any:
        return {**given, "variables": dict(given["variables"]), "mapping": dict(given["mapping"])}

    def translated(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> tuple[Any, str]:
        return (None, "") if optimize else TRANSLATE(domain, problem)

    textgen._parse_and_convert = parsed
    textgen.copy_context = copied
    textgen.Rule.parse_conjunctive_query = staticmethod(lru_cache(maxsize=4096)(textgen.Rule.parse_conjunctive_query))
    pddl.fast_downward.pddl2sas = translated


def answered(games: dict[int, Game], free: list[Game], request: Mapping[str, Any]) -> dict[str, Any]:
    """What comes of a request. Raises what TextWorld raises, and KeyError for a game that there is not."""
    number, do = int(request["game"]), request["do"]
    if do == "end":
        free.append(games.pop(number))
        return {}
    if do == "begin" and number not in games:
        games[number] = free.pop() if free else Game()
    game = games[number]
    if do == "facts":
        return {"facts": game.facts()}
    if do == "plan":
        return {"plan": game.plan()}
    if do == "begin":
        text = game.begin(request["domain"], request["grammar"], request["problem"])
    else:
        text = game.act(request["command"])
    return {"text": text, "commands": game.commands(), "won": game.won()}


def main() -> None:
    """Answer until nobody asks any more."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the planner prints is no reply
    hasten()
    games: dict[int, Game] = {}
    free: list[Game] = []
    for line in sys.stdin:
        try:
            reply = answered(games, free, json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    os._exit(0)  # the planner's library crashes at an orderly end


if __name__ == "__main__":
    main()
