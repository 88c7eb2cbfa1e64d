"""Every key of the recipe with every method, and every knob with every method that has it: a changed value changes a
weight, a metric or a file, or it is refused, or told. What changes nothing by design is listed with its reason, and
proven equal.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import test_settings_elsewhere
from every_setting import (
    AFTER_A_STEP,
    CHANGES,
    CODE,
    CURRICULA,
    ELSEWHERE,
    EQUAL,
    EQUAL_IN_SFT,
    HELD_OUT,
    KNOBS,
    PLAYING,
    READ_APART,
    REPRESENTATIVES,
    SAID,
    SFT,
    TOOL,
    Example,
)
from settings_bench import Bench, Outcome, distance

import sod
from sod.objective.presets import PRESETS, knobs
from sod.recipe.describe import key_rows

SOURCE = Path(sod.__file__).parent
ROUNDING = 0.02
"""How far weights may differ by rounding, as a share of their way: Adam's first steps do not care how small a gradient
is, so that those that are nothing but rounding move a weight as far as any other.
"""
OF_OTHER_COMMANDS = {
    "sft": {"steps": 3, "batch_size": 1, "checkpoint_every": 1, "optim": {"lr": 1e-4, "weight_decay": 0.5}},
    "world": {"train": 7, "teacher": {"layers": 1}},
    "compare": {"lrs": [1e-3], "tuning_steps": 3, "tuning_seed": 5},
}


def leaves() -> list[str]:
    """Every key that holds a value, not a section."""
    keys = [row.key for row in key_rows()]
    return [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]


def listed(key: str) -> list[str]:
    """The tables that a key is in."""
    tables = {"CHANGES": CHANGES, "SFT": SFT, "EQUAL": EQUAL, "EQUAL_IN_SFT": EQUAL_IN_SFT}
    found = [name for name, table in tables.items() if key in table]
    return found + [f"ELSEWHERE: {above}" for above in ELSEWHERE if key == above or key.startswith(f"{above}.")]


def test_every_key_and_every_knob_has_an_example() -> None:
    """A new key is listed in `every_setting.py`, in one table (`sft.max_tokens` is of two commands)."""
    assert [key for key in leaves() if not listed(key)] == []
    assert [key for key in leaves() if len(listed(key)) > 1] == ["sft.max_tokens"]
    every = {knob for name in PRESETS for knob in knobs(name)}
    assert sorted(every ^ set(KNOBS)) == []
    known = {*leaves(), "method.divergence", "environment", "world", "compare", "tools.python.fusion", "tools.NAME"}
    known |= {"reward.judge", "method.alignment", "engine", "launch", "teachers.NAME"}
    assert sorted({*CHANGES, *SFT, *EQUAL, *EQUAL_IN_SFT, *ELSEWHERE} - known) == []


def test_what_is_shown_elsewhere_is_shown_there() -> None:
    named = [*ELSEWHERE.values(), *(reason.rpartition(" ")[2] for _, reason in EQUAL.values() if ": test_" in reason)]
    assert [name for name in named if not callable(getattr(test_settings_elsewhere, name, None))] == []
    shown = {key for table in test_settings_elsewhere.TABLES for key in table}
    of_others = [key for key in leaves() if any(key.startswith(f"{above}.") for above in ELSEWHERE)]
    assert [key for key in of_others if key not in shown] == []


def assert_changed(key: str, method: str, example: Example, before: Outcome, after: Outcome) -> None:
    """What the table says of the key with this method."""
    if method in example.refused:
        assert after.names(key.split(".")[0]), after
    elif method in example.idle:
        assert after.result == before.result
    else:
        assert before.refused == after.refused == ""
        assert after.result != before.result


@pytest.mark.slow
@pytest.mark.parametrize(("key", "method"), [(key, name) for key in CHANGES for name in CHANGES[key].methods])
def test_a_key_does_something_or_is_refused(key: str, method: str, bench: Bench) -> None:
    assert_changed(key, method, CHANGES[key], *bench.both(method, key, CHANGES[key]))


@pytest.mark.slow
@pytest.mark.parametrize(("knob", "method"), [(knob, name) for name in PRESETS for knob in knobs(name)])
def test_a_knob_does_something(knob: str, method: str, bench: Bench) -> None:
    before, after = bench.both(method, f"method.{knob}", KNOBS[knob])
    assert_changed(f"method.{knob}", method, KNOBS[knob], before, after)


@pytest.mark.slow
@pytest.mark.parametrize("key", SFT)
def test_a_key_of_sft_does_something_or_is_refused(key: str, bench: Bench) -> None:
    assert_changed(key, "sod", SFT[key], *bench.both("sod", key, SFT[key], "sft"))


@pytest.mark.slow
@pytest.mark.parametrize("method", PRESETS)
def test_sft_is_the_same_whatever_the_method(method: str, bench: Bench) -> None:
    """So that its keys do with every method what they do with one."""
    one, other = bench.unchanged("sod", {}, "sft"), bench.run(method, {}, "sft")
    assert one.refused == ""
    assert one.result == other.result


@pytest.mark.slow
@pytest.mark.parametrize("method", PRESETS)
def test_sections_of_other_commands_do_nothing(method: str, bench: Bench) -> None:
    before, after = bench.unchanged(method, {}), bench.run(method, OF_OTHER_COMMANDS)
    assert before.refused == ""
    assert before.result == after.result


BASES = {"plain": {}, "tool": TOOL, "said": SAID, "code": CODE, "held out": HELD_OUT}


REPEATED = [
    *((method, base) for method in REPRESENTATIVES.values() for base in ("plain", "tool")),
    *((method, base) for method in ("opd", "sft") for base in ("said", "code", "held out")),  # plays, and is evaluated
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "base"), REPEATED)
def test_a_run_repeats(method: str, base: str, bench: Bench) -> None:
    """Else any key would seem to change something. Verifiers and evaluations are the same whoever plays."""
    keys = Example(None, BASES[base]).base_of(method)
    one, other = bench.unchanged(method, keys), bench.run(method, keys)
    assert one.refused == ""
    assert one.result == other.result


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "tool", "said"])
@pytest.mark.parametrize("method", [name for name in PRESETS if name in PLAYING and name not in CURRICULA])
def test_what_is_played_is_the_same(method: str, base: str, bench: Bench) -> None:
    """Before its first update a method of whole episodes has no part in what is played, and how it is judged."""
    keys = Example(None, BASES[base]).base_of(method)
    episodes = bench.unchanged(method, keys).episodes
    assert len(episodes) >= 4
    assert episodes == bench.unchanged("opd", Example(None, BASES[base]).base_of("opd")).episodes


@pytest.mark.parametrize("attribute", READ_APART)
def test_what_is_read_apart_is_read_where_no_method_is_known(attribute: str) -> None:
    known = {READ_APART[attribute], "build/summary.py", "build/card.py"}
    for path in SOURCE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names = read | {node.id for node in nodes if isinstance(node, ast.Name)}
        name = str(path.relative_to(SOURCE))
        assert attribute not in read or name in known, name
        assert name != READ_APART[attribute] or (attribute in read and "method" not in names)


def test_a_loop_that_knows_of_no_method_goes_on_from_step_to_step() -> None:
    nodes = list(ast.walk(ast.parse((SOURCE / "training/loop.py").read_text(encoding="utf-8"))))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert set(AFTER_A_STEP) <= read
    assert "method" not in read | {node.id for node in nodes if isinstance(node, ast.Name)}


def assert_equal(before: Outcome, after: Outcome) -> None:
    """Equal but for rounding."""
    assert before.refused == after.refused == ""
    assert before.files.keys() == after.files.keys()
    for one, another in zip(before.metrics, after.metrics, strict=True):
        row, other = dict(one), dict(another)
        assert other.pop("kind") == row.pop("kind")
        assert other == pytest.approx(row, rel=1e-3, abs=1e-5)  # other batches are rounded otherwise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "method"),
    [(key, name) for key in EQUAL for name in EQUAL[key][0].methods if name not in EQUAL[key][0].refused],
)
def test_what_is_said_to_change_nothing_changes_nothing(key: str, method: str, bench: Bench) -> None:
    example, _ = EQUAL[key]
    before, after = bench.both(method, key, example)
    start = bench.student(example.base_of(method))
    assert_equal(before, after)
    assert distance(before.weights, after.weights) <= ROUNDING * distance(start, before.weights)


@pytest.mark.slow
@pytest.mark.parametrize("key", EQUAL_IN_SFT)
def test_what_changes_nothing_in_sft(key: str, bench: Bench) -> None:
    example, _ = EQUAL_IN_SFT[key]
    before, after = bench.both("sod", key, example, "sft")
    assert_equal(before, after)
    assert distance(before.weights, after.weights) <= ROUNDING * distance(bench.student({}), before.weights)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["optim.weight_decay", "optim.clip_grad", "rollout.temperature"])
def test_weights_that_differ_are_seen(key: str, bench: Bench) -> None:
    """The comparison of what is said to be equal fails where a key moves the weights a little elsewhere."""
    before, after = bench.both("sod", key, CHANGES[key])
    assert distance(before.weights, after.weights) > ROUNDING * distance(bench.student({}), before.weights)
