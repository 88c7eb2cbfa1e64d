"""Made this directory, with the code of commit 0501a14, the last one that wrote run format 1 (see README.md).

    PYTHONPATH=CHECKOUT_OF_0501a14/src python make.py EMPTY_DIRECTORY

A tiny world by `sod quickstart`, then `sod train` twice over the same four steps: once to the end, and once killed
(SIGKILL) after the metrics row of step 3, so that the newest checkpoint is that of step 2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

SFT = {"batch_size": 8, "checkpoint_every": 1000, "optim": {"lr": 1e-2, "warmup_steps": 5, "schedule": "cosine"}}
SHAPE = {"layers": 1, "hidden": 16, "heads": 2, "ffn": 32}
RECIPE = {
    "name": "format1",
    "seed": 3,
    "threads": 1,
    "student": {"path": "student"},
    "teacher": {"path": "teacher"},
    "chat": {"template": "hermes"},
    "data": {"train": "train.parquet"},
    "tools": {"python": {"memory_mb": 256, "max_code_chars": 14, "max_output_chars": 64, "preload": []}},
    "rollout": {
        "prompts": 2,
        "samples": 2,
        "max_turns": 4,
        "max_prompt_tokens": 160,
        "max_turn_tokens": 32,
        "max_response_tokens": 192,
    },
    "method": {"name": "sod"},
    "optim": {"lr": 1e-3, "warmup_steps": 1, "schedule": "cosine", "micro_batch_tokens": 256, "mini_batch_prompts": 1},
    "train": {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 1},
    "evaluation": {"k": 1, "tasks": 1},
    "sft": {"steps": 400, **SFT},
    "world": {
        "shortest": 2,
        "longest": 2,
        "sft": 256,
        "train": 16,
        "validation": 2,
        "test": 2,
        "vocab_size": 340,
        "context": 512,
        "teacher": SHAPE,
        "student": SHAPE,
        "teacher_sft": {"steps": 800, **SFT},
    },
}

SOD = "from sod.cli import main; main()"
KILLED = """
import os, signal
from sod.runlog import RunLog
log = RunLog.log
def log_and_die(self, row):
    log(self, row)
    if row["step"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.log = log_and_die
"""


def sod(*arguments: str, first: str = "") -> int:
    environment = os.environ | {"SOD_ALLOCATOR": "off", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", first + SOD, *arguments], env=environment).returncode


def main(directory: Path) -> None:
    directory.mkdir(parents=True)
    os.chdir(directory)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    assert sod("quickstart", "recipe.yaml", "--out", "quickstart") == 0
    for name in ("student", "teacher"):
        shutil.copytree(Path("quickstart", f"{name}-sft", "checkpoints", f"step-{steps_of(name):06d}"), name)
        Path(name, "trainer.pt").unlink()
        Path(name, "COMPLETE.json").unlink()
    shutil.copy("quickstart/data/train.parquet", ".")
    assert sod("train", "recipe.yaml", "--run", "finished") == 0
    assert sod("train", "recipe.yaml", "--run", "run", first=KILLED) == -9
    weights = Path("finished", "checkpoints", "step-000004", "model.safetensors").read_bytes()
    metrics = Path("finished", "metrics.jsonl").read_bytes()
    shutil.rmtree("finished")
    shutil.rmtree("quickstart")
    Path("recipe.yaml").unlink()
    Path("finished").mkdir()
    Path("finished", "model.safetensors").write_bytes(weights)
    Path("finished", "metrics.jsonl").write_bytes(metrics)


def steps_of(name: str) -> int:
    return {"student": 400, "teacher": 800}[name]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
