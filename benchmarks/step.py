"""One whole distillation step, ours against TRL's `DistillationTrainer`, measured in turns in one run.

    sod models smollm2 --out models/smollm2-135m
    python benchmarks/step.py --json step.json

The task, the same for every side: SmolLM2-135M as student and as teacher, bfloat16; 32 prompts of 50 to 110 words;
128 tokens sampled for each at temperature 1 without truncation and without stopping; teacher scores; loss and
gradient; one AdamW step. The same chat template makes the same prompt tokens on both sides.

What differs, and which way it cuts:
- TRL's loss is the reverse KL over the whole vocabulary, which is all that its trainer offers; ours (`opd`) is the
  teacher's gap at the sampled tokens. TRL's is more work per step and says more per token.
- We train float32 master weights next to the bfloat16 model; TRL moves bfloat16 weights. Ours is more work.
- `trl` is TRL as installed: recomputation of activations (gradient checkpointing) on, 8 prompts per forward (the
  default of transformers), no environment variables. `trl_tuned` is the same in the environment that the `sod`
  command makes for itself (glibc tunables, OpenMP threads that spin briefly). `trl_lean` has checkpointing off, too.
- `sod_recompute`, only on demand (`--sides`), is our own step with `optim.recompute=true`; `--recompute` sets that for
  our side beside all others.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from side_by_side import OURS, Side, add_options, peer_python, run
from sod.build.allocation import TUNABLES
from sod.build.openmp import POLICY

HERE = Path(__file__).parent
RECOMPUTE = "sod_recompute"
TRL = ("trl==1.16.0", "transformers==5.23.0")
TUNED = {"GLIBC_TUNABLES": TUNABLES, **POLICY}
PEERS = {
    "trl": (False, "as installed"),
    "trl_tuned": (False, "as installed, in the environment that the sod command makes for itself"),
    "trl_lean": (True, "in the environment of the sod command, gradient checkpointing off"),
}
WORDS = (
    "the a of and to in she he they buys sells each every day week apples books pages hours money dollars more less "
    "than left after before gives friends half twice three four five ten how many much does have if then first next"
)


def prompt_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 50 to 110 words (about as many tokens): what GSM8K's questions are like in length, and no more."""
    rng, words = random.Random(seed), WORDS.split()
    return [" ".join(rng.choices(words, k=rng.randint(50, 110))) for _ in range(count)]


def make_sides(settings: Mapping[str, Any], script: str, options: argparse.Namespace, scratch: Path) -> list[Side]:
    """Our side and those that were asked for; installs TRL where it is needed and not there."""
    path, again = scratch / "settings.json", scratch / "recompute.json"
    path.write_text(json.dumps(settings))
    again.write_text(json.dumps({**settings, "recompute": True}))
    ours = (sys.executable, str(HERE / "peers" / "sod_worker.py"))
    sides = [Side(OURS, (*ours, str(path)), note="optim.recompute" if options.recompute else "recipe defaults")]
    for name in options.sides.split(","):
        if name == RECOMPUTE:
            sides.append(Side(name, (*ours, str(again)), note="optim.recompute"))
            continue
        python = peer_python("trl", TRL, root=options.peers)
        lean, note = PEERS[name]
        overrides = json.dumps({"trl_checkpointing": not lean})
        command = (python, str(HERE / "peers" / script), str(path), overrides)
        sides.append(Side(name, command, {} if name == "trl" else TUNED, note))
    return sides


def add_trl_options(parser: argparse.ArgumentParser) -> None:
    """The options that both benchmarks against TRL have."""
    add_options(parser)
    known = ",".join(PEERS)
    parser.add_argument("--sides", default=known, help=f"peers, any of {known} (default) and {RECOMPUTE}")
    parser.add_argument("--recompute", action="store_true", help="our side with optim.recompute")
    parser.add_argument("--trl-batch", type=int, default=8, help="TRL's prompts per forward and backward (default 8)")


def check_options(options: argparse.Namespace, count: int) -> None:
    """End the process for options that make no benchmark."""
    unknown = set(options.sides.split(",")) - {*PEERS, RECOMPUTE}
    if unknown:
        sys.exit(f"--sides: unknown {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}, {RECOMPUTE}")
    if count % options.trl_batch:
        sys.exit(f"--trl-batch {options.trl_batch} does not divide {count} prompts: the steps would not be the same")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trl_options(parser)
    parser.add_argument("--model", default="models/smollm2-135m", help="student and teacher")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="sampled for each prompt")
    options = parser.parse_args(arguments)
    check_options(options, options.prompts)
    return options


def main() -> None:
    options = parse_options()
    settings = {
        "model": str(Path(options.model).resolve()),
        "prompts": prompt_texts(options.prompts),
        "tokens": options.tokens,
        "turns": 1,
        "page": None,
        "temperature": 1.0,
        "trl_batch": options.trl_batch,
        "recompute": options.recompute,
    }
    shown = settings | {"prompts": options.prompts, "model": options.model}
    with tempfile.TemporaryDirectory() as scratch:
        run(lambda: make_sides(settings, "trl_step.py", options, Path(scratch)), options, shown)


if __name__ == "__main__":
    main()
