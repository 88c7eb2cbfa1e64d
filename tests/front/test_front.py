"""`import sod`: its names, what they cost, and what type checkers are told of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sod

STUB = Path(sod.__file__).with_suffix(".pyi")


def test_every_name_is_there_and_listed() -> None:
    assert {type(getattr(sod, name)).__name__ for name in sod.__all__} <= {
        "function",
        "type",
        "ModelMetaclass",
        "_ProtocolMeta",
    }
    assert set(sod.__all__) <= set(dir(sod))
    names: dict[str, object] = {}
    exec("from sod import *", names)
    assert set(sod.__all__) <= names.keys()


def test_type_checkers_are_told_of_the_same_names() -> None:
    """In the same homes, too: a stub that promises another object is worse than none."""
    told = {
        alias.asname: node.module
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == sod._HOMES


def test_a_wrong_name_is_an_attribute_error_that_lists_the_right_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'distil'; it has .*train"):
        _ = sod.distil
    with pytest.raises(ImportError):
        exec("from sod import distil")


def test_no_torch_before_something_needs_it() -> None:
    """In a process of its own: every name of the front is asked for, a recipe is read, and nothing heavy is there."""
    program = (
        "import sys, warnings; warnings.simplefilter('ignore'); import sod\n"
        "for name in sod.__all__: getattr(sod, name)\n"
        "sod.load_recipe('quickstart', ['optim.lr=1e-4'])\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
