"""Runs from Python: in a thread and inside a running event loop, with what a person sees of them, and read back."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import sod
from sod.models.load import save_model
from sod.report.metrics import PANELS
from sod.tasks.files import write_conversations


@pytest.fixture(autouse=True)
def few_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of all panels would take longer than the runs: tests/report draws those."""
    monkeypatch.setattr("sod.report.curves.PANELS", PANELS[:2])


@pytest.fixture
def content(tmp_path: Path, random_model: Callable[..., Any], chat: Any, conversations: Any) -> dict[str, Any]:
    """Two steps of SFT of a tiny model."""
    save_model(random_model(), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "model")
    write_conversations(tmp_path / "sft.parquet", conversations[:8])
    return {
        "student": {"path": str(tmp_path / "model")},
        "data": {"sft": str(tmp_path / "sft.parquet")},
        "sft": {"steps": 2, "batch_size": 2},
    }


def test_a_run_in_a_thread_says_how_far_it_is(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[int, Mapping[str, float]]] = []
    runs: list[sod.Run] = []

    def work() -> None:
        runs.append(sod.sft(content, run=tmp_path / "run", on_step=lambda step, row: heard.append((step, row))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (run,) = runs
    shown = capsys.readouterr().out
    assert "sft starts" in shown
    assert "sft 1/2" in shown
    assert "sft 2/2" in shown
    assert [step for step, _ in heard] == [1, 2]
    assert [row["loss"] for row in run.metrics] == [row["loss"] for _, row in heard]


def test_a_run_inside_a_running_event_loop_as_a_notebook_has_one(content: dict[str, Any], tmp_path: Path) -> None:
    async def cell() -> sod.Run:
        return sod.sft(content, run=tmp_path / "run", progress=False)

    run = asyncio.run(cell())
    assert list(run.checkpoints) == [2]
    assert (run.model / "config.json").is_file()
    assert run.recipe.sft.steps == 2
    assert run.manifest["seed"] == 0
    assert (run._repr_png_() or b"").startswith(b"\x89PNG")
    assert repr(run) == f"Run({str(tmp_path / 'run')!r}: step 2, checkpoints [2])"
    with pytest.raises(sod.SodError, match=r"no step has trajectories; train\.trajectories_every"):
        run.trajectories()


def test_quiet_is_quiet_and_a_finished_run_resumes_to_itself(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sod.sft(content, ["sft.steps=1", "sft.optim.schedule=constant"], run=tmp_path / "run", progress=False)
    assert capsys.readouterr().out == ""
    again = sod.sft(resume=tmp_path / "run", progress=False)
    assert [row["step"] for row in again.metrics] == [1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, 'name a recipe, e.g. sod.train("recipes/quickstart.yaml"), or resume="RUN"'),
        ({"resume": "nowhere"}, "nowhere: not a run directory (no recipe.yaml); name one that a run has written"),
        ({"recipe": {}, "overrides": "optim.lr=1"}, "overrides='optim.lr=1': give a list, ['optim.lr=1']"),
        (
            {"recipe": {"studnt": 1}},
            "recipe: key student is missing; recipe: unknown key studnt (value 1); did you mean student?",
        ),
        (
            {"recipe": {"student": {"path": "x"}}, "run": "a", "resume": "b"},
            "run and resume name different directories; give resume alone",
        ),
    ],
)
def test_what_is_wrong_is_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(sod.SodError) as error:
        sod.train(**arguments)
    assert str(error.value) == said


def test_a_directory_without_a_run_is_refused() -> None:
    with pytest.raises(sod.SodError, match="not a run directory"):
        sod.Run("/nowhere")


def test_an_evaluation_wants_its_overrides_in_a_list() -> None:
    with pytest.raises(sod.SodError, match=r"overrides='evaluation\.k=1': give a list"):
        sod.evaluate("nowhere", "tasks.jsonl", "evaluation.k=1")
