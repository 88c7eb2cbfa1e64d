"""A generated world: nested arithmetic in which every tool call depends on the one before.

A task is an expression such as `(((47+8)*6)-29)*3`. The expert works from the inside out with one Python
call per operation, carrying each printed result into the next call, so one bad call spoils all that
follow. With the code limit of the quickstart recipe an expression does not fit into a single call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from sod.records import Message, Task, ToolCall
from sod.seeds import derive
from sod.tasks.base import Conversation
from sod.tasks.privileged import Privilege, privileged_prompt

LARGEST = 999
OPERANDS = range(2, 10)
SOURCE = "chain"


@final
@dataclass(frozen=True)
class Chain:
    """A start value and the operations applied to it, from the inside out."""

    start: int
    operations: tuple[tuple[str, int], ...]

    @property
    def expression(self) -> str:
        """The nested expression, every operation but the outermost in parentheses."""
        text = str(self.start)
        for number, (operator, operand) in enumerate(self.operations):
            text = f"({text})" if number else text
            text = f"{text}{operator}{operand}"
        return text

    def steps(self) -> Iterator[tuple[str, int]]:
        """Each operation on the value so far, and its result: `("47+8", 55)`, `("55*6", 330)`, ..."""
        value = self.start
        for operator, operand in self.operations:
            code = f"{value}{operator}{operand}"
            value = _apply(value, operator, operand)
            yield code, value

    def misread(self, rng: np.random.Generator, rate: float) -> Chain:
        """The chain as a sloppy expert reads it: each operand is another digit with probability `rate`."""
        operations = []
        for operator, operand in self.operations:
            others = [digit for digit in OPERANDS if digit != operand]
            operations.append((operator, int(rng.choice(others)) if rng.random() < rate else operand))
        return Chain(self.start, tuple(operations))

    @property
    def hint(self) -> str:
        """The operations in the order in which they are to be done, without a value: `+8 *6 -29`."""
        return " ".join(f"{operator}{operand}" for operator, operand in self.operations)

    @property
    def value(self) -> int:
        """The value of the whole expression."""
        return [result for _, result in self.steps()][-1]


def read(expression: str) -> Chain | None:
    """The chain whose expression this is; None for any other text."""
    parts = re.findall(r"([+*-]?)([0-9]{1,9})", expression)
    if len(parts) < 2:
        return None
    chain = Chain(int(parts[0][1]), tuple((operator, int(operand)) for operator, operand in parts[1:]))
    return chain if chain.expression == expression.strip() else None


def random_chain(rng: np.random.Generator, shortest: int, longest: int) -> Chain:
    """A chain of `shortest` to `longest` operations whose values stay within 0 to 999."""
    value = start = int(rng.integers(10, 100))
    operations: list[tuple[str, int]] = []
    for _ in range(int(rng.integers(shortest, longest + 1))):
        operator, operand = _random_operation(rng, value)
        operations.append((operator, operand))
        value = _apply(value, operator, operand)
    return Chain(start, tuple(operations))


def splits(sizes: Mapping[str, int], shortest: int, longest: int, seed: int) -> dict[str, list[Chain]]:
    """Disjoint lists of distinct chains, one per name in `sizes`. A pure function of its arguments."""
    rng = np.random.default_rng(derive(seed, "chain"))
    seen: set[str] = set()
    out: dict[str, list[Chain]] = {}
    for name, size in sizes.items():
        out[name] = []
        while len(out[name]) < size:
            chain = random_chain(rng, shortest, longest)
            if chain.expression not in seen:
                seen.add(chain.expression)
                out[name].append(chain)
    return out


def as_task(chain: Chain, number: int) -> Task:
    """The RL task of a chain."""
    return Task(
        id=f"chain-{number}",
        prompt=(Message("user", chain.expression),),
        ground_truth=str(chain.value),
        data_source=SOURCE,
        extra={"calls": len(chain.operations), "hint": chain.hint},
    )


def as_conversation(
    chain: Chain,
    number: int,
    tool: Mapping[str, Any],
    posed: Chain | None = None,
    privilege: Privilege | None = None,
) -> Conversation:
    """The expert's trace: one call of the Python `tool` (its schema) per operation, then the boxed result.

    `posed` is the task as it stands in the prompt, where that is not the chain the expert works out. With a
    `privilege` the prompt tells the ground truth of that task, or its hint.
    """
    task = as_task(posed or chain, number)
    function = tool["function"]
    name, (argument,) = function["name"], function["parameters"]["required"]
    messages = list(privileged_prompt(task, privilege) if privilege else task.prompt)
    for code, result in chain.steps():
        messages.append(Message("assistant", "", (ToolCall(name, {argument: f"print({code})"}),)))
        messages.append(Message("tool", str(result), name=name))
    messages.append(Message("assistant", f"\\boxed{{{chain.value}}}"))
    return Conversation(f"chain-sft-{number}", tuple(messages), (tool,))


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _apply(value: int, operator: str, operand: int) -> int:
    return _OPERATIONS[operator](value, operand)


def _random_operation(rng: np.random.Generator, value: int) -> tuple[str, int]:
    while True:
        operator = "+-*"[int(rng.integers(3))]
        operand = int(rng.choice(OPERANDS))
        if 0 <= _apply(value, operator, operand) <= LARGEST:
            return operator, operand
