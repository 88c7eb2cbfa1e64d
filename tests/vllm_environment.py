"""An environment that looks like vLLM's and has a program `vllm` that is a stand-in: for tests where vLLM is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSION = "0.32.1"
TESTS = Path(__file__).parent
PROGRAM = f"""#!{sys.executable}
import os, sys
assert sys.argv[1] == "serve"
model, port = sys.argv[2], sys.argv[sys.argv.index("--port") + 1]
samples = "--enable-scale-out" in sys.argv
name, rest = ("engines/vllm_stand_in.py", []) if samples else ("scoring_server.py", [model])
os.environ["PYTHONPATH"] = {str(TESTS.parent / "src")!r}
print("stand-in for", model, flush=True)
os.execv({sys.executable!r}, [{sys.executable!r}, os.path.join({str(TESTS)!r}, name), model, port, *rest])
"""
"""Samples as the student's servers do, or scores given tokens, as it is started."""


def make_environment(directory: Path, version: str = VERSION, program: str = PROGRAM) -> Path:
    """The directory, made a virtual environment whose `vllm` is of this version and does what `program` says."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    metadata = packages / f"vllm-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    vllm = directory / "bin" / "vllm"
    vllm.write_text(program)
    vllm.chmod(0o755)
    return directory
