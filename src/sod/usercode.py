"""Code of the user's own, by import path: `module:name`, or `./file.py:name` relative to a folder, the recipe's.

The one loader for tools, rewards and environments. A key that names such code reaches outside (`sod.recipe.reach`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from sod.records import SodError

FORM = "write module:name or ./file.py:name"
PASSED_IN = "passed-in:"
"""In a run's recipe, before the name of an object that Python passed in. No module can be called so."""


def load(path: Any, base: Path, key: str = "import path") -> Any:
    """The object that `path` names, or that it is already, where it is no text.

    A file is looked for from the folder `base`, a module there and in the working directory too, behind everything that
    is installed.

    A file is run once: what two paths name in it lives in one module. Raises SodError, which names `key`, and which
    part of the path is wrong: its form, the file or module, what happens as it is imported, or the name in it.
    """
    if not isinstance(path, str):
        return path
    where = f"{key}={path!r}"
    if path.startswith(PASSED_IN):
        raise SodError(f"{where}: was passed in from Python and is in no file; pass it again, or {FORM}")
    origin, colon, name = path.rpartition(":")
    if not colon or not origin.strip() or not all(part.isidentifier() for part in name.split(".")):
        raise SodError(f"{where}: is not an import path; {FORM}")
    module = _file_module(origin, base, where) if is_file(path) else _named_module(origin, base, where)
    return _member(module, name, where)


def is_file(path: str) -> bool:
    """Whether an import path names a file, not a module."""
    origin = path.rpartition(":")[0]
    return origin.endswith(".py") or "/" in origin


def name_of(thing: object) -> str:
    """`module:name` of a function or class, or of an object's class: for people to read, and for a run's record."""
    named = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def source_hash(thing: object) -> str:
    """SHA-256 of the source of a function or class, or of an object's class; what it calls elsewhere is not in it.

    Where there is no source to read (compiled code, a line typed at a prompt), its name stands for it.
    """
    routine = inspect.isroutine(thing) or inspect.isclass(thing)
    try:
        text = inspect.getsource(inspect.unwrap(thing) if routine else type(thing))  # type: ignore[arg-type]
    except (OSError, TypeError):
        text = name_of(thing)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_module(origin: str, base: Path, where: str) -> ModuleType:
    file = (base / Path(origin).expanduser()).resolve()
    if not file.is_file():
        raise SodError(f"{where}: there is no file {file}; a recipe's are looked for from its own folder")
    # The name is the file's own: two files called tools.py are two modules, and neither hides an installed one.
    name = f"sod_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SodError(f"{where}: {file} is no Python file; its name must end in .py")
    _find_also_in(file.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _failed(error, where, file.name) from error
    return module


def _named_module(origin: str, base: Path, where: str) -> ModuleType:
    _find_also_in(base.resolve())
    _find_also_in(Path.cwd())
    try:
        return importlib.import_module(origin)
    except ModuleNotFoundError as error:
        missing = error.name or origin
        if not (origin == missing or origin.startswith(f"{missing}.")):
            raise _failed(error, where, origin) from error
        raise SodError(
            f"{where}: there is no module {missing!r} on Python's path, in {base.resolve()} or in {Path.cwd()}; "
            f"install it, set PYTHONPATH, or name its file: ./{missing.partition('.')[0]}.py:..."
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(error, where, origin) from error


def _failed(error: BaseException, where: str, what: str) -> BaseException:
    """What to raise for an error of the user's module: Ctrl-C stays what it is."""
    if isinstance(error, KeyboardInterrupt):
        return error
    said = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    ours = [frame for frame in frames if frame.filename != __file__]
    line = f", {Path(ours[-1].filename).name} line {ours[-1].lineno}" if ours else ""
    return SodError(f"{where}: importing {what} failed: {type(error).__name__}: {said}{line}; mend it and try again")


def _find_also_in(folder: Path) -> None:
    """Let imports look into a folder too, last of all: nothing that is installed is hidden by a user's file."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _member(module: ModuleType, name: str, where: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = get_close_matches(part, [other for other in dir(found) if not other.startswith("_")], n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "; check the name after the colon"
            file = getattr(module, "__file__", None) or module.__name__
            raise SodError(f"{where}: {file} has no {part!r}{meant}") from None
    return found
