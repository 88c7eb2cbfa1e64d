"""Whatever is wrong with the user's files ends in one line that names it, before any weight is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sod.records import Task
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import load_tasks, write_tasks
from sod.training.checkpoint import model_of


def assert_one_error(ended: Any, *named: str) -> None:
    """Exit code 1 and one `error:` line (notes may stand before it) that contains every string of `named`."""
    lines = ended.err.strip().splitlines()
    assert ended.code == 1, ended
    assert [line.split(":")[0] for line in lines] == ["note"] * (len(lines) - 1) + ["error"], ended.err
    for name in named:
        assert name in lines[-1]


@pytest.fixture
def weightless(world: Any, tmp_path: Path) -> Callable[..., Path]:
    """A recipe whose models have a tokenizer but no weights: loading one would be another error."""

    def make(**sections: Any) -> Path:
        for name, source in (("student", world.student), ("teacher", world.teacher)):
            newest = model_of(RunLog.open(source).checkpoints()[-1][1])
            target = tmp_path / name
            if not target.exists():
                shutil.copytree(newest, target, ignore=shutil.ignore_patterns("*.safetensors"))
        path = world.recipe(tmp_path)
        content = yaml.safe_load(path.read_text())
        content |= {"student": {"path": str(tmp_path / "student")}, "teacher": {"path": str(tmp_path / "teacher")}}
        content |= sections
        path.write_text(yaml.safe_dump(content))
        return path

    return make


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_weightless_models_are_noticed(weightless: Any, tmp_path: Path, sod: Any) -> None:
    """The proof of 'before any weight is read': with nothing else wrong, the missing weights are the error."""
    assert_one_error(sod("train", weightless(), "--run", tmp_path / "run"), str(tmp_path / "student"), "load a model")


def test_devices_that_are_not_there(weightless: Any, tmp_path: Path, sod: Any) -> None:
    """Both keys in one line; `sod sft` has a student only."""
    devices = ("student.device=cuda:63", "teacher.device=cuda:64")
    ended = sod("train", weightless(), *devices, "--run", tmp_path / "run")
    assert_one_error(ended, "student.device: there is no cuda:63: ", "; teacher.device: there is no cuda:64: ")
    assert_one_error(
        sod("sft", weightless(), devices[0], "--run", tmp_path / "run"), "student.device: there is no cuda"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "key"), [("train", "train"), ("sft", "sft"), ("eval", "data")])
class TestDataFiles:
    """Files that cannot be used at all, for each command that reads one."""

    def run(self, command: str, key: str, data: Path, weightless: Any, sod: Any, tmp_path: Path) -> Any:
        if command == "eval":
            return sod("eval", tmp_path / "student", "--recipe", weightless(), "--data", data, "--out", tmp_path / "o")
        return sod(command, weightless(), f"data.{key}={data}", "--run", tmp_path / "run")

    def test_missing(self, command: str, key: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """A file that is not there."""
        data = tmp_path / "nowhere.parquet"
        ended = self.run(command, key, data, weightless, sod, tmp_path)
        assert_one_error(ended, str(data), "no such data file")

    @pytest.mark.parametrize("name", ["empty.parquet", "empty.jsonl"])
    def test_zero_bytes(self, command: str, key: str, name: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """A file of zero bytes."""
        (tmp_path / name).touch()
        assert_one_error(self.run(command, key, tmp_path / name, weightless, sod, tmp_path), str(tmp_path / name))

    def test_without_rows(self, command: str, key: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """A table with the right columns and no rows."""
        columns = ("prompt", "reward_model", "messages")
        pq.write_table(pa.table({name: pa.array([], pa.string()) for name in columns}), tmp_path / "none.parquet")
        ended = self.run(command, key, tmp_path / "none.parquet", weightless, sod, tmp_path)
        assert_one_error(ended, str(tmp_path / "none.parquet"), "no rows")

    def test_without_the_column(self, command: str, key: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """The columns that there are, and the key that says which is which."""
        pq.write_table(pa.table({"question": ["1+1"], "id": ["a"]}), tmp_path / "other.parquet")
        ended = self.run(command, key, tmp_path / "other.parquet", weightless, sod, tmp_path)
        known = "columns: question, id", "data.columns='{prompt: question, "
        assert_one_error(ended, str(tmp_path / "other.parquet"), *known)


def good_row() -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "python", "parameters": {}}}
    return {
        "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "\\boxed{2}"}],
        "tools": json.dumps([tool]),
    }


BAD_ROWS = {
    "unknown role 'robot': use system, user, assistant or tool": [
        {"role": "robot", "content": "hi"},
        {"role": "assistant", "content": "x"},
    ],
    "no assistant message": [{"role": "user", "content": "1+1"}],
    "it calls 'search', which neither its own tools nor the run's declare": [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "search", "arguments": {}}]},
    ],
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_sft_row_is_named_and_skipped(reason: str, recipe: Path, sod: Any, tmp_path: Path) -> None:
    """One bad row among good ones is a note with its number and reason; the run goes on without it."""
    rows = [good_row(), good_row() | {"messages": BAD_ROWS[reason]}, good_row()]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    ended = sod("sft", recipe, f"data.sft={data}", "sft.steps=1", "sft.batch_size=2", "--run", tmp_path / "run")
    assert ended.code == 0, ended.err
    (note,) = ended.err.strip().splitlines()
    assert note.startswith(f"note: {data}: 2 rows, 1 skipped: row 1: {reason}")


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_only_bad_sft_rows_is_an_error(reason: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
    """With no usable row left the run does not start."""
    data = write_rows(tmp_path / "rows.jsonl", [good_row() | {"messages": BAD_ROWS[reason]}] * 2)
    ended = sod("sft", weightless(), f"data.sft={data}", "--run", tmp_path / "run")
    assert_one_error(ended, data, "2 skipped", f"row 0: {reason}", f"row 1: {reason}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optm": {"lr": 1.0}}, ("optm", "1.0", "did you mean optim?")),
        ({"optim": {"learning_rate": 0.5}}, ("optim.learning_rate", "0.5", "did you mean optim.")),
        ({"rollout": {"max_turn": 3}}, ("rollout.max_turn", "3", "did you mean rollout.max_turns?")),
        ({"optim": {"lr": "fast"}}, ("optim.lr", "'fast'", "number")),
        ({"train": {"steps": 0}}, ("train.steps", "0")),
        ({"rollout": {"samples": 2.5}}, ("rollout.samples", "2.5", "integer")),
        ({"student": None}, ("student",)),
        ({"method": "sodd"}, ("method", "'sodd'", "did you mean sod", "`sod methods`")),
        ({"method": "zzz"}, ("method", "'zzz'", "sft, grpo, opd")),
        ({"method": {"name": "grpo", "kappa": 1.0}}, ("method.kappa", "grpo", "it has rho")),
        ({"method": {"name": "sft", "kappa": 1.0}}, ("method.kappa", "sft", "none of its own")),
        ({"method": {"name": "grpo", "divergence": "jsd"}}, ("method.divergence", "grpo", "no teacher")),
        ({"teacher": None}, ("sod", "teacher.path")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_recipe(change: dict[str, Any], named: tuple[str, ...], weightless: Any, sod: Any, tmp_path: Path) -> None:
    """Unknown keys, ill-typed values, unknown methods and missing parts are named with their value."""
    path = weightless(**change)
    ended = sod("train", path, "--run", tmp_path / "run")
    where = (str(path),) if "method" not in change and "teacher" not in change else ()
    assert_one_error(ended, *where, *named)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "key", "shown"),
    [
        ("method.kapa=1", "method.kapa", "did you mean method.kappa?"),
        ("method.kappa=.nan", "method.kappa", "nan"),
        ("method.kappa={start: 1, end: 0, steps: 0}", "method.kappa.steps", "0"),
        ("method.rho={schedule: step, start: 1, end: 0}", "method.rho.schedule", "'step'"),
        ("method.divergence=kl", "method.divergence", "'kl'"),
        ("method.divergence={kind: jsd, beta: 2}", "method.divergence.beta", "2"),
        ("method.every=0", "method.every", "0"),
        ("method.teacher_decay=1.0", "method.teacher_decay", "1.0"),
        ("method.epsilon=0", "method.epsilon", "0"),
        ("method.clip_lo=0.1", "method.clip_lo", "did you mean method.clip_low?"),
    ],
)
def test_method_key_out_of_range(
    override: str, key: str, shown: str, weightless: Any, sod: Any, tmp_path: Path
) -> None:
    """Schedules, divergences, curricula and teacher rules are checked with the recipe."""
    path = weightless()
    assert_one_error(sod("train", path, override, "--run", tmp_path / "run"), str(path), key, shown)
    assert not (tmp_path / "run").exists()


def hinted(world: Any) -> list[Task]:
    """Three tasks of the world with a hint each, which this world's files do not have."""
    return [replace(task, extra={"hint": "Think."}) for task in load_tasks(world.data("test")).items[:3]]


