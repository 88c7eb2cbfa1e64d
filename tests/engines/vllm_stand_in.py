"""A server that speaks the routes of vLLM that the engine uses, over a real model: for tests where vLLM is not.

In this process (`StandIn`), or in one of its own: `python vllm_stand_in.py MODEL PORT [SECONDS]`.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file


@dataclass
class Behaviour:
    """What a server does otherwise than a good one."""

    version: str = "0.32.1+cpu"
    models: bool = True
    max_model_len: int = 8192
    scale_out: bool = True
    dev_mode: bool = True
    processed: bool = True
    device: str = "cpu"
    in_parts: bool = False  # prompts that are long
    idle_seconds: float | None = None  # after which a connection is closed; None: after each answer
    takes_weights: bool = True
    refuses_weights: bool = False
    headless: bool = False  # as vLLM's Gemma 2: the input embeddings project too
    breaks: bool = False  # its connection, when it is sent weights
    loading: float = 0.0  # seconds before it reads weights that it is sent
    busy: int = 0  # how often it says so when it is asked whether it samples
    seconds: float = 0.0  # what a turn takes
    stuck: bool = False  # it is well by its own words, and samples nothing any more
    metrics: str = 'vllm:cache_config_info{block_size="32",enable_prefix_caching="True"} 1.0'
    failing: list[tuple[int, str]] = field(default_factory=list)  # what the next turns are answered with


@dataclass
class Served:
    """The state of a server."""

    model: Any
    behaviour: Behaviour
    label: str = "default"
    paused: bool = False
    missed: int = 0  # how often weights that it was sent were not there
    asked: list[dict[str, Any]] = field(default_factory=list)  # the bodies of turns, those of checks left out
    keys: set[str | None] = field(default_factory=set)  # that requests came with
    lock: Any = field(default_factory=threading.Lock)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and content of the answer to a GET."""
        listing = {"data": [{"id": "m", "max_model_len": self.behaviour.max_model_len}]}
        answers = {
            "/health": "",
            "/version": {"version": self.behaviour.version},
            "/v1/models": listing,
            "/metrics": self.behaviour.metrics,
        }
        if not self.behaviour.models:
            del answers["/v1/models"]
        if self.behaviour.dev_mode:
            answers["/weight_info"] = {"weight_version": self.label}
            answers["/server_info?config_format=json"] = {"vllm_config": self.config()}
        return (200, answers[path]) if path in answers else (404, {"detail": "Not Found"})

    def config(self) -> dict[str, Any]:
        """What the engine reads of a server's settings."""
        return {
            "device_config": {"device": self.behaviour.device},
            "scheduler_config": {"enable_chunked_prefill": self.behaviour.in_parts},
        }

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and content of the answer to a POST."""
        if path == "/inference/v1/generate" and self.behaviour.stuck:
            time.sleep(60.0)
        with self.lock:
            if path == "/inference/v1/generate":
                return self.generate(body)
            if path == "/collective_rpc" and self.behaviour.breaks:
                return 0, ""
            if not self.behaviour.dev_mode:
                return 404, {"detail": "Not Found"}
            if path in ("/pause", "/resume"):
                self.paused = path == "/pause"
            elif path == "/update_weight_version":
                self.label = body["new_version"]
            elif path == "/collective_rpc":
                return self.reload(**body["kwargs"])
            else:
                return 404, {"detail": "Not Found"}
            return 200, {}

    def reload(self, weights_path: str) -> tuple[int, Any]:
        """Take the weights in a directory, as vLLM does: the output embedding of tied ones by its own name alone."""
        if self.behaviour.refuses_weights:
            return 500, {"error": {"message": "no module named model.layers.7"}}
        time.sleep(self.behaviour.loading)
        found: dict[str, Any] = {}
        if not Path(weights_path).is_dir():
            self.missed += 1
            return 500, {"error": {"message": f"Cannot find any model weights with {weights_path}"}}
        for file in sorted(Path(weights_path).glob("*.safetensors")):
            found |= load_file(file)
        if self.behaviour.takes_weights:
            mine = self.model.state_dict()
            if self.behaviour.headless:
                if "lm_head.weight" in found:
                    said = "There is no module or parameter named 'lm_head' in Gemma2ForCausalLM."
                    return 500, {"error": {"message": f"Call to collective_rpc method failed: {said}"}}
                found["lm_head.weight"] = found["model.embed_tokens.weight"]
            assert set(found) == set(mine), set(found) ^ set(mine)
            for name, weight in found.items():
                mine[name].copy_(weight)
        return 200, {"results": [None]}

    def generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Sample a turn."""
        if not self.behaviour.scale_out:
            return 403, {"error": {"message": "Restart vllm serve with --enable-scale-out to enable them."}}
        params = body["sampling_params"]
        if "cache_salt" not in body and self.behaviour.busy:
            self.behaviour.busy -= 1
            return 503, "busy"
        if "cache_salt" in body and params["logprobs"] == 0:
            self.asked.append(body)
            if self.behaviour.failing:
                status, text = self.behaviour.failing.pop(0)
                return status, text
            time.sleep(self.behaviour.seconds)
        ids, sampled, content, reason = list(body["token_ids"]), [], [], "length"
        noise = torch.Generator().manual_seed(params.get("seed") or 0)
        while len(sampled) < params["max_tokens"] and reason == "length":
            token, entry = self.drawn(ids + sampled, params, noise)
            sampled.append(token)
            content.append(entry)
            reason = "stop" if token in params.get("stop_token_ids", ()) else "length"
        choice = {
            "index": 0,
            "token_ids": sampled,
            "logprobs": {"content": content},
            "finish_reason": reason,
            "weight_versions": [{"version": self.label, "start": 0, "end": len(sampled)}],
        }
        details = {"cached_tokens": len(ids) // 32 * 32}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": len(ids), "prompt_tokens_details": details}}

    def drawn(self, ids: list[int], params: dict[str, Any], noise: torch.Generator) -> tuple[int, dict[str, Any]]:
        """A token and what is told of it."""
        with torch.no_grad():
            logits_V = self.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        for token, bias in (params.get("logit_bias") or {}).items():
            logits_V[int(token)] += bias
        temperature = params["temperature"]
        logp_V = (logits_V / (temperature or 1.0)).log_softmax(-1)
        if params.get("top_k"):
            logp_V = logp_V.masked_fill(logp_V < logp_V.topk(params["top_k"]).values[-1], -math.inf).log_softmax(-1)
        if temperature:
            token = int(torch.multinomial(logp_V.exp(), 1, generator=noise))
        else:
            token = int(logits_V.argmax())
        told_V = logp_V if self.behaviour.processed else logits_V.log_softmax(-1)
        top = told_V.topk(max(1, params.get("logprobs") or 0)).indices.tolist()
        entries = [{"token_id": one, "logprob": max(-9999.0, float(told_V[one]))} for one in (token, *top)]
        return token, {**entries[0], "top_logprobs": entries}


class StandIn:
    """A server in threads of this process."""

    def __init__(self, model: Any, port: int = 0, **behaviour: Any) -> None:
        self.served = Served(model, Behaviour(**behaviour))
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(self.served))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def handler_of(served: Served) -> type[BaseHTTPRequestHandler]:
    """The handler of requests to a server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0" if served.behaviour.idle_seconds is None else "HTTP/1.1"
        idle_since = math.inf

        def parse_request(self) -> bool:
            """Whether there is one: one that comes when the connection is being closed is lost."""
            allowed = served.behaviour.idle_seconds
            if allowed is not None and time.monotonic() - self.idle_since > allowed:
                self.close_connection = True
                return False
            return super().parse_request()

        def do_GET(self) -> None:
            self._answer(*served.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            self._answer(*served.post(urlsplit(self.path).path, body))

        def _answer(self, status: int, content: Any) -> None:
            served.keys.add(self.headers["Authorization"])
            if not status:
                self.close_connection = True
                return
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.idle_since = time.monotonic()

        def log_message(self, *args: object) -> None:
            pass

    return Handler


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    slow = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    StandIn(AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval(), int(sys.argv[2]), seconds=slow)
    threading.Event().wait()
