"""The part of the composition root that needs no torch: sandboxes, tools and verifiers of a recipe."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, final

from sod.build.own_rewards import own_rewards
from sod.recipe import Notice, OwnToolSpec, PythonSpec, Recipe, VerifierName, written
from sod.records import SodError, Task
from sod.rewards.answers import Answers
from sod.rewards.base import Verifier
from sod.rewards.choice import ChoiceVerifier, letters_of
from sod.rewards.code import CodeVerifier
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.collect import RewardFunction
from sod.rollout.earned import EnvironmentReward
from sod.rollout.reward import VerifierReward
from sod.seeds import derive
from sod.tools.base import Tool
from sod.tools.function import CallLimits, FunctionTool
from sod.tools.mcp import ListedTool, McpServer, McpTool, ServerCommand, listed_tools
from sod.tools.python import PythonTool, python_schema
from sod.tools.results import cut_to_tokens
from sod.tools.sandbox.base import ProgramLimits, Sandbox
from sod.tools.sandbox.fusion import FusionOptions, FusionSandbox
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.signature import signature_of
from sod.tools.unreliable import UnreliableTool
from sod.usercode import load

CODE_SECONDS = 60.0  # wall clock of all tests of an answer


def make_sandbox(spec: PythonSpec, limits: ProgramLimits) -> Sandbox:
    """The recipe's sandbox for stateless programs: this machine's, or a service."""
    if spec.fusion is not None:
        service = spec.fusion
        options = FusionOptions(**service.model_dump(exclude={"url"}))
        return FusionSandbox(service.url, limits, options)
    return make_local_sandbox(spec, limits)


def make_local_sandbox(spec: PythonSpec, limits: ProgramLimits) -> LocalSandbox:
    """This machine's sandbox, which can keep state too. Raises SodError where it cannot be had."""
    return LocalSandbox(limits, workers=spec.workers, preload=spec.preload, unsafe=spec.unsafe)


@final
@dataclass(frozen=True)
class _Setting:
    """What tools are made in: the tokenizer that counts the tokens of results, and who hears of what is no error."""

    tokenizer: Any
    notice: Notice


@final
@dataclass(frozen=True)
class _Declared:
    """A tool of the recipe: what can be known of it before it is started, and how it is made.

    `key` is its section of `tools`; `closes` says whether it is closed with the run.
    """

    key: str
    schema: Mapping[str, Any]
    keeps_state: bool
    make: Callable[[_Setting], Tool]
    closes: bool = True

    @property
    def name(self) -> str:
        """What the model calls it."""
        return str(self.schema["function"]["name"])


def _declared(recipe: Recipe) -> list[_Declared]:
    """Every tool of the recipe, in the order in which they are shown: the one place that knows which there are.

    Raises SodError for two of one name, and for what is no tool.
    """
    declared = []
    python = recipe.tools.python
    if python is not None:
        seed = derive(recipe.seed, "unreliable")
        schema = python_schema(python.stateful, python.name, python.argument)
        declared.append(_Declared("python", schema, python.stateful, lambda setting: _make_python(python, seed)))
    for name, spec in recipe.tools.own.items():
        declared += [_declared_function(name, spec)] if spec.mcp is None else _declared_server(name, spec)
    _refuse_twins(declared)
    return declared


def _declared_function(name: str, spec: OwnToolSpec) -> _Declared:
    """A function or class of the user's own, which is imported here."""
    key = f"tools.{name}.call"
    function, where = load(spec.call, Path.cwd(), key), f"{key}={written(spec.call)!r}"
    if isinstance(function, Tool):  # whoever made it closes it
        return _Declared(name, function.schema, function.keeps_state, lambda setting: function, closes=False)
    limits = CallLimits(spec.timeout_seconds, spec.concurrency)

    def make(setting: _Setting) -> Tool:
        cut = cut_to_tokens(setting.tokenizer, spec.max_result_tokens)
        return FunctionTool(name, function, limits, cut, setting.notice, where)

    return _Declared(name, signature_of(function, name, where).schema, inspect.isclass(function), make)


def _declared_server(name: str, spec: OwnToolSpec) -> list[_Declared]:
    """The tools of an MCP server, which is started to tell of them; a run's own server starts with its first call."""
    command = ServerCommand(tuple(spec.mcp or ()), tuple(spec.variables), f"tools.{name}.mcp")
    limits = CallLimits(spec.timeout_seconds, spec.concurrency)
    server = McpServer(command)

    def made(tool: ListedTool, setting: _Setting) -> Tool:
        return McpTool(tool, server, limits, cut_to_tokens(setting.tokenizer, spec.max_result_tokens))

    tools = _tools_of(command, None if spec.offer is None else tuple(spec.offer))
    return [_Declared(name, tool.schema, False, partial(made, tool)) for tool in tools]


@lru_cache(maxsize=64)
def _tools_of(command: ServerCommand, offer: tuple[str, ...] | None) -> tuple[ListedTool, ...]:
    """What a server tells of its tools, asked once."""
    server = McpServer(command)
    try:
        return tuple(listed_tools(server, offer))
    finally:
        server.close()


def _refuse_twins(declared: Sequence[_Declared]) -> None:
    """Raises SodError where the model would call two tools by one name."""
    first: dict[str, str] = {}
    for tool in declared:
        if tool.name in first:
            raise SodError(
                f"tools.{first[tool.name]} and tools.{tool.key} are both called {tool.name!r} by the model; name one "
                "of them otherwise"
            )
        first[tool.name] = tool.key


