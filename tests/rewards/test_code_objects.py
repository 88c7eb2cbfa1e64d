"""What crosses between tests in Python and an answer, in the real sandbox: data, objects, and nothing that cheats."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from sod.records import Verdict
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import answered

STACK = """
class Stack:
    limit = 3
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def __len__(self): return len(self.items)
    def __getitem__(self, at): return self.items[at]
    def __iter__(self): return iter(self.items)
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
    def __str__(self): return f"Stack {self.items}"
    def __bool__(self): return bool(self.items)
"""
TREE = "class Tree:\n    def __init__(self, n, left=None):\n        self.n = n\n        self.left = left\n"

# The prompt, what the tests assert, and an answer that is right. Tests are about `f`.
CROSSING: dict[str, tuple[str, str, str]] = {
    "dates": (
        "",
        "from datetime import *\nassert f(date(2024, 2, 28), timedelta(days=2)) == date(2024, 3, 1)\n"
        "assert f(datetime(2024, 1, 1, tzinfo=timezone.utc), timedelta(hours=1)).hour == 1",
        "def f(day, more): return day + more",
    ),
    "exact numbers": (
        "",
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "assert f(Decimal('0.1')) == Decimal('0.2') and f(Fraction(1, 3)) == Fraction(2, 3) and f(1j) == 2j",
        "def f(n): return n + n",
    ),
    "bytes and ranges": (
        "",
        "from collections import deque\nassert f(range(3)) == range(2, -1, -1) and f(bytearray(b'ab')) == b'ba'\n"
        "assert f(deque([1, 2])) == deque([2, 1])",
        "def f(x):\n    return x[::-1] if not hasattr(x, 'popleft') else type(x)(reversed(x))",
    ),
    "paths": ("", "from pathlib import Path\nassert f(Path('/a/b')) == Path('/a')", "def f(p): return p.parent"),
    "named tuples": (
        "",
        "assert f(3) == (3, 4)",
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, x + 1)",
    ),
    "objects of the prompt's classes": (
        TREE,
        "made = f(Tree(1, Tree(2)))\nassert isinstance(made, Tree) and (made.n, made.left.n) == (2, 1)",
        "def f(tree): return Tree(tree.left.n, Tree(tree.n))",
    ),
    "a class that the answer defines anew": (
        TREE,
        "assert f(Tree(1, Tree(2))).left.n == 1",
        TREE + "def f(tree): return Tree(tree.left.n, Tree(tree.n))",
    ),
    "long chains of objects": (
        TREE,
        "head = None\nfor n in range(3000):\n    head = Tree(n, head)\n"
        "tree, found = f(head), []\nwhile tree:\n    found.append(tree.n)\n    tree = tree.left\n"
        "assert found == list(range(3000))",
        "def f(tree):\n    done = None\n    while tree:\n"
        "        tree.left, done, tree = done, tree, tree.left\n    return done",
    ),
    "objects in a circle": (
        TREE,
        "tree = Tree(1)\ntree.left = tree\nassert f(tree).left.left.n == 2",
        "def f(tree):\n    tree.n += 1\n    return tree",
    ),
    "objects of the answer's own": (
        "",
        "stack = f(1, 2).push([3])\nassert len(stack) == 3 and stack[2] == [3] and list(stack) == [1, 2, [3]]\n"
        "assert str(stack) == 'Stack [1, 2, [3]]' and stack and not f() and 2 in stack and stack.items[0] == 1\n"
        "assert f(1) == f(1) and f(1) != f(2) and f.limit == 3 and isinstance(f(), f) and not isinstance(3, f)\n"
        "stack.items = [9]\nassert stack[0] == 9",
        STACK + "f = Stack",
    ),
    "generators": (
        "",
        "import itertools\nassert list(f(3)) == [0, 1, 2] and next(iter(f(1))) == 0\n"
        "assert list(itertools.islice(f(10 ** 9), 2)) == [0, 1]",
        "def f(n): yield from range(n)",
    ),
    "arguments changed in place": (
        TREE,
        "rows, sizes, tree = [[1, 2], [3]], {1: 2}, Tree(1)\nassert f(rows, sizes, tree=tree) is None\n"
        "assert rows == [[3], [1, 2]] and sizes == {2: 2} and tree.n == 2",
        "def f(rows, sizes, tree):\n    rows.reverse()\n    sizes[2] = sizes.pop(1)\n    tree.n += 1",
    ),
    "functions that are returned": ("", "assert f(3)(4) == 7", "def f(n): return lambda m: n + m"),
    "objects that are given back": ("", "assert f(f(1)) == 2", "def f(x): return x.n + 1 if hasattr(x, 'n') else "
        "type('Own', (), {'n': x})()"),
}  # fmt: skip
ALWAYS = """
class Always:
    def __eq__(self, other): return True
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __contains__(self, other): return True
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = __sub__
    def __len__(self): return 10 ** 9
    def __iter__(self): return iter([Always()])
    def __getitem__(self, key): return Always()
    def __getattr__(self, name): return Always()
    def __call__(self, *args): return Always()
    def __hash__(self): return 0
