"""Cells of a notebook in a session of a sandbox, as Jupyter shows them: with the value of a last expression.

No kernel runs. Around each cell go cells of ours: one looks for a last expression, which is then
assigned to a name, and one prints that name's value. They run in the session too, since a stranger's
source is neither parsed nor shown in this process, and they leave no names behind. What they say is
the session's word: it can misreport its own cells, no more.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from sod.records import Execution, Fault, FaultKind
from sod.tools.sandbox.base import Cell, Recall, SessionSandbox
from sod.tools.sandbox.wire import FILES_BYTES

SHOWN = "__shown__ = "  # put before the last expression of a cell
_OUR_FRAMES = re.compile(r'  File "<cell \d+>", line 1, in <module>\n    exec\(\'{3}\n  File "<string>".*\n')
_NUMBERED = re.compile(r"<cell (\d+)>")

# The braces are filled with `str.format`.
_PLACE = """exec('''
import base64, os
os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
with open(name, "wb") as file:
    file.write(base64.b64decode(content))
''', {{"name": {name!r}, "content": {content!r}}})"""

_FETCH = """exec('''
import base64
with open(name, "rb") as file:
    file.seek(start)
    print(base64.b64encode(file.read(size)).decode(), end="")
''', {{"name": {name!r}, "start": {start}, "size": {size}}})"""

# Prints the character at which a last expression begins. As in Jupyter none is shown that ends in a semicolon.
_LOCATE = """exec('''
import ast, base64, io
source = base64.b64decode(content).decode("utf-8", "surrogatepass")
lines = io.StringIO(source, newline="").readlines()
def place(line, column):
    return sum(map(len, lines[:line - 1])) + len(lines[line - 1].encode()[:column].decode())
try:
    last = ast.parse(source).body[-1]
    if isinstance(last, ast.Expr) and not source[place(last.end_lineno, last.end_col_offset):].lstrip().startswith(";"):
        print(place(last.lineno, last.col_offset), end="")
except Exception:
    pass
''', {{"content": {content!r}}})"""

# What a __repr__ prints stands before the last line.
_SHOW = """exec('''
import base64
value = main.pop(name)
if value is not None:
    text = repr(value)
    text = text if len(text) <= size else text[:size] + "..."
    print("\\\\n" + base64.b64encode(text.encode("utf-8", "backslashreplace")).decode(), end="")
''', {{"main": globals(), "name": {name!r}, "size": {size}}})"""


@final
@dataclass
class Notebook:
    """One session and the cells that ran in it so far; `cell_seconds` bounds each (None: the sandbox's limit).

    `output_chars` are the sandbox's own.
    """

    sandbox: SessionSandbox
    session: str
    output_chars: int
    recall: Recall
    cell_seconds: float | None = None
    _sent: int = 0  # cells of both kinds
    _theirs: dict[int, int] = field(default_factory=dict)  # number in the session: number in the notebook

    def run(self, source: str) -> tuple[Execution | Fault, str | None]:
        """Run a cell: how it ended, and the text of its last expression's value, None where there is none to show."""
        found = self._send(_LOCATE.format(content=_base64(source.encode("utf-8", "surrogatepass"))))
        if isinstance(found, Fault):
            return found, None
        start = int(found.stdout) if found.status == "ok" and re.fullmatch(r"\d{1,9}", found.stdout) else None
        if start is not None and start <= len(source):
            source = source[:start] + SHOWN + source[start:]
        self._theirs[self._sent + 1] = len(self._theirs) + 1
        outcome = self._send(source)
        if isinstance(outcome, Fault):
            return outcome, None
        outcome = self._as_written(outcome)
        if start is None or outcome.status != "ok":
            return outcome, None
        return self._with_value(outcome)

    def place(self, name: str, content: bytes) -> str:
        """Write a file into the session's directory; why it could not be written, empty where it was."""
        outcome = self._send(_PLACE.format(name=name, content=_base64(content)))
        if isinstance(outcome, Fault):
            return told(outcome)
        return "" if outcome.status == "ok" else outcome.stderr

    def fetch(self, names: Sequence[str]) -> dict[str, str]:
        """The named files in base64, read in pieces that fit into a cell's output; what is not there is left out."""
        size = max(3, self.output_chars // 4 * 3)
        found: dict[str, str] = {}
        left = FILES_BYTES
        for name in names:
            content = b""
            while True:
                piece = _piece(self._send(_FETCH.format(name=name, start=len(content), size=size)))
                if piece is None or len(content) + len(piece) > left:
                    break
                content += piece
                if len(piece) < size:
                    found[name] = _base64(content)
                    left -= len(content)
                    break
        return found

    def _send(self, source: str) -> Execution | Fault:
        with self.recall.running(lambda: self.sandbox.end_sessions([self.session])):
            if self.recall.called:
                return Fault(FaultKind.SESSION, "called off", retryable=False)
            self._sent += 1
            return self.sandbox.run_cells([Cell(self.session, source)], self.cell_seconds)[0]

    def _with_value(self, outcome: Execution) -> tuple[Execution | Fault, str | None]:
        size = max(1, self.output_chars // 8)  # a character has up to four bytes, and base64 a third more
        shown = self._send(_SHOW.format(name=SHOWN.split()[0], size=size))
        if isinstance(shown, Fault):
            return shown, None
        printed, _, text = shown.stdout.rpartition("\n")
        value = _decoded(text) if shown.status == "ok" else None
        return (
            Execution(
                shown.status,
                outcome.stdout + (printed if value is not None else shown.stdout),
                outcome.stderr + _OUR_FRAMES.sub("", self._as_written(shown).stderr, count=1),
                outcome.seconds + shown.seconds,
                shown.exit_code,
            ),
            value.decode("utf-8", "replace") if value is not None and text else None,
        )

    def _as_written(self, outcome: Execution) -> Execution:
        """Its traceback with the cells numbered as the notebook's, and without the name that we assigned to."""
        lines = outcome.stderr.split("\n")
        for number, line in enumerate(lines):
            before, found, after = line.partition(SHOWN)
            if not found or not line.startswith("    "):
                continue
            lines[number] = before + after
            under = lines[number + 1] if number + 1 < len(lines) else ""
            if under and not under.strip(" ^~"):  # marks below what was shifted
                lines[number + 1] = under[len(SHOWN) :] if under[: len(line)].startswith(" " * len(SHOWN)) else under
        text = _NUMBERED.sub(self._renumbered, "\n".join(lines))
        return Execution(outcome.status, outcome.stdout, text, outcome.seconds, outcome.exit_code)

    def _renumbered(self, found: re.Match[str]) -> str:
        number = self._theirs.get(int(found[1]))
        return found[0] if number is None else f"<cell {number}>"


def told(fault: Fault) -> str:
    """A fault as one line."""
    return f"{fault.kind}: {fault.detail}"


def _piece(outcome: Execution | Fault) -> bytes | None:
    """What a fetching cell printed; None where it could not read, or the session's own doings spoilt it."""
    return None if isinstance(outcome, Fault) or outcome.status != "ok" else _decoded(outcome.stdout)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
