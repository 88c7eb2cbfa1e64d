"""A real HTTP server for tests: `python small_server.py PORT [what it does...]`.

It answers /health, and each word makes it do something: `child` starts a process in a session of its own that ignores
SIGTERM, `deaf` ignores SIGTERM itself, `silent` never listens, `mute` listens and answers nothing, `ends` ends with
code 3 before it listens. GET /end?N ends it with exit code N, GET /pids names its processes, GET /environment/NAME a
variable of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, WORDS = int(sys.argv[1]), set(sys.argv[2:])
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
CHILDREN: list[int] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/end?"):
            os._exit(int(self.path.partition("?")[2]))
        if self.path.startswith("/environment/"):
            self._answer(os.environ.get(self.path.rpartition("/")[2]))
        elif self.path == "/pids":
            self._answer([os.getpid(), *CHILDREN])
        elif self.path == "/health":
            self._answer("well")
        else:
            self.send_error(404)

    def _answer(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    print(f"starting {sorted(WORDS)}", flush=True)
    if "ends" in WORDS:
        print("no such model", flush=True)
        sys.exit(3)
    if "deaf" in WORDS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in WORDS:
        CHILDREN.append(subprocess.Popen([sys.executable, "-S", "-c", DEAF], start_new_session=True).pid)
    if "silent" in WORDS:
        time.sleep(600)
    if "mute" in WORDS:
        listener = socket.create_server(("127.0.0.1", PORT))
        time.sleep(600)
        listener.close()
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
