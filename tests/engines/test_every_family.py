"""Every family of causal language models that transformers has is sampled and scored as its plain forward says, or
refused in one line. `python tests/engines/test_every_family.py` tries them all and writes the table of
docs/architectures.md; the slow tier tries a quarter of each of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import transformers

from architectures import plain_logps, worst_gap
from families import FAMILIES, family_config, family_model
from sod.engines import plain_proof, proof
from sod.engines.choice import choose_engine
from sod.engines.plain_engine import PlainEngine
from sod.models.architecture import refuse_unscored
from sod.models.score import action_logps, check_projection
from sod.objective.batch import supervised_batch
from sod.records import SodError

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
HEAD = "| with transformers {version} | families |\n|---|---|\n"
LONGEST = 80  # tokens: five windows and chunks of 16
PROVEN = 60  # tokens of the proofs, which run 300 and 1,025 else: here the table matters
FAST = "fast engine"


def outcome(kind: str) -> str:
    """How a family is sampled, or why it is refused. AssertionError where it is not as its plain forward says."""
    config = family_config(kind)
    try:
        refuse_unscored(config, kind)
        model = family_model(kind, config)
        check_projection(model, kind)
        engine = choose_engine(model, frozenset(range(3, 200, 40)), LONGEST, lambda text: None, max_rows=3)
    except SodError as error:
        return f"refused: {_reason(str(error))}"
    assert worst_gap(engine, LONGEST) < 1e-4
    _check_scores(engine.model)
    return f"plain engine, {engine.ways}" if isinstance(engine, PlainEngine) else FAST


def _reason(line: str) -> str:
    """Why, without the name and the numbers."""
    assert "\n" not in line
    assert "; use a model of another family" in line
    said = line.partition(": ")[2].partition("; use")[0]
    return re.sub(r"^architecture '[^']*' | \(.*\)|, which .*|, of which .*", "", said)


def _check_scores(model: object) -> None:
    """Rows of unequal length together, against each row's own plain forward."""
    rows = [
        ([(5 * at + 7 * length) % 190 + 3 for at in range(length)], [0] + [1] * (length - 1)) for length in (40, 23)
    ]
    with torch.no_grad():
        logp_BT = action_logps(model, supervised_batch(rows))
    for (ids, _), logp_T in zip(rows, logp_BT, strict=True):
        torch.testing.assert_close(logp_T[1 : len(ids)], plain_logps(model, ids, 1).float(), atol=1e-4, rtol=1e-4)


def table(outcomes: Mapping[str, str]) -> str:
    """The table of the page."""
    grouped: dict[str, list[str]] = {}
    for kind, found in outcomes.items():
        grouped.setdefault(found, []).append(kind)
    lines = [f"| {found} | {', '.join(sorted(grouped[found]))} |\n" for found in sorted(grouped, key=_place)]
    return HEAD.format(version=transformers.__version__) + "".join(lines)


def _place(found: str) -> tuple[int, str]:
    return (0 if found == FAST else 1 if found.startswith("plain") else 2), found


def _written() -> dict[str, str]:
    """What the page says of each family; nothing where it was written with another transformers."""
    lines = PAGE.read_text(encoding="utf-8").partition(HEAD.format(version=transformers.__version__))[2].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[: lines.index("")]] if lines else []
    return {kind: found for found, kinds in rows for kind in kinds.split(", ")}


def quarter() -> list[str]:
    """Every fourth family of each row of the page; of all families where that is of another version."""
    rows: dict[str, list[str]] = {}
    written = _written()
    for kind in FAMILIES:
        rows.setdefault(written.get(kind, ""), []).append(kind)
    return [kind for kinds in rows.values() for kind in kinds[::4]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", quarter())
def test_sampled_and_scored_exactly_or_refused_as_the_page_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four turns to 80 tokens, past windows and chunks of 16; what is refused is refused before it is sampled from."""
    monkeypatch.setattr(proof, "MOST", PROVEN)
    monkeypatch.setattr(plain_proof, "MOST", PROVEN)
    found = outcome(kind)
    written = _written()
    if written:
        assert found == written.get(kind), "python tests/engines/test_every_family.py writes the page anew"


def test_the_page_names_every_family() -> None:
    written = _written()
    assert not written or set(written) == set(FAMILIES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("| with transformers ")
    after = rest[rest.index("\n\n") :]
    proof.MOST = plain_proof.MOST = PROVEN
    found = {}
    for name in FAMILIES:
        found[name] = outcome(name)
        print(f"{name}: {found[name]}", flush=True)
    PAGE.write_text(before + table(found).rstrip("\n") + after, encoding="utf-8")
