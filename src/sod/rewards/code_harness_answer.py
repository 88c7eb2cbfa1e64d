"""Runs inside the sandbox, in an interpreter of its own: the model's program, for the judge of `code_harness_check`.

The judge starts it with two descriptors: requests come by one, replies go by the other, a line of JSON each. The first
request is the job: the model's code (`sources`), what the tests are about (`entry_point`), the classes that the prompt
defines, and the text of `code_harness_values`. Every other one asks for something: a call, an attribute, an item. What
the model's code does in here it does to itself: the judge believes nothing but data.

Standard library only, and as little of it as can be: every answer that is judged waits for its start, of which `json`,
`typing` and what they import would be more than half.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    Value = Any

READY: dict[str, Any] = {"value": None, "objects": []}
WORDS = 300  # characters of a message kept
CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Plain:
    """How the scanner of `json.loads` is to read."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = CONSTANTS.__getitem__


def json_functions() -> tuple[Callable[[Value], str], Callable[[str], Value]]:
    """`json.dumps` and `json.loads`: the C functions that these call, where they can be had without `json` itself."""
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner
    except ImportError:  # not CPython
        import json

        return json.dumps, json.loads
    encode: Value = make_encoder(None, refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
    scan: Value = make_scanner(Plain)  # type: ignore[arg-type]
    return lambda value: "".join(encode(value, 0)), lambda text: scan(text.strip(), 0)[0]


def refuse(value: Value) -> Value:
    raise TypeError(f"{type(value).__name__} is no JSON")


def new_module(name: str) -> ModuleType:
    """An empty module, which can be imported from now on."""
    module = sys.modules[name] = type(sys)(name)
    return module


def module_of(name: str, source: str) -> Any:
    """A module of the given text, which can be imported from now on."""
    module = new_module(name)
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


def candidate_main(requests: int, replies: int) -> None:
    """Load the answer, then do what is asked of it until the judge goes away."""
    dumps, loads = json_functions()
    with open(requests, "rb") as lines, open(replies, "wb") as out:

        def reply(message: dict[str, Value]) -> None:
            out.write(dumps(message).encode() + b"\n")
            out.flush()

        reply(READY)  # now the model's code is sent
        job = loads(lines.readline().decode())
        sys.path[:] = ["", *job["path"]]  # it may import what it wrote
        answer = None
        try:
            answer = Answer(job, module_of("harness_values", job["values"]))
            reply(READY)
        except BaseException as error:
            reply(failure(error))
        for line in lines:
            try:
                message = answer.done(loads(line.decode()))  # type: ignore[union-attr]
            except BaseException as error:
                message = failure(error)
            reply(message)


class Answer:
    """The model's program, and what of it the tests hold."""

    def __init__(self, job: dict[str, Any], values: Any) -> None:
        self._values = values
        self._module = load(job)
        self._names = self._module.__dict__
        self._classes = {name: self._names[name] for name in job["classes"] if isinstance(self._names.get(name), type)}
        self._found: dict[str, Value] = {}
        self._held: list[Value] = []
        self._at(job["entry_point"])

    def done(self, message: dict[str, Value]) -> dict[str, Value]:
        """Do what a message asks for; the reply."""
        operation, *operands = self._values.Reader(self._classes, self._at).value(message)
        if operation != "call":
            return self._written(OPERATIONS[operation](*operands))
        function, args, kwargs = operands
        value = function(*args, **kwargs)
        return self._written((value, (args, kwargs) if value is None else None))

    def _written(self, value: Value) -> dict[str, Value]:
        return self._values.Writer(self._classes, self._hold).message(value)  # type: ignore[no-any-return]

    def _at(self, target: int | str, _: str = "") -> Value:
        """What is held under a number; what a name, or an expression such as `Solution().f`, stands for."""
        if isinstance(target, int):
            return self._held[target]
        if target not in self._found:
            self._found[target] = eval(target, self._names)
        return self._found[target]

    def _hold(self, value: Value) -> int:
        self._held.append(value)
        return len(self._held) - 1


def following(iterator: Value) -> Value:
    """Whether there is a next value, and which."""
    try:
        return [True, next(iterator)]
    except StopIteration:
        return [False, None]


OPERATIONS: dict[str, Callable[..., Value]] = {
    "get": getattr,
    "set": setattr,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": iter,
    "next": following,
    "getitem": lambda one, key: one[key],
    "setitem": lambda one, key, value: one.__setitem__(key, value),
    "delitem": lambda one, key: one.__delitem__(key),
    "isinstance": isinstance,
    "eq": lambda one, other: one == other,
}


def load(job: dict[str, Any]) -> ModuleType:
    """Run the sources in one namespace, that of a module; annotations are evaluated, unlike this file's own."""
    module = new_module("solution")
    *helpers, code = job["sources"]
    for source in helpers:
        try:  # noqa: SIM105  `suppress` would have to be imported
            exec(compile(source, "<prompt>", "exec", dont_inherit=True), module.__dict__)
        except SyntaxError:  # a prompt that is no program by itself
            pass
    exec(compile(code, "<answer>", "exec", dont_inherit=True), module.__dict__)
    return module


def failure(error: BaseException) -> dict[str, Value]:
    """The error as data: the nearest built-in type, so that tests can expect a ValueError of its subclasses too.

    And the names of the types before it, which may be the program's own.
    """
    kinds = type(error).__mro__
    names = [kind.__name__ for kind in kinds if kind.__module__ == "builtins"]
    own = [kind.__name__ for kind in kinds if kind.__module__ != "builtins"]
    return {"error": names[0], "own": own, "text": str(error)[:WORDS]}


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    candidate_main(int(sys.argv[1]), int(sys.argv[2]))
