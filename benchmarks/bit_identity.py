"""Do two commits compute the same? Both train the quickstart's models on this machine, and the weights are hashed.

    python benchmarks/bit_identity.py BASE HEAD [--world DIR] [--methods opd,atod] [--steps 20] [--out FILE]

A change that moves code about and means to change no result is shown by this: the quickstart's first STEPS steps of
SFT and of SOD, and three short steps of every method named, with the same world for both sides. The world is made by
BASE unless `--world` holds one already. HEAD may be `.`, the working tree. Exit code 1 where any hash differs.
Hashes say nothing across machines: matrix products round differently on other processors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

RECIPE = Path("recipes/quickstart.yaml")
SHORT = ("train.steps=3", "train.checkpoint_every=3", "rollout.prompts=4", "rollout.samples=4", "optim.warmup_steps=1")
PATIENCE_SECONDS = 1800.0


@contextmanager
def checked_out(revision: str, scratch: Path) -> Iterator[Path]:
    """A tree of this repository at `revision`; the working tree itself for `.`."""
    if revision == ".":
        yield Path.cwd()
        return
    tree = scratch / f"tree-{revision[:12]}"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), revision], check=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


def sod(tree: Path, world: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """`sod` as it is in `tree`, run in `world`, where the recipe's relative paths lead."""
    command = [sys.executable, "-m", "sod", *arguments]
    quiet = subprocess.DEVNULL
    environment = {"PYTHONPATH": str(tree / "src"), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    return subprocess.Popen(command, cwd=world, env=environment, stdout=quiet, stderr=subprocess.PIPE)


def weights_after(process: subprocess.Popen[bytes], run: Path, step: int) -> str:
    """The hash of the weights in the checkpoint of `step`, after which the run is stopped; or why there is none."""
    directory = run / "checkpoints" / f"step-{step:06d}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and not directory.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    if not directory.exists():
        return f"no checkpoint: {(errors.decode().strip().splitlines() or ['no output'])[-1]}"
    return hashlib.sha256(next(directory.rglob("model.safetensors")).read_bytes()).hexdigest()


def hashes(tree: Path, world: Path, runs: Path, methods: Sequence[str], steps: int) -> dict[str, str]:
    """What one side computes: a hash for SFT, for SOD and for every method."""
    recipe = str(tree / RECIPE)
    found = {}
    for command, key in (("sft", "sft.checkpoint_every"), ("train", "train.checkpoint_every")):
        run = runs / command
        process = sod(tree, world, [command, recipe, f"{key}={steps}", "--run", str(run)])
        found[f"quickstart {command}, step {steps}"] = weights_after(process, run, steps)
    for name in methods:
        run = runs / f"method-{name}"
        process = sod(tree, world, ["train", recipe, f"method={name}", *SHORT, "--run", str(run)])
        found[f"{name}, step 3"] = weights_after(process, run, 3)
    return found


def main() -> None:
    """Compare, print a line per hash, and say with the exit code whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument("--world", type=Path, help="a folder in which `sod quickstart` has run")
    parser.add_argument("--methods", default="", help="names separated by commas")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    methods = [name for name in options.methods.split(",") if name]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        world = (options.world or scratch / "world").resolve()
        sides = {}
        for number, revision in enumerate((options.base, options.head)):
            with checked_out(revision, scratch) as tree:
                if not (world / "runs" / "quickstart" / "summary.json").exists():
                    world.mkdir(parents=True, exist_ok=True)
                    made = sod(tree, world, ["quickstart", str(tree / RECIPE), "train.steps=1", "world.test=8"])
                    if made.wait():
                        sys.exit("the world could not be made")
                sides[revision] = hashes(tree, world, scratch / f"runs-{number}", methods, options.steps)
    base, head = sides[options.base], sides[options.head]
    for name, value in base.items():
        print(f"{'same' if head[name] == value else 'DIFFERENT':10}{name:36}{value[:16]:18}{head[name][:16]}")
    if options.out:
        options.out.write_text(json.dumps({"base": options.base, "head": options.head, "sides": sides}, indent=1))
    sys.exit(0 if base == head else 1)


if __name__ == "__main__":
    main()
