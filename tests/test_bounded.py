"""Text of strangers: what is small and would not stay so is refused, within bounded memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sod.bounded import YAML_BYTES, parse_yaml, read_yaml_file, refuse_no_component

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k0: x, k1: x}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
BOMBS = {
    "aliases": ALIASES,
    "merge keys": MERGES,
    "an alias of itself": "a: &a [*a]",
    "flow nesting": "a: " + "[" * 5_000 + "]" * 5_000,
    "block nesting": "".join(" " * n + "a:\n" for n in range(600)),
    "nesting through aliases": "".join(
        f"a{n}: &a{n} {'[' * 40}{f'*a{n - 1}' if n else 'x'}{']' * 40}\n" for n in range(40)
    ),
    "many keys": "\n".join(f"k{n}: 1" for n in range(30_000)),
    "a long text": "a: " + "x" * YAML_BYTES,
    "digits": "a: " + "9" * 5_000,
    "base 60": "a: 1" + ":59" * 50_000,
    "base 2": "a: 0b" + "1" * 200_000,
    "no date": "a: 2001-99-99",
    "a tag of Python's": "a: !!python/object/apply:os.system [echo]",
    "a wrong tag": "a: !!timestamp x",
    "two documents": "a: 1\n---\nb: 2\n",
}

# The time limit of CPU seconds and the memory limit keep a failure from taking the machine down.
CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from pathlib import Path
from sod.bounded import read_yaml_file
try:
    read_yaml_file(Path(sys.argv[1]))
except ValueError as error:
    assert str(error) and "\\n" not in str(error), error
    print("refused")
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_yaml_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    """In bounded memory and time, with one line that says why."""
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[kind], encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        read_yaml_file(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["", "a: &x [1, 2]\nb: *x\n", "a: 1e-6\nb: .inf\nc: {d: [1, null, '3']}", "- 1\n- 2"])
def test_an_ordinary_text_reads_as_yaml_reads_it(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "-rf", "~root", ".hidden", "a\0b", "a\nb", "\ud800"]
)
def test_what_is_no_component_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name="):
        refuse_no_component(name, "name")


@pytest.mark.parametrize("name", ["run", "qwen2.5-math", "läufe 3", "a..b", "x_y+z"])
def test_ordinary_names_pass(name: str) -> None:
    refuse_no_component(name, "name")
