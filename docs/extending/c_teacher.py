"""Proof of `c-teacher.diff`: a real model behind a real HTTP server scores as it would in the trainer's process.

What is broken about the service ends in a fault, and what it does not offer is refused before any model is loaded.
"""

from __future__ import annotations

import json
import tempfile
import threading
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from small import refused, small_world

from sod.build.training import prepare_train
from sod.models.load import load_model
from sod.objective.batch import supervised_batch
from sod.objective.scores import ScoreNeed
from sod.recipe import Recipe, parse_recipe
from sod.teachers.local import LocalTeacher
from sod.teachers.served import ServedTeacher


class Service(BaseHTTPRequestHandler):
    """`POST /logprobs` as `sod.teachers.served` describes it, by one forward pass of `model`."""

    def __init__(self, model: Any, *connection: Any) -> None:
        self.model = model
        super().__init__(*connection)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids_T = torch.tensor(asked["token_ids"])
        with torch.inference_mode():
            logp_TV = self.model(input_ids=ids_T[None]).logits[0].float().log_softmax(-1)
        self.reply(200, json.dumps({"logprobs": logp_TV[:-1].gather(1, ids_T[1:, None])[:, 0].tolist()}))

    def reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


class Broken(Service):
    """Answers the k-th request with the k-th of `ANSWERS`, and every later one with the last."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(*ANSWERS.pop(0) if len(ANSWERS) > 1 else ANSWERS[0])


ANSWERS: list[tuple[int, str]] = []


def serving(handler: Any) -> str:
    """Start the service; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def prepared(content: dict[str, Any]) -> object:
    """A run of the recipe, in a directory that is never made."""
    return prepare_train(parse_recipe(content, "r.yaml"), Path("never-made"), False, print)


with tempfile.TemporaryDirectory() as name:
    content = small_world(Path(name))
    model = load_model(content["teacher"]["path"], "float32")
    url = serving(partial(Service, model))

    # 1. Two trajectories of unequal length: the same scores as in this process.
    batch = supervised_batch([([5, 17, 9, 30], [0, 1, 0, 2]), ([8, 8], [0, 1])])
    local, served = (t.score(batch, (), ScoreNeed()) for t in (LocalTeacher(model, 64), ServedTeacher(url)))
    assert served.faults == {}
    assert torch.allclose(served.logp_BT, local.logp_BT, atol=1e-5)
    assert served.logp_BT[0, 0] == served.logp_BT[0, 2] == 0.0

    # 2. A step of a run with either teacher: the same loss.
    losses = []
    for number, teacher in enumerate(({}, {"service": {"url": url}})):
        recipe = Recipe.model_validate({**content, "teacher": content["teacher"] | teacher})
        with closing(prepare_train(recipe, Path(name) / f"run-{number}", False, print)) as job:
            losses.append(job.take_step(1).metrics["loss"])
    assert abs(losses[0] - losses[1]) < 1e-5, losses

    # 3. Broken answers are faults of their trajectory, each of its kind; one that heals is no fault.
    row = supervised_batch([([5, 17, 9], [0, 1, 1])])
    good = json.dumps({"logprobs": [-1.0, -2.0]})
    for status, body, kind in (
        (200, "{", "bad_reply"),
        (200, '{"logprobs": [-1.0]}', "bad_reply"),
        (200, '{"logprobs": [-1.0, "x"]}', "bad_reply"),
        (200, '{"logprobs": [-1.0, NaN]}', "bad_reply"),
        (200, '{"logprobs": [-1.0, 2.0]}', "bad_reply"),
        (200, '{"logprobs": null}', "bad_reply"),
        (503, "", "server"),
        (404, "", "server"),
    ):
        ANSWERS[:] = [(status, body)]
        faults = ServedTeacher(serving(partial(Broken, None)), retries=1).score(row, (), ScoreNeed()).faults
        assert [(at, fault.kind.value) for at, fault in faults.items()] == [(0, kind)], (body, faults)
    ANSWERS[:] = [(503, ""), (200, "{"), (200, good)]
    healed = ServedTeacher(serving(partial(Broken, None)), retries=2).score(row, (), ScoreNeed())
    assert healed.faults == {}
    assert healed.logp_BT.tolist() == [[0.0, -1.0, -2.0]]
    gone = ServedTeacher("http://127.0.0.1:9", retries=0).score(row, (), ScoreNeed())
    assert gone.faults[0].kind == "unreachable"

    # 4. What it does not offer is told before any model is looked for: this student does not exist.
    teacher = content["teacher"] | {"service": {"url": url}}
    student = {"path": str(Path(name) / "nowhere")}
    for changed, told in (
        ({"method": "sage"}, "needs top1 log-probabilities"),
        ({"method": {"name": "opd", "divergence": "jsd"}}, "needs full log-probabilities"),
        ({"method": "tcod_b2f"}, "the teacher plays episodes"),
        ({"rollout": content["rollout"] | {"temperature": 0.8}}, "scores at temperature 1 only"),
        ({"student": student | {"service": {"url": url}}}, "the student is trained here"),
    ):
        wrong = {**content, "teacher": teacher, "student": student, **changed}
        message = refused(partial(prepared, wrong))
        assert told in message, (told, message)

    # 5. A service that is down stops the run with one line.
    recipe = Recipe.model_validate({**content, "teacher": teacher | {"service": {"url": "http://127.0.0.1:9"}}})
    with closing(prepare_train(recipe, Path(name) / "down", False, print)) as job:
        assert "unreachable" in refused(lambda: job.take_step(1))
print(f"served teacher: loss {losses[1]:+.6f}, in process {losses[0]:+.6f}")
