"""Made this directory, with the code of commit f596599, the last one that wrote checkpoint format 2 (see README.md).

    PYTHONPATH=CHECKOUT_OF_f596599/src python make.py EMPTY_DIRECTORY

The world of `../format1-run`, and `sod train` twice over the same four steps: once to the end, and once killed
(SIGKILL) after the metrics row of step 3, so that the newest checkpoint is that of step 2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

WORLD = Path(__file__).resolve().parents[1] / "format1-run"
SOD = "from sod.cli.main import main; main()"
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
    directory.mkdir(parents=True, exist_ok=True)
    os.chdir(directory)
    for name in ("student", "teacher"):
        shutil.copytree(WORLD / name, name)
    shutil.copy(WORLD / "train.parquet", ".")
    recipe = yaml.safe_load((WORLD / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    recipe = {
        key: recipe[key] for key in ("seed", "threads", "student", "teacher", "chat", "tools", "rollout", "optim")
    }
    recipe |= {"name": "format2", "method": "sod", "data": {"train": "train.parquet"}}
    recipe["train"] = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 1}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    assert sod("train", "recipe.yaml", "--run", "whole") == 0
    assert sod("train", "recipe.yaml", "--run", "run", first=KILLED) == -9
    Path("finished").mkdir()
    shutil.copy("whole/checkpoints/step-000004/model.safetensors", "finished")
    shutil.copy("whole/metrics.jsonl", "finished")
    for name in ("student", "teacher", "whole"):
        shutil.rmtree(name)
    for name in ("recipe.yaml", "train.parquet"):
        Path(name).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
