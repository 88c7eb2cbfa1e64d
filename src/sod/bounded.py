"""Text that somebody else wrote, read within bounds: no file can make its reader run for minutes or fill the memory."""

from __future__ import annotations

import re
import resource
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

YAML_BYTES = 256 * 1024
"""The longest YAML file; a recipe with every key written out has 5 KB."""
YAML_VALUES = 20_000
"""The most values of a YAML text, those behind an alias counted wherever it is used."""
YAML_DEPTH = 50
NUMBER_CHARS = 100
"""The longest number of a YAML text: a longer one takes minutes to read in base 60 and cannot be printed."""

_BLOCK = 1024 * 1024
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # A scalar tagged as a mapping has no pairs; YAML's own loader says so below.
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        seen: set[Hashable] = set()
        for key, _ in pairs:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value}", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file. Raises ValueError where there are more than `limit`, OSError where it cannot be read."""
    data = bytearray()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):  # asked for more, Python would make room for it at once
            data += block
            if len(data) > limit:
                raise ValueError(f"longer than {limit:,} bytes")
    return bytes(data)


def read_yaml_file(path: Path) -> Any:
    """What a YAML file holds. Raises OSError where it cannot be read, ValueError (in one line) for what is no YAML."""
    return parse_yaml(read_bounded(path, YAML_BYTES).decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """What a YAML text holds. Raises ValueError, in one line, for what is no YAML or exceeds the bounds above."""
    if len(text) > YAML_BYTES:
        raise ValueError(f"longer than {YAML_BYTES:,} characters")
    loader: yaml.SafeLoader | None = None
    try:
        loader = _UniqueKeys(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_large(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"nested deeper than {YAML_DEPTH} levels") from None
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        # The last two are YAML's own for a value under the wrong tag, e.g. `!!timestamp x`.
        raise ValueError(_in_one_line(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _in_one_line(error: Exception) -> str:
    """What is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def _refuse_large(root: yaml.Node) -> None:
    """Raises ValueError for a text that would not stay small: aliases of aliases, deep nesting, long numbers."""
    measured: dict[int, tuple[int, int] | None] = {}  # (values, levels); None while its children are looked at

    def measure(node: yaml.Node) -> tuple[int, int]:
        known = measured.get(id(node), (0, 0))
        if known is None:
            raise ValueError("an alias within what it stands for")
        if known != (0, 0):
            return known
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > NUMBER_CHARS:
            raise ValueError(f"a number of {len(node.value):,} characters")
        measured[id(node)] = None
        values, levels = 1, 1
        for child in _children(node):
            more, below = measure(child)
            values, levels = values + more, max(levels, below + 1)
        if values > YAML_VALUES:
            raise ValueError(f"more than {YAML_VALUES:,} values, those behind aliases counted")
        if levels > YAML_DEPTH:
            raise ValueError(f"nested deeper than {YAML_DEPTH} levels")
        measured[id(node)] = values, levels
        return values, levels

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")


def refuse_no_component(name: str, what: str) -> None:
    """Raises ValueError, naming `what`, unless `name` can stand as one component of a path, and as an argument."""
    if not name.strip() or name in (".", ".."):
        raise ValueError(f"{what}={name!r}: not a name of its own; use letters, digits, '-', '_' and '.'")
    if _CONTROL.search(name) or name.startswith(("-", ".", "~")):
        raise ValueError(
            f"{what}={name!r}: becomes part of a path, so it holds no '/', '\\' or control character and does not "
            "begin with '.', '-' or '~'"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what}={name!r}: not valid Unicode") from None


_LIMITING = threading.Lock()


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Let this process map at most `extra` more bytes inside; beyond, what allocates gets a MemoryError.

    For the short while of reading a file that says little about its size: the limit holds for all threads. Does nothing
    where the kernel does not tell what is mapped.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    with _LIMITING:
        mapped = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = mapped + extra if soft == resource.RLIM_INFINITY else min(mapped + extra, soft)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
