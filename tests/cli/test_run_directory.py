"""What a run leaves behind, and what happens when its directory is not as it was left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sod.recipe import parse_recipe
from sod.report.metrics import metric_of
from sod.runlog import RunLog
from sod.training import checkpoint

OF_A_SERVER = (
    *("device", "url", "api_key_env", "concurrency", "tokens_in_flight", "seconds", "attempts", "cache", "cache_gb"),
    *("backoff_seconds", "backoff_max_seconds", "breaker_failures", "breaker_seconds"),
)
"""Keys of a teacher that say where it is and how it is asked."""
STEP_METRICS = {
    "reward",
    "accuracy",
    "teacher_gap",
    "turn_gap_first",
    "turn_gap_last",
    "weight",
    "tool_error_rate",
    "turns",
    "response_tokens",
    "tokens_per_second",
    "seconds/sample",
    "seconds/tools",
    "seconds/old",
    "seconds/teacher",
    "seconds/update",
}


@pytest.fixture(scope="module")
def original(world: Any, sod: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with two checkpoints (never change it: see `run`)."""
    directory = tmp_path_factory.mktemp("original")
    changes = ("train.steps=4", "train.checkpoint_every=2")
    assert sod("train", world.recipe(directory), *changes, "--run", directory / "run").code == 0
    return directory / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def newest(run: Path) -> Path:
    return RunLog.open(run).checkpoints()[-1][1]


def assert_one_error(ended: Any, *named: str) -> None:
    """Exit code 1 and a single line on stderr that contains every string of `named`."""
    assert ended.code == 1, ended
    (line,) = ended.err.strip().splitlines()
    assert line.startswith("error: ")
    for name in named:
        assert name in line


class TestTrajectories:
    """The turn-by-turn record."""

    def rows(self, run: Path) -> list[dict[str, Any]]:
        return [row for step in range(1, 5) for row in RunLog.open(run).trajectories(step)]

    def test_weights_follow_from_the_written_divergences(self, original: Path) -> None:
        """w_1 = 1 and w_k = min((d_1 + eps) / (d_k + eps), 1.2), re-derived from the d_k in the file."""
        clipped = lowered = 0
        for row in self.rows(original):
            first, *later = row["turns"]
            assert first["w_k"] == 1.0
            for turn in later:
                expected = min((first["d_k"] + 1e-6) / (turn["d_k"] + 1e-6), 1.2)
                assert turn["w_k"] == pytest.approx(expected, rel=1e-5)
                clipped += turn["w_k"] == pytest.approx(1.2)
                lowered += turn["w_k"] < 0.9
        assert clipped
        assert lowered

    def test_turns_are_whole(self, original: Path) -> None:
        """Turns count from 1, tokens add up, every call has its result, and results are what Python gives."""
        rows = self.rows(original)
        assert len(rows) == 4 * 2 * 2
        good = bad = 0
        for row in rows:
            turns = row["turns"]
            assert [turn["k"] for turn in turns] == list(range(1, len(turns) + 1))
            assert 0 < sum(turn["n_tokens"] for turn in turns) <= row["response_tokens"]
            assert all(0 < turn["n_tokens"] <= 24 for turn in turns)
            for turn in turns[:-1]:
                assert len(turn["calls"]) == len(turn["results"]) > 0
            for call, result in ((c, r) for t in turns for c, r in zip(t["calls"], t["results"], strict=False)):
                code = call["arguments"].get("code")
                if result["error"] is None and isinstance(code, str) and code.startswith("print("):
                    assert result["text"] == str(eval(code.removeprefix("print")))
                    good += 1
                bad += result["error"] is not None
        assert good
        assert bad

    def test_episodes_agree_with_the_metrics(self, original: Path) -> None:
        """Reward, accuracy, turns, lengths, tool errors, d and w of the metrics are means over the written episodes."""
        for row in RunLog.open(original).metrics():
            episodes = RunLog.open(original).trajectories(row["step"])
            turns = [turn for episode in episodes for turn in episode["turns"]]
            results = [result for turn in turns for result in turn["results"]]
            expected = {
                "reward": sum(e["reward"] for e in episodes) / len(episodes),
                "accuracy": sum(e["correct"] for e in episodes) / len(episodes),
                "turns": len(turns) / len(episodes),
                "response_tokens": sum(e["response_tokens"] for e in episodes) / len(episodes),
                "tool_error_rate": sum(r["error"] is not None for r in results) / len(results),
                "turn_gap_first": sum(e["turns"][0]["d_k"] for e in episodes) / len(episodes),
                "turn_gap_last": sum(e["turns"][-1]["d_k"] for e in episodes) / len(episodes),
                "weight": sum(turn["w_k"] for turn in turns) / len(turns),
            }
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-5), name

    def test_rewards_differ(self, original: Path) -> None:
        """The world is one where the reward says something: some episodes are right and some wrong."""
        assert {row["reward"] for row in self.rows(original)} == {-1.0, 1.0}
        assert all((row["reward"] == 1.0) == row["correct"] for row in self.rows(original))


