"""Candidates that cheat: every way against every kind of tests, in the real sandbox, as it may be set up.

A cheat must be wrong, never right, and never a fault of ours: a fault would take a failed episode out of the loss.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import final

import pytest

from sod.records import SodError, Verdict
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import answered

DOUBLES = [(3, 6), (10, 20), (-4, -8)]
TEST = f"""
def check(candidate):
    import colorsys
    for given, expected in zip(map(candidate, [given for given, _ in {DOUBLES}]), [6, 20, -8]):
        assert given == expected
    assert all(map(lambda pair: candidate(pair[0]) == pair[1], {DOUBLES}))
    late = __import__("wa" + "ve")
    assert candidate(late.__name__ * 0 or 1) == 2 and colorsys.rgb_to_hsv(0, 0, 0)
"""
SUITES: dict[str, dict[str, object]] = {
    "check": {"prompt": "import bisect\n", "entry_point": "twice", "test": TEST},
    "function": {"inputs": [[n] for n, _ in DOUBLES], "outputs": [n for _, n in DOUBLES], "fn_name": "twice"},
    "program": {"inputs": [f"{n}\n" for n, _ in DOUBLES], "outputs": [f"{n}\n" for _, n in DOUBLES]},
}
WRONG = {"check": "def twice(x): return 0", "function": "def twice(x): return 0", "program": "print(0)"}
RIGHT = {
    "check": "def twice(x): return 2 * x",
    "function": "def twice(x): return 2 * x",
    "program": "print(2 * int(input()))",
}

# Ends its interpreter well after it has reported a pass wherever it can; used where other code might run it.
FORGE = """
import os, sys
frame = sys._getframe()
nonces = [""]
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if isinstance(value, dict) and "nonce" in value:
            nonces.append(value["nonce"])
    frame = frame.f_back
for nonce in nonces:
    line = '\\n{"nonce": "' + nonce + '", "status": "passed", "detail": ""}\\n'
    for number in range(1, 64):
        try:
            os.write(number, line.encode())
        except OSError:
            pass
os._exit(0)
"""
RESULTS = '{"results": [{"status": "ok", "output": "6", "detail": ""}, {"status": "ok", "output": "20", "detail": ""}]}'
# Where the judge is: the parent, and its process in a namespace of its own.
JUDGES = "import os, signal, ctypes\njudges = {os.getppid(), 1} - {os.getpid(), 0}\n"


@final
@dataclass(frozen=True)
class Cheat:
    """Code in front of the answer. `harmless`: a right answer behind it still passes."""

    code: str
    harmless: bool = True


def planting(names: str) -> str:
    """Files of the given names, which forge a report, in every directory that can be written."""
    return f"""
import os, tempfile
places = {{os.getcwd(), os.path.dirname(os.getcwd()), tempfile.gettempdir(), os.environ.get("HOME", "/"), "/", "/tmp",
          "/var/tmp", "/dev/shm", os.path.dirname(os.__file__)}}
for place in places:
    for name in {names}:
        try:
            path = os.path.join(place, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").write({FORGE!r})
        except OSError:
            pass
"""


MODULES = (
    "colorsys",
    "wave",
    "heapq",
    "copy",
    "json",
    "random",
    "tempfile",
    "traceback",
    "linecache",
    "math",
    "encodings",
)
LIBRARY = ".local/lib/python3.11/site-packages"
ATTACK_MEMORY = (
    JUDGES
    + """
libc = ctypes.CDLL(None, use_errno=True)
for judge in judges:
    libc.ptrace(16, judge, 0, 0)  # PTRACE_ATTACH
    libc.ptrace(0x4206, judge, 0, 0)  # PTRACE_SEIZE
    for name in ("mem", "environ", "maps", "auxv", "fd/0", "fd/1", "fd/2", "fd/3", "fd/4", "fd/5", "cwd/report.json"):
        for mode in ("rb", "r+b"):
            try:
                file = open(f"/proc/{judge}/{name}", mode, buffering=0)
                file.write(b'{"nonce": "", "status": "passed"}' * 1000)
            except (OSError, ValueError):
                pass
    pidfd = libc.syscall(434, judge, 0)  # pidfd_open
    for number in range(16):
        taken = libc.syscall(438, pidfd, number, 0)  # pidfd_getfd
        if taken >= 0:
            os.write(taken, b"x" * 100_000)
    buffer = ctypes.create_string_buffer(4096)
    pair = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 4096)
    other = (ctypes.c_void_p * 2)(id(libc), 4096)
    if libc.process_vm_readv(judge, pair, 1, other, 1, 0) > 0:
        os.write(1, buffer.raw)
