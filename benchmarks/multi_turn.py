"""Episodes with a tool, ours against TRL's `DistillationTrainer(tools=[...])`, measured in turns in one run.

    sod models smollm2 --out models/smollm2-135m
    python benchmarks/multi_turn.py --json multi_turn.json

The task, the same for every side: 32 episodes of 4 turns of some 36 tokens, each but the last ending in a call of
`read_page`, which answers with 64 tokens from memory; then a distillation step on them as in `step.py` (whose list
of what differs applies here, too). `rollout` is the episodes alone, `whole` the step with them.

How the model is made to call the tool exactly three times: it is trained to. On first use SmolLM2-135M is fine-tuned
with our own SFT (`peers/sod_tune.py`; some minutes, kept below `--peers`) on episodes that read pages 1, 2 and 3 and
then answer, in the chat template of Qwen2.5, whose tool calls both sides can parse. Both sides load these very
weights as student and as teacher; nothing is forced, and both sample at `--temperature` 0.3, where the trained
course is all but certain. Tokens and calls are counted on each side: `all_tokens` (prompts and tool answers
included) shows whether both saw the same texts, and where the sampled tokens differ by more than 2 % the ratios are
those of seconds per token.

Turns of one length are the peer's best case: it samples all episodes in step, and would wait for the longest.
The tools are local to the benchmark: a Python function there, an object with `run` here; both take no time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from side_by_side import BrokenSideError, console, peer_python, run
from step import TRL, add_trl_options, check_options, make_sides

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from read_page import PAGES, documents, question  # noqa: E402


def tuned_model(source: Path, options: argparse.Namespace) -> Path:
    """The directory of the fine-tuned model; makes it where it is not there. Raises BrokenSideError."""
    directory: Path = options.peers / "models" / "read-page"
    if (directory / "benchmark.json").is_file():
        return directory
    console.print(f"fine-tuning {source} so that it calls the tool three times (once, some minutes)")
    directory.mkdir(parents=True, exist_ok=True)
    template = directory / "template.jinja"
    code = "from trl.chat_template_utils import qwen2_5_chat_template as text; print(text, end='')"
    python = peer_python("trl", TRL, root=options.peers)
    template.write_bytes(subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE).stdout)
    command = [sys.executable, str(HERE / "peers" / "sod_tune.py"), str(source), str(template), str(directory)]
    if subprocess.run(command).returncode:
        raise BrokenSideError("fine-tuning failed; its last words are above")
    return directory


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trl_options(parser)
    parser.add_argument("--model", default="models/smollm2-135m", help="what is fine-tuned on first use")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.3)
    options = parser.parse_args(arguments)
    check_options(options, options.episodes)
    return options


def report_calls(found: Mapping[str, Any], episodes: int) -> None:
    """Whether the episodes went as they should."""
    wanted = PAGES * episodes
    for side, rows in found["repetitions"].items():
        calls, tokens = ([row[key] for row in rows] for key in ("tool_calls", "all_tokens"))
        console.print(f"{side}: {calls} tool calls, of {wanted} wanted; {tokens} tokens with prompts and tool answers")


def main() -> None:
    options = parse_options()
    try:
        model = tuned_model(Path(options.model).resolve(), options)
    except BrokenSideError as error:
        sys.exit(str(error))
    made = json.loads((model / "benchmark.json").read_text())
    settings = {
        "model": str(model.resolve()),
        "prompts": [question(name) for name in documents(options.episodes, seed=0)],
        "tokens": None,
        "turns": PAGES + 1,
        "max_turn_tokens": 64,
        "max_response_tokens": 768,
        "page": made["page"],
        "temperature": options.temperature,
        "trl_batch": options.trl_batch,
        "recompute": options.recompute,
    }
    shown = settings | {"prompts": options.episodes, "model": options.model, "fine_tuning": made}
    with tempfile.TemporaryDirectory() as scratch:
        found = run(lambda: make_sides(settings, "trl_multi_turn.py", options, Path(scratch)), options, shown)
    report_calls(found, options.episodes)


if __name__ == "__main__":
    main()
