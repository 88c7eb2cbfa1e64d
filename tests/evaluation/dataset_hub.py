"""A hub of our own: a small HTTP server that answers its client as the Hugging Face hub does for data sets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def dataset_hub(files: Mapping[str, bytes], gated_with: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it was asked for. It has one data set, whatever that is called, at `REVISION`.

    With `gated_with` it gives it only to who sends that token.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            if path == "/":
                return self._send(200, b"{}", {}, body)
            if gated_with is not None and self.headers.get("Authorization") != f"Bearer {gated_with}":
                return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            name = path.partition(f"/resolve/{REVISION}/")[2]
            if name in files:
                data = files[name]
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION}
                return self._send(200, data, headers, body)
            if "/tree/" in path:
                listed = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith("/api/datasets/"):
                about = {"id": "a/b", "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}
                return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"}, body)
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
