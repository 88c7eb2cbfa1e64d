"""A small real OpenAI-compatible server over a tiny model: `/v1/completions` gives log-probabilities of given tokens,
and `/generate` beside it as SGLang's does.

In this process (`ScoringServer`) or in one of its own (`python scoring_server.py MODEL_DIRECTORY PORT [NAME]`), which
can be killed. NAME is what it calls the model.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

Change = Callable[[int, dict[str, Any]], tuple[int, Mapping[str, str], dict[str, Any] | str | bytes]]
"""From the number of a request (from 0) and the good answer to what is answered: status, headers, body."""


def as_it_is(number: int, answer: dict[str, Any]) -> tuple[int, Mapping[str, str], dict[str, Any] | str]:
    return 200, {}, answer


class ScoringServer:
    """`forms` are those it speaks; with `as_ids` it can write tokens as ids in `echo`. `bos` is put before prompts.
    With `falsy` it takes `logprobs: 0` for none, as SGLang does; with `strict` it refuses fields that OpenAI has not.

    `asked` are the bodies of all requests to `/v1/completions`, `headers` what came with them; `most` is how many were
    answered at a time, `most_tokens` how many tokens were in them. `listed`, where it is set, is its answer to
    whoever asks for its models.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        forms: tuple[str, ...] = ("prompt_logprobs", "echo"),
        as_ids: bool = True,
        most_k: int = 20,
        context: int | None = 2048,
        bos: int | None = None,
        key: str = "",
        port: int = 0,
        name: str = "t",
        falsy: bool = False,
        strict: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self.falsy, self.strict = name, falsy, strict
        self.model, self.tokenizer, self.forms, self.as_ids = model, tokenizer, forms, as_ids
        self.most_k, self.context, self.bos, self.key = most_k, context, bos, key
        self.change: Change = as_it_is
        self.listed: tuple[int, Mapping[str, str], dict[str, Any] | str] | None = None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.now = self.most = self.tokens_now = self.most_tokens = 0
        self._lock, self._computing = threading.Lock(), threading.Lock()
        self._server = Quiet(("127.0.0.1", port), handler_of(self))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> ScoringServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Serve for ever."""
        self._thread.join()

    def answered(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        """The answer to a request, changed as the test says."""
        size = len(body["prompt"] if "prompt" in body else body["input_ids"])
        with self._lock:
            number = len(self.asked)
            self.asked.append(body)
            self.headers.append(headers)
            self.now, self.tokens_now = self.now + 1, self.tokens_now + size
            self.most, self.most_tokens = max(self.most, self.now), max(self.most_tokens, self.tokens_now)
        try:
            status, answer = self.completion(body) if "prompt" in body else self.generated(body)
            return (status, {}, answer) if status != 200 else self.change(number, answer)
        finally:
            with self._lock:
                self.now, self.tokens_now = self.now - 1, self.tokens_now - size

    def completion(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        own = {"prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids"} & {*body}
        if self.strict and own:
            return 400, {"error": {"message": f"Extra inputs are not permitted, field: '{min(own)}'"}}
        ids = ([] if self.bos is None else [self.bos]) + body["prompt"]
        k = int(body.get("prompt_logprobs" if "prompt_logprobs" in body else "logprobs") or 0)
        if max(ids) >= self.model.config.vocab_size:
            return 400, {"error": {"message": f"Token id {max(ids)} is out of vocabulary"}}
        if self.context is not None and len(ids) + body["max_tokens"] > self.context:
            return 400, {"error": f"maximum context length is {self.context} tokens"}
        if k > self.most_k:
            return 400, {"error": f"requested {k} logprobs, which is greater than max allowed: {self.most_k}"}
        with self._computing, torch.no_grad():
            logp_TV = self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
        if "prompt_logprobs" in body and "prompt_logprobs" in self.forms:
            choice |= {"prompt_logprobs": self.mappings(ids, logp_TV, k), "prompt_token_ids": ids}
        elif body.get("echo") and "echo" in self.forms and (k or not self.falsy):
            as_ids = bool(body.get("return_tokens_as_token_ids")) and self.as_ids
            choice["logprobs"] = self.echoed([*ids, int(logp_TV[-1].argmax())], logp_TV, k, as_ids)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        return 200, {"choices": [choice], "model": body["model"], "usage": usage}

    def generated(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """SGLang's answer; tokens have a text where that is asked for."""
        ids, k = body["input_ids"], body["top_logprobs_num"]
        with self._computing, torch.no_grad():
            logp_TV = self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)

        def named(logp: float | None, token: int) -> list[Any]:
            return [logp, token, self.tokenizer.decode([token]) if body["return_text_in_logprobs"] else None]

        meta: dict[str, Any] = {"prompt_tokens": len(ids), "completion_tokens": 1}
        own = [None, *(float(logp_TV[place - 1, token]) for place, token in enumerate(ids) if place)]
        meta["input_token_logprobs"] = [named(logp, token) for logp, token in zip(own, ids, strict=True)]
        if k:
            best = [logp_TV[place - 1].topk(k) for place in range(1, len(ids))]
            rows = [[named(float(v), int(i)) for v, i in zip(*one, strict=True)] for one in best]
            meta["input_top_logprobs"] = [None, *rows]
        return 200, {"text": "", "meta_info": meta}

    def mappings(self, ids: list[int], logp_TV: torch.Tensor, k: int) -> list[Any]:
        rows: list[Any] = [None]
        for place, token in enumerate(ids[1:], start=1):
            logps = logp_TV[place - 1]
            best = {} if k == 0 else {int(i): float(logps[i]) for i in logps.topk(k).indices}
            named = {token: float(logps[token])} | best
            rows.append({str(i): {"logprob": v, "decoded_token": self.tokenizer.decode([i])} for i, v in named.items()})
        return rows

    def echoed(self, ids: list[int], logp_TV: torch.Tensor, k: int, as_ids: bool) -> dict[str, Any]:
        def name(token: int) -> str:
            return f"token_id:{token}" if as_ids else str(self.tokenizer.decode([token]))

        own = [None, *(float(logp_TV[place - 1, token]) for place, token in enumerate(ids) if place)]
        best: list[Any] = [None]
        for place in range(1, len(ids)):
            logps = logp_TV[place - 1]
            best.append({name(int(i)): float(logps[i]) for i in logps.topk(k + 1).indices})
        return {"tokens": [name(token) for token in ids], "token_logprobs": own, "top_logprobs": best}


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that have given up."""

    def handle_error(self, *_: Any) -> None:
        """Nothing to do."""


def handler_of(server: ScoringServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = {"/v1/completions"} | ({"/generate"} if "generate" in server.forms else set())
            if self.path not in known:
                self.reply(404, {}, {"detail": "Not Found"})
            elif not self.refused():
                self.reply(*server.answered(body, dict(self.headers)))

        def do_GET(self) -> None:
            if server.listed is not None:
                self.reply(*server.listed)
            elif not self.refused():
                limit = {} if server.context is None else {"max_model_len": server.context}
                self.reply(200, {}, {"data": [{"id": server.name, **limit}]})

        def refused(self) -> bool:
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                self.reply(401, {}, {"error": "Unauthorized"})
                return True
            return False

        def reply(self, status: int, headers: Mapping[str, str], answer: Any) -> None:
            text = answer if isinstance(answer, str | bytes) else json.dumps(answer)
            data = text if isinstance(text, bytes) else text.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def main(directory: str, port: str, name: str = "t") -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32").eval()
    ScoringServer(model, AutoTokenizer.from_pretrained(directory), port=int(port), name=name).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
