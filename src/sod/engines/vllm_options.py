"""How a vLLM server is started so that it can sample for a run: its options and environment."""

from __future__ import annotations

from collections.abc import Sequence

DEV_MODE = "VLLM_SERVER_DEV_MODE"
"""The variable that switches the routes for new weights on."""
BLOCK = 32  # tokens of the prefix cache's blocks; on a CPU vLLM's own are of 128, and short prompts never cached
WHOLE_PROMPTS = "--no-enable-chunked-prefill"
"""What a server on a CPU needs: there vLLM 0.32 dies of a prompt with a seed that it computes in several parts, be it a
long one or one of many that come at once.
"""


def serve_options(model: str, dtype: str, longest: int, push: str, rows: int, options: Sequence[str] = ()) -> list[str]:
    """What follows `vllm serve`, but for `--host` and `--port`: the student at `model`, in its precision, for texts of
    up to `longest` tokens, `rows` of them at a time. `options` are the user's, and win where both say something.
    """
    ours = ["--dtype", dtype, "--max-model-len", str(longest), "--max-num-seqs", str(rows), "--block-size", str(BLOCK)]
    ours += ["--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--enable-prompt-tokens-details"]
    ours += ["--disable-uvicorn-access-log"]  # a line for each turn is a log of gigabytes
    if push != "file":
        ours += ["--weight-transfer-config", f'{{"backend": "{push}"}}']
    return [model, *ours, *options]


def serve_environment(push: str) -> dict[str, str]:
    """Variables that a server needs beside those of its parent. It sends nothing anywhere."""
    needed = {DEV_MODE: "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    # Handles of CUDA memory come as pickles, which vLLM reads where it is told to alone.
    return needed | ({"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if push == "ipc" else {})
