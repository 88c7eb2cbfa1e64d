"""The recipe: what it accepts, and that what it refuses is named with file, key, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sod.bounded import refuse_no_component
from sod.recipe import (
    CoefficientSpec,
    DivergenceSpec,
    Recipe,
    ScheduleSpec,
    apply_overrides,
    load_recipe,
    parse_recipe,
    resolved,
    validated,
)
from sod.recipe.names import key_of
from sod.records import SodError

PRINTABLE = st.characters(exclude_categories=["C", "Zl", "Zp"])  # PyYAML itself loses U+0085
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALL = "student: {path: s}\nteacher: {path: t}\nmethod: sod\noptim: {lr: 1e-5}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(resolved(recipe), "resolved") == recipe


def test_file_and_defaults(file: Path) -> None:
    recipe = load_recipe(file)
    assert (recipe.student.path, recipe.method.name, recipe.optim.lr) == ("s", "sod", 1e-5)
    assert (recipe.rollout.prompts, recipe.optim.betas, recipe.tools.python is not None) == (16, (0.9, 0.95), True)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optim.lr=1e-4", "optim.lr", 1e-4),
        ("optim.lr=0.5", "optim.lr", 0.5),
        ("seed=7", "seed", 7),
        ("method=grpo", "method.name", "grpo"),
        ("method.delta=0.3", "method.delta", 0.3),
        ("method.name=opd", "method.name", "opd"),
        ("tools.python=null", "tools.python", None),
        ("tools.python.unsafe=true", "tools.python.unsafe", True),
        ("tools.python.preload=[numpy, sympy]", "tools.python.preload", ["numpy", "sympy"]),
        ("optim.betas=[0.8, 0.9]", "optim.betas", (0.8, 0.9)),
        ("student.path=a=b", "student.path", "a=b"),
        ("name=a: b: c", "name", "a: b: c"),  # no YAML: taken as text
        ("chat.template_kwargs.enable_thinking=false", "chat.template_kwargs", {"enable_thinking": False}),
        ("teacher=null", "teacher", None),
        ("world.teacher.layers=2", "world.teacher.layers", 2),
        ("trackers=[wandb]", "trackers", ["wandb"]),
    ],
)
def test_overrides(file: Path, override: str, key: str, value: Any) -> None:
    """Each reaches its key, and nothing else changes."""
    node: Any = load_recipe(file, [override])
    for part in key.split("."):
        node = getattr(node, part)
    assert node == value
    changed, plain = resolved(load_recipe(file, [override])), resolved(load_recipe(file))
    top = key.split(".")[0]
    assert {k: v for k, v in changed.items() if k != top} == {k: v for k, v in plain.items() if k != top}


def test_method_shorthand_keeps_its_name_under_an_override(file: Path) -> None:
    recipe = load_recipe(file, ["method.delta=0.3", "method.divergence=jsd"])
    assert (recipe.method.name, recipe.method.knobs, recipe.method.divergence) == (
        "sod",
        {"delta": 0.3},
        DivergenceSpec(kind="jsd"),
    )


def test_knobs_are_kept_and_written_down_as_they_were_given(file: Path) -> None:
    """Also those of no preset: which there are is not the recipe's to know. A null says nothing."""
    given = {"epsilon": 0.5, "kappa": {"start": 1, "end": 0, "steps": 9}, "delta": float("inf"), "unheard_of": [1, "a"]}
    file.write_text(
        SMALL.replace("method: sod", "method: " + yaml.safe_dump(given | {"rho": None}, default_flow_style=True))
    )
    recipe = load_recipe(file)
    assert recipe.method.knobs == given
    common = {"name": "sod", "loss_aggregation": "token-mean", "divergence": None, "alignment": None}
    common |= {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None}
    assert resolved(recipe)["method"] == common | given
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(resolved(recipe))), "again") == recipe


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, ScheduleSpec(schedule="constant", start=2.0, end=2.0)),
        ({"start": 1, "end": 2, "steps": 80}, ScheduleSpec(schedule="linear", start=1.0, end=2.0, steps=80)),
        (
            {"schedule": "cosine", "start": 1, "end": 0.1, "steps": 9},
            ScheduleSpec(schedule="cosine", start=1.0, end=0.1, steps=9),
        ),
        ({"schedule": "constant", "start": 1, "end": 1}, ScheduleSpec(schedule="constant", start=1.0, end=1.0)),
    ],
)
def test_coefficients_are_numbers_or_schedules(value: Any, expected: ScheduleSpec) -> None:
    assert validated(CoefficientSpec, value, "method.kappa") == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("high", "f: method.kappa='high': input should be a mapping of keys"),
        (True, "f: method.kappa=True: "),
        (float("nan"), "f: method.kappa.start=nan: input should be a finite number; f: method.kappa.end=nan: "),
        ({"schedule": "step", "start": 1, "end": 0}, "f: method.kappa.schedule='step': "),
        ({"start": 1, "end": 0, "steps": 0}, "f: method.kappa.steps=0: "),
        ({"start": 1, "steps": 3}, "f: key method.kappa.end is missing"),
        ({"start": 1, "end": 0.1}, "f: method.kappa: a linear schedule needs steps"),
        (
            {"start": 1, "end": 0, "stpes": 5},
            "f: unknown key method.kappa.stpes (value 5); did you mean method.kappa.steps?",
        ),
    ],
)
def test_single_values_are_refused_as_recipes_are(value: Any, said: str) -> None:
    with pytest.raises(SodError) as caught:
        validated(CoefficientSpec, value, "method.kappa", "f")
    assert str(caught.value).startswith(said)