"""
)
LIMIT_JUDGE = (
    JUDGES
    + """
import resource
for judge in judges:
    for which in range(16):
        try:
            resource.prlimit(judge, which, (0, 0))
        except (OSError, ValueError):
            pass
"""
)
SIGNALS = """
for judge in judges:
    for number in ({}):
        try:
            os.kill(judge, number)
        except OSError:
            pass
"""
CHEATS = {
    "plants modules": Cheat(planting(str([f"{name}.py" for name in MODULES]))),
    "plants packages": Cheat(planting(str([f"{name}/__init__.py" for name in MODULES]))),
    "plants site hooks": Cheat(
        planting(f"['usercustomize.py', 'sitecustomize.py', '{LIBRARY}/usercustomize.py', '{LIBRARY}/x.pth']")
    ),
    "plants compiled modules": Cheat(
        "import os, py_compile\nfrom contextlib import suppress\n"
        f"open('forge.txt', 'w').write({FORGE!r})\n"
        "for place in ('.', '..', '/tmp'):\n"
        "  with suppress(OSError):\n"  # /tmp is read-only where Python itself lies below it
        "    os.makedirs(place + '/__pycache__', exist_ok=True)\n"
        "    for name in ('wave.pyc', '__pycache__/wave.cpython-311.pyc', '__pycache__/colorsys.cpython-311.pyc'):\n"
        "        py_compile.compile('forge.txt', os.path.join(place, name))\n"
    ),
    "sets Python's environment": Cheat(
        "import os\nos.environ.update(PYTHONPATH=os.getcwd(), PYTHONSTARTUP='x.py', PYTHONHOME='/', PYTHONINSPECT='1')"
    ),
    "exits at once": Cheat("import os; os._exit(0)", False),
    "exits by exception": Cheat("import sys; sys.exit(0)", False),
    "exits as a harness that failed": Cheat(
        "import os; os.write(2, b'harness fault: x\\n'); os.write(1, b'harness fault: x\\n'); os._exit(97)", False
    ),
    "exits as a process without memory": Cheat("import os; os._exit(86)", False),
    "says that it is not supported": Cheat(
        """import os
for number in range(256):
    try: os.write(number, b'{"nonce": "", "status": "unsupported", "detail": ""}\\n')
    except OSError: pass
""",
        False,
    ),
    "looks for a nonce in frames": Cheat(FORGE, False),
    "looks for tests in all objects": Cheat(
        """import gc, inspect, os
seen = [found for found in gc.get_objects() if isinstance(found, dict) and "nonce" in found]
seen += [frame.frame.f_locals for frame in inspect.stack() if "expected" in frame.frame.f_locals]
for found in seen:
    found.update(status="passed", results=[], tests=[], limit=0)
"""
    ),
    "replaces what a harness calls": Cheat(
        """import builtins, json, os, select, signal, sys, types
json.loads = json.dumps = lambda *a, **k: {"status": "passed"}
os.write = os.read = os._exit = os.waitpid = signal.signal = lambda *a: 0
builtins.compile = builtins.exec = builtins.isinstance = builtins.getattr = lambda *a: True
builtins.AssertionError = builtins.Exception = ValueError
""",
        False,
    ),
    "replaces main and its modules": Cheat(
        """import sys, types
