"""Invented programming problems, and answers to them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

Made = list[tuple[Mapping[str, Any], str]]


def _function(name: str, arguments: str, says: str, body: str, wrong: str, tests: Sequence[str]) -> dict[str, Any]:
    prompt = f'from typing import List\n\n\ndef {name}({arguments}):\n    """{says}\n    """\n'
    checks = "".join(f"    {test.replace(name + '(', 'candidate(')}\n" for test in tests)
    return {
        "prompt": prompt,
        "signature": f"def {name}({arguments}):\n",
        "entry_point": name,
        "body": body,
        "wrong": wrong,
        "test": f"def check(candidate):\n{checks}",
        "test_list": list(tests),
    }


FUNCTIONS: Sequence[Mapping[str, Any]] = (
    _function(
        "twice",
        "n: int",
        "Double a number.",
        "    return n * 2\n",
        "    return n + 2\n",
        ("assert twice(3) == 6", "assert twice(0) == 0", "assert twice(-4) == -8"),
    ),
    _function(
        "spoken",
        "words: List[str]",
        "Join words, a line each.",
        "    lines = []\n    for word in words:\n        lines.append(word)\n    return '\\n'.join(lines)\n",
        "    return ' '.join(words)\n",
        ("assert spoken(['a', 'b']) == 'a' + chr(10) + 'b'", "assert spoken([]) == ''", "assert spoken(['x']) == 'x'"),
    ),
    _function(
        "largest",
        "numbers: list",
        "The largest number, 0 for none.",
        "    best = 0\n    if numbers:\n        best = max(numbers)\n    return best\n",
        "    return max(numbers)\n",
        ("assert largest([1, 9, 3]) == 9", "assert largest([]) == 0", "assert largest([-2, -5]) == -2"),
    ),
)

FUNCTION_ANSWERS: Sequence[str] = (
    "{body}",
    "\n{body}",
    "{signature}{body}",
    "\n{signature}{body}",
    "```python\n{signature}{body}```",
    "Here it is:\n\n```python\n{prompt}{body}```\nDone.",
    "```\n{signature}{body}```",
    "```py\n{signature}{body}```",
    "Sure.\n```python\n{signature}{wrong}```\nBetter:\n```python\n{signature}{body}```",
    "```python\n{signature}{body}```\nNot this:\n```python\n{signature}{wrong}```",
    "{body}\n\ndef helper():\n    return 1\n",
    "{body}\nprint('done')\n",
    "{body}\n# end of it\n",
    "{body}```\nIt returns the result.\n```",
    "\n{signature}{body}```\nExplanation follows.",
    "{signature}{body}```\nExplanation follows.",
    "[BEGIN]\n{signature}{body}[DONE]",
    "{signature}{body}[DONE]\nAnother: {signature}{wrong}",
    "[BEGIN]\n```python\n{signature}{body}```\n[DONE]",
    "```python\nimport math\n\n{signature}{body}```",
    "```python\nclass Helper:\n    pass\n\n\n{signature}{body}```",
    "<think>\nLet me see.\n</think>\n```python\n{signature}{body}```",
    "```python\n{signature}{body}",
    "{wrong}",
    "```python\n{signature}{wrong}```",
    "\n{signature}{wrong}```",
    "{signature}{body}\nassert False\n",
    "{signature}{body}\nif __name__ == '__main__':\n    raise SystemExit(3)\n",
    "{body}\nraise SystemExit(0)\n",
    "",
    "I cannot do this.",
    "    return\n",
    "{signature}    retrun 1\n",
)


def function_outputs(problems: Sequence[Mapping[str, Any]], numbers: random.Random, count: int) -> Made:
    """Answers to functions: bare bodies, whole functions, blocks, several of them, and wrong ones."""
    made: Made = []
    for number in range(count):
        problem = problems[number % len(problems)]
        shape = FUNCTION_ANSWERS[number % len(FUNCTION_ANSWERS)]
        made.append((problem, shape.format(**problem)))
    numbers.shuffle(made)
    return made


CONTESTS: Sequence[Mapping[str, Any]] = (
    {
        "inputs": ["1 2\n", "10 -4\n"],
        "outputs": ["3\n", "6\n"],
        "right": "a, b = map(int, input().split())\nprint(a + b)\n",
        "wrong": "a, b = map(int, input().split())\nprint(a * b)\n",
        "spaced": "a, b = map(int, input().split())\nprint(a + b, '')\n",
        "decimal": "a, b = map(int, input().split())\nprint(float(a + b))\n",
    },
    {
        "inputs": ["3\n", "1\n"],
        "outputs": ["1\n2\n3\n", "1\n"],
        "right": "n = int(input())\nfor i in range(n):\n    print(i + 1)\n",
        "wrong": "n = int(input())\nfor i in range(n):\n    print(i)\n",
        "spaced": "n = int(input())\nprint('\\n'.join(str(i + 1) + ' ' for i in range(n)))\n",
        "decimal": "n = int(input())\nfor i in range(n):\n    print('%.2f' % (i + 1))\n",
    },
    {
        "inputs": ["a b c\n", "zz\n"],
        "outputs": ["c b a\n", "zz\n"],
        "right": "import sys\nwords = sys.stdin.read().split()\nprint(*reversed(words))\n",
        "wrong": "import sys\nwords = sys.stdin.read().split()\nprint(*words)\n",
        "spaced": "words = input().split()\nprint()\nprint(*reversed(words))\nprint()\n",
        "decimal": "words = input().split()\nprint(*reversed(words), end='')\n",
    },
)

CONTEST_ANSWERS: Sequence[str] = (
    "```python\n{right}```",
    "The plan is simple.\n\n```python\n{right}```\nIt runs in linear time.",
    "```python\n{wrong}```",
    "```python\n{spaced}```",
    "```python\n{decimal}```",
    "```\n{right}```",
    "```py\n{right}```",
    "```python \n{right}```",
    "```python\n{wrong}```\nThat fails, so:\n```python\n{right}```",
    "```python\n{right}```\nA bad way:\n```python\n{wrong}```",
    "```python\n{right}```\nIt prints\n```\n3\n```",
    "```python\n{right}",
    "{right}",
    "<think>\n```python\n{wrong}```\n</think>\n```python\n{right}```",
    "<think>\nplan\n</think>\nTesting it.\n<think>\nfine\n</think>\n```python\n{right}```",
    "```python\n{right}print('\\n', end='')\n```",
    "```python\n# splits at '\\t'\n{right}```",
    "```python\nif __name__ == '__main__':\n    raise ValueError\n```",
    "```python\nraise SystemExit\n```",
    "```python\nprnt(1\n```",
    "",
    "No idea.",
    "   ```python\n{right}   ```",
)


def contest_outputs(problems: Sequence[Mapping[str, Any]], numbers: random.Random, count: int) -> Made:
    """Answers to problems with inputs and outputs."""
    made: Made = []
    for number in range(count):
        problem = problems[(number // 2) % len(problems)]
        shape = CONTEST_ANSWERS[number % len(CONTEST_ANSWERS)]
        made.append((problem, shape.format(**problem)))
    numbers.shuffle(made)
    return made
