"""A real OpenAI-compatible service on loopback that answers as a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str | None, tokens: int | None = 100) -> tuple[int, dict[str, str], str]:
    """A good answer that says `text`."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens - 1, "completion_tokens": 1}}
    if tokens is not None:
        usage["usage"]["total_tokens"] = tokens
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], **usage})


class JudgeServer:
    """`answer(n, body)` gives status, headers and body of the n-th answer, from 0.

    `asked` are the requests' bodies, `headers` what came with them, `paths` where they went.
    """

    def __init__(self, answer: Callable[[int, dict[str, Any]], tuple[int, Mapping[str, str], str]]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.now = self.most = 0
        self.listing = 404  # what is answered to whoever asks for the models
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.asked)
                    server.asked.append(body)
                    server.headers.append(dict(self.headers))
                    server.paths.append(self.path)
                    server.now += 1
                    server.most = max(server.most, server.now)
                status, headers, text = answer(number, body)
                with lock:
                    server.now -= 1
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self) -> None:
                server.paths.append(self.path)
                self.send_response(server.listing)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> JudgeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