def test_an_override_that_is_no_mapping_says_where(file: Path) -> None:
    """A mark of YAML's in a text without quotes; a glob that begins with a bracket is a text."""
    override = "reward={judge: {url: http://h/v1, model: m, rubric: ok?}}"
    said = r"override reward: not valid YAML: .*got '\?' at line 1, column 48; put its texts in quotes"
    with pytest.raises(SodError, match=said):
        load_recipe(file, [override])
    content = apply_overrides({}, ["data.train=[0-9]*.jsonl"], "run.yaml")
    assert content == {"data": {"train": "[0-9]*.jsonl"}}


def test_the_last_override_wins_and_the_input_is_left_alone() -> None:
    content = {"student": {"path": "s"}, "optim": {"lr": 1.0}}
    merged = apply_overrides(content, ["optim.lr=2", "optim.lr=3", "optim.warmup_steps=4"], "f")
    assert merged == {"student": {"path": "s"}, "optim": {"lr": 3, "warmup_steps": 4}}
    assert content == {"student": {"path": "s"}, "optim": {"lr": 1.0}}


@pytest.mark.parametrize("override", ["", "lr", "=3", ".lr=3", "optim.=3", "optim..lr=3", "optim.lr"])
def test_malformed_overrides(file: Path, override: str) -> None:
    with pytest.raises(SodError, match=f"run.yaml: override {override!r} is not of the form key=value"):
        load_recipe(file, [override])


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("optim.learning_rate=1", "optim.learning_rate", None),
        ("optim.warmup=1", "optim.warmup", "optim.warmup_steps"),
        ("optm.lr=3", "optm", "optim"),
        ("sed=3", "sed", "seed"),
        ("student.pth=x", "student.pth", "student.path"),
        ("teacher.pth=x", "teacher.pth", "teacher.path"),
        ("tools.python.timeout=3", "tools.python.timeout", "tools.python.timeout_seconds"),
        ("world.student.layer=3", "world.student.layer", "world.student.layers"),
        ("rollout.batchsize=1", "rollout.batchsize", "rollout.batch_size"),
        ("rollout.prompt=1", "rollout.prompt", "rollout.prompts"),
        ("sft.optim.Lr=1", "sft.optim.Lr", "sft.optim.lr"),
        ("prompts=4", "prompts", "rollout.prompts"),
        ("max_turns=4", "max_turns", "rollout.max_turns"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(file: Path, override: str, key: str, nearest: str | None) -> None:
    """File, key, value, and a suggestion that is a key there is."""
    with pytest.raises(SodError) as caught:
        load_recipe(file, [override])
    message = str(caught.value)
    assert "\n" not in message
    value = override.partition("=")[2]
    assert message.startswith(f"{file}: unknown key {key} (value ")
    assert value in message
    offer = message.partition("did you mean ")[2].removesuffix("?")
    node = resolved(load_recipe(file, ["world={}"]))
    for part in key_of(offer).split("."):
        assert part in node
        node = node[part]
    assert nearest is None or offer == nearest


@pytest.mark.parametrize(
    ("override", "key", "shown"),
    [
        ("seed=x", "seed", "'x'"),
        ("seed=-1", "seed", "-1"),
        ("optim.lr=0", "optim.lr", "0"),
        ("optim.lr=.nan", "optim.lr", "nan"),
        ("optim=5", "optim", "5"),
        ("rollout.top_p=1.5", "rollout.top_p", "1.5"),
        ("rollout.prompts=1.5", "rollout.prompts", "1.5"),
        ("student.dtype=float16", "student.dtype", "'float16'"),
        ("trackers=[tensorbord]", "trackers.0", "'tensorbord'"),
        ("optim.betas=[0.9]", "optim.betas.1", "missing"),
        ("method.divergence=kl", "method.divergence.kind", "'kl'"),
        ("method.loss_aggregation=mean", "method.loss_aggregation", "'mean'"),
        ("method.loss_aggregation=token", "method.loss_aggregation", "'token'"),
        ("method.clip_low=1", "method.clip_low", "1"),
        ("method={1: 2}", "method.1", "1"),
        ("method=3", "method", "3"),
        ("student=gpt2", "student", "'gpt2'"),
    ],
)
def test_ill_typed_values_are_named(file: Path, override: str, key: str, shown: str) -> None:
    with pytest.raises(SodError) as caught:
        load_recipe(file, [override])
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert key in message
    assert shown in message
    assert "\n" not in message


def test_every_problem_is_told_at_once(file: Path) -> None:
    with pytest.raises(SodError) as caught:
        load_recipe(file, ["sed=1", "optim.lr=x", "rollout.prompts=0"])
    assert all(key in str(caught.value) for key in ("sed", "optim.lr", "rollout.prompts"))


def test_missing_key_and_inconsistent_limits(file: Path) -> None:
    file.write_text("seed: 1\n")
    with pytest.raises(SodError, match=r"run\.yaml: key student is missing"):
        load_recipe(file)
    file.write_text(SMALL)
    with pytest.raises(SodError, match=r"max_turn_tokens is larger than rollout\.max_response_tokens"):
        load_recipe(file, ["rollout.max_turn_tokens=9999"])


@pytest.mark.parametrize("wrong", [0, -0.5, -2])
def test_the_tool_bonus_overrides_no_other_reward_of_wrong_answers(file: Path, wrong: float) -> None:
    with pytest.raises(
        SodError, match=r"^[^\n]*reward\.wrong: .* reward\.tool_bonus[^\n]*; leave reward\.wrong out[^\n]*$"
    ):
        load_recipe(file, ["reward.tool_bonus=true", f"reward.wrong={wrong}"])
    assert load_recipe(file, [f"reward.wrong={wrong}"]).reward.wrong == wrong
    assert load_recipe(file, ["reward.tool_bonus=true", "reward.wrong=-1"]).reward.tool_bonus


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a: [1, 2\n", "not valid YAML: .*line 2"),
        (b"a: b: c\n", "not valid YAML: .*line 1"),
        (b"!!map foo\n", "not valid YAML: .*line 1"),
        (b"optim: !!map [lr]\n", "not valid YAML: .*line 1"),
        (b"- student\n- teacher\n", "a recipe is a mapping of keys, this file holds list"),
        (b"", "this file holds NoneType"),
        (b"just text\n", "this file holds str"),
        (b"a: \xff\xfe\n", "cannot read the recipe"),
        (b"1: x\nstudent: {path: s}\n", "1"),
    ],
)
def test_bad_files_are_named(file: Path, content: bytes, match: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SodError, match=f"^{file}: .*{match}") as caught:
        load_recipe(file)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=f"{tmp_path}/no.yaml: no such recipe file"):
        load_recipe(tmp_path / "no.yaml")
    with pytest.raises(SodError, match=f"{tmp_path}: cannot read the recipe"):
        load_recipe(tmp_path)