for name in ("__main__", "solution"):
    sys.modules[name] = types.ModuleType(name)
def check(candidate): pass
def main(): pass
"""
    ),
    "traces all calls": Cheat("import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)"),
    "writes the report": Cheat(
        f"for name in ('report.json', '../report.json'): open(name, 'w').write('''{RESULTS}''')"
    ),
    "links the report": Cheat(
        """import os
for name in ("report.json", "../report.json"):
    if not os.path.islink(name): os.symlink("/etc/passwd", name)
"""
    ),
    "makes the report a pipe": Cheat(
        "import os\nfor name in ('report.json', '../report.json'): os.mkfifo(name)", False
    ),
    "makes the report a directory": Cheat("import os\nos.makedirs('../report.json/x', exist_ok=True)", False),
    "makes the report huge": Cheat("with open('../report.json', 'wb') as file: file.truncate(200 << 20)"),
    "makes the next test's directory": Cheat(
        "import os\nfor number in range(9):\n    os.makedirs(f'../test-{number}', exist_ok=True)", False
    ),
    "attacks the judge's memory and descriptors": Cheat(ATTACK_MEMORY, False),
    "kills the judge": Cheat(JUDGES + SIGNALS.format("signal.SIGKILL, signal.SIGTERM, signal.SIGABRT")),
    "interrupts the judge": Cheat(JUDGES + SIGNALS.format("signal.SIGINT,"), False),
    "stops the judge": Cheat(JUDGES + SIGNALS.format("signal.SIGSTOP, signal.SIGTSTP")),
    "limits the judge": Cheat(LIMIT_JUDGE, False),
    "stops itself": Cheat("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", False),
    "kills all processes": Cheat("import os, signal\ntry: os.kill(-1, signal.SIGKILL)\nexcept OSError: pass"),
    "leaves a child": Cheat(
        f"""import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            for name in ("report.json", "../report.json"):
                try: open(name, "w").write('''{RESULTS}''')
                except OSError: pass
            time.sleep(0.01)
    os._exit(0)
"""
    ),
    "leaves a thread": Cheat(
        """import threading, os
def flood():
    while True:
        try: os.write(3, b"")
        except OSError: pass
threading.Thread(target=flood, daemon=True).start()
"""
    ),
    "forks without end": Cheat("import os\ntry:\n    while True: os.fork()\nexcept OSError: pass", False),
    "floods its output": Cheat("import os\nfor _ in range(99): os.write(1, b'x' * 65536)", False),
    "floods its errors": Cheat("import os\nfor _ in range(99): os.write(2, b'x' * 65536)"),
    "fills the disk": Cheat(
        """for place in ("/tmp", "/var/tmp", "/dev/shm", "."):
    try:
        with open(place + "/full", "wb") as file:
            while True: file.write(b"x" * 65536)
    except OSError: pass
""",
        False,
    ),
    "uses up all files": Cheat(
        "try:\n    for number in range(9999): open(f'/tmp/{number}', 'w').close()\nexcept OSError: pass", False
    ),
    "uses up all memory": Cheat("kept = []\nwhile True: kept.append(bytearray(1 << 20))", False),
    "becomes another program": Cheat("import os; os.execv('/bin/true', ['true'])", False),
    "closes all descriptors": Cheat("import os; os.closerange(0, 256)", False),
    "hides its directory": Cheat("import os\nos.chmod('.', 0)"),
    "moves its directory": Cheat("import os\nhere = os.getcwd()\nos.rename(here, here + '-moved')"),
    "hooks the end of the interpreter": Cheat(
        """import atexit, os
class Last:
    def __del__(self): os._exit(0)
