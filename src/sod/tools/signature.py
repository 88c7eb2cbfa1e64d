"""What a Python function or class asks of the model that calls it: its schema, and its arguments once they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sod.records import SodError, Task

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class BadArgumentsError(Exception):
    """Arguments that a function does not take, in words for the model."""


@final
@dataclass(frozen=True)
class Signature:
    """`schema` is what the model is shown; `task` is the parameter that is given the task, None where there is none.

    `arguments` reads what the model gives for every parameter, `required` are those that it has to give.
    """

    schema: Mapping[str, Any]
    task: str | None
    arguments: Mapping[str, TypeAdapter[Any]]
    required: tuple[str, ...]

    def read(self, given: Mapping[str, Any], task: Task) -> dict[str, Any]:
        """The keyword arguments of a call, of the types that the hints name. Raises BadArgumentsError."""
        if missing := [repr(name) for name in self.required if name not in given]:
            raise BadArgumentsError(f"{', '.join(missing)} is missing")
        if others := [repr(name) for name in given if name not in self.arguments]:
            accepted = ", ".join(map(repr, self.arguments)) or "no argument"
            raise BadArgumentsError(f"only {accepted} is accepted, not {', '.join(others)}")
        read = {name: _read(name, self.arguments[name], value) for name, value in given.items()}
        return read if self.task is None else read | {self.task: task}


def signature_of(thing: Callable[..., Any], name: str, where: str) -> Signature:
    """The signature of a function, or of the `__call__` of a class or object, as a tool called `name`.

    The schema comes of type hints and docstring (Google style), read by transformers' `get_json_schema`. A parameter
    whose type is `sod.Task` is left out of it. Raises SodError, beginning with `where`, for what is no such function.
    """
    function = _function(thing, where)
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        raise SodError(f"{where}: its type hints cannot be read: {error}; import what they name") from None
    parameters = _parameters(function, hints, where)
    tasks = [parameter.name for parameter in parameters if hints[parameter.name] is Task]
    shown = [parameter for parameter in parameters if parameter.name not in tasks]
    if len(tasks) > 1:
        raise SodError(f"{where}: takes the task twice, as {' and '.join(tasks)}; keep one of them")
    doc = inspect.getdoc(function) or inspect.getdoc(thing)
    schema = _schema(name, doc, shown, hints, where)
    arguments = {parameter.name: _adapter(parameter.name, hints, where) for parameter in shown}
    required = tuple(parameter.name for parameter in shown if parameter.default is parameter.empty)
    return Signature(schema, tasks[0] if tasks else None, arguments, required)


def _function(thing: Callable[..., Any], where: str) -> Callable[..., Any]:
    """The function that a call runs."""
    if inspect.isroutine(thing):
        return thing
    owner = thing if inspect.isclass(thing) else type(thing)
    found = [base.__dict__["__call__"] for base in owner.__mro__ if "__call__" in base.__dict__]
    if not found:
        what = f"class {owner.__name__} has no __call__" if inspect.isclass(thing) else f"a {owner.__name__}"
        raise SodError(f"{where}: is {what}; name a function, or a class whose __call__ is what the model calls")
    return found[0]  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any], hints: Mapping[str, Any], where: str) -> list[inspect.Parameter]:
    """Every parameter that is given by name, a method's own object left out."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and parameters[0].annotation is inspect.Parameter.empty:
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind not in _BY_NAME:
            raise SodError(f"{where}: its parameter {parameter} cannot be given by name; name every parameter")
        if parameter.name not in hints:
            task = "sod.Task to be given the task, or " if parameter.name == "task" else ""
            raise SodError(
                f"{where}: its parameter {parameter.name} has no type hint; write {parameter.name}: {task}str, int, ..."
            )
    return parameters


def _schema(
    name: str, doc: str | None, shown: list[inspect.Parameter], hints: Mapping[str, Any], where: str
) -> Mapping[str, Any]:
    from transformers.utils.chat_template_utils import (  # slow to import
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    def stand_in() -> None: ...

    # The function as the model is to see it: without the task, and by the name that the recipe gives it.
    stand_in.__name__ = name
    stand_in.__doc__ = doc
    stand_in.__annotations__ = {parameter.name: hints[parameter.name] for parameter in shown}
    stand_in.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    try:
        return dict(get_json_schema(stand_in))
    except DocstringParsingException as error:
        lines = ", ".join(f"'{parameter.name}: ...'" for parameter in shown)
        args = f" and, below 'Args:', a line for each argument ({lines})" if lines else ""
        raise SodError(f"{where}: {_line(error)}; say in its docstring what it does{args}") from None
    except TypeHintParsingException as error:
        raise SodError(f"{where}: {_line(error)}") from None
    except ValueError as error:
        raise SodError(f"{where}: the (choices: ...) of its docstring are not JSON: {_line(error)}") from None


def _adapter(name: str, hints: Mapping[str, Any], where: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hints[name])
    except Exception as error:  # pydantic has several, and a user's type may raise its own
        raise SodError(f"{where}: no argument can be read as the type of {name}: {_line(error)}") from None


def _read(name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        at = "".join(f"[{part!r}]" for part in problem["loc"])
        raise BadArgumentsError(f"`{name}{at}`: {problem['msg'][0].lower()}{problem['msg'][1:]}") from None


def _line(error: Exception) -> str:
    return " ".join(" ".join(map(str, error.args)).split())
