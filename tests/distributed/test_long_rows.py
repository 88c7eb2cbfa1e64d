"""Ranks that share their rows (`parallel.sequence`) learn what one process learns, and hold a part of each row.

Real processes on gloo; what is expected is the same code in this process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import resumed
from long_cases import FAMILIES, KINDS, LONG, OF_TEAMS
from test_learning_over_ranks import apart

from sod.models.ranks import ALONE, Ranks
from sod.models.team import Team

slow = pytest.mark.slow


@pytest.fixture
def alone(one: dict[str, Any]) -> dict[str, Any]:
    """Everything in one process."""
    found: dict[str, Any] = one["long"]
    return found


@pytest.fixture
def team(two: dict[str, Any]) -> dict[str, Any]:
    """Everything on two ranks that share all rows."""
    found: dict[str, Any] = two["long"]
    return found


@pytest.fixture
def teams(four: dict[str, Any]) -> dict[str, Any]:
    """What was learned by four ranks, two to a row."""
    found: dict[str, Any] = four["long"]
    return found


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert apart(ours["gradient"], theirs["gradient"]) < 1e-6
    assert max(float(value.abs().max()) for value in ours["gradient"].values()) > 1e-3
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-6)
    assert torch.allclose(theirs["logp"], ours["logp"], atol=5e-6)
    assert torch.allclose(theirs["teacher"], ours["teacher"], atol=5e-6)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_that_share_rows_have_the_gradient_of_one_process(
    kind: str, alone: dict[str, Any], team: dict[str, Any]
) -> None:
    """Loss, gradient, the student's and a local teacher's scores; rows padded and packed."""
    assert_same(alone["gradients"][kind], team["gradients"][kind])
    seen = team["gradients"][kind]["seen"]
    assert bool(seen["as_padded"]) == (kind != "all-packed")
    assert bool(seen["as_packed"]) == (kind != "all-padded")
    if kind == "all-padded":
        assert any(tokens % 2 for tokens in seen["as_padded"])  # rows that cannot be halved


@slow
@pytest.mark.parametrize("name", ["privileged", "choices"])
def test_dense_losses_are_of_rows_that_are_cut_elsewhere(
    name: str, alone: dict[str, Any], team: dict[str, Any]
) -> None:
    ours, theirs = alone["of_teachers"][name], team["of_teachers"][name]
    assert apart(ours, theirs) < 1e-6
    assert max(float(value.abs().max()) for value in ours.values()) > 1e-2


@slow
@pytest.mark.parametrize("name", ["many", "one"])
def test_losses_over_spans(name: str, alone: dict[str, Any], team: dict[str, Any]) -> None:
    """Those of a teacher with another tokenizer; also where there are fewer spans, or action tokens, than ranks."""
    ours, theirs = alone["over_spans"][name], team["over_spans"][name]
    assert int((ours["values"] != 0).sum()) == (1 if name == "one" else 68)
    assert apart(ours, theirs) < 1e-5  # sums over tokens, up to 100 times as large as a step's


@slow
def test_fine_tuning(alone: dict[str, Any], team: dict[str, Any], teams: dict[str, Any]) -> None:
    for found in (team, teams):
        assert found["tuned"]["losses"] == pytest.approx(alone["tuned"]["losses"], abs=1e-5)
        assert apart(alone["tuned"]["weights"], found["tuned"]["weights"]) < 1e-5
    assert alone["tuned"]["losses"][2] < alone["tuned"]["losses"][0]


@slow
def test_of_a_long_row_each_rank_keeps_its_part(alone: dict[str, Any], team: dict[str, Any]) -> None:
    """The log-probabilities are the same, and half of what one process keeps for the backward pass is in each."""
    assert torch.allclose(alone["kept"]["logp"], team["kept"]["logp"], atol=5e-6)
    assert alone["kept"]["bytes"] > 100_000
    assert team["kept"]["bytes"] < 0.6 * alone["kept"]["bytes"]


@slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_families(kind: str, alone: dict[str, Any], team: dict[str, Any]) -> None:
    """Within their sliding windows, with experts, with learned positions; attention that is not plain is refused."""
    ours, theirs = alone["families"][kind], team["families"][kind]
    if kind in ("qwen3_next", "gpt_oss"):
        assert re.fullmatch(rf"{kind}: architecture '{kind}' has .*, whose rows .* set parallel\.sequence=1", theirs)
    else:
        assert torch.allclose(ours, theirs, atol=2e-5)
        assert float(ours.abs().max()) > 1.0


@slow
def test_in_half_precision(alone: dict[str, Any], team: dict[str, Any]) -> None:
    assert torch.allclose(alone["in_halves"]["logp"], team["in_halves"]["logp"], atol=0.15)


@slow
def test_what_is_not_finite_is_refused_by_all_and_the_run_can_go_on(team: dict[str, Any]) -> None:
    for said in team["not_finite"]["said"].values():
        assert [line.split(":")[0] for line in said] == ["NonFiniteError"] * 2
    assert (team["not_finite"]["same"], team["not_finite"]["after"]) == (True, "")


@slow
def test_what_ranks_saved_that_share_rows_is_gone_on_with_by_others(
    one: dict[str, Any], team: dict[str, Any], teams: dict[str, Any], place: Path
) -> None:
    """A team's run by one process, whose rows are whole, and that of ranks with own rows by two teams."""
    assert team["interrupted"]["logged"] == [1, 2, 3]
    expected = one["steps"]["weights"]
    for found in (resumed(ALONE, place / LONG), teams["resumed"]):
        assert found["done"] == 3
        assert apart(found["weights"], expected) < 1e-5


@slow
@pytest.mark.parametrize("kind", OF_TEAMS)
def test_teams_have_rows_of_their_own(kind: str, alone: dict[str, Any], teams: dict[str, Any]) -> None:
    assert_same(alone["gradients"][kind], teams["gradients"][kind])


def test_a_team_gets_the_rows_of_one() -> None:
    lengths = [60, 20, 20, 20, 5, 5]
    ranks = [Ranks(number, 4, team=Team(2, number % 2)) for number in range(4)]
    rows = [member.rows(lengths) for member in ranks]
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert sorted(rows[0] + rows[2]) == list(range(6))
    assert Ranks(1, 2, team=Team(2, 1)).rows(lengths) == list(range(6))
