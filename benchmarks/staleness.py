"""What `rollout.max_staleness: 1` saves where sampling and training have cores of their own, on a CPU.

    python benchmarks/staleness.py --out OUT [--vllm .venv-vllm] [--steps 10] [--rounds 2] [KEY=VALUE ...]

A vLLM server is bound to the first core, and runs to the second. Student and teacher are random models of a size at
which sampling and learning take about as long; an episode is one turn, and no tool is called. Runs of both kinds take
turns, so that other work on the machine meets both. Prints the median wall time of a step of each run with its parts,
and the ratio of the two kinds; all of it is in OUT/staleness.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from sod.chat.render import Chat
from sod.engines.vllm_options import WHOLE_PROMPTS, serve_environment, serve_options
from sod.launch.ports import free_port
from sod.models.load import save_model
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.tasks import chain
from sod.tasks.files import write_tasks

WARMING_UP = 2
"""Steps at the beginning that are left out: the first has nothing beside it, and caches fill."""
UP_SECONDS = 300.0
CACHE_BYTES = 2**30
PROMPT, TURN = 192, 64
EPISODES = {"prompts": 8, "samples": 8}
SHAPE = {"layers": 4, "hidden": 256, "heads": 4, "ffn": 768}
"""Heads of 64 dimensions, which vLLM's build for CPUs has kernels for."""
PARTS = ("seconds/sample", "seconds/wait", "seconds/teacher", "seconds/update", "seconds_beside/sample")


def main() -> None:
    """See above."""
    options = parsed()
    server, client = sorted(os.sched_getaffinity(0))[:2]
    options.out.mkdir(parents=True)
    recipe = make_place(options.out, options.steps)
    found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    with serving(options.vllm, options.out / "student", options.out / "server.log", server) as url:
        for number in range(options.rounds):
            for staleness, runs in found.items():
                run = options.out / f"staleness-{staleness}-{number}"
                train(
                    recipe, [f"engine.urls=[{url}]", f"rollout.max_staleness={staleness}", *options.keys], run, client
                )
                runs.append(step_of(run))
                print(f"max_staleness {staleness}: {told(runs[-1])}", flush=True)
    fresh, stale = (statistics.median(run["seconds"] for run in runs) for runs in found.values())
    print(f"{fresh:.2f} and {stale:.2f} s a step, ratio {stale / fresh:.2f}")
    result = {"runs": {str(kind): runs for kind, runs in found.items()}, "ratio": stale / fresh}
    (options.out / "staleness.json").write_text(json.dumps(result, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="other keys of the recipe")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--vllm", type=Path, default=Path(os.environ.get("SOD_VLLM", ".venv-vllm")))
    parser.add_argument("--steps", type=int, default=10, help="of each run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one samples, the other trains")
    if options.steps <= WARMING_UP:
        parser.error(f"--steps: the first {WARMING_UP} are not counted")
    if options.out.exists():
        parser.error("--out: is there already; name a new folder")
    return options


def make_place(place: Path, steps: int) -> Path:
    """Two models and tasks, and the recipe over them; its path."""
    tasks = [chain.as_task(one, n) for n, one in enumerate(chain.splits({"train": 256}, 3, 5, seed=1)["train"])]
    write_tasks(place / "train.parquet", tasks)
    chat = Chat(train_tokenizer([message.content for task in tasks for message in task.prompt], 400))
    for name, seed in (("student", 1), ("teacher", 2)):
        model = new_qwen3(chat.tokenizer, **SHAPE, context=1024, seed=seed)
        save_model(model, chat.tokenizer, chat.template, chat.end_id, place / name)
    recipe = {
        "threads": 1,
        "student": {"path": str(place / "student"), "dtype": "float32"},
        "teacher": {"path": str(place / "teacher"), "dtype": "float32"},
        "data": {"train": str(place / "train.parquet")},
        "tools": {"python": None},
        "engine": {"kind": "vllm"},
        "rollout": {**EPISODES, "max_turns": 1, "max_prompt_tokens": PROMPT, "max_turn_tokens": TURN}
        | {"max_response_tokens": TURN},
        "method": {"name": "opd", "divergence": {"kind": "jsd", "top_k": 8}},
        "optim": {"micro_batch_tokens": 4096},
        "train": {"steps": steps, "checkpoint_every": steps},
    }
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@contextmanager
def serving(environment: Path, student: Path, log: Path, core: int) -> Iterator[str]:
    """A vLLM server of the student on one core; its url."""
    port, rows = free_port(), EPISODES["prompts"] * EPISODES["samples"]
    own = [WHOLE_PROMPTS, "--enforce-eager", "--kv-cache-memory-bytes", str(CACHE_BYTES)]
    options = serve_options(str(student), "float32", PROMPT + TURN, "file", rows, own)
    command = [str(environment / "bin" / "vllm"), "serve", *options, "--host", "127.0.0.1", "--port", str(port)]
    variables = serve_environment("file") | {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("wb") as words:
        server = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            env={**os.environ, **variables},
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    until = time.monotonic() + UP_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5.0).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    sys.exit(f"the server did not come up: see {log}")


def train(recipe: Path, keys: Sequence[str], run: Path, core: int) -> None:
    """Run `sod train` on one core."""
    command = [sys.executable, "-m", "sod", "train", str(recipe), *keys, "--run", str(run)]
    subprocess.run(["taskset", "-c", str(core), *command], check=True, stdout=sys.stderr)


def step_of(run: Path) -> dict[str, float]:
    """The medians of a run's figures over all steps but the first."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][WARMING_UP:]
    found: dict[str, float] = {}
    for name in ("seconds", *PARTS):
        seconds = [row[name] for row in rows if name in row]
        if seconds:
            found[name] = statistics.median(seconds)
    return found


def told(step: Mapping[str, Any]) -> str:
    """One line of a run's step."""
    return ", ".join(f"{name.removeprefix('seconds/')} {value:.2f}" for name, value in step.items())


if __name__ == "__main__":
    main()
