#!/usr/bin/env bash
# What one CUDA card makes of this source: ceilings, the tests that need a card, decoding, the update, sharded models.
#
#   scripts/gpu_check.sh [--tiny] [PART...]        parts: ceilings tests decode update ranks (default: all, so)
#
# Each part ends at its own time limit (below), one part's failure does not stop the next, and what each said is a
# file in $OUT (default: ./gpu-check). `--tiny` runs the same code at toy size, on a CPU too: CI does.
#
# It needs a Python (PYTHON=..., default python3) with torch from 2.11, transformers from 5.17, numpy, safetensors,
# pyarrow, PyYAML, typer, rich, pytest and hypothesis, and no network. What else is missing is installed from wheels in
# $WHEELS (default: ./.whl) to $SITE; without wheels it says which it wants and how to fetch them.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}" OUT="${OUT:-gpu-check}" WHEELS="${WHEELS:-.whl}" SITE="${SITE:-/tmp/sod-site}"
# What the source needs at its pinned versions; peft only for adapters, the last four for tools and rewards.
NEEDED=(pydantic pydantic_core typing_inspection annotated_types math_verify latex2sympy2_extended antlr4 landlock
    pyseccomp)
TINY=() PARTS=()
for word in "$@"; do
    case "$word" in
    --tiny) TINY=(--tiny) ;;
    ceilings | tests | decode | update | ranks) PARTS+=("$word") ;;
    *) echo "unknown: $word (parts: ceilings tests decode update ranks; before them --tiny)" >&2 && exit 2 ;;
    esac
done
[ ${#PARTS[@]} -gt 0 ] || PARTS=(ceilings tests decode update ranks)
mkdir -p "$OUT"
export PYTHONPATH="$PWD/src:$PWD/scripts/gpu_check:$SITE${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

missing() { # the modules of NEEDED that this Python lacks
    "$PYTHON" - "${NEEDED[@]}" <<'PY'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PY
}

lacking="$(missing)"
if [ -n "$lacking" ] && compgen -G "$WHEELS/*.whl" >/dev/null; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$SITE" "$WHEELS"/*.whl || exit 1
    lacking="$(missing)"
fi
if [ -n "$lacking" ]; then
    echo "this Python lacks: $lacking" >&2
    echo "fetch wheels for it where there is a network, into $WHEELS, each at its version in constraints.txt:" >&2
    echo "  python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d $WHEELS NAME==VERSION" >&2
    exit 1
fi

part() { # NAME SECONDS COMMAND...: runs it under its limit; its last lines are the report
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    printf '\n== %s\n' "$name"
    timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.log" || status=$?
    printf '== %s: exit %d after %d of %d s\n' "$name" "$status" $((SECONDS - began)) "$limit"
    [ "$status" -eq 0 ] || failed+=("$name")
}

failed=()
for name in "${PARTS[@]}"; do
    case "$name" in
    ceilings) part ceilings 60 "$PYTHON" scripts/gpu_check/ceilings.py "${TINY[@]}" ;;
    tests) part tests 200 "$PYTHON" -m pytest -q -m gpu -n 4 -p no:cacheprovider -o faulthandler_timeout=60 --durations=5 tests/models \
        tests/engines tests/preflight tests/build/test_on_cuda.py ;;
    decode) part decode 150 "$PYTHON" scripts/gpu_check/decode.py "${TINY[@]}" ;;
    update) part update 150 "$PYTHON" scripts/gpu_check/update.py "${TINY[@]}" ;;
    ranks) part ranks 120 "$PYTHON" scripts/gpu_check/ranks.py "${TINY[@]}" --json "$OUT/ranks.json" ;;
    esac
done
echo
[ ${#failed[@]} -eq 0 ] && echo "all parts done: ${PARTS[*]}" || { echo "failed: ${failed[*]}"; exit 1; }