"""
# Tests that an object which agrees with everything must not pass.
EXPECTING = (
    "assert f(1) == 2",
    "assert 2 == f(1)",
    "assert not f(1) != 2",
    "assert f(1) > 2",
    "assert abs(f(1) - 2) < 1e-6",
    "assert 2 in f(1)",
    "assert f(1)[0] == 2",
    "assert f(1).value == 2",
    "assert f(1).value() == 2",
    "assert list(f(1)) == [2]",
    "assert f(1) in (2, 3)",
    "assert [f(1)] == [2]",
    "assert {'a': f(1)} == {'a': 2}",
    "assert isinstance(f(1), int)",
    "assert sorted([f(1), 2])[0] == 2",
    "assert str(f(1)) == '2'",
    "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertAlmostEqual(f(1), 2)",
    "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertIn(2, f(1))",
    "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertCountEqual(f(1), [2])",
)
FORGED = (
    '{"value": {"kind": ["os", "system", "true"]}, "objects": []}',
    '{"value": {"kind": ["builtins", "eval", "2"]}, "objects": []}',
    '{"value": {"held": ["__import__", ""]}, "objects": []}',
    '{"value": {"object": 0}, "objects": [["int", []]]}',
    '{"value": {"object": 0}, "objects": [["Tree", [["__class__", 1]]]]}',
    '{"value": {"object": 0}, "objects": [["Tree", [["n", {"object": 7}]]]]}',
    '{"value": {"array": ["|O8", [1], "00"]}, "objects": []}',
    '{"value": {"deque": [[1], -1]}, "objects": []}',
    '{"objects": []}',
)


@pytest.fixture(scope="module")
def verifier(sandbox: LocalSandbox) -> CodeVerifier:
    return CodeVerifier(sandbox.execute, seconds=20.0)


def judged(verifier: CodeVerifier, *candidates: tuple[str, str, str]) -> list[Verdict]:
    """The verdict on each (prompt, tests, answer); a fault fails the test."""
    episodes = [
        answered(f"```python\n{code}\n```", "", {"prompt": prompt, "entry_point": "f", "test": test})
        for prompt, test, code in candidates
    ]
    verdicts = verifier.verify(episodes)
    for verdict in verdicts:
        assert isinstance(verdict, Verdict), verdict
    return verdicts  # type: ignore[return-value]


def test_values_and_objects_cross(verifier: CodeVerifier) -> None:
    verdicts = judged(verifier, *CROSSING.values())
    details = {name: verdict.detail for name, verdict in zip(CROSSING, verdicts, strict=True) if not verdict.correct}
    assert details == {}


@pytest.mark.slow
def test_an_object_that_agrees_with_everything_is_wrong(verifier: CodeVerifier) -> None:
    verdicts = judged(verifier, *(("", test, f"{ALWAYS}\ndef f(n): return Always()") for test in EXPECTING))
    passed = [test for test, verdict in zip(EXPECTING, verdicts, strict=True) if verdict.correct]
    assert passed == []


def test_a_call_with_a_value_leaves_its_arguments_alone(verifier: CodeVerifier) -> None:
    test = "given = [3, 1]\nassert f(given) == sorted(given) and given == [3, 1]"
    cheat = "def f(given):\n    given.clear()\n    return []"
    wrong, right = judged(verifier, ("", test, cheat), ("", test, "def f(given):\n    given.sort()\n    return given"))
    assert not wrong.correct
    assert right.correct, right.detail


@pytest.mark.slow
def test_forged_replies_are_wrong(verifier: CodeVerifier) -> None:
    code = textwrap.dedent(
        """
        import os
        def f(n):
            for number in range(3, 256):
                try: os.write(number, {reply!r}.encode() + b"\\n")
                except OSError: pass
            os._exit(0)
        """
    )
    test = "try:\n    assert f(1) == 2\nexcept AttributeError:\n    pass"
    verdicts = judged(verifier, *((TREE, test, code.replace("{reply!r}", repr(reply))) for reply in FORGED))
    assert [reply for reply, verdict in zip(FORGED, verdicts, strict=True) if verdict.correct] == []


@pytest.fixture(scope="module")
def with_numpy() -> Iterator[CodeVerifier]:
    local = LocalSandbox(ProgramLimits(memory_mb=512), preload=("numpy",))
    yield CodeVerifier(local.execute, seconds=30.0)
    local.close()


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")  # skips where there is no isolation
def test_arrays_cross(with_numpy: CodeVerifier) -> None:
    test = (
        "import numpy as np\nmade = f(np.arange(6, dtype=np.int16).reshape(2, 3))\n"
        "assert isinstance(made, np.ndarray) and made.dtype == np.int16 and made.shape == (3, 2) and made[2, 0] == 2\n"
        "made[0, 0] = 7\nassert np.allclose(f(np.array([1.5])), [1.5]) and f(np.array(['ab']))[0] == 'ab'\n"
        "assert f(np.float64(2.0)) == 2.0 and f([np.int64(3)]) == [3]\n"
    )
    right, wrong = judged(
        with_numpy,
        ("", test, "import numpy as np\ndef f(x): return x.T if isinstance(x, np.ndarray) else x"),
        ("", test, "import numpy as np\ndef f(x): return x"),
    )
    assert right.correct, right.detail
    assert not wrong.correct
