"""Which program of an answer is meant."""

from __future__ import annotations

import time

import pytest

from sod.rewards.code_blocks import last_block

README = 'README = """\n```\nrun\n```\n"""\nprint(1)\n'
DOCUMENTED = 'def f(x):\n    """Doubles.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2 * x\n'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints:\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```json\n{}\n```", None),
        ("```python\nx = 1", None),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n"),
        ("x = 1", None),
        ("", None),
        ("say ```python x = 1```", None),
        ("```python title='a.py'\nx = 1\n```  \n", "x = 1\n"),
        ("```{python}\nx = 1\n```", "x = 1\n"),
        ("``` Python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
    ],
)
def test_the_last_block_of_python_is_meant(text: str, code: str | None) -> None:
    assert last_block(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("1. So:\n\n   ```python\n   def f():\n       return 1\n\n   ```\n2. Done", "def f():\n    return 1\n\n"),
        ("- So:\n        ```python\n        x = 1\n        ```", "x = 1\n"),
        ("- ```python\n  x = 1\n  ```", "x = 1\n"),
        ("10) ~~~python\n    x = 1\n    ~~~", "x = 1\n"),
        ("\t```python\n\tif x:\n\t\ty = 1\n\t```", "if x:\n\ty = 1\n"),
        ("> ```python\n> if x:\n>     y = 1\n> ```\n", "if x:\n    y = 1\n"),
        ("> - ```python\n>   x = 1\n>\n>   y = 2\n>   ```\n", "x = 1\n\ny = 2\n"),
        ("```python\nx = 1\n  ```\n", "x = 1\n"),
        ("```python\nx = 1\n        ```\n", "x = 1\n"),
        ("   ```python\ndef f():\n    return 1\n   ```", "def f():\n return 1\n"),
        ("~~~\nx = 1\n~~~", "x = 1\n"),
        ("~~~python\nx = '''\n```\n'''\n~~~", "x = '''\n```\n'''\n"),
    ],
)
def test_blocks_stand_in_lists_and_quotes_too(text: str, code: str) -> None:
    assert last_block(text) == code


@pytest.mark.parametrize("fence", ["```", "````", "~~~", "~~~~~"])
@pytest.mark.parametrize("program", [README, DOCUMENTED, README.replace("```\nrun", "```python\nrun")])
@pytest.mark.parametrize("before", ["", "```python\nx = 0\n```\nBetter:\n"])
def test_fences_in_strings_of_the_program_are_its_own(fence: str, program: str, before: str) -> None:
    text = f"{before}{fence}python\n{program}{fence}\nThat prints:\n{fence}\n1\n{fence}\n"
    assert last_block(text) == program


def test_a_broken_block_does_not_swallow_a_later_one() -> None:
    broken = '```python\ns = """\nprint(1)\n```\nNo:\n'
    assert last_block(f"{broken}```python\nprint(2)\n```\n") == "print(2)\n"
    assert last_block(f'{broken}```python\n"""Two."""\nprint(2)\n```\n') == '"""Two."""\nprint(2)\n'


@pytest.mark.parametrize(
    "text",
    [
        "```python x\n" * 50_000,
        "```python\n```\n" * 10_000,
        "```python\n'''\n```\n" * 5_000,
        "```python\n        ```\n" * 3_000,
        "> " * 100_000 + "```",
        "- " * 100_000 + "```python\n" + "x\n" * 100,
        "`" * 200_000,
        "```python\n'''" + "-" * 60_000 + "1\n```\n" * 9,
        "```python\n'''" + "a" + ".a" * 60_000 + "\n```\n" * 9,
        "```python\n'''\n'" + "(" * 60_000 + "\n```\n" * 9,
        "```python\n''''''" + "-" * 60_000 + "1 # '''\n```\n" * 9,
        "```python\na" + ".a" * 60_000 + " # '''\n```\n" * 9,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    last_block(text)
    assert time.process_time() - started < 4.0