def tool_schemas(recipe: Recipe) -> list[Mapping[str, Any]]:
    """The function schemas of the recipe's tools, as its prompts show them; nothing is started."""
    return [declared.schema for declared in _declared(recipe)]


def own_schemas(recipe: Recipe) -> list[tuple[str, Mapping[str, Any]]]:
    """The schemas of the user's own tools, each with its section of `tools`."""
    return [(declared.key, declared.schema) for declared in _declared(recipe) if declared.key in recipe.tools.own]


def make_tools(recipe: Recipe, opened: ExitStack, tokenizer: Any, notice: Notice = warnings.warn) -> dict[str, Tool]:
    """The tools of the recipe by name, running; they are closed with `opened`.

    `tokenizer` counts the tokens of results, `notice` hears of what goes wrong once an episode is over.
    Raises SodError for what is no tool, ValueError for one that is not as it was declared: of another schema, or with
    state.
    """
    setting = _Setting(tokenizer, notice)
    tools: dict[str, Tool] = {}
    for declared in _declared(recipe):
        tool = declared.make(setting)
        if declared.closes:
            opened.callback(tool.close)
        if tool.schema != declared.schema:
            raise ValueError(f"tool {tool.name}: prompts show another schema than the tool has")
        if tool.keeps_state != declared.keeps_state:
            raise ValueError(f"tool {tool.name}: declared with keeps_state={declared.keeps_state}")
        tools[tool.name] = tool
    return tools


def _make_python(spec: PythonSpec, seed: int) -> Tool:
    limits = ProgramLimits(seconds=spec.timeout_seconds, memory_mb=spec.memory_mb, processes=spec.processes)
    sandbox = make_sandbox(spec, limits)
    tool = PythonTool(
        sandbox, spec.max_code_chars, spec.max_output_chars, spec.stateful, name=spec.name, argument=spec.argument
    )
    return UnreliableTool(tool, spec.failure_rate, seed) if spec.failure_rate > 0 else tool


def stateful_tools(recipe: Recipe) -> list[str]:
    """The sections of the recipe's tools that will keep state over the calls of an episode, before any of them runs."""
    return [declared.key for declared in _declared(recipe) if declared.keeps_state]


def make_reward_function(
    recipe: Recipe, opened: ExitStack, tasks: Sequence[Task], notice: Notice = warnings.warn
) -> RewardFunction:
    """What episodes earn: by their environment, where they have one, by the recipe's verifiers and own functions.

    What is run for it is closed with `opened`.
    """
    spec, world = recipe.reward, recipe.environment
    if world is None:
        return make_verifier_reward(recipe, opened, tasks, notice)
    beside: VerifierReward | None = None
    if world.verified:
        beside = make_verifier_reward(recipe, opened, tasks, notice)
    elif spec.call or spec.judge is not None:  # own functions join the environment's rewards, no verifier does
        alone = spec.model_copy(update={"verifier": None, "by_source": {}})
        beside = make_verifier_reward(recipe.model_copy(update={"reward": alone}), opened, tasks, notice)
    shaping = Shaping(overlong_buffer=spec.overlong_buffer, max_response_tokens=recipe.rollout.max_response_tokens)
    return EnvironmentReward(world.success, shaping, beside, world.verified)


def make_verifier_reward(
    recipe: Recipe, opened: ExitStack, tasks: Sequence[Task], notice: Notice = warnings.warn
) -> VerifierReward:
    """The verifiers and the shaping of `reward` in the recipe, for these tasks; what they run is closed with `opened`.

    There are the verifiers that the recipe names, and those that the tasks need beside them; own reward functions are
    imported here at the latest. The letters of multiple choice are those that the tasks have, where the recipe leaves
    them as they are. Raises SodError for a function that cannot be had.
    """
    spec = recipe.reward
    verifiers: dict[str, Verifier] = {}
    needed = {name for name in map(spec.verifier_of, tasks) if name is not None}
    for name in sorted(spec.verifiers | needed):
        mine = [task for task in tasks if spec.verifier_of(task) == name]
        verifiers[name] = _make_verifier(name, recipe, opened, mine)
        opened.callback(verifiers[name].close)
    shaping = Shaping(
        spec.correct, spec.wrong, spec.tool_bonus, spec.overlong_buffer, recipe.rollout.max_response_tokens
    )
    by_source = {source: verifiers[name] for source, name in spec.by_source.items()}
    default = None if spec.verifier is None else verifiers[spec.verifier]
    declared = {} if spec.verifier is None else verifiers
    own = own_rewards(recipe, opened, notice)
    retries = recipe.rollout.fault_retries
    return VerifierReward(default, by_source, shaping, retries, declared, own, spec.call_right)


def _make_verifier(name: VerifierName, recipe: Recipe, opened: ExitStack, tasks: Sequence[Task]) -> Verifier:
    spec = recipe.reward
    if name == "math":
        return MathVerifier(workers=spec.workers, seconds=spec.math_seconds, answer=spec.answer)
    if name == "choice":
        letters = letters_of(tasks, spec.choice.letters)
        return ChoiceVerifier(letters, spec.choice.answer_line, Answers(spec.answer, spec.math_seconds))
    return make_code_verifier(recipe, opened)


def make_code_verifier(recipe: Recipe, opened: ExitStack) -> CodeVerifier:
    """The verifier of programs with a sandbox of its own, which is closed with `opened`."""
    spec, python = recipe.reward, recipe.tools.python or PythonSpec()
    sandbox = make_sandbox(python, ProgramLimits(seconds=CODE_SECONDS, memory_mb=spec.code_memory_mb))
    opened.callback(sandbox.close)
    return CodeVerifier(sandbox.execute, spec.code_seconds, CODE_SECONDS)