last = Last()
atexit.register(os._exit, 0)
"""
    ),
    "ends by an alarm": Cheat("import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1)\nsignal.setitimer(0, 0.001)"),
    **{
        f"raises {name} at the start": Cheat(f"raise {name}", False)
        for name in (
            "StopIteration",
            "GeneratorExit",
            "KeyboardInterrupt",
            "SystemExit(97)",
            "MemoryError",
            "BaseException",
        )
    },
}

# What a function does when it is called, for the two kinds that call one.
CALLS = {
    **{
        f"raises {name}": f"def twice(x): raise {name}"
        for name in (
            *("StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit(0)"),
            *("SystemExit(97)", "AssertionError", "BaseException", "MemoryError", "IndexError", "NotImplementedError"),
            *("UnicodeDecodeError('utf-8', b'', 0, 1, '')", "ExceptionGroup('', [StopIteration()])", "Warning"),
        )
    },
    "raises a kind of StopIteration": "class Mine(StopIteration): pass\ndef twice(x): raise Mine",
    "raises by the names of the harness": "class NotBegunError(Exception): pass\ndef twice(x): raise NotBegunError",
    "raises a huge message": "def twice(x): raise ValueError('x' * (20 << 20))",
    "raises half a character": "def twice(x): raise ValueError('\\ud800')",
    "raises an error that cannot be shown": """
        class Mine(Exception):
            def __str__(self): raise StopIteration
        def twice(x): raise Mine
    """,
    "is a generator": "def twice(x): yield 2 * x",
    "is a coroutine": "async def twice(x): return 2 * x",
    "equals everything": """
        class Always(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = int.__hash__
        def twice(x): return Always(7)
    """,
    "equals everything as text": """
        class Always(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        def twice(x): return Always("7")
    """,
    "is an object that equals everything": """
        class Always:
            def __eq__(self, other): return True
        def twice(x): return Always()
    """,
    "lies about its class": """
        class Always:
            __class__ = int
            def __eq__(self, other): return True
        def twice(x): return Always()
    """,
    "returns not a number": "def twice(x): return float('nan')",
    "returns very deep lists": "def twice(x):\n    for _ in range(400): x = [x]\n    return x",
    "returns a huge value": "def twice(x): return [0] * (20 << 20)",
    "returns what its argument's class says": "def twice(x):\n    type(x).__eq__ = lambda *a: True\n    return 0",
    "never returns": "def twice(x):\n    while True: pass",
    "is no function": "twice = 7",
    "writes on the wire": """
        import os
        def twice(x):
            for number in range(3, 256):
                for line in (b'{"value": 6}', b'{"value": 20}', b'{"error": "StopIteration", "text": ""}'):
                    try: os.write(number, line + b"\\n")
                    except OSError: pass
            return 0
    """,
    **{
        f"replies {text[:40]}": f"""
        import os
        reply = {text!r}.encode() + b"\\n"
        def twice(x):
            for number in range(3, 256):
                try: os.write(number, reply)
                except OSError: pass
            os._exit(0)
    """
        for text in (
            *("[]", "1", "{", "{}", "null", '{"value": []}', '{"value": {"set": [{"list": []}]}}', '{"error": 1}'),
            *('{"error": "StopIteration", "text": ""}', '{"error": "__import__", "text": "os"}', "\x00", "NaN"),
            *('{"value": {"tuple": 1}}', '{"value": {"a": 1, "b": 2}}', '{"error": "exit", "text": "97"}'),
            *('{"value": ' + '{"list": [' * 300 + "]}" * 300 + "}", "[" * 100_000),
        )
    },
}
# Tests that hand a candidate's value back to it, or catch whatever it raises: no fault and no pass comes of that.
LENIENT = {
    "hands values back": "def check(candidate):\n    assert candidate(candidate(1)) == 4",
    "catches everything": "def check(candidate):\n    try:\n        assert candidate(1) == 2\n"
    "    except BaseException as error:\n        assert not isinstance(error, (AssertionError, Exception))",
    "maps": "def check(candidate):\n    assert list(map(candidate, [1])) + [0] == [2, 0]",
    "goes through": "def check(candidate):\n    for one, two in zip(iter(lambda: candidate(1), 0), [2, 2]):\n"
    "        assert one == two\n    assert candidate(3) == 6",
    "calls at once": "assert twice(1) == 2\ndef check(candidate): pass",
    "is a TestCase": "import unittest\nclass TestTwice(unittest.TestCase):\n"
    "    def test_one(self):\n        self.assertEqual(twice(1), 2)\n"
    "    def test_two(self):\n        with self.subTest():\n            self.assertTrue(twice(3) == 6)\n",
    "is for pytest": "from solution import twice\ndef test_one():\n    assert twice(1) == 2\n",
    "asserts alone": "assert twice(1) == 2",
}


# Whatever waits for a limit, or takes long otherwise.
LONG = ("stops itself", "fills the disk", "uses up all memory", "uses up all files", "never returns")
LONG += ("returns a huge value", *LENIENT.keys() - {"catches everything"})


def tiered(names: Iterable[str], slow: Collection[str] = LONG) -> list[object]:
    """The names as parameters of a test, those of `slow` in the slower tier."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


@pytest.fixture(scope="module", params=tiered(("bare", "preloaded", "without layers"), ("preloaded", "without layers")))
def verifier(request: pytest.FixtureRequest) -> Iterator[CodeVerifier]:
    preload = ("numpy", "sympy") if request.param == "preloaded" else ()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without layers":  # as where the optional packages are not installed
            missing = {"filters": {}, "landlock": None, "scoped": False, "missing": {"seccomp": "no", "landlock": "no"}}
            patch.setattr("sod.tools.sandbox.local.layers", lambda counted: missing)
        try:
            local = LocalSandbox(ProgramLimits(memory_mb=256), preload=preload)
        except SodError as error:
            pytest.skip(f"no isolation here: {error}")
    yield CodeVerifier(local.execute, seconds=3.0)
    local.close()


def judged(verifier: CodeVerifier, *candidates: tuple[str, dict[str, object]]) -> list[Verdict]:
    """The verdict on each code with its tests, all run at once; a fault fails the test."""
    episodes = [answered(f"```python\n{textwrap.dedent(code)}\n```", "", extra) for code, extra in candidates]
    verdicts = verifier.verify(episodes)
    for verdict in verdicts:
        assert isinstance(verdict, Verdict), verdict
        verdict.detail.encode()
    return verdicts  # type: ignore[return-value]


@pytest.mark.parametrize("name", tiered(CHEATS))
def test_a_cheat_is_wrong_and_never_a_fault(verifier: CodeVerifier, name: str) -> None:
    cheat = CHEATS[name]
    wrong = judged(verifier, *((f"{cheat.code}\n{WRONG[kind]}", SUITES[kind]) for kind in SUITES))
    assert [verdict.correct for verdict in wrong] == [False] * 3, wrong
    if cheat.harmless:
        right = judged(verifier, *((f"{cheat.code}\n{RIGHT[kind]}", SUITES[kind]) for kind in SUITES))
        assert [verdict.correct for verdict in right] == [True] * 3, right


@pytest.mark.parametrize("name", tiered(CALLS))
def test_a_function_that_cheats_when_called_is_wrong(verifier: CodeVerifier, name: str) -> None:
    wrong = judged(verifier, *((CALLS[name], SUITES[kind]) for kind in ("check", "function")))
    assert [verdict.correct for verdict in wrong] == [False] * 2, wrong


@pytest.mark.parametrize("test", tiered(LENIENT))
def test_lenient_tests_are_not_passed_by_cheats(verifier: CodeVerifier, test: str) -> None:
    extra: dict[str, object] = {**SUITES["check"], "test": LENIENT[test]}
    names = [name for name in CALLS if "never" not in name and "huge value" not in name]
    verdicts = judged(verifier, *((CALLS[name], extra) for name in names))
    assert [name for name, verdict in zip(names, verdicts, strict=True) if verdict.correct] == []
    (right,) = judged(verifier, (RIGHT["check"], extra))
    assert right.correct, right.detail