class TestNeedsOfTheMethod:
    """What a method needs of tasks and tools is looked at before any model: here the student does not exist."""

    def refused(self, sod: Any, tmp_path: Path, recipe: Path, *overrides: str) -> Any:
        ended = sod("train", recipe, f"student.path={tmp_path / 'nowhere'}", *overrides, "--run", tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return ended

    @pytest.mark.parametrize(
        ("method", "change", "said"),
        [
            ("opsd_hint", {"extra": {}}, "no hint; put a non-empty text into extra_info.hint"),
            ("opsd_gt", {"ground_truth": " "}, "the ground truth is empty; set reward_model.ground_truth"),
        ],
    )
    def test_privileged_context(
        self, method: str, change: dict[str, Any], said: str, recipe: Path, world: Any, sod: Any, tmp_path: Path
    ) -> None:
        """The task that lacks it is named."""
        tasks = hinted(world)
        write_tasks(tmp_path / "some.parquet", [*tasks[:2], replace(tasks[2], **change)])
        data = f"data.train={tmp_path / 'some.parquet'}"
        assert_one_error(
            self.refused(sod, tmp_path, recipe, f"method={method}", "teacher=null", data), f"task {tasks[2].id}: {said}"
        )

    def test_replayed_turns_and_a_tool_with_a_memory(self, recipe: Path, sod: Any, tmp_path: Path) -> None:
        """What the teacher's turns left in the tool would be missing."""
        ended = self.refused(sod, tmp_path, recipe, "method=tcod_b2f", "tools.python.stateful=true")
        assert_one_error(ended, "tcod_b2f", "tools.python.stateful=false")

    @pytest.mark.parametrize("method", ["opsd_hint", "opsd_gt", "tcod_b2f"])
    def test_with_all_that_is_needed_the_model_is_missed(
        self, method: str, recipe: Path, world: Any, sod: Any, tmp_path: Path
    ) -> None:
        """The proof that the checks above come first."""
        write_tasks(tmp_path / "whole.parquet", hinted(world))
        data = f"data.train={tmp_path / 'whole.parquet'}"
        own = [] if method == "tcod_b2f" else ["teacher=null"]
        ended = self.refused(sod, tmp_path, recipe, f"method={method}", *own, data)
        assert_one_error(ended, str(tmp_path / "nowhere"), "no such model directory")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [1", "a: b: c", "\x00"])
def test_broken_recipe_file(text: str, sod: Any, tmp_path: Path) -> None:
    """A file that is no YAML mapping is named."""
    (tmp_path / "broken.yaml").write_text(text)
    assert_one_error(sod("train", tmp_path / "broken.yaml", "--run", tmp_path / "run"), str(tmp_path / "broken.yaml"))


def test_missing_recipe_file(sod: Any, tmp_path: Path) -> None:
    """Named, whichever command asked for it."""
    missing = tmp_path / "nowhere.yaml"
    for command in ("train", "sft", "quickstart"):
        assert_one_error(sod(command, missing), str(missing), "no such recipe file")


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim..lr=3", "optim.lr=fast", "nonsense=1"])
def test_bad_override(override: str, weightless: Any, sod: Any, tmp_path: Path) -> None:
    """A malformed, ill-typed or unknown override is named."""
    path = weightless()
    assert_one_error(sod("train", path, override, "--run", tmp_path / "run"), str(path), override.split("=")[0])


def test_old_keys_are_told_and_work(weightless: Any, sod: Any, tmp_path: Path) -> None:
    """A note with the file and both names stands before whatever comes then; accepted names need none."""
    path = weightless(rollout={"batch_size": 2, "round_tokens": 4})
    fitting = ("rollout.max_prompt_tokens=128", "rollout.max_response_tokens=160", "rollout.max_turn_tokens=60")
    ended = sod("train", path, "method.normaliser=turn", *fitting, "--run", tmp_path / "run")
    assert_one_error(ended, str(tmp_path / "student"), "load a model")
    first, second, _ = ended.err.strip().splitlines()
    assert first.startswith(f"note: {path}: rollout.round_tokens is now called rollout.decode_chunk;")
    assert second.startswith(f"note: {path}: method.normaliser is now called method.loss_aggregation, and its value")


def test_one_key_under_two_names(weightless: Any, sod: Any, tmp_path: Path) -> None:
    """Both are named."""
    path = weightless(rollout={"batch_size": 2, "prompts": 2})
    ended = sod("train", path, "--run", tmp_path / "run")
    assert_one_error(ended, str(path), "rollout.batch_size and rollout.prompts are the same key")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("trian",), "trian"),
        (("eval",), "RUN_OR_MODEL"),
        (("eval", "x", "--data", "y", "-k", "0"), "-k"),
        (("train", "--bogus"), "--bogus"),
        (("models", "prune", "x", "--out", "y"), "--layers"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_usage_error_is_no_traceback(arguments: tuple[str, ...], named: str) -> None:
    """A mistyped command line is told as one, by a real process."""
    command = [sys.executable, "-m", "sod", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr, ended.stderr[-300:]
    assert named in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("models",), ("data",)], ids=["sod", "models", "data"])
def test_no_arguments_is_help(arguments: tuple[str, ...]) -> None:
    """`sod` alone shows its commands."""
    ended = subprocess.run([sys.executable, "-m", "sod", *arguments], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr, ended.stderr[-300:]
    assert "Usage:" in ended.stdout + ended.stderr


def test_error_of_a_real_process_is_one_line(tmp_path: Path, start_anew: Any) -> None:
    """Nothing of the libraries' own chatter joins the line on stderr."""
    process = start_anew("train", tmp_path / "nowhere.yaml", cwd=tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    fix = "`sod init` lists the recipes that come with sod"
    assert err == f"error: {tmp_path}/nowhere.yaml: no such recipe file; {fix}\n"


class TestModels:
    """Teachers that cannot score this student, and models that cannot be read."""

    def test_another_vocabulary(self, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """The teacher's tokens must be the student's for a method that cannot align them; both paths are named."""
        path = weightless()
        file = tmp_path / "teacher" / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
        file.write_text(json.dumps(content))
        ended = sod("train", path, "--run", tmp_path / "run", "method={name: opd, divergence: jsd}")
        assert_one_error(ended, str(tmp_path / "teacher"), str(tmp_path / "student"), "vocabulary", "2 tokens", "'A'")

    def test_a_token_without_a_row(self, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """An added token that the model was not resized for: the token and the fix are named, before any weights."""
        path = weightless()
        file = tmp_path / "student" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
        ended = sod("train", path, "--run", tmp_path / "run")
        assert_one_error(ended, str(tmp_path / "student"), "'</tool_response>'", "resize_token_embeddings")

    def test_missing_model(self, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """A directory that is not there, for student and teacher."""
        for role in ("student", "teacher"):
            ended = sod("train", weightless(**{role: {"path": str(tmp_path / "gone")}}), "--run", tmp_path / "run")
            assert_one_error(ended, str(tmp_path / "gone"), "no such model directory")

    def test_cut_weights(self, world: Any, sod: Any, tmp_path: Path) -> None:
        """A plain model directory whose weights are cut short is named."""
        source = world.path / "student-init"
        shutil.copytree(source, tmp_path / "cut")
        weights = tmp_path / "cut" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        ended = sod("eval", tmp_path / "cut", "--data", world.data("test"), "--out", tmp_path / "out")
        assert_one_error(ended, str(tmp_path / "cut"))

    def test_nan_weights_of_the_student(self, recipe: Path, world: Any, sod: Any, tmp_path: Path) -> None:
        """A NaN among the student's weights is named as such before any optimizer step."""
        with_nan(world, tmp_path / "broken", "model.norm.weight", 0)
        ended = sod("train", recipe, f"student.path={tmp_path / 'broken'}", "--run", tmp_path / "run")
        assert_one_error(ended, str(tmp_path / "broken"))
        message = ended.err.lower()
        assert any(word in message for word in ("nan", "non-finite", "not finite"))
        assert "architecture" not in message, "the architecture is not to blame"


def with_nan(world: Any, target: Path, name: str, row: int) -> None:
    """A copy of the untrained student with one NaN in `name[row]`."""
    shutil.copytree(world.path / "student-init", target)
    weights = load_file(target / "model.safetensors")
    weights[name].view(weights[name].shape[0], -1)[row, 0] = torch.nan
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


class TestPromptLimit:
    """Prompts longer than the limit."""

    def limited(self, world: Any, tmp_path: Path) -> tuple[list[str], str]:
        """Overrides that leave two of three prompts too long, and the first one's id."""
        tasks = load_tasks(world.data("reachable")).items[:3]
        long = chain.Chain(2, (("+", 3),) * 20)
        made = [tasks[0], *(chain.as_task(long, n) for n in (900, 901))]
        write_tasks(tmp_path / "mixed.parquet", made)
        return [f"data.train={tmp_path / 'mixed.parquet'}", "rollout.max_prompt_tokens=100"], "chain-900"

    def test_skip_counts_and_says(self, recipe: Path, world: Any, sod: Any, tmp_path: Path) -> None:
        """`skip` trains on the rest and says how many were left out."""
        changes, first = self.limited(world, tmp_path)
        ended = sod("train", recipe, *changes, "train.steps=1", "--run", tmp_path / "run")
        assert ended.code == 0, ended.err
        (note,) = ended.err.strip().splitlines()
        assert note.startswith("note: 2 of 3 prompts")
        assert first in note
        assert {row["task_id"] for row in RunLog.open(tmp_path / "run").trajectories(1)} == {"chain-0"}

    def test_refuse_is_an_error(self, weightless: Any, world: Any, sod: Any, tmp_path: Path) -> None:
        """`refuse` stops before the weights are read."""
        changes, first = self.limited(world, tmp_path)
        ended = sod("train", weightless(), *changes, "data.overlong_prompts=refuse", "--run", tmp_path / "run")
        assert_one_error(ended, "2 of 3 prompts", "rollout.max_prompt_tokens=100", first)

    def test_all_too_long_is_an_error(self, weightless: Any, sod: Any, tmp_path: Path) -> None:
        """`skip` cannot leave nothing to train on."""
        ended = sod("train", weightless(), "rollout.max_prompt_tokens=5", "--run", tmp_path / "run")
        assert_one_error(ended, "24 of 24 prompts", "raise the limit")
