"""A teacher on a real vLLM server, where vLLM's own environment is there: `make vllm-env`, or SOD_VLLM names one."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from sod.models.dense import choice_terms, dense_terms
from sod.models.load import save_model
from sod.objective.divergence import Divergence, divergence, divergence_from_choices
from sod.objective.scores import ScoreNeed
from sod.recipe import TeacherSpec
from sod.teachers.local import LocalTeacher
from sod.teachers.probe import probed
from sod.teachers.served import ServedTeacher
from sod.teachers.server import Server

VLLM = Path(os.environ.get("SOD_VLLM") or Path(__file__).parents[2] / ".venv-vllm") / "bin" / "vllm"
STARTS_WITHIN = 300.0  # seconds
OPTIONS = "--dtype float32 --enforce-eager --max-model-len 512 --block-size 32 --served-model-name t --host 127.0.0.1"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(not VLLM.exists(), reason="there is no vLLM: make vllm-env"),
]


@pytest.fixture(scope="module")
def teacher_model(tokenizer: Any) -> Any:
    """Of a head size that vLLM has a kernel for, and far from uniform."""
    from sod.models.scratch import new_qwen3

    model = new_qwen3(tokenizer, layers=2, hidden=128, heads=2, ffn=128, context=512, seed=5)
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(6.0)
    return model.eval()


@pytest.fixture(scope="module")
def url(teacher_model: Any, chat: Any, tmp_path_factory: Any) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("vllm")
    tokenizer = copy.deepcopy(chat.tokenizer)
    save_model(copy.deepcopy(teacher_model), tokenizer, chat.template, chat.end_id, directory / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(VLLM), "serve", str(directory / "model"), "--port", str(port), *OPTIONS.split()]
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            began = time.monotonic()
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None, (directory / "log").read_text()[-3000:]
                assert time.monotonic() - began < STARTS_WITHIN, (directory / "log").read_text()[-3000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_gradients_are_those_of_the_teacher_in_this_process(
    url: str, teacher_model: Any, random_model: Any, random_batch: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Scores of the sampled tokens, the top probability, and the gradients of a loss over the top 5, of either form."""
    batch = random_batch(rows=4, seed=2)
    need = ScoreNeed(top1=True, k=5)
    ours = LocalTeacher(copy.deepcopy(teacher_model), 500).score(batch, (), need)
    spec = TeacherSpec(url=url, model="t", cache=str(tmp_path))
    server = Server(spec, "teacher", len(tokenizer))
    offered = probed(server, tokenizer, 5, pytest.fail)
    assert (offered.form, offered.largest_k, offered.longest) == ("prompt_logprobs", 5, 511)
    teacher = ServedTeacher(server, offered)
    theirs = teacher.score(batch, (), need)
    echo = ServedTeacher(
        Server(TeacherSpec(url=url, model="t", cache=str(tmp_path / "echo")), "teacher", len(tokenizer)),
        type(offered)("echo", 5, 511),
    )
    for scores in (theirs, echo.score(batch, (), need)):
        assert scores.faults == {}
        torch.testing.assert_close(scores.logp_BT, ours.logp_BT, atol=2e-5, rtol=0)
        torch.testing.assert_close(scores.top1_BT, ours.top1_BT, atol=2e-5, rtol=0)
        assert torch.equal(scores.ids_NK, ours.ids_NK)  # type: ignore[arg-type]
    student, jsd = random_model(1, 4.0), Divergence("jsd", top_k=5)
    found = []
    for terms in (
        partial(dense_terms, student, teacher_model, batch, batch, partial(divergence, spec=jsd)),
        partial(choice_terms, student, batch.scored(None, theirs), partial(divergence_from_choices, spec=jsd)),
    ):
        student.zero_grad()
        terms()[1].sum().backward()
        found.append([weight.grad.clone() for weight in student.parameters()])
    largest = max(float(gradient.abs().max()) for gradient in found[0])
    gap = max(float((one - other).abs().max()) for one, other in zip(*found, strict=True))
    assert gap < 1e-4 * largest
    more = probed(server, tokenizer, 30, pytest.fail)
    assert more.largest_k == 20  # vLLM's own limit unless it is started with another
    long = batch.filled()
    faults = ServedTeacher(server, type(offered)("prompt_logprobs", 5, 10)).score(long, (), ScoreNeed()).faults
    assert len(faults) == sum(int(length) > 10 for length in batch.length_B)
    teacher.close()
    echo.close()
