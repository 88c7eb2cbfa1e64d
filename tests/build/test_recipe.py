"""A recipe as commands get it: knobs are checked with the file, old names are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from commands import ROOT
from sod.build.method import make_method
from sod.build.recipe import read_recipe
from sod.records import SodError

SMALL = "student: {path: s}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    return path


def test_knobs_are_checked_and_left_as_they_were(file: Path) -> None:
    notices: list[str] = []
    recipe = read_recipe(file, ["method.epsilon=0.5", "method.normaliser=turn"], notices.append)
    assert recipe.method.knobs == {"epsilon": 0.5}
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.epsilon=0"], "method.epsilon=0: input should be greater than 0"),
        (["method.epsilonn=1"], "unknown key method.epsilonn (value 1); did you mean method.epsilon?"),
        (["method.clip_hi=1"], "unknown key method.clip_hi (value 1); did you mean method.clip_high?"),
        (["method=tcod_f2b", "method.evry=1"], "unknown key method.evry (value 1); did you mean method.every?"),
        (["method.every=0"], "method.every=0: "),  # of another preset than the recipe's
        (["method=sodd", "method.epsilon=x"], "method.epsilon='x': "),
    ],
)
def test_what_is_wrong_is_named_with_the_file(file: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(SodError) as caught:
        read_recipe(file, overrides, print)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert "\n" not in str(caught.value)


def test_every_wrong_knob_is_told_at_once(file: Path) -> None:
    with pytest.raises(SodError, match=r"method\.epsilon=0: .*; .*method\.decay=2: "):
        read_recipe(file, ["method.epsilon=0", "method.decay=2"], print)


def test_the_papers_settings_in_the_documents_are_a_recipe(file: Path) -> None:
    """The block of `docs/methods.md`: every key is one, its method can be made, four updates make a step."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## The SOD paper's settings.*?^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    file.write_text(SMALL + block)
    recipe = read_recipe(file, [], print)
    assert make_method(recipe.method).dual_clip == 3.0
    assert recipe.rollout.prompts == 4 * (recipe.optim.mini_batch_prompts or 0)
    assert (recipe.optim.weight_decay, recipe.optim.betas) == (0.01, (0.9, 0.999))
    assert set(yaml.safe_load(block)) == {"method", "rollout", "optim", "reward"}