def test_duplicate_keys_are_refused(file: Path) -> None:
    """YAML would let the last one win, silently: half of the user's settings would be gone."""
    file.write_text(SMALL + "optim: {warmup_steps: 5}\n")
    with pytest.raises(SodError, match=f"{file}.*optim"):
        load_recipe(file)


def test_a_recipe_is_frozen(file: Path) -> None:
    recipe = load_recipe(file)
    with pytest.raises(ValidationError):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        recipe.optim.lr = 3.0  # type: ignore[misc]


def is_component(name: str) -> bool:
    """Whether the recipe takes it as a name."""
    try:
        refuse_no_component(name, "name")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "-x", "a/b", ""])
def test_a_name_cannot_leave_its_directory(name: str, file: Path) -> None:
    """It becomes part of a path."""
    with pytest.raises(SodError) as caught:
        load_recipe(file, [f"name={name!r}"])
    assert f"name={name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(1e-300, 1e300),
    delta=st.none() | st.floats(0, 1e9) | st.just(float("inf")),
    name=st.text(PRINTABLE, max_size=8).filter(is_component),
    wrong=st.floats(allow_nan=False, allow_infinity=False),
    preload=st.lists(st.text(PRINTABLE, max_size=5), max_size=2),
)
def test_resolved_round_trips_through_yaml(
    lr: float, delta: float | None, name: str, wrong: float, preload: list[str]
) -> None:
    """What a run writes down is the run: every float, text and the `delta: .inf` ablation come back as they were."""
    content = {
        "name": name,
        "student": {"path": "s"},
        "optim": {"lr": lr},
        "method": {"name": "sod", "delta": delta},
        "reward": {"wrong": wrong},
        "tools": {"python": {"preload": preload}},
    }
    recipe = Recipe.model_validate(content)
    text = yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)
    again = parse_recipe(yaml.safe_load(text), "again")
    assert again == recipe
    assert resolved(again) == resolved(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.answer=box", r"reward\.answer.*must be auto, boxed, hash, answer_line"),
        ("reward.answer=regex:(", r"reward\.answer.*regex:\( is no regular expression: missing \)"),
        ("reward.answer='regex:'", r"reward\.answer.*needs a pattern behind it"),
        ("tools.python.name=code interpreter", r"tools\.python\.name.*a function's name"),
        ("tools.python.name=1a", r"tools\.python\.name.*a function's name"),
        ("tools.python.argument=a-b", r"tools\.python\.argument.*a parameter's name"),
    ],
)
def test_names_and_forms_are_checked_as_the_recipe_is_read(file: Path, override: str, message: str) -> None:
    with pytest.raises(SodError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_recipe(file, [override])


def test_a_form_of_numbers_and_choices_do_not_go_together(file: Path) -> None:
    assert load_recipe(file, ["reward.answer=last_number"]).reward.answer == "last_number"
    assert load_recipe(file, ["reward.answer=regex:Result is (.+)"]).reward.answer == "regex:Result is (.+)"
    with pytest.raises(SodError, match="finds no letter for the choice verifier"):
        load_recipe(file, ["reward.answer=last_number", "reward.verifier=choice"])