class TestWritten:
    """Metrics, curves, recipe, manifest, checkpoints."""

    def test_metrics(self, original: Path) -> None:
        """One row per step with everything the project promises to show, all numbers."""
        rows = RunLog.open(original).metrics()
        assert [(row["kind"], row["step"]) for row in rows] == [("train", n) for n in range(1, 5)]
        for row in rows:
            assert row.keys() >= STEP_METRICS
            assert [key for key in row.keys() - {"step", "kind"} if metric_of(key) is None] == []
            assert all(isinstance(row[name], float) for name in STEP_METRICS)
            phases = sum(value for name, value in row.items() if name.startswith("seconds/"))
            assert 0 < phases <= row["seconds"]

    def test_same_model_has_no_gap(self, recipe: Path, world: Any, sod: Any, tmp_path: Path) -> None:
        """With the student as its own teacher, d and the gap are about 0 at the first step: the scores line up."""
        own = f"teacher.path={world.student}"
        assert sod("train", recipe, own, "train.steps=1", "--run", tmp_path / "run").code == 0
        (row,) = RunLog.open(tmp_path / "run").metrics()
        assert abs(row["teacher_gap"]) < 1e-6
        assert row["turn_gap_first"] < 1e-6
        assert row["turn_gap_last"] < 1e-6
        assert row["train_inference_gap"] < 1e-4

    def test_curves(self, original: Path) -> None:
        """A PNG of some size."""
        assert (original / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (original / "curves.png").stat().st_size > 5_000

    def test_recipe_and_manifest(self, original: Path, world: Any) -> None:
        """The resolved recipe parses to the run's own, and the manifest's hash, seed and versions are true."""
        written = yaml.safe_load((original / "recipe.yaml").read_text())
        spec = parse_recipe(written, "recipe.yaml")
        assert (spec.train.steps, spec.train.checkpoint_every, spec.optim.betas) == (4, 2, (0.9, 0.95))
        assert spec.student.path == world.student
        manifest = json.loads((original / "manifest.json").read_text())
        assert manifest["format"] == 2
        for neutral in ("name", "threads", "deterministic", "trackers", "world", "compare", "parallel"):
            del written[neutral]
        for section, keys in (
            ("train", ("checkpoint_every", "keep_checkpoints", "evaluate_every", "trajectories_every", "profile")),
            ("optim", ("recompute", "compile")),
            ("student", ("device",)),
            ("teacher", OF_A_SERVER),
            ("engine", ("urls", "servers", "environment", "push", "push_dir", "tolerance")),
            ("launch", ("start_seconds", "restarts", "student")),
            ("engine", ("turn_seconds", "restart_seconds")),
            ("sft", ("checkpoint_every",)),
            ("rollout", ("fault_retries", "max_fault_rate", "fault_window", "cache_share")),
            ("reward", ("workers", "call_workers", "call_seconds")),
        ):
            for key in keys:
                del written[section][key]
        del written["sft"]["optim"]["recompute"], written["sft"]["optim"]["compile"]
        del written["tools"]["python"]["workers"]
        canonical = json.dumps(written, sort_keys=True, separators=(",", ":"))
        assert manifest["recipe_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
        assert manifest["seed"] == 7
        assert manifest["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
        assert manifest["versions"]["python"] == sys.version.split()[0]
        assert "train.steps=4" in manifest["argv"]

    def test_checkpoint_is_a_plain_model_directory(self, original: Path) -> None:
        """transformers alone reads `model/`, template and end-of-turn token included, and weights moved.

        There is nothing else in it: it is what one would upload.
        """
        first, last = (path / "model" for _, path in RunLog.open(original).checkpoints())
        assert {path.name for path in last.parent.iterdir()} == {"model", checkpoint.TRAINER, checkpoint.COMPLETE}
        allowed = ("config.json", "generation_config.json", "model.safetensors", "chat_template.jinja")
        assert {path.name for path in last.iterdir()} == {*allowed, "tokenizer.json", "tokenizer_config.json"}
        models = [AutoModelForCausalLM.from_pretrained(path) for path in (first, last)]
        tokenizer = AutoTokenizer.from_pretrained(last)
        assert models[1].generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
        text = tokenizer.apply_chat_template([{"role": "user", "content": "1+1"}], tokenize=False)
        assert "<|im_start|>user\n1+1<|im_end|>" in text
        moved = [not torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True)]
        assert all(moved)


class TestQuickstart:
    """The whole path in one command."""

    def test_summary(self, world: Any) -> None:
        """Four models on the same held-out tasks, with intervals, and every stage timed."""
        summary = json.loads((world.path / "summary.json").read_text())
        for name in ("vanilla", "sft", "sod", "teacher"):
            low, high = summary[name]["ci95"]
            assert low <= summary[name]["avg_at_k"] <= high
            assert summary[name]["tasks"] == 6
        assert summary["vanilla"]["tool_calls"] == 0
        assert summary["teacher"]["tool_calls"] > 1
        assert set(summary["seconds"]) >= {"teacher sft", "student sft", "distillation", "evaluation"}

    def test_sft_learns(self, world: Any) -> None:
        """The loss of the student's SFT falls by far."""
        rows = RunLog.open(world.student).metrics()
        assert rows[-1]["loss"] < rows[0]["loss"] / 4

    def test_refuses_an_earlier_one(self, world: Any, sod: Any) -> None:
        """Nothing is overwritten."""
        before = (world.path / "summary.json").read_bytes()
        recipe = world.path.parent / "quickstart.yaml"
        assert_one_error(sod("quickstart", recipe, "--out", world.path), str(world.path), "--out")
        assert (world.path / "summary.json").read_bytes() == before


class TestRefusals:
    """A directory that cannot be started in, or gone on with."""

    def test_used_directory(self, run: Path, recipe: Path, sod: Any) -> None:
        """A run directory is never started in again, by either command."""
        before = (run / "metrics.jsonl").read_bytes()
        for command in ("train", "sft"):
            assert_one_error(sod(command, recipe, "--run", run), str(run), "already holds a run", "--resume")
        assert (run / "metrics.jsonl").read_bytes() == before

    def test_no_run(self, tmp_path: Path, sod: Any) -> None:
        """--resume of something else."""
        for path in (tmp_path, tmp_path / "gone"):
            assert_one_error(sod("train", "--resume", path), str(path), "not a run directory")

    @pytest.mark.parametrize(
        "damage",
        ["changed", *(pytest.param(d, marks=pytest.mark.slow) for d in ("cut", "missing", "unmarked", "emptied"))],
    )
    def test_broken_checkpoint(
        self, damage: str, run: Path, original: Path, world: Any, tmp_path: Path, sod: Any
    ) -> None:
        """A newest checkpoint that is broken is told, and the one before serves, on resume and on evaluation.

        The resumed run ends as the one that nothing happened to, and the broken checkpoint is still there.
        """
        first, last = (path for _, path in RunLog.open(run).checkpoints())
        weights = last / "model" / "model.safetensors"
        content = weights.read_bytes()
        if damage == "changed":
            middle = len(content) // 2
            weights.write_bytes(
                content[:middle] + bytes(b ^ 0xFF for b in content[middle:][:64]) + content[middle + 64 :]
            )
        elif damage == "cut":
            weights.write_bytes(content[: len(content) // 2])
        elif damage == "missing":
            (last / checkpoint.TRAINER).unlink()
        elif damage == "unmarked":
            (last / checkpoint.COMPLETE).unlink()
        else:
            shutil.rmtree(last)
            last.mkdir()
        broken = {path.name: path.read_bytes() for path in last.rglob("*.*")}
        evaluation = ("--data", world.data("test"), "-k", "1", "--tasks", "1", "--out", tmp_path / "eval")
        assert_one_error(sod("eval", last, *evaluation), str(last), "name another checkpoint")
        assert not (tmp_path / "eval").exists()
        for command in (("eval", run, *evaluation), ("train", "--resume", run)):
            ended = sod(*command)
            assert ended.code == 0, ended.err
            told = " ".join(ended.err.split())
            assert f"{last}: " in told
            assert f"the checkpoint before it is used: {first}" in told
        aside = last.with_name("step-000004.aside")
        assert {path.name: path.read_bytes() for path in aside.rglob("*.*")} == broken
        assert [step for step, _ in RunLog.open(run).checkpoints()] == [2, 4]
        assert checkpoint.verify(last) == 4
        assert weights.read_bytes() == (newest(original) / "model" / "model.safetensors").read_bytes()
        written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in written] == [1, 2, 3, 4]

    def test_no_good_checkpoint(self, run: Path, sod: Any) -> None:
        """Only then it is an error, and nothing is written."""
        for _, directory in RunLog.open(run).checkpoints():
            (directory / checkpoint.TRAINER).write_bytes(b"x")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert_one_error(sod("train", "--resume", run), "no good checkpoint is left", "step-000002", "step-000004")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def test_checkpoints_are_models_to_start_from(self, run: Path, recipe: Path, sod: Any, tmp_path: Path) -> None:
        """A run, a checkpoint and its `model/` are the same student; a broken one is refused by either name."""
        last = newest(run)
        heads = []
        for number, path in enumerate((run, last, last / "model")):
            target = tmp_path / f"from-{number}"
            ended = sod("train", recipe, f"student.path={path}", "train.steps=1", "--run", target)
            assert ended.code == 0, ended.err
            assert RunLog.open(target).recipe()["student"]["path"] == str(path)
            heads.append((newest(target) / "model" / "model.safetensors").read_bytes())
        assert heads[0] == heads[1] == heads[2]
        (last / "model" / "config.json").write_text("{}")
        for path in (last, last / "model"):
            ended = sod("train", recipe, f"student.path={path}", "--run", tmp_path / "refused")
            assert_one_error(ended, str(last), "model/config.json")
            assert not (tmp_path / "refused").exists()
        train = ("train", recipe, f"student.path={run}", "train.steps=1", "--run", tmp_path / "fallen")
        for command in (train, ("models", "prune", run, "--layers", "1", "--out", tmp_path / "pruned")):
            ended = sod(*command)
            assert ended.code == 0, ended.err
            told = " ".join(ended.err.split())
            assert told.count("the checkpoint before it is used") == 1
            assert "UserWarning" not in told

    @pytest.mark.slow
    @pytest.mark.parametrize("resume", [False, True], ids=["new", "resumed"])
    def test_two_at_once(self, resume: bool, run: Path, recipe: Path, tmp_path: Path, start: Any) -> None:
        """Of two commands started together one runs to its end; the other gets a line with directory and holder."""
        if resume:
            shutil.rmtree(newest(run))
            arguments, target = ("train", "--resume", run, "train.checkpoint_every=1"), run
        else:
            target = tmp_path / "new"
            arguments = ("train", recipe, "train.steps=12", "--run", target)
        both = [start(*arguments) for _ in range(2)]
        ends = [(process, *process.communicate(timeout=300)) for process in both]
        winners = [process for process, _, _ in ends if process.returncode == 0]
        losers = [(process, err) for process, _, err in ends if process.returncode == 1]
        assert (len(winners), len(losers)) == (1, 1), ends
        (line,) = losers[0][1].strip().splitlines()
        assert line.startswith("error: ")
        assert f"{target}: process {winners[0].pid} on " in line
        steps = [json.loads(row)["step"] for row in (target / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        assert not list(target.glob(".*"))

    @pytest.mark.slow
    def test_a_running_run_is_read_but_not_gone_on_with(
        self, recipe: Path, world: Any, tmp_path: Path, sod: Any, start: Any, wait: Any
    ) -> None:
        """`sod eval` of it is possible; `--resume` is refused at once, until the process is gone, by kill -9 too."""
        run = tmp_path / "run"
        process = start("train", recipe, "train.steps=4000", "--run", run)
        wait(lambda: bool((run / "checkpoints").is_dir() and RunLog.open(run).checkpoints()), process)
        process.send_signal(signal.SIGSTOP)
        assert_one_error(sod("train", "--resume", run), f"{run}: process {process.pid} on ")
        ended = sod("eval", run, "--data", world.data("test"), "-k", "1", "--tasks", "1", "--out", tmp_path / "eval")
        assert ended.code == 0, ended.err
        process.kill()
        process.communicate()
        assert_one_error(sod("train", "--resume", run, "optim.lr=0.5"), "another recipe")

    def test_another_recipe(self, run: Path, recipe: Path, sod: Any) -> None:
        """The key that differs is named with both values and what to do; nothing is written."""
        before = (run / "metrics.jsonl").read_bytes()
        ended = sod("train", "--resume", run, "optim.lr=0.5")
        assert_one_error(ended, str(run), "another recipe", "optim.lr is 0.001 there and 0.5 here", "start a new run")
        assert_one_error(sod("train", recipe, "--resume", run), "train.steps is 4 there and 3 here")
        assert_one_error(sod("train", recipe, "--resume", run, "--run", run.parent / "x"), "--run and --resume")
        assert (run / "metrics.jsonl").read_bytes() == before

    def test_same_recipe_is_no_other(self, run: Path, recipe: Path, sod: Any) -> None:
        """Naming the very recipe and overrides again is allowed."""
        assert sod("train", recipe, "train.steps=4", "train.checkpoint_every=2", "--resume", run).code == 0

    def test_neutral_keys_are_set_anew(self, run: Path, sod: Any) -> None:
        """What changes nothing of what is computed may change on a resume, and does."""
        shutil.rmtree(newest(run))
        changes = ("train.checkpoint_every=1", "train.keep_checkpoints=9", "train.profile=true", "name=again")
        assert sod("train", "--resume", run, *changes).code == 0
        assert [step for step, _ in RunLog.open(run).checkpoints()] == [2, 3, 4]
        assert (run / "profile.json").exists()
        assert RunLog.open(run).recipe()["train"]["checkpoint_every"] == 2  # what the run was started with

    @pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
    def test_a_tracker_may_join_a_run(self, run: Path, sod: Any) -> None:
        shutil.rmtree(newest(run))
        assert sod("train", "--resume", run, "trackers=[tensorboard]").code == 0
        assert list((run / "trackers" / "tensorboard").rglob("events.out.tfevents.*"))

    def test_checkpoint_of_another_recipe(self, run: Path, sod: Any) -> None:
        """A recipe.yaml edited in place no longer fits its checkpoints."""
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002", 1))
        assert_one_error(sod("train", "--resume", run), str(newest(run)), "another recipe")

    def test_other_kind_of_run(self, run: Path, sod: Any) -> None:
        """`sod sft --resume` of a distillation run would train it on something else: refused, nothing written."""
        before = (run / "metrics.jsonl").read_bytes()
        assert_one_error(sod("sft", "--resume", run), str(run))
        assert (run / "metrics.jsonl").read_bytes() == before

    def test_other_kind_of_run_that_is_longer(self, recipe: Path, sod: Any, tmp_path: Path) -> None:
        """`sod train --resume` of an SFT run that has more steps than the distillation would have."""
        run = tmp_path / "sft"
        assert sod("sft", recipe, "sft.steps=5", "--run", run).code == 0
        assert_one_error(sod("train", "--resume", run), str(run))

    def test_unwritable_directory(self, recipe: Path, sod: Any, tmp_path: Path) -> None:
        """A path that cannot become a directory is named."""
        (tmp_path / "file").touch()
        assert_one_error(sod("train", recipe, "--run", tmp_path / "file" / "run"), str(tmp_path / "file" / "run"))


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """A command prefix that runs `$1...` with a small tmpfs mounted at `tmp_path/disk`, in a mount namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        ended = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", disk], capture_output=True, text=True)
        reason = ended.stderr
    except FileNotFoundError:
        ended, reason = None, "no unshare command"
    if ended is None or ended.returncode:
        pytest.skip(f"cannot mount a tmpfs in a user namespace: {reason}")
    return ["unshare", "-rm", "sh", "-c"]


@pytest.mark.parametrize("victim", ["model/model.safetensors", checkpoint.TRAINER])
@pytest.mark.slow
def test_full_disk(victim: str, small_disk: list[str], recipe: Path, tmp_path: Path, original: Path) -> None:
    """The disk fills up in the middle of the second checkpoint: the error names it and the reason.

    The first checkpoint stays whole and no partial one is left.
    """
    directory = newest(original)
    files = {file.relative_to(directory).as_posix(): file.stat().st_size for file in sorted(directory.rglob("*.*"))}
    sizes = {name: -(-size // 4096) * 4096 for name, size in files.items()}
    room = sum(sizes.values()) + 12 * 4096  # the first checkpoint, metrics, directories
    room += sizes[victim] // 2 + (sum(sizes.values()) - sizes[victim] if victim == checkpoint.TRAINER else 0)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    script = (
        f"mount -t tmpfs -o size={room} none {disk} && "
        f'"$0" -m sod train {recipe} train.steps=4 train.trajectories_every=0 tools.python.unsafe=true '
        f"--run {disk}/run; code=$?; cp -a {disk}/run {kept}; exit $code"
    )
    env = os.environ | {"SOD_ALLOCATOR": "off", "OMP_NUM_THREADS": "1"}
    command = [*small_disk, script, sys.executable]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert "Traceback" not in ended.stderr, ended.stderr[-500:]
    assert ended.returncode == 1, ended.stderr
    line = ended.stderr.strip().splitlines()[-1]  # before it, the sandbox may have said that it is less than full
    assert line.startswith(f"error: {disk}/run/checkpoints/step-000002: ")
    assert [step for step, _ in RunLog.open(kept).checkpoints()] == [1]
    assert checkpoint.verify(kept / "checkpoints" / "step-000001") == 1
    assert not list((kept / "checkpoints").glob(".*"))
    assert "no space left" in line


@pytest.mark.slow
def test_profile(sod: Any, recipe: Path, tmp_path: Path) -> None:
    """With `train.profile=true` every phase of the step is there, with rates, on the terminal too; else no file."""
    ended = sod("train", recipe, "train.steps=2", "train.profile=true", "--run", tmp_path / "run")
    assert ended.code == 0, ended.err
    rows = {row["phase"]: row for row in RunLog.open(tmp_path / "run").profile()}
    assert rows.keys() == {"prefill", "decode", "sample", "tools", "teacher", "forward", "backward", "optimizer"}
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    peaks = json.loads((tmp_path / "run" / "profile.json").read_text())["peaks"]
    assert peaks.keys() == {"student", "teacher"}
    total = sum(metrics["seconds"] for metrics in RunLog.open(tmp_path / "run").metrics())
    assert sum(row["seconds"] for row in rows.values()) <= total
    sampled = sum(metrics["action_tokens"] * 4 for metrics in RunLog.open(tmp_path / "run").metrics())
    assert rows["sample"]["tokens"] == pytest.approx(sampled)
    assert rows["forward"]["tokens"] == rows["backward"]["tokens"] == rows["teacher"]["tokens"] > sampled
    for phase in ("prefill", "decode", "sample", "teacher", "forward", "backward"):
        assert rows[phase]["gflop_per_second"] > 0
        assert 0 < rows[phase]["share_of_product_peak"] <= 1.2
        assert 0 <= rows[phase]["share_of_copy_peak"] <= 1.2
        assert phase in ended.out
    assert sod("train", recipe, "train.steps=1", "--run", tmp_path / "plain").code == 0
    assert not (tmp_path / "plain" / "profile.json").exists()
