"""Runs inside the sandbox, in both interpreters of `code_harness_check`: values as data that cross between them.

Plain values cross as what they are: numbers, text, None, containers, dates, fractions, paths, arrays of numpy. So do
objects of the classes that the task's prompt defines (a `ListNode`): as the names and values of their attributes, to
be made anew from the other side's class of that name.

Anything else of the candidate's stays with it. What crosses is a number, and the tests get a `Held` in its place: its
attributes, its methods and what `len`, `[]`, `for`, `str` and `bool` say of it are asked for, and cross as values
again. It equals itself and what the candidate says of another `Held`, but no plain value, and has no order and no
arithmetic: an object that is equal to everything is equal to no expected value.

Where a call returns None, the arguments are what it made of them: such a function is to change them. What another one
does to them stays with it, as tests may compute what they expect from the same arguments.

Standard library only; the text of this file is a part of the job.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what type checkers take for true: the answer's interpreter starts without these
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    Value = Any
    Hold = Callable[[Value], Value]

DEEPEST = 100  # levels of a value: fewer than packing can take where the tests pass it on
CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
PLAIN_ITEMS = "biufcSUmM"  # kinds of arrays that hold no objects


def written(value: Value) -> Value:
    return value.isoformat()


def from_written(kind: Value, data: Value) -> Value:
    return kind.fromisoformat(data)


def hexadecimal(value: Value) -> Value:
    return value.hex()


def from_hexadecimal(kind: Value, data: Value) -> Value:
    return kind.fromhex(data)


def made(kind: Value, data: Value) -> Value:
    return kind(data)


def made_of_parts(kind: Value, data: Value) -> Value:
    return kind(*data)


# Types of the standard library: what data a value is, and how such data is a value again.
KINDS: dict[tuple[str, str], tuple[Callable[[Value], Value], Callable[[Value, Value], Value]]] = {
    ("decimal", "Decimal"): (str, made),
    ("fractions", "Fraction"): (str, made),
    ("pathlib", "PosixPath"): (str, made),
    ("pathlib", "PurePosixPath"): (str, made),
    ("datetime", "datetime"): (written, from_written),
    ("datetime", "date"): (written, from_written),
    ("datetime", "time"): (written, from_written),
    ("datetime", "timedelta"): (lambda value: [value.days, value.seconds, value.microseconds], made_of_parts),
    ("builtins", "range"): (lambda value: [value.start, value.stop, value.step], made_of_parts),
    ("builtins", "complex"): (lambda value: [value.real, value.imag], made_of_parts),
    ("builtins", "bytes"): (hexadecimal, from_hexadecimal),
    ("builtins", "bytearray"): (hexadecimal, from_hexadecimal),
}


class Writer:
    """Packs the values of one message. `classes` are those of the prompt, `hold` keeps what is no data.

    Objects are listed apart and their attributes packed one after the other, so a chain of them may be long.
    """

    def __init__(self, classes: Mapping[str, type], hold: Hold | None = None) -> None:
        self._classes = classes
        self._hold = hold
        self._listed: dict[int, int] = {}
        self._objects: list[Value] = []

    def message(self, value: Value) -> dict[str, Value]:
        """The value as JSON. Raises TypeError for what cannot cross, and RecursionError."""
        packed = self.pack(value)
        states = []
        for one in self._objects:  # it grows meanwhile
            states.append([type(one).__name__, [[name, self.pack(item)] for name, item in vars(one).items()]])
        return {"value": packed, "objects": states}

    def pack(self, value: Value) -> Value:
        """JSON for a value within the message."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        for name, container in CONTAINERS.items():
            if isinstance(value, container):
                return {name: [self.pack(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        kind = type(value)
        if (kind.__module__, kind.__name__) in KINDS:
            data = KINDS[kind.__module__, kind.__name__][0](value)
            return {"kind": [kind.__module__, kind.__name__, data]}
        if kind.__module__ == "collections" and kind.__name__ == "deque":
            return {"deque": [[self.pack(item) for item in value], value.maxlen]}
        return self._pack_other(value, kind)

    def _pack_other(self, value: Value, kind: type) -> Value:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return self.pack(value.item())
        if numpy is not None and isinstance(value, numpy.ndarray) and _is_plain(value.dtype.str):
            return {"array": [value.dtype.str, list(value.shape), value.tobytes().hex()]}
        if kind.__name__ in self._classes and type(getattr(value, "__dict__", None)) is dict:
            at = self._listed.setdefault(id(value), len(self._objects))
            if at == len(self._objects):
                self._objects.append(value)
            return {"object": at}
        if isinstance(value, Held):
            return {"held": [value._target, value._kind]}
        if self._hold is None:
            raise TypeError(f"{kind.__name__} is not plain data")
        return {"held": [self._hold(value), kind.__name__[:100]]}


class Reader:
    """Unpacks one message: the inverse of `Writer`. `held` is what stands for what the other side keeps."""

    def __init__(self, classes: Mapping[str, type], held: Callable[[Value, str], Value]) -> None:
        self._classes = classes
        self._held = held
        self._made: list[Value] = []

    def value(self, message: Mapping[str, Value]) -> Value:
        """The value of a message. Raises an Exception for anything else, and for more than DEEPEST levels."""
        self._made = [object.__new__(self._classes[name]) for name, _ in message["objects"]]
        for made, (_, state) in zip(self._made, message["objects"], strict=True):
            for name, item in state:
                if not name.isidentifier() or name.startswith("__"):
                    raise ValueError(f"no attribute: {name}")
                object.__setattr__(made, name, self.unpack(item))
        return self.unpack(message["value"])

    def unpack(self, value: Value, depth: int = 0) -> Value:
        """A value within the message."""
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
        if not isinstance(value, dict):
            if isinstance(value, list):
                raise ValueError("not a packed value")
            return value
        ((name, content),) = value.items()
        if name in CONTAINERS:
            return CONTAINERS[name](self.unpack(item, depth + 1) for item in content)
        if name == "dict":
            return {self.unpack(key, depth + 1): self.unpack(item, depth + 1) for key, item in content}
        if name == "deque":
            from collections import deque  # others are judged without

            return deque((self.unpack(item, depth + 1) for item in content[0]), content[1])
        if name == "kind":
            module, kind, data = content
            return KINDS[module, kind][1](getattr(_module(module), kind), data)
        if name == "array":
            return _array(*content)
        if name == "object":
            return self._made[content]
        if name != "held":
            raise ValueError(f"no kind of value: {name}")
        return self._held(*content)


def _module(name: str) -> Value:
    __import__(name)
    return sys.modules[name]


def _is_plain(dtype: str) -> bool:
    """Whether items of the type are numbers, text or dates, and no structures."""
    kind = dtype.lstrip("<>|=")
    return kind[:1] in PLAIN_ITEMS and kind[1:2].isdigit() and "," not in kind


def _array(dtype: str, shape: list[int], data: str) -> Value:
    if not _is_plain(dtype):
        raise ValueError(f"no array of numbers or text: {dtype}")
    return _module("numpy").frombuffer(bytes.fromhex(data), dtype).reshape(shape).copy()


def change(old: Value, new: Value) -> None:
    """Make `old` what the candidate made of it, if it is something that can be changed in place."""
    if isinstance(old, list | bytearray) and isinstance(new, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set) and isinstance(new, dict | set):
        old.clear()
        old.update(new)
    elif type(old) is type(new) and type(old).__name__ == "deque":
        old.clear()
        old.extend(new)
    elif type(old) is type(new) and type(getattr(old, "__dict__", None)) is dict and not isinstance(old, Held):
        old.__dict__.clear()
        old.__dict__.update(new.__dict__)


class Held:
    """What the candidate keeps, as the tests see it; `_ask(operation, held, *arguments)` asks the candidate.

    A target is a number, or the name of what the candidate's program defines; `in` compares here what `for` asks for.
    """

    def __init__(self, ask: Callable[..., Value], target: int | str, kind: str = "") -> None:
        self.__dict__.update(_ask=ask, _target=target, _kind=kind)

    def __call__(self, *args: Value, **kwargs: Value) -> Value:
        return self._ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):  # what Python and test runners look for is not asked for
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Value) -> None:
        self._ask("set", self, name, value)

    def __len__(self) -> int:
        return int(self._ask("len", self))

    def __bool__(self) -> bool:
        return bool(self._ask("bool", self))

    def __str__(self) -> str:
        return str(self._ask("str", self))

    def __repr__(self) -> str:
        return str(self._ask("repr", self))

    def __getitem__(self, key: Value) -> Value:
        return self._ask("getitem", self, key)

    def __setitem__(self, key: Value, value: Value) -> None:
        self._ask("setitem", self, key, value)

    def __delitem__(self, key: Value) -> None:
        self._ask("delitem", self, key)

    def __iter__(self) -> Iterator[Value]:
        iterator = self._ask("iter", self)
        while True:
            more, value = self._ask("next", iterator)
            if not more:
                return
            yield value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bool(self._ask("eq", self, other))

    def __hash__(self) -> int:
        return hash(self._target)

    def __instancecheck__(self, other: object) -> bool:
        return isinstance(other, Held) and bool(self._ask("isinstance", other, self))
