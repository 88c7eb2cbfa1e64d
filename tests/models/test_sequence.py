"""Whose rows can be cut over ranks: as configurations tell, in layers that are compiled, and in estimates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from architectures import LATENT, LINEAR, tiny_config, tiny_model
from sod.models import spread
from sod.models.compiled import compile_model
from sod.models.forward import packs, padded_hidden
from sod.models.length import Asked
from sod.models.meter import Cost
from sod.models.ranks import ALONE
from sod.models.sequence import cut_rows, refuse_uncut
from sod.models.spread import as_padded, spread_hidden
from sod.models.team import SOLO, Team, mark_team, own_share, team_of
from sod.objective.batch import supervised_batch
from sod.records import SodError

TOKENS = torch.arange(48).view(2, 24) * 7919 % 197 + 3
SHORT = Asked(256, "rollout.max_response_tokens")


@pytest.fixture
def config_at(tmp_path: Path) -> Callable[..., str]:
    """`config_at(kind, **changes)`: a directory with the configuration of a tiny model alone."""

    def write(kind: str, **changes: Any) -> str:
        tiny_config(kind, **changes).save_pretrained(tmp_path)
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("kind", "changes", "sequence", "why"),
    [
        (
            "qwen3",
            {},
            3,
            r"\.sequence=3 does not divide the 4 attention heads of .*; set .* to one of 1, 2, which",
        ),
        (
            "deepseek_v3",
            LATENT,
            2,
            r"\.sequence=2: .* has latent attention, whose rows cannot be cut .* set .*=1",
        ),
        (
            "qwen3_next",
            LINEAR,
            2,
            r"'qwen3_next' has layers of kind linear_attention, whose rows cannot be cut",
        ),
        ("gpt_oss", {"head_dim": 8}, 2, r"architecture 'gpt_oss' has attention that PyTorch's own does not know"),
        (
            "mistral",
            {"sliding_window": 100},
            2,
            r"past 100 tokens its sliding window hides the first tokens, .* let a text reach 256; lower that to 100, "
            r"or use parallel\.sequence=1",
        ),
    ],
)
def test_whose_rows_cannot_be_cut(
    kind: str, changes: dict[str, Any], sequence: int, why: str, config_at: Callable[..., str]
) -> None:
    """No weights lie beside the configuration."""
    path = config_at(kind, **changes)
    with pytest.raises(SodError, match=why) as caught:
        refuse_uncut(path, sequence, 6, SHORT)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    refuse_uncut(path, 1, 6, SHORT)


@pytest.mark.parametrize(
    ("kind", "changes", "sequence", "asked"),
    [
        ("qwen3", {}, 2, SHORT),
        ("llama", {"num_key_value_heads": 1}, 4, SHORT),  # key heads are repeated
        ("mistral", {"sliding_window": 100}, 2, Asked(100, "rollout.max_response_tokens")),
    ],
)
def test_whose_rows_can_be_cut(
    kind: str, changes: dict[str, Any], sequence: int, asked: Asked, config_at: Callable[..., str]
) -> None:
    refuse_uncut(config_at(kind, **changes), sequence, 8, asked)


def test_forwards_are_a_teams_where_there_is_one_and_copies_have_none() -> None:
    model = tiny_model(tiny_config("qwen3"))
    cut_rows(model, ALONE, "student")
    assert team_of(model).size == 1
    cost = Cost.of(model)
    mark_team(model, Team(2, 1))
    assert own_share(model, torch.arange(5)).tolist() == [2, 3, 4]
    assert team_of(copy.deepcopy(model)).size == 1
    batch = supervised_batch([([3, 4, 5, 6], [0, 1, 1, 1])])
    ours = Cost.of(model)
    assert ours.scoring(batch) == cost.scoring(batch) / 2
    assert ours.backward(batch, recompute=True) == cost.backward(batch, recompute=True) / 2


@pytest.mark.slow
def test_layers_are_not_compiled_anew_for_other_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team of one, to whom nothing is sent: what compiled layers are given is what they get among several."""
    monkeypatch.setattr(spread, "exchange", lambda x, sent, received, team: x)
    model = tiny_model(tiny_config("qwen3", num_hidden_layers=1))
    mark_team(model, SOLO)
    assert packs(model)
    expected = padded_hidden(model, TOKENS)
    compiled = CompileCounter()
    compile_model(model, backend=compiled)  # type: ignore[arg-type]
    made = []
    with torch.no_grad():
        for width in (24, 17, 9):
            found = spread_hidden(model, as_padded(TOKENS[:, :width]), SOLO)
            assert torch.allclose(found, expected[:, :width], atol=1e-5)
            made.append(compiled.frame_count)
    assert made[0] > 0
    assert made[-1] == made[1]  # the second length makes sizes symbols
